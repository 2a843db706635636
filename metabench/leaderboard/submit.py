"""Builds a submission: evaluates every run under the board's protocol with evidence, and writes the folder."""

from __future__ import annotations

import datetime
import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from pydantic import ValidationError

from metabench.agent import Agent
from metabench.evaluation.evaluate import Evaluation, evaluate_traced, versions
from metabench.evaluation.results import Protocol, sync_folder, write_atomically
from metabench.leaderboard.folder import MAX_BYTES, Folder
from metabench.leaderboard.keys import AuthorKey, author_key
from metabench.leaderboard.logs import log_of as log_of  # by its older place too
from metabench.leaderboard.logs import seconds_of
from metabench.leaderboard.records import (
    CARD,
    RESULT,
    RULES,
    SUBMISSION,
    Board,
    Dataset,
    Playing,
    Results,
    Run,
    Submission,
    Training,
    dump,
    evaluation_seed,
)
from metabench.leaderboard.replay import check_actions_inside
from metabench.leaderboard.rules import (
    check_agent,
    check_board,
    check_names,
    check_policies,
    check_rules,
    check_runs,
    check_training,
    untrained_sha256,
)
from metabench.leaderboard.track import TrackName
from metabench.plugins import load_plugin, load_run
from metabench.registry import spec
from metabench.runs import CONFIG, POLICY, is_run, policy, read_metrics, read_record, without_learner

_DRAFT, _LOCK = ".submit-", ".lock"  # what a folder that is being written is called, and who writes there
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
    track: TrackName = "online"
    test_tasks: str = "none"
    plugin: str = ""  # the agent's name among the installed ones, if it has one
    trains: bool = True
    training: Training = field(default_factory=lambda: Training(env_steps=0))
    seconds_per_step: float | None = None  # of one trial while it plays; how long a context is its agent says
    card: str = ""  # Markdown; a short one is written if it is empty
    key: AuthorKey | None = None  # to sign with; by default the key of who runs this, see `keys.author_key`


_ASIDE = ("card", "key", "seconds_per_step")
_TOLD = tuple(part.name for part in fields(About) if part.name not in _ASIDE)  # what stands in the record as it is


class Entrant(NamedTuple):
    """One run that enters."""

    agent: Agent[Any]
    train_seed: int | None
    policy: Mapping[str, bytes]  # to publish: config.json, policy.safetensors; may be empty
    sha256: str  # of the policy, whether it is published or not
    note: str = ""  # what a submitter should know before it is played
    log: str = ""  # what the run's own log tells of its steps: lines of JSON with iteration and frames; see `log_of`
    source: str = ""  # from where others load it: a run's folder, or the name of an agent that does not train


Play = Callable[[Sequence[Protocol], str], Iterable[Evaluation]]
"""Plays each entrant under its protocol, in their order, with results under a name."""


def submit(
    board: Board,
    entrants: Sequence[Entrant],
    about: About,
    root: Path,
    progress: Callable[[int, int, int], None] | None = None,
    play: Play | None = None,
) -> Path:
    """Evaluates all runs and writes `root/<board>/<agent>/<date>-<id>`; the same input gives the same bytes.

    Whatever a verification would refuse without looking at what was played is refused before anything is played.

    Args:
        board: Where to.
        entrants: All runs that were trained, with the seeds 0, 1, ...; for an agent that does not train, repetitions.
        about: Who, what, and from how much training.
        root: The folder of the leaderboards.
        progress: Called with (run, trials done, trials in all).
        play: Who plays all runs; here, one after the other, by default.

    Raises:
        ValueError: In one sentence; nothing is left behind then.
    """
    plan = planned(board, entrants, about)
    root.mkdir(parents=True, exist_ok=True)
    with _draft(root) as draft:
        protocols = [board.played(evaluation_seed(board.id, e.sha256, index)) for index, e in enumerate(entrants)]
        every = play(protocols, about.agent) if play else _in_turn(entrants, protocols, about.agent, progress)
        results = []
        for index, (entrant, (result, trace)) in enumerate(zip(entrants, every, strict=True)):
            check_actions_inside(trace.actions, spec(board.benchmark).family().action_space)
            trace.save(draft / "traces" / f"run_{index:03d}.npz")
            results.append(result)
            for file, content in entrant.policy.items():
                write_atomically(draft / "policies" / f"run_{index:03d}" / file, content)
            if entrant.log:
                write_atomically(draft / "training" / f"run_{index:03d}.jsonl", entrant.log.encode())
        write_atomically(draft / RESULT, dump(Results(results=tuple(results))))
        write_atomically(draft / CARD, (about.card or _card(about, board)).encode())
        return _seal(draft, plan, root, about.key or author_key())


@contextmanager
def _draft(root: Path) -> Iterator[Path]:
    """A folder to write an entry into, gone afterwards; those of killed processes are removed first.

    Each is locked by who writes there, and the lock goes with its process.
    """
    for old in root.glob(f"{_DRAFT}*"):
        lock = FileLock(old / _LOCK)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            continue
        shutil.rmtree(old, ignore_errors=True)
        lock.release()
    folder = Path(tempfile.mkdtemp(dir=root, prefix=_DRAFT))
    lock = FileLock(folder / _LOCK)
    try:
        with lock:
            (folder / "entry").mkdir()
            yield folder / "entry"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _in_turn(
    entrants: Sequence[Entrant],
    protocols: Sequence[Protocol],
    name: str,
    progress: Callable[[int, int, int], None] | None,
) -> Iterator[Evaluation]:
    for index, (entrant, protocol) in enumerate(zip(entrants, protocols, strict=True)):
        tell = (lambda done, total, run=index: progress(run, done, total)) if progress else None
        yield evaluate_traced(entrant.agent, protocol, train_seed=entrant.train_seed, name=name, progress=tell)


