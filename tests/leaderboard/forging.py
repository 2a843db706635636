"""Honest submissions to forge, and the tools to forge them so that every hash fits again."""

import datetime
import hashlib
import json
import shutil

import numpy as np

import metabench
from metabench.evaluation.traces import Trace
from metabench.leaderboard.records import BOARDS, SUBMISSION, Board, Submission, Training, dump, read_boards
from metabench.leaderboard.submit import About, Entrant, submit
from metabench.npz import pack
from metabench.runs import policy_sha256

REACH, GRID = "reach", "grid"


def write_boards(root, boards):
    root.mkdir(parents=True, exist_ok=True)
    lines = []
    for board in boards:
        lines.append("[[board]]")
        for name, value in board.model_dump(exclude_none=True).items():
            if isinstance(value, dict):
                lines.append(f"{name} = {{ {', '.join(f'{k} = {json.dumps(v)}' for k, v in value.items())} }}")
            else:
                lines.append(f"{name} = {json.dumps(value)}")
    (root / BOARDS).write_text("\n".join(lines) + "\n")
    return read_boards(root / BOARDS)


def board(id, benchmark, **changes):
    spec = metabench.spec(benchmark)
    fields = {
        "title": benchmark,
        "benchmark": spec.id,
        "episodes": spec.episodes,
        "repeats": spec.repeats,
        "task_digest": spec.table().digest("test"),
        "tracks": ("online", "oracle", "offline-few-shot"),
        "min_runs": 2,
        "pins": {"numpy": "2"},
    }
    return Board(id=id, **(fields | changes))


class Noisy:
    """Pushes at random; another seed is another policy."""

    name = "noisy"

    def __init__(self, space, seed):
        self.space, self.seed = space, seed

    def begin(self, num_trials):
        return 0

    def act(self, step, belief):
        rng = np.random.default_rng([self.seed, belief])
        if hasattr(self.space, "n"):
            return rng.integers(int(self.space.n), size=len(step.reward)), belief + 1
        size = (len(step.reward), *self.space.shape)
        return rng.uniform(self.space.low, self.space.high, size).astype(np.float32), belief + 1


def entrants(benchmark, count, other=0):
    """Runs of the seeds 0, 1, ...; with another number in `other`, those of another agent."""
    space = metabench.spec(benchmark).family().action_space
    own = []
    for seed in range(count):
        policy = {"config.json": json.dumps({"seed": seed + other}).encode()}
        own.append(Entrant(Noisy(space, seed + other), seed, policy, policy_sha256(policy)))
    return own


def about(**changes):
    fields = {
        "agent": "noisy",
        "title": "Noisy",
        "authors": ("A. Tester",),
        "date": datetime.date(2026, 11, 25),
        "training": Training(env_steps=1000),
    }
    return About(**(fields | changes))


def honest(root, id, benchmark, runs=2, **changes):
    boards = write_boards(root, [board(id, benchmark, min_runs=runs, **changes)])
    return submit(boards[id], entrants(benchmark, runs), about(), root), boards


def reseal(folder, **changes):
    """Makes every hash fit and moves the folder where it then belongs; `changes` are of submission.json."""
    record = json.loads((folder / SUBMISSION).read_text())
    record["files"] = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (SUBMISSION, "verification.json")
    }
    record |= changes
    (folder / SUBMISSION).write_text(json.dumps(record))
    try:
        place = Submission.model_validate(record).place
    except ValueError:
        return folder  # it is refused for that
    target = folder.parents[2] / place
    if target != folder:
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
    return target


def edit_trace(folder, change, run=0, returns=True):
    """Changes a trace by a function of its arrays; the returns of result.json then follow its rewards."""
    path = folder / "traces" / f"run_{run:03d}.npz"
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    changed = change(arrays)
    path.write_bytes(pack(arrays if changed is None else changed))
    if returns:
        try:
            trace = Trace.load(path)
        except ValueError:
            return
        edit_result(folder, lambda r: r["results"][run].update(returns=_nested(trace)))


def _nested(trace):
    protocol = trace.header.protocol
    return trace.returns().reshape(-1, protocol.repeats, protocol.episodes).tolist()


def edit_header(folder, change, run=0):
    def edit(arrays):
        header = json.loads(arrays["header"].tobytes())
        change(header)
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)

    edit_trace(folder, edit, run, returns=False)


def edit_result(folder, change):
    path = folder / "result.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def edit_submission(folder, change):
    path = folder / SUBMISSION
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


__all__ = [
    "GRID",
    "REACH",
    "about",
    "board",
    "dump",
    "edit_header",
    "edit_result",
    "edit_submission",
    "edit_trace",
    "entrants",
    "honest",
    "reseal",
    "write_boards",
]
