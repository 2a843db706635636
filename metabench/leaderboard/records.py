"""What a submission says of itself, what a board asks, what a verification found: frozen records, schema-checked."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
)

from metabench.evaluation.results import PROTOCOL_VERSION, Protocol, Record, Result, parse
from metabench.leaderboard.track import TRACKS, TrackName
from metabench.runs import CONFIG, POLICY
from metabench.runs import policy_sha256 as policy_sha256  # by its older name
from metabench.tasks import suggest

SUBMISSION_SCHEMA = 1
SUBMISSION, RESULT, CARD, VERIFICATION, BOARDS = (
    "submission.json",
    "result.json",
    "card.md",
    "verification.json",
    "boards.toml",
)
OWN_BOARDS = Path(__file__).parent / BOARDS  # the package's, a copy of leaderboards/boards.toml

# What may be a folder's name: lower-case letters, digits, dashes and single dots or underscores inside.
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([._-][a-z0-9]+)*$", max_length=48)]
KEPT = Path(__file__).parent / "first_rules.json"  # the entries that were on the boards before the second rules

# The rules an entry was made under. The second: evaluation seeds of 128 bits, which follow from what the policies say
# and not from how their files are written; runs in the order of their training seeds; an author's key.
RULES = 2

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# One line of text: no control characters, and no marks that hide or turn the direction of writing, but for joiners.
Line = Annotated[str, StringConstraints(max_length=300, pattern=r"^([^\p{Cc}\p{Cf}\p{Zl}\p{Zp}]|[\x{200c}\x{200d}])*$")]
Url = Annotated[str, StringConstraints(max_length=300, pattern=r"^(https?://[!#-&(-;=?-_a-~]+)?$")]  # printable ASCII
Tier: TypeAlias = Literal["claimed", "replayed", "reproduced"]


class Dataset(Record):
    """A dataset that training read."""

    id: Line
    sha256: Sha256


class Training(Record):
    """What one run of training used."""

    env_steps: int = Field(ge=0, le=10**15)  # steps taken in the environment, test tasks never
    datasets: tuple[Dataset, ...] = ()
    hours: float | None = Field(default=None, ge=0, le=10**7)  # wall clock
    hardware: Line = ""
    cores: int | None = Field(default=None, ge=1, le=10**6)  # of processors, that a run used at a time

    @model_serializer(mode="wrap")
    def _as_it_was(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Cores that are not told are left out: entries from before keep their id and their signature."""
        told: dict[str, Any] = dumped(self)
        return {name: value for name, value in told.items() if name != "cores" or value is not None}


class Run(Record):
    """One training run, or one repetition of an agent that does not train."""

    train_seed: int | None = Field(default=None, ge=0)
    policy_sha256: Sha256  # of its files; the evaluation's seed follows from it


class Playing(Record):
    """What the agent needs to play, where that is told: for trials of many episodes."""

    context: Annotated[int, Field(ge=1)] | Literal["trial"] | None = None  # steps of the trial it attends to at once
    seconds_per_step: float | None = Field(default=None, gt=0, le=10**4)  # wall clock, by who submits


class Submission(Record):
    """Everything a reader wants to know of an entry; the numbers themselves are in the other files."""

    schema_version: Literal[1] = SUBMISSION_SCHEMA
    rules: Literal[1, 2] = 1  # the first entries did not say it
    board: Slug
    agent: Slug
    version: Line = "1"
    title: Line
    authors: tuple[Line, ...] = Field(min_length=1, max_length=64)
    date: datetime.date
    paper: Url = ""
    code: Url = ""
    commit: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{7,64})?$")] = ""
    track: TrackName
    trains: bool  # False: an agent made from the benchmark's definition, whose runs are repetitions
    plugin: Line = ""  # its name among the installed agents, for who wants to run it again
    training: Training
    test_tasks: Literal["none", "selection", "training"]  # what tasks of evaluation splits were used for
    runs: tuple[Run, ...] = Field(min_length=1, max_length=100)  # every run that was started
    versions: Mapping[Line, Line]
    cpu_flags: tuple[Line, ...] = ()  # of the machine that evaluated, where they are known
    files: Mapping[Line, Sha256]  # every other file of the folder
    author_key: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""  # whose the agent's name is
    signature: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{128})?$")] = ""  # of `signed` by that key
    playing: Playing | None = None  # entries of before do not tell, and keep their bytes

    @model_serializer(mode="wrap")
    def _as_told(self, plainly: SerializerFunctionWrapHandler) -> dict[str, Any]:
        told: dict[str, Any] = plainly(self)
        if self.playing is None:
            told.pop("playing", None)
        return told

    @model_validator(mode="after")
    def _honest(self) -> Self:
        used = self.training
        TRACKS[self.track].check_training(self.trains, used.env_steps, len(used.datasets))
        return self

    @property
    def id(self) -> str:
        """The folder's name: the date, and what follows from all the files."""
        return f"{self.date.isoformat()}-{hashlib.sha256(self._told(date='')).hexdigest()[:10]}"

    @property
    def signed(self) -> bytes:
        """What the author's key signs: everything but the signature."""
        return self._told()

    def _told(self, **changes: str) -> bytes:
        left_out = {"signature"} if self.rules > 1 else {"rules", "author_key", "signature"}
        told = {**self.model_dump(mode="json", exclude=left_out), **changes}
        return json.dumps(told, sort_keys=True).encode()

    @property
    def place(self) -> Path:
        """Where the folder lies below the leaderboards."""
        return Path(self.board) / self.agent / self.id


