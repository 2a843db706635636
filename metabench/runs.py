"""A run's folder, and its one owner: what the files are called, what is in them, and who may write. Knows no torch.

Whatever trains leaves one: our agents (`metabench_agents.parts.run` adds checkpoints of tensors), and other packages',
which save what they like beside these files.

- `config.json`: the record of the run: agent, benchmark, seed, protocol, config.
- `metrics.jsonl`: a row per line, as training went.
- `checkpoint.safetensors`: what our agents continue from; `policy.safetensors`: only what acting needs.
- `result.json` of the split `test`, `result-<split>.json` of the others.
- `saved.json`: how far a run without a checkpoint of ours is.
- `checkpoints/`: earlier checkpoints, where they are kept until they were played; `curve.jsonl`: what they reached.
- `.run.lock`: held by who writes, and gone with its process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import struct
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from pydantic import ConfigDict, Field, field_validator

from metabench.evaluation.results import PROTOCOL_VERSION, Record, Result, check_version, parse, write_atomically

CONFIG, METRICS, RESULT = "config.json", "metrics.jsonl", "result.json"
CHECKPOINT, POLICY = "checkpoint.safetensors", "policy.safetensors"
SAVED, LOCK = "saved.json", ".run.lock"
KEPT, CURVE = "checkpoints", "curve.jsonl"
_LOG_SIZE = "metrics_bytes"  # a checkpoint's note of how long the log was, in which times have more digits or fewer
LEARNERS = ("adam", "optimiser", "optimizer", "replay", "buffer", "target")  # tensors under these are for training only
_RESULT_NAME = re.compile(r"^result(-(?P<split>.+))?\.json$")


class RunRecord(Record):
    """What a run is: enough to train it again."""

    model_config = ConfigDict(frozen=True, extra="allow")

    agent: str  # the plug-in's name
    benchmark: str
    seed: int = Field(ge=0)
    protocol: str = "slots-1"  # the first runs did not say it
    config: Mapping[str, Any]

    @field_validator("protocol")
    @classmethod
    def _known(cls, version: str) -> str:
        return check_version(version)


class Policy(NamedTuple):
    """What of a run's folder is its policy."""

    files: Mapping[str, bytes]  # to publish: the record, and tensors; empty where it cannot be published
    sha256: str  # of what acts, whether it can be published or not
    private: str  # why it cannot be published, in words; empty if it can


class Stopped(Exception):
    """Training was asked to stop, and did so where it can be continued."""

    def __init__(self, folder: Path, iteration: int):
        super().__init__(f"stopped after iteration {iteration}; the same command continues {folder} from there")
        self.folder, self.iteration = folder, iteration


def is_run(folder: Path) -> bool:
    """Whether `folder` holds a run."""
    return (folder / CONFIG).is_file()


def is_published(folder: Path) -> bool:
    """Whether `folder` is a policy as an entry publishes it, to which nothing may be added, and no run that trained."""
    return (folder / POLICY).is_file() and not (folder / METRICS).exists()


def read_record(folder: Path) -> RunRecord:
    """The record of the run in `folder`; ValueError in one sentence if there is none, or none that can be read."""
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"there is no run in {folder}: it has no {CONFIG}")
    return parse_record(path.read_bytes(), str(path))


def parse_record(content: bytes, what: str = CONFIG) -> RunRecord:
    """The record in a file's content; ValueError in one sentence naming the first fault."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{what} is no UTF-8 text") from None
    return parse(RunRecord, text, f"record of a run ({what})")


def read_metrics(folder: Path, name: str = METRICS) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; none if there is no such file. A line that was cut by a kill is left out.

    Args:
        folder: Of the run.
        name: Another of its files with rows, curve.jsonl for instance.

    Raises:
        ValueError: In one sentence, for a line that is no JSON object.
    """
    path = folder / name
    if not path.is_file():
        return []
    *lines, _ = path.read_bytes().split(b"\n")  # what follows the last line's end was cut
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: this is no JSON object")
        rows.append(row)
    return rows


def result_path(folder: Path, split: str) -> Path:
    """Where the result on a split lies."""
    return folder / (RESULT if split == "test" else f"result-{split}.json")


def read_results(folder: Path) -> dict[str, Result]:
    """The results by split; ValueError in one sentence for a file that is none."""
    found = {}
    for path in sorted(folder.glob("result*.json")):
        if match := _RESULT_NAME.match(path.name):
            found[match["split"] or "test"] = Result.load(path)
    return found


