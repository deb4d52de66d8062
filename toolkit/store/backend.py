"""Where a store's bytes are: a folder, or an object store. Keys are relative paths, values whole files."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from toolkit.store.files import (
    JSON_BYTES,
    StoreError,
    flush_directory,
    json_bytes,
    parse_json,
    read_bounded,
    write_durably,
)
from toolkit.urls import is_url, refuse_mangled

WRITERS = 8  # files flushed to disk at once
KEY = re.compile(r"(?!\.{1,2}(?:/|$))[^/\0\\]+(?:/(?!\.{1,2}(?:/|$))[^/\0\\]+)*")


class Backend(Protocol):
    """The files of one store. Nothing outside its root is ever reached; every key is checked by `checked_key`.

    `create` is what commits stand on: of any number of processes that create one key, exactly one succeeds.
    `toolkit.store.conformance` holds the laws, to be run against any implementation.
    """

    name: str  # for messages: the folder, or the URL
    local: Path | None  # the folder, for locks and memory maps; None where there is none

    def read(self, key: str, *, limit: int = JSON_BYTES, start: int = 0, size: int | None = None) -> bytes:
        """The value whole, or `size` bytes of it from byte `start` on (fewer where it ends sooner).

        What would be read is compared with `limit` before it is. Raises FileNotFoundError if the value is absent,
        StoreError if there is more than `limit` to read, or the key is a link or no regular file.
        """

    def read_many(self, keys: Sequence[str], *, limit: int) -> list[bytes]:
        """`read` of each key, in order; at once where that is faster."""

    def size(self, key: str) -> int | None:
        """Bytes of the value, None if it is absent. Raises StoreError if it is a link or no regular file."""

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Every key below the folder `prefix` ('' is all) with its size, in order; links are left out."""

    def names(self, prefix: str = "") -> list[str]:
        """Names directly inside the folder `prefix`, files and folders, in order; none if it is absent."""

    def write(self, key: str, data: bytes) -> None:
        """Put the value in place whole: readers see the old or the new one. Durable after `flush`."""

    def write_many(self, files: Mapping[str, bytes]) -> None:
        """`write` of each key, in any order, at once where that is faster. Raises the first error, after all ended."""

    def create(self, key: str, data: bytes) -> None:
        """Put the value in place, durable on return. Raises FileExistsError, and changes nothing, if the key exists."""

    def delete(self, key: str) -> None:
        """Remove the value; no error if it is absent."""

    def flush(self) -> None:
        """What was written so far survives a power cut."""

    def age(self, key: str) -> float | None:
        """Seconds since the value was last written, None if it is absent."""


def checked_key(key: str) -> str:
    """`key`, or ValueError if it could leave the store: empty, absolute, or with '.', '..' or a backslash in it."""
    if not KEY.fullmatch(key):
        raise ValueError(f"key {key!r} is not a relative path of plain names; nothing outside a store is reached")
    return key


def backend(where: str | Path | Backend) -> Backend:
    """The backend for a folder, or for a URL like s3://bucket/prefix; a backend is given back as it is.

    Raises ImportError saying which extra to install if a URL needs one, ValueError for a scheme that is unknown.
    """
    refuse_mangled(where)
    if isinstance(where, str) and is_url(where):
        from toolkit.store.remote import ObjectBackend

        return ObjectBackend(where)
    return LocalBackend(where) if isinstance(where, str | Path) else where


def load_json(backend: Backend, key: str, limit: int = JSON_BYTES) -> Any:
    """The JSON value of a key. Raises FileNotFoundError if it is absent, StoreError if it cannot be read."""
    return parse_json(backend.read(key, limit=limit), f"{backend.name}/{key}")


def check_spelling(backend: Backend, key: str, value: Any, *, indent: int = 1, end: str = "\n") -> None:
    """Raise StoreError unless the key holds, byte for byte, the JSON that writing `value` makes.

    A flipped bit can leave the meaning as it was (1e-5 and 1E-5); it never leaves the spelling.
    """
    if backend.read(key) != json_bytes(value, indent=indent, end=end):
        raise StoreError(
            f"{backend.name}/{key} is not spelled as it was written, though it means the same; a bit was flipped"
        )