class Results(Record):
    """The results of all runs, in the order of the submission's runs."""

    schema_version: Literal[1] = 1
    results: tuple[Result, ...] = Field(min_length=1)


class Board(Record):
    """One leaderboard. Its meaning never changes: what would change it is a new board that supersedes this one."""

    id: Slug
    title: Line
    benchmark: Line
    split: Line = "test"
    protocol: Line = PROTOCOL_VERSION
    episodes: int = Field(ge=1)
    repeats: int = Field(ge=1)
    task_digest: Sha256
    tracks: tuple[TrackName, ...] = Field(min_length=1)  # each is ranked by itself
    metric: Literal["iqm", "data-efficiency"] = "iqm"
    target: float | None = None  # data-efficiency: the score an agent must reach to be ranked by its environment steps
    min_runs: int = Field(default=5, ge=1)
    pins: Mapping[
        str, str
    ] = {}  # package -> beginnings of its version, "1.2 | 1.3", for who evaluates and who verifies
    about: Line = ""
    superseded_by: str = ""
    max_policy_bytes: int = Field(default=8_000_000, ge=1)  # of one run's files
    rerun_seconds: int = Field(default=3600, ge=1)  # for playing all policies of an entry again

    @model_validator(mode="after")
    def _target(self) -> Self:
        if (self.metric == "data-efficiency") != (self.target is not None):
            raise ValueError("a target belongs to the metric data-efficiency, and to no other")
        return self

    def played(self, seed: int) -> Protocol:
        """The protocol of one run."""
        return Protocol(
            benchmark=self.benchmark,
            split=self.split,
            episodes=self.episodes,
            repeats=self.repeats,
            seed=seed,
            version=self.protocol,
        )

    def broken_pin(self, versions: Mapping[str, str]) -> str:
        """The first package whose version is not the pinned one, in words; empty if all are."""
        for package, pin in self.pins.items():
            found = versions.get(package, "none")
            ways = [way.strip() for way in pin.split("|")]
            if not any(found == way or found.startswith(way + ".") for way in ways):
                return f"{package} {found}, but the board {self.id} is pinned to {' or '.join(ways)}"
        return ""


_WORDS = {"title", "about", "superseded_by"}  # of a board, which may change


class Check(Record):
    """One thing that was checked."""

    name: Line
    found: Line


class Rerun(Record):
    """The policies played again, on seeds that nobody knew; see `rerun.compare`."""

    seed: int = Field(ge=0)  # drawn by the verifier, when the content was fixed
    rounds: int = Field(default=1, ge=1)  # how often the protocol was played
    submitted: float  # IQM over runs and tasks of the return in the episodes that the track judges
    again: float
    difference: tuple[float, float]  # 99 % interval of again - submitted
    detectable: float = 0.0  # how far the IQM would have to be off to be found out nine times in ten
    p: float = 1.0  # the smallest of the tests' p-values


class Verification(Record):
    """What a verification found. It is the verifier's, and belongs to one content.

    `submission_sha256` covers every file of the entry, `seal` every other field of the record: whatever is edited
    afterwards, there or here, makes it void. Whoever ranks by it computes again what can be computed without a replay.
    """

    schema_version: Literal[2] = 2
    submission_sha256: Sha256
    since: datetime.datetime = datetime.datetime(
        2026, 11, 25, tzinfo=datetime.UTC
    )  # when this content was first verified
    tier: Tier
    checks: tuple[Check, ...]
    flags: tuple[str, ...] = ()  # what a person should look at
    rerun: Rerun | None = None
    versions: Mapping[str, str]  # of the verifier
    seal: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""

    def sealed(self) -> Verification:
        """The record with its seal."""
        return self.model_copy(update={"seal": self._seal()})

    @property
    def whole(self) -> bool:
        """Whether the record is as it was sealed."""
        return self.seal == self._seal()

    def _seal(self) -> str:
        told = self.model_dump(mode="json", exclude={"seal"})
        return hashlib.sha256(f"metabench verification {json.dumps(told, sort_keys=True)}".encode()).hexdigest()


