"""Writes the frozen task tables: the one place that says where every row comes from.

    python scripts/make_tables.py            # writes metabench/families/tables/*.json, prints their digests

The tables are data: environments read the JSON, never this script. It is kept so that anybody can see that the rows
were not chosen by their results, and a test makes them again.
"""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from metabench.registry import spec
from metabench.tasks import TaskTable

SEED = 123456  # the seed of the published point-robot goals (Meta-DT's sibling repositories)
FOLDER = Path(__file__).parent.parent / "metabench" / "families" / "tables"


def point_robot() -> dict[str, Any]:
    """Goals in the square; out of distribution: beyond it, at 1.2 to 1.5 m."""
    goals = np.random.RandomState(SEED).uniform(-1, 1, (50, 2))
    rng = np.random.RandomState(SEED + 1)
    radius, angle = rng.uniform(1.2, 1.5, 20), rng.uniform(0, 2 * np.pi, 20)
    far = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    source = f"RandomState({SEED}).uniform(-1, 1, (50, 2)), rows"
    return {
        "train": (goals[:45], f"{source} 0-44"),
        "test": (goals[45:], f"{source} 45-49"),
        "ood": (far, f"RandomState({SEED + 1}): 20 radii uniform in [1.2, 1.5], then 20 angles"),
    }


def sparse_point_robot() -> dict[str, Any]:
    """Goals on the upper half circle; out of distribution: the lower half."""
    angles = np.random.RandomState(SEED).uniform(0, np.pi, 50)[:, None]
    lower = np.random.RandomState(SEED + 1).uniform(np.pi, 2 * np.pi, 20)[:, None]
    source = f"RandomState({SEED}).uniform(0, pi, 50), rows"
    return {
        "train": (angles[:45], f"{source} 0-44"),
        "test": (angles[45:], f"{source} 45-49"),
        "ood": (lower, f"RandomState({SEED + 1}).uniform(pi, 2 pi, 20)"),
    }


def grid_navigation() -> dict[str, Any]:
    """VariBAD's 21 goal cells, parted; out of distribution: the three cells it leaves out beside the start."""
    near = {0, 1, 5, 6}
    cells = np.array([cell for cell in range(25) if cell not in near])
    order = np.random.RandomState(SEED).permutation(cells)[:, None]
    return {
        "train": (order[:16], f"RandomState({SEED}).permutation of VariBAD's 21 goal cells, first 16"),
        "test": (order[16:], "the other 5"),
        "ood": (np.array([[1], [5], [6]]), "the cells next to the start, where VariBAD never puts a goal"),
        "published": (cells[:, None], "all 21 goal cells, as VariBAD trains and tests; overlaps train and test"),
    }


def grid_switch() -> dict[str, Any]:
    """All 300 pairs of cells, parted; the order inside a pair is random too."""
    rng = np.random.RandomState(SEED)
    pairs = rng.permutation(np.array(list(combinations(range(25), 2))))
    flip = rng.rand(len(pairs)) < 0.5
    pairs[flip] = pairs[flip][:, ::-1]
    source = f"RandomState({SEED}).permutation of the 300 pairs of cells, each turned round with probability 1/2, rows"
    return {
        "train": (pairs[:200], f"{source} 0-199"),
        "test": (pairs[200:250], f"{source} 200-249"),
        "ood": (pairs[250:], f"{source} 250-299; sessions: see the spec"),
    }