def planned(board: Board, entrants: Sequence[Entrant], about: About) -> Submission:
    """The record of a submission before anything is played, without the hashes of its files.

    Raises:
        ValueError: In one sentence: what a verification would refuse it for.
    """
    for index, entrant in enumerate(entrants):
        for name in entrant.policy:
            if name not in (CONFIG, POLICY):
                raise ValueError(
                    f"run {index}: a policy is published as {CONFIG} and {POLICY}, not as {name!r}; leave it out "
                    f"(policy={{}}) and keep its sha256, or publish its tensors"
                )
        if POLICY in entrant.policy:
            without_learner(entrant.policy[POLICY], f"run {index}")
    told = {name: getattr(about, name) for name in _TOLD}
    try:
        submission = Submission(
            rules=RULES,
            board=board.id,
            runs=tuple(Run(train_seed=entrant.train_seed, policy_sha256=entrant.sha256) for entrant in entrants),
            versions=versions(),
            cpu_flags=cpu_flags(),
            files={},
            playing=playing_of(entrants, about.seconds_per_step),
            **told,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where or 'the submission'}: {first['msg'].removeprefix('Value error, ')}") from None
    check_board(submission, board)
    check_rules(submission, "")
    check_names(submission)
    check_runs(submission, board)
    for index, entrant in enumerate(entrants):
        check_agent(index, entrant.agent, submission, board)
    published = {index: entrant.policy for index, entrant in enumerate(entrants) if entrant.policy}
    check_policies(published, submission, board)
    check_training({index: e.log for index, e in enumerate(entrants) if e.log}, published, submission)
    size = sum(len(content) for files in published.values() for content in files.values())
    if size > MAX_BYTES:
        raise ValueError(f"the policies have {size:,} bytes, more than the {MAX_BYTES:,} allowed; leave them out")
    return submission


def playing_of(entrants: Sequence[Entrant], seconds: float | None) -> Playing | None:
    """What the agents need to play: the longest context that they say they attend to, and the seconds of a step."""
    told = [context for e in entrants if (context := getattr(e.agent, "attends", None)) is not None]
    longest = "trial" if "trial" in told else max(told, default=None)
    return Playing(context=longest, seconds_per_step=seconds) if told or seconds is not None else None


def _seal(draft: Path, plan: Submission, root: Path, key: AuthorKey | None) -> Path:
    """Adds submission.json, signed where there is a key, and moves the folder where it belongs by one rename."""
    files: dict[str, str] = {}
    for path in sorted(draft.rglob("*")):
        if path.is_file():
            files[path.relative_to(draft).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    submission = Submission(**{**plan.model_dump(), "files": files, "author_key": key.public if key else ""})
    if key:
        submission = submission.model_copy(update={"signature": key.sign(submission.signed)})
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
    for folder in (path for path in draft.rglob("*") if path.is_dir()):
        sync_folder(folder)
    draft.chmod(0o755)
    draft.rename(target)
    sync_folder(target.parent)
    return target


def open_run(folder: Path, board: Board, publish: bool) -> Entrant:
    """The agent of a training run's folder; ValueError in one sentence if it is none, or of another benchmark."""
    if is_run(folder) and (record := read_record(folder)).benchmark != board.benchmark:
        raise ValueError(f"{folder} was trained on {record.benchmark}; the board {board.id} is of {board.benchmark}")
    agent, record = load_run(folder)
    found = policy(folder)
    files, note = (found.files, found.private) if publish else ({}, "")
    return Entrant(agent, record.seed, files, found.sha256, note, log_of(read_metrics(folder)), source=str(folder))


def open_yardstick(name: str, board: Board, runs: int) -> list[Entrant]:
    """Repetitions of an agent that does not train."""
    plugin: Any = load_plugin(name)
    if not hasattr(plugin, "build"):
        raise ValueError(f"{name} has to be trained first; submit the folders of its runs")
    sha = untrained_sha256(name, versions()["metabench"])
    return [Entrant(plugin.build(board.benchmark, board.split, run), None, {}, sha, source=name) for run in range(runs)]


def training_of(
    folders: Sequence[Path],
    datasets: Sequence[Dataset],
    hours: float | None,
    hardware: str,
    cores: int | None = None,
) -> Training:
    """What the runs' own metrics say of one run's training: the most any of them used; and what is told beside them."""
    frames, seconds = 0, 0.0
    for folder in folders:
        last, spent = 0, 0.0
        for row in read_metrics(folder):
            spent += seconds_of(row, last)
            last = max(last, int(row.get("frames", last)))
        frames, seconds = max(frames, last), max(seconds, spent)
    known = hours if hours is not None else (round(seconds / 3600, 4) if seconds else None)
    steps = 0 if datasets else frames
    return Training(env_steps=steps, datasets=tuple(datasets), hours=known, hardware=hardware, cores=cores)


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
