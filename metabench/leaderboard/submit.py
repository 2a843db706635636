"""Builds a submission: evaluates every run under the board's protocol with evidence, and writes the folder."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from metabench.agent import Agent
from metabench.evaluation.evaluate import evaluate_traced, versions
from metabench.evaluation.results import write_atomically
from metabench.leaderboard.folder import MAX_BYTES, Folder
from metabench.leaderboard.records import (
    CARD,
    RESULT,
    SUBMISSION,
    Board,
    Dataset,
    Results,
    Run,
    Submission,
    Track,
    Training,
    dump,
    evaluation_seed,
    policy_sha256,
)
from metabench.leaderboard.replay import check_actions_inside
from metabench.plugins import load_plugin
from metabench.registry import spec

CONFIG, CHECKPOINT, POLICY, METRICS = "config.json", "checkpoint.safetensors", "policy.safetensors", "metrics.jsonl"
LEARNERS = ("adam", "optimiser", "optimizer", "replay", "buffer", "target")  # tensors under these are for training only
_FLAGS = ("avx", "avx2", "fma", "avx512f", "avx512vl", "amx_tile", "asimd", "sve")  # what maths libraries choose by


@dataclass(frozen=True)
class About:
    """What only the submitter knows."""

    agent: str  # the folder's name: lower-case letters, digits, dashes
    title: str
    authors: tuple[str, ...]
    version: str = "1"
    date: datetime.date = field(default_factory=datetime.date.today)
    paper: str = ""
    code: str = ""
    commit: str = ""
    track: Track = "online"
    test_tasks: str = "none"
    plugin: str = ""  # the agent's name among the installed ones, if it has one
    trains: bool = True
    training: Training = field(default_factory=lambda: Training(env_steps=0))
    card: str = ""  # Markdown; a short one is written if it is empty


class Entrant(NamedTuple):
    """One run that enters."""

    agent: Agent[Any]
    train_seed: int | None
    policy: Mapping[str, bytes]  # files to publish, by name; may be empty
    sha256: str  # of the policy, whether it is published or not


def submit(
    board: Board,
    entrants: Sequence[Entrant],
    about: About,
    root: Path,
    progress: Callable[[int, int, int], None] | None = None,
) -> Path:
    """Evaluates all runs and writes `root/<board>/<agent>/<date>-<id>`; the same input gives the same bytes.

    Args:
        board: Where to.
        entrants: All runs that were trained, with the seeds 0, 1, ...; for an agent that does not train, repetitions.
        about: Who, what, and from how much training.
        root: The folder of the leaderboards.
        progress: Called with (run, trials done, trials in all).

    Raises:
        ValueError: In one sentence; nothing is left behind then.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".submit-") as name:
        draft = Path(name)
        results = []
        for index, entrant in enumerate(entrants):
            seed = evaluation_seed(board.id, entrant.sha256, index)
            result, trace = evaluate_traced(
                entrant.agent,
                board.played(seed),
                train_seed=entrant.train_seed,
                name=about.agent,
                progress=(lambda done, total, run=index: progress(run, done, total)) if progress else None,
            )
            check_actions_inside(trace.actions, spec(board.benchmark).family().action_space)
            trace.save(draft / "traces" / f"run_{index:03d}.npz")
            results.append(result)
            for file, content in entrant.policy.items():
                write_atomically(draft / "policies" / f"run_{index:03d}" / file, content)
        write_atomically(draft / RESULT, dump(Results(results=tuple(results))))
        write_atomically(draft / CARD, (about.card or _card(about, board)).encode())
        runs = tuple(Run(train_seed=entrant.train_seed, policy_sha256=entrant.sha256) for entrant in entrants)
        return _seal(draft, board, about, runs, root)


