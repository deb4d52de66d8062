"""Durable files: write whole, flush, then publish. Names and ids that cannot leave the store's folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import stat
import threading
import time
import weakref
from hashlib import sha256
from pathlib import Path
from typing import Any

from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

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


def refuse_links(root: Path, path: Path) -> None:
    """Raise StoreError if any step from `root` (itself excluded) down to `path` is a symbolic link.

    A store holds none, so nothing outside its folder is ever read or written through one.
    """
    step = root
    for part in path.relative_to(root).parts:
        step = step / part
        if step.is_symlink():
            raise StoreError(f"{step} is a symbolic link; a store holds none: put the data itself in its place")


def read_bounded(path: Path, limit: int = JSON_BYTES) -> bytes:
    """A whole regular file of at most `limit` bytes; its size is checked before anything is read.

    Raises FileNotFoundError if nothing is there, StoreError if it is a link, no regular file, or too large.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        kind = "a symbolic link; a store holds none" if path.is_symlink() else f"not readable ({error.strerror})"
        raise StoreError(f"{path} is {kind}") from None
    with open(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(f"{path} is not a regular file; the store is damaged")
        if found.st_size > limit:
            raise StoreError(f"{path} is {found.st_size} bytes long, more than the {limit} it may have; not read")
        return file.read(found.st_size)


def load_json(path: Path, limit: int = JSON_BYTES) -> Any:
    """The JSON in a file of at most `limit` bytes.

    Raises FileNotFoundError if nothing is there, StoreError if it cannot be read or is nested too deep.
    """
    try:
        return json.loads(read_bounded(path, limit), parse_constant=_no_constant)
    except StoreError:
        raise
    except (ValueError, RecursionError) as error:  # also undecodable text and integers of thousands of digits
        raise StoreError(f"{path}: not readable JSON ({type(error).__name__}: {error}); the file is damaged") from None


def check_spelling(path: Path, value: Any, *, indent: int, end: str) -> None:
    """Raise StoreError unless the file is, byte for byte, the JSON that writing `value` makes.

    A flipped bit can leave the meaning as it was (1e-5 and 1E-5); it never leaves the spelling.
    """
    if read_bounded(path) != (json.dumps(value, indent=indent, allow_nan=False) + end).encode():
        raise StoreError(f"{path} is not spelled as it was written, though it means the same; a bit was flipped")


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


def flush_directory(path: Path) -> None:
    """Make the names inside `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, data: Buffer | bytes, *, create_only: bool = False) -> None:
    """Write a file whole: temporary file, flush, then rename (or link, which fails if `path` exists).

    Raises FileExistsError if `create_only` and `path` exists. A crash leaves the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(data if isinstance(data, bytes) else data.as_buffer_like())
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
    write_durably(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode(), create_only=create_only)
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


class DurableStore(LocalStore):
    """zarr's local store, with every key flushed before its rename and every folder flushed on `flush`."""

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._dirty: set[Path] = set()
        self._lock = threading.Lock()

    async def set(self, key: str, value: Buffer) -> None:
        """Write one key whole and flushed; raises OSError when the disk is full, leaving the old value."""
        import asyncio

        self._check_writable()
        path = self.root / key
        await asyncio.to_thread(write_durably, path, value)
        with self._lock:
            self._dirty.update(parent for parent in path.parents if parent.is_relative_to(self.root))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """`set`, unless the key is there."""
        import asyncio

        self._check_writable()
        path = self.root / key
        with contextlib.suppress(FileExistsError):
            await asyncio.to_thread(write_durably, path, value, create_only=True)
        with self._lock:
            self._dirty.update(parent for parent in path.parents if parent.is_relative_to(self.root))

    def flush(self) -> None:
        """Flush every folder written since the last flush, deepest first."""
        with self._lock:
            folders, self._dirty = self._dirty, set()
        for folder in sorted(folders, key=lambda path: -len(path.parts)):
            flush_directory(folder)