def evaluation_seed(board: str, policy_sha256: str, run: int, rules: int = RULES) -> int:
    """The seed a run is evaluated with, 0 to 2^128 - 1. Nobody knows it before the policy is fixed.

    Under the first rules it had 32 bits.
    """
    if rules == 1:
        digest = hashlib.sha256(f"metabench/{board}/{policy_sha256}/{run}".encode()).digest()
        return int.from_bytes(digest[:4], "big")
    digest = hashlib.sha256(f"metabench rules {rules}/{board}/{policy_sha256}/{run}".encode()).digest()
    return int.from_bytes(digest[:16], "big")


@functools.cache
def kept() -> frozenset[str]:
    """The sha256 of the submission.json of every entry that keeps the first rules; nothing is added to them."""
    return frozenset(json.loads(KEPT.read_text()))


def read_boards(path: Path) -> dict[str, Board]:
    """The boards of a TOML file, by id; ValueError in one sentence naming the first fault."""
    if not path.is_file():
        raise ValueError(f"there is no file of boards {path}")
    try:
        table = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from None
    boards: dict[str, Board] = {}
    for entry in table.get("board", []):
        try:
            board = Board.model_validate(entry)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the record"
            raise ValueError(f"{path}: board {entry.get('id', '?')}: {where}: {first['msg']}") from None
        if board.id in boards:
            raise ValueError(f"{path}: the board {board.id} stands twice")
        boards[board.id] = board
    for board in boards.values():
        if board.superseded_by and board.superseded_by not in boards:
            raise ValueError(f"{path}: {board.id} is superseded by {board.superseded_by!r}, which is no board")
    if not boards:
        raise ValueError(f"{path} has no [[board]]")
    return boards


def boards_in(root: Path) -> dict[str, Board]:
    """The boards of a folder of leaderboards: its own boards.toml, or where it has none the package's.

    Raises:
        ValueError: In one sentence: it is no file of boards, or gives a board of the package another meaning. The rules
            of those come from what is installed, never from beside an entry.
    """
    own = read_boards(OWN_BOARDS)
    path = root / BOARDS
    if not path.is_file():
        return own
    boards = read_boards(path)
    for id, board in boards.items():
        if id in own and not same_board(board, own[id]):
            raise ValueError(
                f"{path}: the board {id} is another one than that of the installed package; a board of your own needs "
                "an id of its own"
            )
    return boards


def same_board(one: Board, other: Board) -> bool:
    """Whether two boards mean the same, whatever they are called and followed by."""
    return one.model_dump(exclude=_WORDS) == other.model_dump(exclude=_WORDS)


def board_of(boards: Mapping[str, Board], id: str) -> Board:
    """One board; ValueError with near names for an unknown one."""
    if id not in boards:
        raise ValueError(f"unknown board {id!r}; {suggest(id, sorted(boards))}")
    return boards[id]


def schemas() -> dict[str, Any]:
    """The JSON Schema of every record, by file name."""
    kinds = {SUBMISSION: Submission, RESULT: Results, VERIFICATION: Verification, BOARDS: Board}
    return {name: model.model_json_schema() for name, model in kinds.items()}


def read_submission(text: str) -> Submission:
    """ValueError in one sentence naming the first fault."""
    return parse(Submission, text, SUBMISSION)


def dump(record: Record) -> bytes:
    """A record as JSON, one way only: indented for readers, but for the thousands of returns."""
    indent = None if isinstance(record, Results) else 1
    return (json.dumps(record.model_dump(mode="json"), indent=indent) + "\n").encode()


TRACE_NAME = re.compile(r"traces/run_([0-9]{3})\.npz\Z")
POLICY_NAME = re.compile(rf"policies/run_([0-9]{{3}})/({re.escape(CONFIG)}|{re.escape(POLICY)})\Z")
TRAINING_NAME = re.compile(r"training/run_([0-9]{3})\.jsonl\Z")  # what the run's own log says of its steps
