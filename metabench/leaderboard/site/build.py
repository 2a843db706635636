"""Writes the site: the same data gives the same bytes, and a crash leaves the old site or the new one."""

from __future__ import annotations

import csv
import ctypes
import io
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from metabench.leaderboard import published
from metabench.leaderboard.logs import SHARES
from metabench.leaderboard.ranking import Entry, Row, Table, rank, read_entries
from metabench.leaderboard.records import Board, schemas
from metabench.leaderboard.site import pages
from metabench.leaderboard.site.heat import leader

MARK = Path("data") / "overview.json"  # what tells a folder that holds a site from one that holds something else
CSV_COLUMNS = (
    *("track", "rank", "title", "agent", "version", "authors", "date", "tier", "normalised"),
    *("score", "low", "high", "mean_return", "runs", "env_steps", "hours"),
    *("cores", *(f"steps_to_{share:.0%}".rstrip("%") for share in SHARES)),
)
ASSETS = Path(__file__).parent / "assets"
_DRAFT = ".draft-"
_SWAP, _HERE = 2, -100  # RENAME_EXCHANGE (Linux) and RENAME_SWAP (macOS); AT_FDCWD


class Built(NamedTuple):
    """What was written."""

    folder: Path
    boards: int
    entries: int
    files: int


def build(root: Path, boards: Mapping[str, Board], out: Path, docs: str | None = None) -> Built:
    """Builds the site of the leaderboards in `root` into the folder `out`, which is replaced.

    Args:
        root: The leaderboards.
        boards: By id.
        out: Where to.
        docs: The way from the site's root to the documentation's (`../`), which is then linked.

    Raises:
        ValueError: In one sentence: a submission cannot be read, or `out` holds something else than a site.
    """
    if out.exists() and any(out.iterdir()) and not (out / MARK).is_file():
        raise ValueError(f"{out} holds something else than a site of leaderboards; choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        entries = read_entries(root, boards)
        tables = [rank(board, track, entries) for board in boards.values() for track in board.tracks]
        draft = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}{_DRAFT}"))
        try:
            files = _files(tables, entries, boards, docs)
            index, policies = published.tree(root)
            files[f"{published.TREE}/{published.INDEX}"] = _json(index.model_dump(mode="json"))
            for path, content in (*files.items(), *policies.items()):
                target = draft / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content if isinstance(content, bytes) else content.encode())
            draft.chmod(0o755)
            _put(draft, out)
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # the draft where something failed, else the old site
    return Built(out, len(boards), len(entries), len(files) + len(policies))


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """The right to build there, and none of what killed builds have left; ValueError while another one builds."""
    path = out.parent / f".{out.name}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
        if not path.exists():  # its last holder removed it between our opening and our locking
            lock.release()
            lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another build is writing {out}; wait until it is done, or choose another folder") from None
    try:
        for old in out.parent.glob(f".{out.name}{_DRAFT}*"):
            shutil.rmtree(old, ignore_errors=True)
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def _put(draft: Path, out: Path) -> None:
    """Puts a finished site where the old one is, so that there is a whole one at every moment.

    Where the system can, the two folders change places by one call. Elsewhere every file is replaced by itself.
    """
    if not out.exists():
        draft.rename(out)
        return
    if _exchange(draft, out):
        return
    wanted = {path.relative_to(draft) for path in draft.rglob("*") if path.is_file()}
    for path in sorted(wanted):
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (draft / path).replace(out / path)
    for path in [path for path in out.rglob("*") if path.is_file() and path.relative_to(out) not in wanted]:
        path.unlink()


