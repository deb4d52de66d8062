"""Durable files: write whole, flush, then publish. Names and ids that cannot leave the store's folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import stat
import time
import weakref
from hashlib import sha256
from pathlib import Path
from typing import Any

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
ULID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}\.partial|zarr\.[0-9a-f]{32}\.partial")  # of `write_durably`, and of zarr
JSON_BYTES = 1 << 28  # largest JSON file read: some 20 million episodes in a view, 50,000 segments in a commit
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class StoreError(ValueError):
    """The store is missing, damaged, foreign or too new; the message says which and what to do."""


def checked_name(kind: str, name: str) -> str:
    """`name`, or ValueError if it is not letters, digits, '.', '_' or '-' (so no path can leave the store)."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{kind} {name!r} is not a valid name; use letters, digits, '.', '_' and '-', at most 100")
    return name


def read_bounded(path: Path, limit: int = JSON_BYTES, start: int = 0, size: int | None = None) -> bytes:
    """A regular file from byte `start` on, whole or `size` bytes; no more than `limit` bytes are ever read.

    Raises FileNotFoundError if nothing is there, StoreError if it is a link, no regular file, or too large.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, "nothing is there", str(path)) from None
    except OSError as error:
        kind = "a symbolic link; a store holds none" if path.is_symlink() else f"not readable ({error.strerror})"
        raise StoreError(f"{path} is {kind}") from None
    with open(handle, "rb", buffering=0):
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(f"{path} is not a regular file; the store is damaged")
        wanted = max(0, found.st_size - start) if size is None else min(size, max(0, found.st_size - start))
        if wanted > limit:
            raise StoreError(f"{path} is {found.st_size} bytes long, more than the {limit} it may have; not read")
        parts = []
        while wanted and (part := os.pread(handle, wanted, start)):
            parts.append(part)
            start, wanted = start + len(part), wanted - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def parse_json(data: bytes, where: object) -> Any:
    """The JSON in `data`. Raises StoreError naming `where` it is from if it cannot be read or is nested too deep."""
    try:
        return json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # also undecodable text and integers of thousands of digits
        raise StoreError(f"{where}: not readable JSON ({type(error).__name__}: {error}); the file is damaged") from None


def json_bytes(value: Any, *, indent: int = 1, end: str = "\n") -> bytes:
    """How this program spells `value` in a file."""
    return (json.dumps(value, indent=indent, allow_nan=False) + end).encode()


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def new_ulid() -> str:
    """A new ULID: 48 bits of milliseconds, 80 random bits; sorts by time of making."""
    number = (int(time.time() * 1000) << 80) | secrets.randbits(80)
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -5, -5))


def canonical(value: Any) -> bytes:
    """The one JSON spelling of `value` that digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, as hex."""
    return sha256(canonical(value)).hexdigest()


def user_cache() -> Path:
    """The folder for what can be fetched or made again: PACKMULE_CACHE, or ~/.cache/packmule."""
    user = os.environ.get("PACKMULE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "packmule")
    return Path(user).expanduser()


def flush_directory(path: Path) -> None:
    """Make the names inside `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, data: bytes, *, create_only: bool = False) -> None:
    """Write a file whole: temporary file, flush, then rename (or link, which fails if `path` exists).

    Raises FileExistsError if `create_only` and `path` exists. A crash leaves the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if create_only:
            os.link(temporary, path)
        else:
            os.replace(temporary, path)
    except OSError as error:
        if error.filename is None:  # a full disk does not say where
            raise OSError(error.errno, f"{error.strerror} while writing", str(path)) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, create_only: bool = False) -> None:
    """`write_durably` of indented JSON, with its folder flushed."""
    write_durably(path, json_bytes(value), create_only=create_only)
    flush_directory(path.parent)


class WriterLock:
    """Held on a segment's folder for as long as its writer lives; the kernel lets go when the process dies.

    Raises BlockingIOError if another holds it. A file system that knows no locks gives none: there, age must do.
    """

    def __init__(self, folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.release = weakref.finalize(self, os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise
        except OSError:
            pass
