"""The tables of the pages that RL², VariBAD and DynaMITE-RL stand on, of what `results/` keeps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from studies.dynamite.study import RESULTS, curve, passing, ratio
from studies.tables import Column, Line, Reference, Runs, Table, Unkept, count, each, episode, returns, share

SWITCH, CHEETAH, NAVIGATION = "GridSwitch-v0", "CheetahDirSwitch-v0", "GridNavigation-v0"
OF_GRID_SWITCH = {
    "RL², 3.0 million steps": "rl2",
    "RL², 0.75 million steps": "rl2-short",
    "DynaMITE-RL, 0.75 million steps": "dynamite",
    "without latent-dynamics conditioning": "without-conditioning",
    "without session consistency": "without-consistency",
    "without session masking": "without-masking",
    "VariBAD, 0.75 million steps": "varibad",
}
EARLIER = {
    "DynaMITE-RL, 1.5 million steps": "dynamite",
    "VariBAD, 1.5 million steps": "varibad",
    "DynaMITE-RL without latent-dynamics conditioning": "without-conditioning",
    "DynaMITE-RL without session consistency": "without-consistency",
    "DynaMITE-RL without session masking": "without-masking",
}


def _of(benchmark: str, names: dict[str, str]) -> tuple[tuple[str, Line], ...]:
    return tuple((label, Runs(RESULTS / benchmark, name)) for label, name in names.items())


def _with_shares() -> tuple[Column, ...]:
    return (
        count(),
        *(column for split in ("test", "ood") for column in (returns(f"return, {split}", split), _share(split))),
    )


def _share(split: str) -> Column:
    return share("share of Bayes", split, SWITCH, "bayes")


def rl2_on_grid_switch() -> str:
    """RL² between the yardsticks."""
    known = {"oracle (exact value)": "oracle", "Bayes filter (exact value)": "bayes"}
    known |= {"win-stay/lose-shift": "win-stay-lose-shift"}
    rows = [(label, Reference(SWITCH, key)) for label, key in known.items()]
    rows += [*_of(SWITCH, {"RL²": "rl2"}), ("random", Reference(SWITCH, "random"))]
    return Table("agent (95 % interval over runs)", _with_shares(), tuple(rows)).markdown()


def grid_switch() -> str:
    """All three, and DynaMITE-RL without its parts."""
    rows = (("Bayes filter (exact value)", Reference(SWITCH, "bayes")), *_of(SWITCH, OF_GRID_SWITCH))
    rows = (*rows, ("random", Reference(SWITCH, "random")))
    return Table("agent (95 % interval over runs)", _with_shares(), rows).markdown()


def _passed(level: float) -> tuple[Column, Column, Column]:
    """Steps and seconds to a level, and how many times DynaMITE-RL's steps they are."""

    def steps(runs: Runs) -> tuple[np.ndarray, int]:
        found = np.array([passing(path, level)[0] for path in runs.curves()])
        ends = np.array([curve(path)[-1, 0] for path in runs.curves()])
        return np.minimum(found, ends), int(np.isinf(found).sum())

    def shown(runs: Runs, which: int, scale: float, digits: int, missing: str) -> str:
        found = [passing(path, level)[which] for path in runs.curves()]
        if np.isinf(found).all():
            return "never" if missing == "never" else ""
        return " ".join(missing if np.isinf(value) else f"{value / scale:.{digits}f}" for value in found)

    def times(runs: Runs) -> str:
        mine, missed = steps(runs)
        if runs.name == "dynamite":
            return "1"
        value, low, high = ratio(mine, steps(Runs(runs.folder, "dynamite"))[0])
        return f"{'>= ' if missed else ''}{value:.1f} [{low:.1f}, {high:.1f}]"

    return (
        Column(f"M steps to {level:.0f}, run by run", lambda runs: shown(runs, 0, 1e6, 2, "never")),
        Column("DynaMITE-RL's, times", times),
        Column("seconds", lambda runs: shown(runs, 1, 1.0, 0, "-")),
    )