def iterations_done(folder: Path) -> int | None:
    """From which iteration a run goes on, told by its checkpoint's head or by `saved.json`; None if it starts again."""
    try:
        if (folder / SAVED).is_file():
            return json.loads((folder / SAVED).read_text())["iteration"]
        return int(checkpoint_state(folder / CHECKPOINT)["iteration"])
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None


def checkpoint_state(path: Path) -> dict[str, Any]:
    """What a checkpoint of tensors was saved with, from its head alone."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return json.loads(json.loads(file.read(size))["__metadata__"]["state"])


def policy(folder: Path) -> Policy:
    """What of a run's folder is its policy.

    That is its record with `policy.safetensors`, or with `checkpoint.safetensors` less what only training needs. A run
    that has neither cannot be published; its hash is then that of all files it left but metrics and results.

    Raises:
        ValueError: In one sentence: there is no run, or nothing was saved yet.
    """
    record = folder / CONFIG
    read_record(folder)
    tensors = folder / POLICY
    if tensors.is_file():
        content = tensors.read_bytes()
    elif (folder / CHECKPOINT).is_file():
        content = (folder / CHECKPOINT).read_bytes()
    else:
        return _private(folder)
    files = {CONFIG: record.read_bytes(), POLICY: without_learner(content, str(folder))}
    return Policy(files, policy_sha256(files), "")


def _private(folder: Path) -> Policy:
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        own = name in (METRICS, SAVED) or _RESULT_NAME.match(name) or any(p.startswith(".") for p in name.split("/"))
        if path.is_file() and not own:
            digests[name] = _sha256(path)
    if digests.keys() == {CONFIG}:
        raise ValueError(f"there is no trained agent in {folder}: beside {CONFIG} it has saved nothing")
    why = (
        f"the policy in {folder} cannot be published, for it has no {POLICY}: the entry carries only the sha256 of its "
        f"files ({', '.join(sorted(digests))})"
    )
    return Policy({}, _sha256_of(digests), why)


def weights_sha256(folder: Path) -> str:
    """The hash of what a run's agent is loaded from: of its checkpoint's content, or of all that it left."""
    for name in (CHECKPOINT, POLICY):
        if (folder / name).is_file():
            return content_sha256(name, (folder / name).read_bytes())
    return policy(folder).sha256


def lay_out(files: Mapping[str, bytes], folder: Path) -> None:
    """Makes a run's folder of a published policy, from which the agent can be loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if POLICY in files:  # for agents that know the training's file only
        (folder / CHECKPOINT).write_bytes(files[POLICY])


def policy_sha256(files: Mapping[str, bytes]) -> str:
    """The hash of what a policy's files say, by name; see `content_sha256`."""
    return _sha256_of({name: content_sha256(name, content) for name, content in files.items()})


def raw_policy_sha256(files: Mapping[str, bytes]) -> str:
    """The hash of a policy's files by name, of every byte: what entries of the first rules have."""
    return _sha256_of({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})


