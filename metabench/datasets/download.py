"""Downloads dataset splits from mirrors, and makes the static tree that a mirror serves.

A mirror is any place that serves files: `https://`, `http://`, `file://`, or `hf://OWNER/NAME[@REVISION][/FOLDER]`, a
dataset repository of the Hugging Face hub. It holds `index.json` and the splits' folders under their ids. The index
that comes with the package, or the mirror's own, names the sha256 of every manifest, and a manifest that of every
file: so it does not matter who serves the bytes. Nothing becomes visible before all of it was checked. A transfer
that broke off goes on where it was; what one mirror does not have, or has wrong, is asked of the next.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from metabench.datasets.format import MANIFEST, FileRecord, Manifest, hash_file, read_manifest, sync_folder
from metabench.datasets.ids import DatasetId, data_root, split_folder
from metabench.datasets.transfer import Deadline, MirrorError, blocks, opened, request
from metabench.datasets.verify import verify
from metabench.evaluation.results import parse, write_atomically

INDEX = "index.json"
SHIPPED = Path(__file__).parent / "shipped"  # the tree that comes with the package
MIRRORS_VARIABLE = "METABENCH_MIRRORS"  # environment variable: more mirrors, by spaces, asked before the index's own
ATTEMPTS = 5  # in a row without a byte, before the next mirror is asked
PAUSE = 0.5  # seconds before the second attempt, doubled after each
LARGEST_INDEX, LARGEST_MANIFEST = 1 << 24, 1 << 22  # bytes; larger ones are refused
_RETRY = {408, 425, 429, 500, 502, 503, 504}  # HTTP codes that may pass

Progress = Callable[[int, int], None]  # bytes here, bytes in all
FileProgress = Callable[[int], None]  # bytes of one file


class IndexEntry(BaseModel):
    """One split that mirrors may have."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    manifest_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    manifest_bytes: int = Field(ge=1, le=LARGEST_MANIFEST)
    bytes: int = Field(ge=0)  # of the other files together


