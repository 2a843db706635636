"""Checks a dataset split: its bytes against the manifest, its contents against each other and the simulator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gymnasium import spaces

from metabench.datasets.format import (
    EPISODE,
    EPISODES,
    FINAL,
    FLAGS,
    MANIFEST,
    STEPS,
    Manifest,
    hash_file,
    open_column,
    read_manifest,
    returns_to_go,
    task_statistics,
)
from metabench.datasets.trials import TrialDataset
from metabench.registry import make_vec, spec
from metabench.rng import Array

REPLAY_STEPS = 10  # of an episode where a physics engine runs: beyond, other maths libraries diverge from ours
REPLAY_TOLERANCE = 1e-4  # of float32 observations and rewards, relative to 1 + their size
SUM_TOLERANCE = 1e-9  # of float64 sums of an episode's rewards, relative


def verify(folder: Path, *, replay: int = 0, seed: int = 0) -> tuple[str, ...]:
    """What is wrong with the split in `folder`, a sentence each; empty if nothing is.

    Args:
        folder: The split's folder.
        replay: How many episodes to step again in the simulator, from their seeds with their actions.
        seed: For the choice of those episodes.
    """
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        return (str(error),)
    faults = tuple(_file_faults(folder, manifest))
    if faults:  # contents of damaged files would only repeat it
        return faults
    faults = (*_content_faults(folder, manifest), *_benchmark_faults(folder, manifest))
    if not faults and replay:
        faults = tuple(_replay_faults(folder, replay, seed))
    return faults


def _file_faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    known = {file.sha256: file.name for file in manifest.files}
    for path in sorted(folder.iterdir()):
        if path.name not in {MANIFEST, *(file.name for file in manifest.files)}:
            yield f"{path.name} is in {folder} and not in its manifest"
    for file in manifest.files:
        path = folder / file.name
        if not path.is_file():
            yield f"{file.name} is missing from {folder}"
            continue
        digest, size = hash_file(path), path.stat().st_size
        if digest == file.sha256:
            continue
        if known.get(digest):
            yield f"{file.name} holds the content of {known[digest]}: files were swapped"
        elif size != file.bytes:
            yield f"{file.name} has {size} bytes instead of {file.bytes}: it is truncated or was changed"
        else:
            yield f"{file.name} is damaged: its sha256 is {digest[:12]}... instead of {file.sha256[:12]}..."


def _content_faults(folder: Path, m: Manifest) -> Iterator[str]:
    try:
        steps = open_column(folder, STEPS, m.row_type, (m.steps,))
        episodes = np.array(open_column(folder, EPISODES, EPISODE, (m.episodes,)))
        final = open_column(folder, FINAL, np.dtype(m.observation_dtype), (m.episodes, m.observation))
    except ValueError as error:
        yield str(error)
        return
    lengths = episodes["length"].astype(np.int64)
    if (lengths < 1).any() or lengths.sum() != m.steps or (episodes["start"] != np.cumsum(lengths) - lengths).any():
        yield f"{EPISODES}: the episodes do not follow each other through {STEPS}"
        return
    if (episodes["policy"] < 0).any() or (episodes["policy"] >= len(m.policies)).any():
        yield f"{EPISODES}: an episode names a policy that the manifest does not have"
    sums = np.add.reduceat(steps["reward"].astype(np.float64), episodes["start"])
    if not np.allclose(sums, episodes["return"], rtol=SUM_TOLERANCE, atol=SUM_TOLERANCE):
        wrong = int(np.argmax(abs(sums - episodes["return"])))
        yield f"episode {wrong}: its rewards sum to {sums[wrong]}, its return is {episodes['return'][wrong]}"
    if (returns_to_go(steps["reward"], lengths) != steps["return_to_go"]).any():
        yield f"{STEPS}: returns to go do not follow from the rewards"
    if task_statistics(episodes) != m.statistics:
        yield f"{MANIFEST}: the statistics are not those of {EPISODES}"
    yield from _step_faults(steps, episodes, final, m)


def _step_faults(steps: Array, episodes: Array, final: Array, m: Manifest) -> Iterator[str]:
    last = episodes["start"] + episodes["length"] - 1
    over = steps["terminated"] | steps["truncated"]
    if over.sum() != len(last) or not over[last].all():
        yield f"{STEPS}: episodes do not end exactly where terminated or truncated say so"
    if not m.sessions and steps["session_ended"].any():
        yield f"{STEPS}: sessions end in a set whose tasks do not change"
    for name in ("observation", "reward", "action"):
        if not np.isfinite(steps[name]).all():
            yield f"{STEPS}: the column {name} holds numbers that are not finite"
    if not np.isfinite(final).all():
        yield f"{FINAL} holds numbers that are not finite"
    if m.actions is not None and ((steps["action"] < 0) | (steps["action"] >= m.actions)).any():
        yield f"{STEPS}: an action is outside 0 to {m.actions - 1}"
    first = (steps.dtype.fields or {})[FLAGS[0]][1]
    raw = steps.view(np.uint8).reshape(len(steps), -1)[:, first : first + len(FLAGS)]
    if (raw > 1).any():
        yield f"{STEPS}: a flag is neither true nor false"


def _benchmark_faults(folder: Path, m: Manifest) -> Iterator[str]:
    if not m.benchmark:  # data of another origin
        return
    try:
        chosen = spec(m.benchmark)
        table, family = chosen.table(), chosen.family()
    except ValueError as error:
        yield f"the benchmark of this set is not installed: {error}"
        return
    if m.split not in table.splits or table.digest(m.split) != m.task_digest:
        yield f"the tasks of {m.benchmark}/{m.split} here are not those the data was made on"
        return
    episodes = np.load(folder / EPISODES, allow_pickle=False)
    if (episodes["task"] < 0).any() or (episodes["task"] >= table.size(m.split)).any():
        yield f"{EPISODES}: an episode is of a task that {m.benchmark}/{m.split} does not have"
    if len(family.observation_fields) != m.observation:
        columns = len(family.observation_fields)
        yield f"observations of {m.benchmark} have {columns} columns, those of the data {m.observation}"
    space = family.action_space
    if isinstance(space, spaces.Box):
        actions = open_column(folder, STEPS, m.row_type, (m.steps,))["action"]
        if actions.shape[1:] != space.shape or (actions < space.low).any() or (actions > space.high).any():
            yield f"{STEPS}: an action is outside the action space of {m.benchmark}"


def _replay_faults(folder: Path, count: int, seed: int) -> Iterator[str]:
    data = TrialDataset(folder)
    m = data.manifest
    if not m.benchmark:
        return
    chosen = spec(m.benchmark)
    starts = np.flatnonzero(data.episodes["place"] == 0)  # only these begin with a reset from their seed
    picked = np.random.default_rng(seed).permutation(starts)[:count]
    records = [data[int(i)] for i in picked]
    env = make_vec(chosen.id, len(records), split=m.split, episodes_per_task=1)
    seeds, tasks = data.episodes["seed"][picked], data.episodes["task"][picked].astype(np.int64)
    observation, _ = env.reset(seed=seeds.tolist(), options={"task": tasks})
    limit = REPLAY_STEPS if chosen.extra else chosen.horizon
    live = np.ones(len(records), dtype=bool)
    blank = np.zeros(env.single_action_space.shape or (), env.single_action_space.dtype)
    for t in range(limit):
        live &= np.array([t < len(record.rewards) for record in records])
        if not live.any():
            return
        actions = np.array([r.actions[t] if on else blank for r, on in zip(records, live, strict=True)])
        before = observation
        observation, reward, _, _, _ = env.step(actions.astype(env.single_action_space.dtype))
        for b in np.flatnonzero(live):
            for name, ours, theirs in (
                ("observation", before[b], records[b].observations[t]),
                ("reward", reward[b], records[b].rewards[t]),
            ):
                gap = np.max(abs(np.asarray(ours, np.float32) - theirs) / (1.0 + abs(theirs)))
                if gap > REPLAY_TOLERANCE:
                    live[b] = False
                    yield f"episode {picked[b]}, step {t}: the simulator gives another {name} (off by {gap:.2g})"
                    break