def content_sha256(name: str, content: bytes) -> str:
    """The hash of what a file says, however it says it: two identical trainings have the same.

    Of JSON it is the values, whatever the order of keys, spaces and the way a number is written; of safetensors the
    tensors and the `state` they were saved with, less the length of a log, and no other metadata. A file that is
    neither, or cannot be read as what it is called, is hashed byte by byte.
    """
    try:
        if name.endswith(".json"):
            told = _canonical(json.loads(content))
        elif name.endswith(".safetensors"):
            told = _canonical_tensors(content)
        else:
            told = None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error):
        told = None
    return hashlib.sha256(content if told is None else told.encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """The value with 2.0 written as 2."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _canonical_tensors(content: bytes) -> str:
    head, data = open_tensors(content)
    told: dict[str, Any] = {"state": state_of(head.pop("__metadata__", {}))}
    for name, tensor in head.items():
        begin, end = tensor["data_offsets"]
        told[f"tensor {name}"] = [tensor["dtype"], tensor["shape"], hashlib.sha256(data[begin:end]).hexdigest()]
    return _canonical(told)


def open_tensors(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """The head of a safetensors file and its data; ValueError, KeyError or TypeError where it is none."""
    if len(content) < 8:
        raise ValueError("the file has no head")
    (size,) = struct.unpack("<Q", content[:8])
    if size > len(content) - 8:
        raise ValueError("the head is longer than the file")
    return json.loads(content[8 : 8 + size]), memoryview(content)[8 + size :]


def state_of(metadata: Mapping[str, str]) -> Any:
    """What a checkpoint's tensors were saved with, less what may differ between two equal runs."""
    state = json.loads(metadata["state"]) if "state" in metadata else {}
    return {key: value for key, value in state.items() if key != _LOG_SIZE and not key.startswith("time/")}


def _sha256_of(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_learner(content: bytes, where: str = "the policy") -> bytes:
    """A safetensors file without the tensors under `LEARNERS`: the optimiser's, the replay's, target networks'.

    The first part of a tensor's name tells its group: `adam/3/exp_avg`, `dt-adam/3/exp_avg` and `target.0.weight` go.
    So does all metadata but the state: what is published has one form only.

    Raises:
        ValueError: In one sentence: this is no safetensors file.
    """
    try:
        head, data = open_tensors(content)
        kept: dict[str, Any] = {}
        parts: list[memoryview] = []
        start = 0
        for name in sorted(head):
            if name == "__metadata__":
                if state := state_of(head[name]):
                    kept[name] = {"state": json.dumps(state, sort_keys=True)}
                continue
            group, *rest = re.split(r"[/.]", name)
            if rest and group.rpartition("-")[2] in LEARNERS:  # a tensor that is itself called "target" is no network
                continue
            begin, end = head[name]["data_offsets"]
            kept[name] = {**head[name], "data_offsets": [start, start + end - begin]}
            parts.append(data[begin:end])
            start += end - begin
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"the tensors of {where} are no safetensors file") from None
    text = json.dumps(kept, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


class _Writer:
    """The right to write in a folder: held until nobody in this process refers to it, or the process is gone."""

    def __init__(self, folder: Path):
        path = folder / LOCK
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(timeout=0)
            if not path.exists():  # its last holder removed it between our opening and our locking
                lock.release()
                lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"another process is writing to {folder}; wait until it is done, or choose another folder"
            ) from None
        self.release = weakref.finalize(self, _release, lock, path, os.getpid())


_INHERITED: list[FileLock] = []  # of a process that forked us: to forget them would unlock them there
_WRITERS: weakref.WeakValueDictionary[tuple[int, Path], _Writer] = weakref.WeakValueDictionary()


def _release(lock: FileLock, path: Path, pid: int) -> None:
    if pid != os.getpid():
        _INHERITED.append(lock)
        return
    with contextlib.suppress(OSError):  # the folder may be gone
        path.unlink(missing_ok=True)
    lock.release(force=True)


def _writer(folder: Path) -> _Writer:
    """This process's right to write in `folder`: a run is continued where it was begun."""
    key = os.getpid(), folder.resolve()
    held = _WRITERS.get(key)
    if held is None:
        held = _WRITERS[key] = _Writer(folder)
    return held


class Run:
    """One training run and its files. Agents whose module has no `Run` of its own get this one.

    A training loop calls `begin`, then `log` as it goes, and `saved` whenever it has written files it can continue
    from. It is asked to stop by `request_stop`, from a signal's handler for instance: `stop_requested` is then true,
    `checkpoint_every` is 1, and the next `saved` raises `Stopped`. So a loop like this one stops where it can go on::

        done = run.begin("kite-flyer", benchmark, config, seed) or 0
        with run.progress(config.iterations, done, "iterations") as advance:
            for iteration in range(done, config.iterations):
                ...
                run.log({"iteration": iteration + 1, "frames": frames, "return": total})
                advance(iteration + 1, f"return {total:.1f}")
                if (iteration + 1) % run.checkpoint_every == 0 or iteration + 1 == config.iterations:
                    ...  # write own files into run.folder
                    run.saved(iteration + 1)

    Args:
        folder: Where everything goes. A folder that holds the same run is continued.
        show: Whether to draw a progress bar.
        checkpoint_every: Iterations between checkpoints.
        keep_every: Iterations between checkpoints that are all kept, each in `checkpoints/`, for a learning curve
            (`metabench.learning`); takes the place of `checkpoint_every`. 0: only the last is kept.
    """

    def __init__(self, folder: Path, *, show: bool = True, checkpoint_every: int = 50, keep_every: int = 0):
        self.folder, self.show = Path(folder), show
        self.keep_every = keep_every
        self._every, self._stop = keep_every or checkpoint_every, False
        self._held: _Writer | None = None

    _followers: tuple[Callable[[Mapping[str, Any]], None], ...] = ()

    @property
    def checkpoint_every(self) -> int:
        """Iterations between checkpoints; 1 once the run was asked to stop, so that the next one is written at once."""
        return 1 if self._stop else self._every

    @property
    def stop_requested(self) -> bool:
        """Whether the run was asked to stop."""
        return self._stop

    def request_stop(self) -> None:
        """Asks the loop to write a checkpoint at the end of its iteration and to stop there by raising `Stopped`.

        Only sets a flag, so that a signal's handler may call it.
        """
        self._stop = True

    def begin(self, agent: str, benchmark: str, config: Any, seed: int) -> Any:
        """Opens the folder for writing.

        Args:
            agent: The name under which the plug-in is installed.
            benchmark: The id that is trained on.
            config: The settings, a dataclass.
            seed: Of the run.

        Returns:
            The iteration that was given to `saved` last, from which the run goes on; None for a new run.

        Raises:
            ValueError: In one sentence: the folder holds a run with other settings, or another process writes there.
                Nothing is overwritten then.
        """
        self._open(agent, benchmark, config, seed)
        path = self.folder / SAVED
        state = json.loads(path.read_text()) if path.is_file() else {"iteration": None, "metrics_bytes": 0}
        self._cut_metrics(state["metrics_bytes"])
        return state["iteration"]

    def log(self, row: Mapping[str, Any]) -> None:
        """Appends one row to metrics.jsonl.

        `frames` counts the environment steps so far, all of training's: a leaderboard's entry takes its budget from it.
        Keys that begin with `time/` may differ between two equal runs; `time/seconds` is what the row took.
        """
        with (self.folder / METRICS).open("a") as metrics:
            metrics.write(json.dumps(row) + "\n")
        for follow in self._followers:
            follow(row)

    def follow(self, follower: Callable[[Mapping[str, Any]], None]) -> None:
        """Has `follower` called with every row that is logged from now on, once it is written."""
        self._followers = (*self._followers, follower)

    def saved(self, iteration: int) -> None:
        """Says that the files in the folder are those of `iteration`: from there the run is continued.

        Raises:
            Stopped: The run was asked to stop.
        """
        record = {"iteration": iteration, "metrics_bytes": self._sync_metrics()}
        write_atomically(self.folder / SAVED, json.dumps(record).encode())
        self._keep(iteration)
        self._stop_if_asked(iteration)

    def close(self) -> None:
        """Lets another process write. Happens by itself where the run is forgotten, and with the end of the process."""
        self._held = None

    @contextlib.contextmanager
    def progress(self, total: int, done: int, unit: str) -> Iterator[Any]:
        """A bar over `total` iterations; yields `update(done, text)`."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        bar = Progress(
            *columns,
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
            disable=not self.show,
        )
        with bar:
            task = bar.add_task("training", total=total, completed=done, text="")
            yield lambda completed, text: bar.update(task, completed=completed, text=text)

    def _open(self, agent: str, benchmark: str, config: Any, seed: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._held = _writer(self.folder)
        record = {"agent": agent, "benchmark": benchmark, "seed": seed, "protocol": PROTOCOL_VERSION}
        record |= {"config": asdict(config)}
        path = self.folder / CONFIG
        if path.exists():
            told, asked = read_record(self.folder).model_dump(mode="json"), json.loads(json.dumps(record))
            if other := [name for name in {**asked, **told} if told.get(name) != asked.get(name)]:
                raise ValueError(
                    f"{self.folder} holds another run; choose another folder or remove it "
                    f"(settings: {path}; another {', '.join(other)})"
                )
        write_atomically(path, json.dumps(record, indent=2).encode())

    def _cut_metrics(self, size: int) -> None:
        """Rows after the point that is continued from will be written again."""
        with (self.folder / METRICS).open("ab") as metrics:
            metrics.truncate(min(size, metrics.tell()))

    def _sync_metrics(self) -> int:
        with (self.folder / METRICS).open("ab") as metrics:
            os.fsync(metrics.fileno())
            return metrics.tell()

    def _keep(self, iteration: int) -> None:
        """Keeps the checkpoint beside those that follow, if it is a `checkpoint.safetensors`."""
        path = self.folder / KEPT / f"{iteration:08d}.safetensors"
        if self.keep_every and not path.exists() and (self.folder / CHECKPOINT).is_file():
            path.parent.mkdir(exist_ok=True)
            os.link(self.folder / CHECKPOINT, path)  # the next checkpoint takes the name, not the content

    def _stop_if_asked(self, iteration: int) -> None:
        if self._stop:
            raise Stopped(self.folder, iteration)