class Index(BaseModel):
    """What there is to download: `<id path>/<split>` to its manifest's sha256, and where to ask."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[1] = 1
    mirrors: tuple[str, ...] = ()
    splits: Mapping[str, IndexEntry] = Field(default_factory=dict)


class Source(NamedTuple):
    """An open transfer."""

    stream: IO[bytes]
    start: int  # the byte it begins with


def packaged_index() -> Index:
    """The index that comes with the package."""
    return parse(Index, (Path(__file__).parent / INDEX).read_text(), INDEX)


def mirrors(more: Sequence[str] = ()) -> tuple[str, ...]:
    """Where to ask, in order: those given, those of `METABENCH_MIRRORS`, those of the packaged index."""
    named = os.environ.get(MIRRORS_VARIABLE, "").split()
    return tuple(dict.fromkeys((*more, *named, *packaged_index().mirrors)))


def shipped(id: DatasetId, split: str) -> bool:
    """Whether the split comes with the package."""
    return (SHIPPED / id.path / split / MANIFEST).is_file()


def fetch(
    id: str | DatasetId,
    split: str = "train",
    *,
    root: Path | None = None,
    mirror: str | Sequence[str] = (),
    progress: Progress | None = None,
) -> Path:
    """Downloads one split and returns its folder; one that is here already is only returned.

    What comes with the package is taken from there where no mirror is named, or none of those that are has it. Several
    processes may ask for the same split: one downloads it, the others wait.

    Args:
        id: For example "metabench/cheetah-vel/mixed-v0".
        split: A frozen split of the benchmark.
        root: Where datasets lie; `METABENCH_DATA` or the platform's cache by default.
        mirror: One or several to ask first.
        progress: Called with the bytes that are here and the bytes in all.

    Raises:
        ValueError: One sentence: no mirror has it, with each one's reason and the command that makes it instead; or
            there is no room for it.
    """
    from filelock import FileLock

    name = DatasetId.parse(id) if isinstance(id, str) else id
    target = split_folder(name, split, root or data_root())
    if (target / MANIFEST).is_file():
        return target
    asked = mirrors((mirror,) if isinstance(mirror, str) else mirror)
    if not mirror and shipped(name, split):
        asked = (*asked, SHIPPED.as_uri())
    if not asked:
        raise ValueError(f"no mirror is known for {name} ({split}); {_make(name, split)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{split}.lock")):
        if (target / MANIFEST).is_file():  # another process was faster
            return target
        part = target.with_name(f".{split}.downloading")
        part.mkdir(exist_ok=True)
        reasons = []
        for base in asked:
            try:
                _fetch_from(base, name, split, part, progress)
                break
            except MirrorError as error:
                reasons.append(f"{base}: {_short(error)}")
        else:
            raise ValueError(f"no mirror gave {name} ({split}): {'; '.join(reasons)}; {_make(name, split)}")
        sync_folder(part)
        part.rename(target)
        sync_folder(target.parent)
    return target


def _short(error: Exception) -> str:
    """What a mirror said, which may be anything, in one line."""
    return " ".join(str(error).split())[:300]


def _make(name: DatasetId, split: str) -> str:
    from metabench.datasets.library import cost

    return f"make it instead: metabench dataset generate {name} --split {split}{cost(name, split)}"


def _fetch_from(base: str, name: DatasetId, split: str, part: Path, progress: Progress | None) -> None:
    """Fills `part` with the split's files, every one checked."""
    key = f"{name.path}/{split}"
    entry = packaged_index().splits.get(key) or _mirror_index(base).splits.get(key)
    if entry is None:
        raise MirrorError(f"it does not have {key}")
    content = _small(base, f"{key}/{MANIFEST}", LARGEST_MANIFEST)
    if hashlib.sha256(content).hexdigest() != entry.manifest_sha256:
        raise MirrorError(f"its {MANIFEST} is not the one the index names")
    try:
        manifest = Manifest.from_bytes(content)
    except ValueError as error:
        raise MirrorError(str(error)) from None
    if manifest.bytes != entry.bytes:
        raise MirrorError(f"its {MANIFEST} tells of {manifest.bytes:,} bytes, the index of {entry.bytes:,}")
    if (manifest.id, manifest.split) != (str(name), split):
        raise MirrorError(f"what it calls {key} is {manifest.id} ({manifest.split})")
    _check_room(part, manifest)
    for stale in part.iterdir():  # of another version, or of a killed download
        if stale.name.removesuffix(".part") not in {file.name for file in manifest.files}:
            stale.unlink()
    have = 0
    for file in manifest.files:
        done, offset = part / file.name, have
        if not (done.is_file() and done.stat().st_size == file.bytes and hash_file(done) == file.sha256):
            tell = progress and functools.partial(_tell, progress, offset, manifest.bytes)
            with _room(part, manifest):
                _file(base, f"{key}/{file.name}", file, part, tell)
        have += file.bytes
        if progress:
            progress(have, manifest.bytes)
    with _room(part, manifest):
        write_atomically(part / MANIFEST, content)


def _tell(progress: Progress, offset: int, total: int, count: int) -> None:
    progress(offset + count, total)


def _check_room(part: Path, manifest: Manifest) -> None:
    here = sum(path.stat().st_size for path in part.iterdir())
    free, wanted = shutil.disk_usage(part).free, manifest.bytes - here
    if free < wanted:  # the next mirror may have another idea of how large it is
        raise MirrorError(
            f"{part.parent} has {free:,} bytes free, {manifest.id} ({manifest.split}) needs {wanted:,} more"
        )