def dark_room() -> dict[str, Any]:
    """Goals up to six steps from the centre, parted; out of distribution: the twelve that are further away."""
    cells = np.arange(81)
    distance = abs(cells // 9 - 4) + abs(cells % 9 - 4)
    order = np.random.RandomState(SEED).permutation(cells[distance <= 6])[:, None]
    source = f"RandomState({SEED}).permutation of the 69 cells up to six steps from the centre"
    return {
        "train": (order[:55], f"{source}, first 55"),
        "test": (order[55:], "the other 14"),
        "ood": (cells[distance > 6][:, None], "the 12 cells seven or eight steps from the centre"),
    }


def dark_key_to_door() -> dict[str, Any]:
    """Pairs of cells less than twelve steps apart, parted; out of distribution: pairs further apart."""
    key, door = np.divmod(np.arange(81 * 81), 81)
    pairs = np.stack([key, door], axis=1)
    distance = abs(key // 9 - door // 9) + abs(key % 9 - door % 9)
    rng = np.random.RandomState(SEED)
    near, far = rng.permutation(pairs[distance < 12]), rng.permutation(pairs[distance >= 12])
    source = f"RandomState({SEED}).permutation of the {len(near)} pairs less than twelve steps apart, rows"
    return {
        "train": (near[:-100], f"{source} 0-{len(near) - 101}"),
        "test": (near[-100:], f"{source} {len(near) - 100}-{len(near) - 1}"),
        "ood": (far, f"the same stream: then a permutation of the {len(far)} pairs at least twelve steps apart"),
    }


def cheetah_vel() -> dict[str, Any]:
    """Speeds up to 3 m/s; out of distribution: faster. Interpolation as LDM has it, train and test disjoint."""
    speeds = np.random.RandomState(SEED).uniform(0, 3, 50)[:, None]
    fast = np.random.RandomState(SEED + 1).uniform(3.5, 4.5, 20)[:, None]
    slow_or_fast = np.random.RandomState(SEED + 2).uniform(0, 0.5, 40)
    slow_or_fast[20:] += 3.0
    source = f"RandomState({SEED}).uniform(0, 3, 50), rows"
    return {
        "train": (speeds[:45], f"{source} 0-44"),
        "test": (speeds[45:], f"{source} 45-49"),
        "ood": (fast, f"RandomState({SEED + 1}).uniform(3.5, 4.5, 20)"),
        "interpolation_train": (
            slow_or_fast[:, None],
            f"RandomState({SEED + 2}).uniform(0, 0.5, 40), 3 added to the last 20: [0, 0.5] and [3, 3.5] as in LDM",
        ),
        "interpolation_test": (np.linspace(0.75, 2.75, 9)[:, None], "0.75 to 2.75 in steps of 0.25, the range of LDM"),
    }


def directions() -> dict[str, Any]:
    """Forward and backward: all there is, in every split."""
    both = np.array([[1], [-1]])
    return dict.fromkeys(("train", "test", "ood"), (both, "both directions"))


def headings() -> dict[str, Any]:
    """Angles on the circle; out of distribution: others, that change on the way."""
    angles = np.random.RandomState(SEED).uniform(0, 2 * np.pi, 52)[2:, None]
    others = np.random.RandomState(SEED + 1).uniform(0, 2 * np.pi, 20)[:, None]
    source = f"RandomState({SEED}).uniform(0, 2 pi, 52)[2:], rows"
    return {
        "train": (angles[:45], f"{source} 0-44"),
        "test": (angles[45:], f"{source} 45-49"),
        "ood": (others, f"RandomState({SEED + 1}).uniform(0, 2 pi, 20); sessions: see the spec"),
    }


def disc(low: float, high: float) -> dict[str, Any]:
    """Places even over the unit disc as (share of its area, bearing); out of distribution: shares from low to high."""
    rng = np.random.RandomState(SEED)
    near = np.stack([rng.rand(50), rng.uniform(0, 2 * np.pi, 50)], axis=1)
    far = np.stack([rng.uniform(low, high, 20), rng.uniform(0, 2 * np.pi, 20)], axis=1)
    source = f"RandomState({SEED}): 50 shares U[0, 1], then 50 bearings, rows"
    return {
        "train": (near[:45], f"{source} 0-44"),
        "test": (near[45:], f"{source} 45-49"),
        "ood": (far, f"the same stream: then 20 shares uniform in [{low:g}, {high:g}] and 20 bearings"),
    }


def seasons() -> dict[str, Any]:
    """Numbers of first sessions: training ones below 500, test ones between them, later ones out of distribution."""
    order = np.random.RandomState(SEED).permutation(500)[:, None]
    later = 500 + np.random.RandomState(SEED + 1).permutation(500)[:20, None]
    source = f"RandomState({SEED}).permutation(500), rows"
    return {
        "train": (order[:45], f"{source} 0-44"),
        "test": (order[45:55], f"{source} 45-54"),
        "ood": (later, f"500 + RandomState({SEED + 1}).permutation(500), rows 0-19"),
    }


def bodies(count: int) -> dict[str, Any]:
    """Exponents of the multipliers in [-3, 3]; out of distribution: in [-4, 4]."""
    rng = np.random.RandomState(SEED)
    inside, wide = rng.uniform(-3, 3, (50, count)), rng.uniform(-4, 4, (20, count))
    source = f"RandomState({SEED}).uniform(-3, 3, (50, {count})), rows"
    return {
        "train": (inside[:45], f"{source} 0-44"),
        "test": (inside[45:], f"{source} 45-49"),
        "ood": (wide, f"the same stream: then uniform(-4, 4, (20, {count}))"),
    }


def grids(axes: tuple[Any, Any], small: Any, train: Any, legal: Any) -> dict[str, Any]:
    """A grid of two factors; tests inside it, out of distribution around it. R8 and R16 are MetaDreamer's names."""
    r16 = np.array([[a, b] for a in axes[0] for b in axes[1]])
    r8 = np.array([[a, b] for a in small for b in axes[1]])
    (low, high), (least, most) = np.array(train).T, np.array(legal).T
    inside = np.random.RandomState(SEED).uniform(low, high, (20, 2))
    wide = np.random.RandomState(SEED + 1).uniform(least, most, (200, 2))
    outside = wide[((wide < low) | (wide > high)).any(axis=1)][:20]
    return {
        "train": (r16, "the grid R16: 4 x 4 values"),
        "test": (inside, f"RandomState({SEED}).uniform over the grid's box, 20 rows: interpolation"),
        "ood": (outside, f"RandomState({SEED + 1}).uniform over the legal box, the first 20 rows outside the grid's"),
        "R8": (r8, "every other row of R16"),
        "R16": (r16, "train under MetaDreamer's name"),
    }


def highway_merge() -> dict[str, Any]:
    """Traffic speed and courtesy."""
    speeds, courtesies = (11.0, 12.5, 13.5, 15.0), (-0.9, -0.3, 0.3, 0.9)
    return grids((speeds, courtesies), (11.0, 15.0), ((11.0, 15.0), (-0.9, 0.9)), ((9.0, 16.0), (-1.0, 1.0)))


def highway_merge_hidas() -> dict[str, Any]:
    """D_v and b_f."""
    decreases, decelerations = (0.5, 1.5, 3.0, 4.0), (0.5, 1.0, 1.75, 2.5)
    return grids((decreases, decelerations), (0.5, 4.0), ((0.5, 4.0), (0.5, 2.5)), ((0.0, 5.0), (0.3, 3.0)))


def itches() -> dict[str, Any]:
    """Itches even over both limbs, of women and men; out of distribution: smaller and taller people, other poses."""
    rng, other = np.random.RandomState(SEED), np.random.RandomState(SEED + 1)
    place = np.stack([rng.uniform(0, 2, 100), rng.uniform(0, 2 * np.pi, 100)], axis=1)
    pose = np.tile([np.pi / 6, np.pi / 2], (100, 1))
    near = np.concatenate([place, rng.randint(2, size=(100, 1)), pose], axis=1)
    columns = [other.uniform(0, 2, 20), other.uniform(0, 2 * np.pi, 20), other.uniform(-0.5, -0.2, 20)]
    columns[2][10:] = 1.0 - columns[2][10:]
    columns += [other.uniform(0.25, 0.75, 20), other.uniform(1.7, 2.1, 20)]
    source = f"RandomState({SEED}): 100 places uniform in [0, 2], 100 sides in [0, 2 pi], 100 bodies 0 or 1, rows"
    return {
        "train": (near[:80], f"{source} 0-79"),
        "test": (near[80:], f"{source} 80-99"),
        "ood": (
            np.stack(columns, axis=1),
            f"RandomState({SEED + 1}): 20 places, sides, bodies uniform in [-0.5, -0.2] (the last 10: 1 minus that), "
            "abductions in [0.25, 0.75] and bends of the elbow in [1.7, 2.1]",
        ),
    }


def highway_env_merge() -> dict[str, Any]:
    """highway-env's own drivers, in every split: its merge-v0 is one task."""
    return dict.fromkeys(("train", "test", "ood"), (np.array([[1.5, 10.0, 0.0, 20.0]]), "highway-env's own drivers"))


def without_interpolation(table: dict[str, Any]) -> dict[str, Any]:
    """The three splits every family has."""
    return {split: table[split] for split in ("train", "test", "ood")}


TABLES = {
    "PointRobot-v0": point_robot,
    "SparsePointRobot-v0": sparse_point_robot,
    "GridNavigation-v0": grid_navigation,
    "GridSwitch-v0": grid_switch,
    "DarkRoom-v0": dark_room,
    "DarkKeyToDoor-v0": dark_key_to_door,
    "CheetahVel-v0": cheetah_vel,
    "CheetahVelSwitch-v0": lambda: without_interpolation(cheetah_vel()),
    "AntDir-v0": headings,
    "AntGoal-v0": lambda: disc((3.5 / 3) ** 2, 2.25),
    "HopperParam-v0": lambda: bodies(41),
    "WalkerParam-v0": lambda: bodies(65),
    "CheetahWindVelSwitch-v0": seasons,
    "HumanoidDir-v0": headings,
    "ReacherGoal-v0": lambda: disc(0.0, 1.0),
    "ReacherSwitch-v0": lambda: disc(0.0, 1.0),
    "ScratchItch-v0": itches,
    "ScratchItchSwitch-v0": itches,
    "CheetahDir-v0": directions,
    "CheetahDirSwitch-v0": directions,
    "HighwayEnvMerge-v0": highway_env_merge,
    "HighwayEnvMergeDiscrete-v0": highway_env_merge,
    "HighwayMerge-v0": highway_merge,
    "HighwayMergeDiscrete-v0": highway_merge,
    "HighwayMergeHidas-v0": highway_merge_hidas,
}


def render(id: str) -> str:
    """The JSON of one benchmark's table."""
    fields = list(spec(id).family().parameters)
    splits = {name: {"source": source, "rows": rows.tolist()} for name, (rows, source) in TABLES[id]().items()}
    text = json.dumps({"schema": 1, "family": id, "fields": fields, "splits": splits}, indent=1)
    return text + "\n"


def main() -> None:
    """Writes every table and prints the digests that the specs must name."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for id in TABLES:
        path = FOLDER / f"{id}.json"
        path.write_text(render(id))
        table = TaskTable.load(id, spec(id).family().context_type, path)
        print(id, json.dumps({split: table.digest(split) for split in table.splits}, indent=4))


if __name__ == "__main__":
    main()
