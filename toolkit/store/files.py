"""Durable files: write whole, flush, then publish. Names and ids that cannot leave the store's folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
ULID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class StoreError(ValueError):
    """The store is missing, damaged, foreign or too new; the message says which and what to do."""


def checked_name(kind: str, name: str) -> str:
    """`name`, or ValueError if it is not letters, digits, '.', '_' or '-' (so no path can leave the store)."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{kind} {name!r} is not a valid name; use letters, digits, '.', '_' and '-', at most 100")
    return name


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

    def flush(self) -> None:
        """Flush every folder written since the last flush, deepest first."""
        with self._lock:
            folders, self._dirty = self._dirty, set()
        for folder in sorted(folders, key=lambda path: -len(path.parts)):
            flush_directory(folder)