@contextmanager
def _room(part: Path, manifest: Manifest) -> Iterator[None]:
    """Turns a full disk into a sentence; what was transferred stays for the next attempt."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(
            f"the disk of {part.parent} is full: {manifest.id} ({manifest.split}) has {manifest.bytes:,} bytes; "
            "make room and run the same command again, it goes on where it was"
        ) from None


def _file(base: str, path: str, file: FileRecord, part: Path, progress: FileProgress | None) -> None:
    """One file into `part`, whole and checked, or MirrorError; a broken transfer leaves what it got."""
    growing = part / f"{file.name}.part"
    resumed = growing.is_file()
    reason, failures = "", 0
    deadline = Deadline(file.name, file.bytes)
    while failures < ATTEMPTS:
        before = growing.stat().st_size if growing.is_file() else 0
        try:
            _append(base, path, file, growing, progress, deadline)
        except _Passing as error:
            reason = str(error)
            gained = growing.is_file() and growing.stat().st_size > before
            failures = 1 if gained else failures + 1  # only a mirror that gives nothing any more is given up
            time.sleep(PAUSE * 2 ** (failures - 1))
            continue
        if hash_file(growing) == file.sha256:
            growing.replace(part / file.name)
            return
        growing.unlink()
        reason = f"{file.name} arrived with another sha256"
        if not resumed:  # the mirror's own bytes are wrong
            break
        resumed = False  # the part was from elsewhere: once more from the start
    raise MirrorError(reason)


class _Passing(Exception):
    """A failure that another attempt may get over."""


def _append(
    base: str, path: str, file: FileRecord, growing: Path, progress: FileProgress | None, deadline: Deadline
) -> None:
    size = growing.stat().st_size if growing.is_file() else 0
    if size > file.bytes:
        growing.unlink()
        size = 0
    if size == file.bytes:
        return
    with _open(base, path, deadline, size) as source, growing.open("r+b" if size else "wb") as sink:
        have = source.start
        sink.seek(have)
        sink.truncate()
        coming = blocks(source.stream, file.bytes - have + 1, deadline)
        while block := _next(coming, file.name):
            have += len(block)
            if have > file.bytes:
                sink.truncate(0)
                raise MirrorError(f"{path} is longer than the {file.bytes} bytes it should have")
            sink.write(block)
            if progress:
                progress(have)
        sink.flush()
        os.fsync(sink.fileno())
    if have < file.bytes:
        raise _Passing(f"{file.name} ended after {have} of {file.bytes} bytes")


def _next(coming: Iterator[bytes], name: str) -> bytes:
    try:
        return next(coming, b"")
    except (OSError, HTTPException, ValueError) as error:
        raise _Passing(f"the transfer of {name} broke off: {error}") from None


@contextmanager
def _open(base: str, path: str, deadline: Deadline, start: int = 0) -> Iterator[Source]:
    """A file of a mirror, from byte `start` on if the mirror can."""
    url, headers = _address(base, path)
    asked = _request(url, headers, path)
    if start and not url.startswith("file:"):
        asked.add_header("Range", f"bytes={start}-")
    try:
        with opened(asked, deadline) as response:
            begin = 0
            if start and url.startswith("file:"):
                response.read(start) if not response.seekable() else response.seek(start)
                begin = start
            elif start and getattr(response, "status", 200) == 206:
                begin = _range_start(response.headers.get("Content-Range", ""), start)
            yield Source(response, begin)
    except urllib.error.HTTPError as error:
        sentence = f"{path}: HTTP {error.code} {error.reason}"
        error.close()
        if error.code == 416:  # nothing after the part that is here, so the part is not this mirror's
            raise MirrorError(f"{sentence}, it has fewer bytes than are here already") from None
        raise (_Passing if error.code in _RETRY else MirrorError)(sentence) from None
    except urllib.error.URLError as error:
        kind = MirrorError if isinstance(error.reason, FileNotFoundError) or url.startswith("file:") else _Passing
        raise kind(f"{path}: {error.reason}") from None
    except (TimeoutError, ConnectionError, HTTPException) as error:
        raise _Passing(f"{path}: {error or type(error).__name__}") from None


def _request(url: str, headers: dict[str, str], path: str) -> urllib.request.Request:
    try:
        return request(url, headers)
    except ValueError as error:
        raise MirrorError(f"{path}: {error}") from None


def _range_start(header: str, wanted: int) -> int:
    begin = header.removeprefix("bytes").strip().partition("-")[0]
    if begin != str(wanted):
        raise MirrorError(f"asked for the bytes from {wanted} on, it sent {header!r}")
    return wanted


def _address(base: str, path: str) -> tuple[str, dict[str, str]]:
    """URL and headers of a file of a mirror; ValueError for a kind of mirror that does not exist."""
    quoted = urllib.parse.quote(path)
    kind = base.partition("://")[0]
    if kind in ("https", "http", "file"):
        return f"{base.rstrip('/')}/{quoted}", {"User-Agent": "metabench"}
    if kind != "hf":
        raise ValueError(f"{base!r} is no mirror: it must begin with https://, http://, file:// or hf://")
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise ImportError(f"{base} needs huggingface_hub: pip install 'metabench[datasets]'") from error
    owner, _, rest = base.removeprefix("hf://").strip("/").partition("/")
    name, _, folder = rest.partition("/")
    name, _, revision = name.partition("@")
    if not owner or not name:
        raise ValueError(f"{base!r} is no mirror: hf://OWNER/NAME[@REVISION][/FOLDER] names a dataset repository")
    where = f"{folder.rstrip('/')}/{path}" if folder else path
    url = huggingface_hub.hf_hub_url(f"{owner}/{name}", where, repo_type="dataset", revision=revision or None)
    headers = huggingface_hub.utils.build_hf_headers(library_name="metabench")
    return url, {key: str(value) for key, value in headers.items()}


def read_small(base: str, path: str, limit: int) -> bytes:
    """One file of a mirror, whole; MirrorError in a sentence if it is not there or larger than `limit` bytes."""
    return _small(base, path, limit)


def _small(base: str, path: str, limit: int) -> bytes:
    """A whole small file, after several attempts if need be."""
    pause, reason = PAUSE, ""
    deadline = Deadline(path, limit)
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause)
            pause *= 2
        try:
            with _open(base, path, deadline) as source:
                content = b"".join(blocks(source.stream, limit + 1, deadline))
        except (_Passing, OSError, HTTPException, ValueError) as error:
            reason = str(error)
            continue
        if len(content) > limit:
            raise MirrorError(f"{path} is larger than the {limit} bytes allowed")
        return content
    raise MirrorError(reason)


def _mirror_index(base: str) -> Index:
    try:
        return parse(Index, _small(base, INDEX, LARGEST_INDEX).decode(errors="replace"), INDEX)
    except ValueError as error:
        raise MirrorError(str(error)) from None


def mirror_index(base: str) -> Index:
    """What a mirror says it has; ValueError in one sentence if it cannot be asked."""
    try:
        return _mirror_index(base)
    except MirrorError as error:
        raise ValueError(f"{base}: {_short(error)}") from None


def publish(folders: Sequence[Path], target: Path) -> Index:
    """Copies splits into the static tree `target` that a mirror serves, and writes its index; what is there stays.

    Every split is verified first and after copying, byte for byte.

    Raises:
        ValueError: One sentence: a split that is not sound, or another one under the same name in the tree.
    """
    target.mkdir(parents=True, exist_ok=True)
    splits = {}
    if (target / INDEX).is_file():
        splits = dict(parse(Index, (target / INDEX).read_text(), INDEX).splits)
    for folder in folders:
        if faults := verify(folder):
            raise ValueError(f"{folder} is not sound: {faults[0]}")
        manifest = read_manifest(folder)
        key = f"{DatasetId.parse(manifest.id).path}/{manifest.split}"
        entry = index_entry(folder)
        if key in splits and splits[key] != entry:
            raise ValueError(f"{target} has another {key}; publish it into a new tree, ids keep their content")
        final = target / key
        if not final.exists():
            part = final.with_name(f".{manifest.split}.publishing")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(folder, part)
            part.rename(final)
        if faults := verify(final):
            raise ValueError(f"the copy in {final} is not sound: {faults[0]}")
        splits[key] = entry
    index = Index(splits=dict(sorted(splits.items())))
    write_atomically(target / INDEX, (json.dumps(index.model_dump(mode="json"), indent=1) + "\n").encode())
    return index


def index_entry(folder: Path) -> IndexEntry:
    """The line of the index for a split's folder."""
    content = (folder / MANIFEST).read_bytes()
    return IndexEntry(
        manifest_sha256=hashlib.sha256(content).hexdigest(),
        manifest_bytes=len(content),
        bytes=read_manifest(folder).bytes,
    )