def _exchange(one: Path, other: Path) -> bool:
    """Lets two folders change places; False where the system or its file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        swap = getattr(libc, "renamex_np", None)
        return swap is not None and swap(os.fsencode(one), os.fsencode(other), _SWAP) == 0
    swap = getattr(libc, "renameat2", None)
    names = os.fsencode(one.absolute()), os.fsencode(other.absolute())
    return swap is not None and swap(_HERE, names[0], _HERE, names[1], _SWAP) == 0


def _files(
    tables: Sequence[Table], entries: Sequence[Entry], boards: Mapping[str, Board], docs: str | None
) -> dict[str, str]:
    files = {f"assets/{path.name}": path.read_text() for path in sorted(ASSETS.iterdir())}
    files["index.html"] = pages.overview(tables, entries, boards, docs)
    files["entries.html"] = pages.all_entries(entries, docs)
    files[MARK.as_posix()] = _json(overview_data(tables, boards))
    for name, schema in schemas().items():
        files[f"schemas/{Path(name).stem}.schema.json"] = _json(schema)
    for board in boards.values():
        own = [table for table in tables if table.board is board]
        files[f"boards/{board.id}.html"] = pages.board_page(board, own, boards, docs)
        files[f"data/boards/{board.id}.json"] = _json(board_data(board, own))
        files[f"data/boards/{board.id}.csv"] = board_csv(own)
    for table in tables:
        for row in (*table.rows, *table.unranked):
            place = row.entry.submission.place.as_posix()
            files[f"entries/{place}.html"] = pages.entry_page(row.entry, row, table, docs)
            files[f"data/entries/{place}.json"] = _json(entry_data(row))
    return files


def overview_data(tables: Sequence[Table], boards: Mapping[str, Board]) -> dict[str, Any]:
    """Every board with the leader of each track; none where only those are that everybody is measured above."""
    told = []
    for board in boards.values():
        own = [table for table in tables if table.board is board]
        leaders = {table.track: row_data(row) if (row := leader(table)) else None for table in own}
        told.append({**board.model_dump(mode="json"), "leaders": leaders, "ranked": sum(len(t.rows) for t in own)})
    return {"boards": told}


def board_data(board: Board, tables: Sequence[Table]) -> dict[str, Any]:
    """A board and its tables."""
    told = {
        table.track: {
            "normalised": table.normalised,
            "levels": dict(table.levels),
            "ranked": [row_data(row) for row in table.rows],
            "unranked": [row_data(row) for row in table.unranked],
        }
        for table in tables
    }
    return {"board": board.model_dump(mode="json"), "tracks": told}


def board_csv(tables: Sequence[Table]) -> str:
    """All entries of a board as CSV, a line each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in tables:
        for row in (*table.rows, *table.unranked):
            s = row.entry.submission
            who = (s.title, s.agent, s.version, "; ".join(s.authors), s.date, row.entry.tier)
            numbers = (table.normalised, *row.score, row.mean, len(s.runs), s.training.env_steps, s.training.hours)
            steps = [m.steps for m in row.milestones] or [None] * len(SHARES)  # inf: not reached
            told = (table.track, row.rank, *who, *numbers, s.training.cores, *steps)
            writer.writerow([_harmless(value) for value in told])
    return text.getvalue()


def _harmless(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: texts may come from anybody."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def row_data(row: Row) -> dict[str, Any]:
    """A row without its entry's details."""
    s = row.entry.submission
    return {
        "place": s.place.as_posix(),
        "rank": row.rank,
        "why_unranked": row.why_unranked,
        "title": s.title,
        "agent": s.agent,
        "version": s.version,
        "authors": list(s.authors),
        "date": str(s.date),
        "tier": row.entry.tier,
        "score": row.score._asdict(),
        "mean_return": row.mean,
        "curve": row.curve.tolist(),
        "tasks": row.tasks.tolist(),
        "runs": len(s.runs),
        "training": s.training.model_dump(mode="json"),
        "milestones": [{**m._asdict(), "steps": m.steps if math.isfinite(m.steps) else None} for m in row.milestones],
    }


def entry_data(row: Row) -> dict[str, Any]:
    """Everything about an entry."""
    found = row.entry.verification
    return {
        **row_data(row),
        "submission": row.entry.submission.model_dump(mode="json"),
        "verification": None if found is None else found.model_dump(mode="json"),
        "sha256": row.entry.sha256,
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"