def grid_switch_steps() -> str:
    """Steps to two levels."""
    return Table("agent", (*_passed(35.0), *_passed(40.0)), _of(SWITCH, OF_GRID_SWITCH)).markdown()


def grid_navigation() -> str:
    """VariBAD's own task: episode by episode, each line on its own split."""
    folder = RESULTS / NAVIGATION

    def split_of(runs: Runs) -> str:
        return "published" if runs.name.endswith("-published") else "test"

    def column(number: int) -> Column:
        def cell(runs: Runs) -> str:
            return f"{runs.episodes(split_of(runs))[:, number].mean():.2f}"

        known = f"{number + 1}" if number else "episode 1"
        return Column(known, cell, lambda reference: f"{reference.mean('published'):.2f}")

    rows: tuple[tuple[str, Line], ...] = (
        ("VariBAD, 21 goals, 1 million steps", Runs(folder, "varibad-published")),
        ("oracle, shown the goal: the most that is possible once it is found", Reference(NAVIGATION, "oracle")),
        ("random, mean of all episodes", Reference(NAVIGATION, "random")),
        (
            "VariBAD trained on 16 goals (0.6 million steps), on those",
            Unkept(("4.73", "9.59", "10.76", "10.76"), "evaluated on the training tasks of the runs below; not kept"),
        ),
        ("the same, on the 5 goals it has never seen", Runs(folder, "varibad")),
    )
    return Table("", tuple(column(number) for number in range(4)), rows).markdown()


def cheetah_dir_switch() -> str:
    """All three on a task that turns around."""
    columns = (
        returns("return, test", "test", 1),
        each("runs", "test", 1),
        returns("return, ood", "ood", 1),
    )
    names = {"RL²": "rl2", "DynaMITE-RL": "dynamite", "VariBAD": "varibad"}
    return Table("agent (95 % interval over runs)", columns, _of(CHEETAH, names)).markdown()


def grid_switch_earlier() -> str:
    """With the settings before."""
    rows: list[tuple[str, Line]] = [("Bayes filter (exact value)", Reference(SWITCH, "bayes"))]
    rows += _of(SWITCH, {"RL², 3.0 million steps (above)": "rl2"})
    rows += [(label, Runs(RESULTS / SWITCH / "earlier", name)) for label, name in EARLIER.items()]
    rows += [("random", Reference(SWITCH, "random"))]
    return Table("agent (95 % interval over runs)", _with_shares(), tuple(rows)).markdown()


def grid_switch_earlier_runs() -> str:
    """The same, run by run."""

    def at(level: float) -> Callable[[Runs], str]:
        def cell(runs: Runs) -> str:
            (frames, _) = passing(runs.curves()[0], level)
            return "never" if np.isinf(frames) else f"{frames / 1e6:.2f}"

        return cell

    columns = (
        Column("seed", lambda runs: str(runs.seeds[0])),
        Column("M steps played", lambda runs: f"{curve(runs.curves()[0])[-1, 0] / 1e6:.2f}"),
        Column("training return", lambda runs: f"{curve(runs.curves()[0])[-1, 2]:.1f}"),
        Column("M steps to 35", at(35.0)),
        Column("to 40", at(40.0)),
        episode("return, test", "test", 0),
        episode("return, ood", "ood", 0),
    )
    folder = RESULTS / SWITCH / "earlier"
    rows = tuple((name, Runs(folder, name, (s,))) for name in EARLIER.values() for s in Runs(folder, name).seeds)
    table = Table("agent", columns, rows).markdown().partition("\n<!-- from")[0]
    whole = Table("", (), tuple((name, Runs(folder, name)) for name in EARLIER.values())).markdown()
    return table + "\n<!-- from" + whole.partition("\n<!-- from")[2]


TABLES = {
    "rl2-on-grid-switch": rl2_on_grid_switch,
    "belief-grid-switch": grid_switch,
    "belief-grid-switch-steps": grid_switch_steps,
    "belief-grid-navigation": grid_navigation,
    "belief-cheetah-dir-switch": cheetah_dir_switch,
    "belief-grid-switch-earlier": grid_switch_earlier,
    "belief-grid-switch-earlier-runs": grid_switch_earlier_runs,
}
