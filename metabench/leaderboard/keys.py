"""An author's key: who entered first under a name can show that a later entry is theirs too.

Signatures are Ed25519 (RFC 8032), written out here because that is a page, and a library for it is one more thing to
install. It takes no care to hide the key from who can measure this process's time: signing happens at home.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import tempfile
from pathlib import Path
from typing import TypeAlias

import platformdirs

KEY_VARIABLE = "METABENCH_AUTHOR_KEY"  # environment variable: the file with the author's key
_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)  # of -1

_Point: TypeAlias = tuple[int, int, int, int]  # extended coordinates X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z


class AuthorKey:
    """A key to sign with.

    Args:
        secret: 32 bytes that nobody else knows.
    """

    def __init__(self, secret: bytes):
        if len(secret) != 32:
            raise ValueError(f"an author's key has 32 bytes, not {len(secret)}")
        digest = hashlib.sha512(secret).digest()
        self._scalar = int.from_bytes(digest[:32], "little") & (1 << 254) - 8 | 1 << 254
        self._prefix = digest[32:]
        self.public = _pack(_times(self._scalar, _BASE)).hex()

    def sign(self, content: bytes) -> str:
        """The signature in hexadecimal; the same content has the same."""
        nonce = _number(self._prefix, content)
        first = _pack(_times(nonce, _BASE))
        second = (nonce + _number(first, bytes.fromhex(self.public), content) * self._scalar) % _ORDER
        return (first + second.to_bytes(32, "little")).hex()


@functools.lru_cache(maxsize=4096)
def fits(public: str, signature: str, content: bytes) -> bool:
    """Whether a signature is that of the content by a key; False for anything that is no key or no signature."""
    try:
        key, told = bytes.fromhex(public), bytes.fromhex(signature)
    except ValueError:
        return False
    if len(key) != 32 or len(told) != 64:
        return False
    owner, first, second = _unpack(key), _unpack(told[:32]), int.from_bytes(told[32:], "little")
    if owner is None or first is None or second >= _ORDER or _same(_times(8, owner), _NEUTRAL):
        return False
    return _same(_times(second, _BASE), _add(first, _times(_number(told[:32], key, content), owner)))


def author_key() -> AuthorKey | None:
    """The key of who runs this: kept in a file of theirs, and made where there is none yet.

    Returns:
        The key; None where no file can be kept.

    Raises:
        ValueError: The file is there and holds no key.
    """
    named = os.environ.get(KEY_VARIABLE)
    path = Path(named) if named else Path(platformdirs.user_config_dir("metabench")) / "author.key"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _make(path)
        except OSError:
            return None
    try:
        return AuthorKey(bytes.fromhex(path.read_text().strip()))
    except (ValueError, OSError):
        raise ValueError(f"{path} holds no author's key: 64 hexadecimal digits; put it back, or remove it") from None


def _make(path: Path) -> None:
    """A new key, whole or not at all, and only where no other process was faster."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()


def _number(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % _ORDER


def _add(p: _Point, q: _Point) -> _Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % _P, (p[1] + p[0]) * (q[1] + q[0]) % _P
    c, d = 2 * p[3] * q[3] * _D % _P, 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(scalar: int, point: _Point) -> _Point:
    total = _NEUTRAL
    while scalar:
        if scalar & 1:
            total = _add(total, point)
        point = _add(point, point)
        scalar >>= 1
    return total


def _same(p: _Point, q: _Point) -> bool:
    return (p[0] * q[2] - q[0] * p[2]) % _P == 0 and (p[1] * q[2] - q[1] * p[2]) % _P == 0


def _pack(point: _Point) -> bytes:
    inverse = pow(point[2], _P - 2, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _unpack(content: bytes) -> _Point | None:
    """The point of 32 bytes; None if they are none."""
    y = int.from_bytes(content, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    x = _P - x if x & 1 != sign else x
    return x, y, 1, x * y % _P


_NEUTRAL: _Point = (0, 1, 1, 0)
_Y = 4 * pow(5, _P - 2, _P) % _P
_BASE: _Point = _unpack(_Y.to_bytes(32, "little")) or _NEUTRAL