def _seal(draft: Path, board: Board, about: About, runs: tuple[Run, ...], root: Path) -> Path:
    """Adds submission.json and moves the folder where it belongs."""
    files: dict[str, str] = {}
    for path in sorted(draft.rglob("*")):
        if path.is_file():
            files[path.relative_to(draft).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    submission = Submission(
        board=board.id,
        agent=about.agent,
        version=about.version,
        title=about.title,
        authors=about.authors,
        date=about.date,
        paper=about.paper,
        code=about.code,
        commit=about.commit,
        track=about.track,
        trains=about.trains,
        plugin=about.plugin,
        training=about.training,
        test_tasks=about.test_tasks,  # pyright: ignore[reportArgumentType]
        runs=runs,
        versions=versions(),
        cpu_flags=cpu_flags(),
        files=files,
    )
    write_atomically(draft / SUBMISSION, dump(submission))
    size = sum(path.stat().st_size for path in draft.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise ValueError(
            f"the submission has {size:,} bytes, more than the {MAX_BYTES:,} allowed; leave out the policies"
        )
    target = root / submission.place
    if target.exists():
        if Folder(target).sha256() == Folder(draft).sha256():
            return target
        raise ValueError(f"{target} exists and is another submission")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(draft, target.parent / f".{target.name}.part")
    (target.parent / f".{target.name}.part").rename(target)
    return target


def open_run(folder: Path, board: Board, publish: bool) -> Entrant:
    """The agent of a training run's folder; ValueError in one sentence if it is none, or of another benchmark."""
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"there is no trained agent in {folder}: it has no {CONFIG}")
    settings = json.loads(path.read_text())
    if settings["benchmark"] != board.benchmark:
        raise ValueError(
            f"{folder} was trained on {settings['benchmark']}; the board {board.id} is of {board.benchmark}"
        )
    plugin: Any = load_plugin(settings["agent"])
    agent = plugin.load(folder)
    policy = policy_files(folder)
    return Entrant(agent, settings["seed"], policy if publish else {}, policy_sha256(policy))


def open_yardstick(name: str, board: Board, runs: int) -> list[Entrant]:
    """Repetitions of an agent that does not train."""
    plugin: Any = load_plugin(name)
    if not hasattr(plugin, "build"):
        raise ValueError(f"{name} has to be trained first; submit the folders of its runs")
    sha = hashlib.sha256(json.dumps(["untrained", name, versions()["metabench"]]).encode()).hexdigest()
    return [Entrant(plugin.build(board.benchmark, board.split, run), None, {}, sha) for run in range(runs)]


def policy_files(folder: Path) -> dict[str, bytes]:
    """What of a run's folder is its policy: the settings, and the checkpoint without what only training needs."""
    checkpoint = folder / CHECKPOINT
    if not checkpoint.is_file():
        raise ValueError(f"there is no trained agent in {folder}: it has no {CHECKPOINT}")
    return {CONFIG: (folder / CONFIG).read_bytes(), POLICY: without_learner(checkpoint.read_bytes())}


def without_learner(content: bytes) -> bytes:
    """A safetensors file without the tensors under `LEARNERS`: the optimiser's, the replay's, target networks'.

    The first part of a tensor's name tells its group: `adam/3/exp_avg`, `dt-adam/3/exp_avg` and `target.0.weight` go.
    """
    (size,) = struct.unpack("<Q", content[:8])
    head, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    kept: dict[str, Any] = {}
    parts: list[bytes] = []
    start = 0
    for name in sorted(head):
        if name == "__metadata__":
            kept[name] = head[name]
            continue
        group, *rest = re.split(r"[/.]", name)
        if rest and group.rpartition("-")[2] in LEARNERS:  # a tensor that is itself called "target" is no network
            continue
        begin, end = head[name]["data_offsets"]
        kept[name] = {**head[name], "data_offsets": [start, start + end - begin]}
        parts.append(data[begin:end])
        start += end - begin
    text = json.dumps(kept, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def training_of(folders: Sequence[Path], datasets: Sequence[Dataset], hours: float | None, hardware: str) -> Training:
    """What the runs' own metrics say of one run's training: the most any of them used."""
    frames, seconds = 0, 0.0
    for folder in folders:
        path = folder / METRICS
        if not path.is_file():
            continue
        last, spent = 0, 0.0
        for line in path.read_text().splitlines():
            row = json.loads(line)
            now = int(row.get("frames", last))
            if "time/seconds" in row:
                spent += row["time/seconds"]
            elif row.get("time/frames_per_s"):
                spent += (now - last) / row["time/frames_per_s"]
            last = max(last, now)
        frames, seconds = max(frames, last), max(seconds, spent)
    known = hours if hours is not None else (round(seconds / 3600, 4) if seconds else None)
    return Training(env_steps=0 if datasets else frames, datasets=tuple(datasets), hours=known, hardware=hardware)


def cpu_flags() -> tuple[str, ...]:
    """Which of the instruction sets that maths libraries choose by this machine has; empty where that is not told."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return ()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", path.read_text(), re.MULTILINE)
    words = set(found[1].split()) if found else set()
    return tuple(flag for flag in _FLAGS if flag in words)


def _card(about: About, board: Board) -> str:
    steps = f"{about.training.env_steps:,} environment steps a run" if about.training.env_steps else "no training steps"
    return (
        f"# {about.title}\n\n"
        f"{about.title} on {board.benchmark} ({board.split}), track {about.track}: {steps}.\n"
        f"Tasks of evaluation splits used: {about.test_tasks}.\n"
    )