class LocalBackend:
    """A folder. Files are written under another name, flushed and renamed; folders are flushed on `flush`."""

    def __init__(self, folder: str | Path) -> None:
        self.local: Path | None = Path(folder)
        self.root = Path(folder)
        self.name = str(folder)
        self._dirty: set[Path] = set()
        self._plain: set[str] = set()  # folders seen to be reached through no link

    def path(self, key: str) -> Path:
        """The file of a key. Raises StoreError if a folder on the way to it is a symbolic link."""
        folder = checked_key(key).rpartition("/")[0]
        if folder and folder not in self._plain:
            self._refuse_links(folder)
        return self.root / key

    def read(self, key: str, *, limit: int = JSON_BYTES, start: int = 0, size: int | None = None) -> bytes:
        """See `Backend`."""
        return read_bounded(self.path(key), limit, start, size)

    def read_many(self, keys: Sequence[str], *, limit: int) -> list[bytes]:
        """See `Backend`; one after another, for the files of a disk."""
        return [self.read(key, limit=limit) for key in keys]

    def size(self, key: str) -> int | None:
        """See `Backend`."""
        path = self.path(key)
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(found.st_mode):
            kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "not a regular file"
            raise StoreError(f"{path} is {kind}; a store holds none: put the data itself in its place")
        return found.st_size

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """See `Backend`."""
        found: dict[str, int] = {}
        folders = [prefix]
        while folders:
            folder = folders.pop()
            for entry in self._entries(folder):
                key = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(key)
                elif entry.is_file(follow_symlinks=False):
                    found[key] = entry.stat(follow_symlinks=False).st_size
        return dict(sorted(found.items()))

    def names(self, prefix: str = "") -> list[str]:
        """See `Backend`."""
        return sorted(entry.name for entry in self._entries(prefix))

    def write(self, key: str, data: bytes) -> None:
        """See `Backend`. Raises OSError naming the path when the disk is full, leaving the old value."""
        path = self.path(key)
        write_durably(path, data)
        self._touch(path)

    def write_many(self, files: Mapping[str, bytes]) -> None:
        """See `Backend`: disks flush many files at once in little more time than one."""
        with ThreadPoolExecutor(WRITERS, "packmule-write") as pool:
            for done in [pool.submit(self.write, key, data) for key, data in files.items()]:
                done.result()

    def create(self, key: str, data: bytes) -> None:
        """See `Backend`."""
        path = self.path(key)
        write_durably(path, data, create_only=True)
        self._touch(path)
        self.flush()

    def delete(self, key: str) -> None:
        """See `Backend`."""
        path = self.path(key)
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        self._touch(path)

    def flush(self) -> None:
        """See `Backend`: every folder written since the last flush, deepest first."""
        folders, self._dirty = self._dirty, set()
        for folder in sorted(folders, key=lambda path: -len(path.parts)):
            flush_directory(folder)

    def age(self, key: str) -> float | None:
        """See `Backend`."""
        path = self.path(key)
        return time.time() - os.lstat(path).st_mtime if self.size(key) is not None else None

    def _touch(self, path: Path) -> None:
        self._dirty.update(parent for parent in path.parents if parent.is_relative_to(self.root))

    def _refuse_links(self, folder: str) -> None:
        step = self.root
        for part in folder.split("/"):
            step = step / part
            try:
                if stat.S_ISLNK(os.lstat(step).st_mode):
                    raise StoreError(f"{step} is a symbolic link; a store holds none: put the data itself in its place")
            except (FileNotFoundError, NotADirectoryError):
                return
        self._plain.add(folder)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        if folder:
            self._refuse_links(checked_key(folder))
        try:
            with os.scandir(self.root / folder) as entries:
                return list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return []
