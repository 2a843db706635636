"""Reading `.npz` files that strangers wrote, and writing ones that are the same bytes every time.

A reader that trusts a file's own sizes can be made to allocate without end, and one that allows objects runs what the
file says. This one looks before it reads: member names, sizes, types and shapes are known and bounded first.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from metabench.rng import Array

MAX_FILE = 2**26  # bytes of a file that is opened at all: 64 MiB
MAX_CONTENT = 2**28  # bytes of all its arrays: 256 MiB, thirty times what an honest file of that size holds
RATIO, SMALL = 64, 2**20  # what a file of S bytes may unpack to: 64 S, and 1 MiB; honest evidence stays below 20 S
_MAX_MEMBERS = 256
_SAMPLES, _SAMPLE = 8, 2048  # pieces, and bytes of each, that tell whether an array packs
_HEADER = 4096  # bytes an array's header may take
_KINDS = "biuf"  # booleans, integers, floats: nothing that could hold an object or text
_DATE = (1980, 1, 1, 0, 0, 0)  # of every member, so that the same arrays are the same file


class Entry:
    """One array of an open file: its type and shape are known, its content is not read yet."""

    def __init__(self, name: str, dtype: np.dtype, shape: tuple[int, ...], fortran: bool, offset: int):
        self.name, self.dtype, self.shape, self.fortran, self.offset = name, dtype, shape, fortran, offset

    @property
    def nbytes(self) -> int:
        """Bytes of its content."""
        return self.dtype.itemsize * math.prod(self.shape)


class SafeNpz:
    """An `.npz` file opened with distrust.

    Reading an array costs no more memory than its header has declared, and all of them no more than in proportion to
    the file.

    Raises:
        ValueError: One sentence for whatever is not a plain archive of plain arrays.
    """

    def __init__(self, path: Path, max_content: int = MAX_CONTENT):
        self.name = path.name
        if path.stat().st_size > MAX_FILE:
            raise ValueError(f"{self.name} has {path.stat().st_size:,} bytes, more than the {MAX_FILE:,} allowed")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
            members = self._zip.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
            raise ValueError(f"{self.name} is no .npz file: {error}") from None
        if len(members) > _MAX_MEMBERS:
            raise ValueError(f"{self.name} has {len(members)} members, more than the {_MAX_MEMBERS} allowed")
        self._content, self._size = sum(member.file_size for member in members), path.stat().st_size
        if self._content > max_content:
            raise ValueError(f"{self.name} would unpack to more than the {max_content:,} bytes that are allowed")
        self.entries: dict[str, Entry] = {}
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in members:
            entry = self._look(member)
            if entry.name in self.entries:
                raise ValueError(f"{self.name} has the array {entry.name!r} twice")
            self.entries[entry.name], self._members[entry.name] = entry, member

    def _look(self, member: zipfile.ZipInfo) -> Entry:
        name = member.filename.removesuffix(".npy")
        plain = name.replace(".", "_").replace("-", "_")
        if name == member.filename or not (plain.isascii() and plain.isidentifier()) or ".." in name:
            raise ValueError(f"{self.name} has a member with the name {member.filename[:80]!r}, which is no array's")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
            raise ValueError(f"{self.name}: {name} is packed in another way than stored or deflated")
        try:
            with self._zip.open(member) as file:
                head = io.BytesIO(file.read(_HEADER))
            version = np.lib.format.read_magic(head)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(head, max_header_size=_HEADER)
        except Exception as error:  # zipfile, zlib, struct, ast and numpy have a word each for a broken member
            raise ValueError(f"{self.name}: {name} is no array: {str(error).splitlines()[0][:120]}") from None
        if dtype.kind not in _KINDS or dtype.names is not None or dtype.hasobject:
            raise ValueError(f"{self.name}: {name} holds {dtype}; only booleans, integers and floats are read")
        if dtype.itemsize > 8 or any(not 0 <= n < 2**40 for n in shape):
            raise ValueError(f"{self.name}: {name} has the impossible type or shape {dtype} {shape}")
        entry = Entry(name, dtype, shape, fortran, head.tell())
        if entry.offset + entry.nbytes != member.file_size:
            raise ValueError(f"{self.name}: {name} declares {entry.nbytes:,} bytes and has {member.file_size:,}")
        return entry

    def read(self, name: str) -> Array:
        """One array, in native byte order and memory order."""
        entry = self.entries[name]
        if entry.nbytes > SMALL and self._content > RATIO * self._size + SMALL:
            raise ValueError(
                f"{self.name} has {self._size:,} bytes and would unpack to {self._content:,}: more than {RATIO} times "
                "as many are not read"
            )
        try:
            with self._zip.open(self._members[name]) as file:
                content = file.read(entry.offset + entry.nbytes)
        except Exception as error:  # as above
            raise ValueError(f"{self.name}: {name} cannot be unpacked: {error}") from None
        if len(content) != entry.offset + entry.nbytes:
            raise ValueError(f"{self.name}: {name} ends early")
        flat = np.frombuffer(content, entry.dtype, offset=entry.offset)
        array = flat.reshape(entry.shape, order="F" if entry.fortran else "C")
        return np.ascontiguousarray(array.astype(entry.dtype.newbyteorder("="), copy=False))


def pack(arrays: Mapping[str, Array], level: int = 6) -> bytes:
    """The arrays as an `.npz` file that `numpy.load(..., allow_pickle=False)` reads; the same arrays, the same bytes.

    Columns are stored one after the other: a column is alike in itself, and packs better so. Random digits are not
    packed at all: that takes most of the time and gains little.
    """
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as file:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asfortranarray(array), version=(1, 0), allow_pickle=False)
            kind = zipfile.ZIP_DEFLATED if _packs(content.getvalue()) else zipfile.ZIP_STORED
            file.writestr(zipfile.ZipInfo(f"{name}.npy", _DATE), content.getbuffer(), kind, level)
    return target.getvalue()


def _packs(content: bytes) -> bool:
    """Whether packing gains more than a tenth, as pieces from all over tell: columns differ."""
    body = content[128:]  # after the header
    step = max(_SAMPLE, len(body) // _SAMPLES)
    pieces = [body[start : start + _SAMPLE] for start in range(0, len(body), step)]
    return sum(len(zlib.compress(piece, 1)) for piece in pieces) < 0.9 * sum(map(len, pieces))
