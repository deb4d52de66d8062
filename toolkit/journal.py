"""A run on an object store: numbered entries, each made by one conditional put; the highest is what holds.

An entry names the run's files (objects of their own, put before it), who works on the run, and whether it is done:

    entries/0000000001.json     create-only
    files/0000000002-1f0c.../checkpoint/checkpoint.json, ...
    beats/0000000001            put again and again by who began with entry 1

Taking a run over, saving and finishing all create the entry after the one that was read, so of a holder and of one who
takes over exactly one succeeds: a late result cannot be put beside or over another. After a `done` entry there is none.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from toolkit.lease import LeaseLost, gone
from toolkit.store.backend import Backend, checked_key
from toolkit.store.files import StoreError, json_bytes, parse_json

ENTRY = re.compile(r"(?:(?P<run>.+)/)?entries/(?P<number>\d{10})\.json")
TRIES = 10  # readings of a run whose files are replaced meanwhile
BUSY = "another process is at work on it"


@dataclass(frozen=True)
class Stored:
    """One file of a run: its object's key in the run, and what its content must be."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Entry:
    """What a run is from here on."""

    number: int
    sitting: int  # the entry by which who made this one took the run
    holder: dict[str, Any] | None  # who works on it (host, pid, ...), or nobody
    done: bool
    files: dict[str, Stored]  # by path in the run's folder
    token: str  # no two entries are equal

    def to_bytes(self) -> bytes:
        """The object's content."""
        files = {path: [one.key, one.sha256, one.size] for path, one in sorted(self.files.items())}
        return json_bytes({**vars(self), "files": files})

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Entry:
        """Inverse of `to_bytes`. Raises StoreError naming `where` it is from if it is no entry."""
        body = parse_json(data, where)
        try:
            files = {
                checked_key(path): Stored(checked_key(key), str(digest), int(size))
                for path, (key, digest, size) in body["files"].items()
            }
            holder = None if body["holder"] is None else dict(body["holder"])
            return cls(int(body["number"]), int(body["sitting"]), holder, bool(body["done"]), files, str(body["token"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{where}: not an entry of a run ({error!r}); the object is damaged") from None


class Journal:
    """The entries of the run at `prefix` of a backend ('' is its root)."""

    def __init__(self, backend: Backend, prefix: str) -> None:
        self.backend, self.prefix = backend, prefix
        self.name = f"{backend.name}/{prefix}".rstrip("/")

    def key(self, key: str) -> str:
        """In the backend, of a key in the run."""
        return f"{self.prefix}/{key}" if self.prefix else key

    def newest(self) -> Entry | None:
        """The entry that holds; None if the run has not begun."""
        for _ in range(TRIES):
            if not (number := self._highest()):
                return None
            with suppress(FileNotFoundError):  # its holder has put the next
                return self.read(number)
        raise OSError(f"{self.name}: entries come and go faster than they are read; try again")

    def read(self, number: int) -> Entry:
        """Entry `number`. Raises FileNotFoundError if there is none, StoreError if it is damaged."""
        key = self.key(_entry(number))
        return Entry.from_bytes(self.backend.read(key), f"{self.backend.name}/{key}")

    def holder(self, entry: Entry, stale: float) -> dict[str, Any] | None:
        """Who works on the run, of which `entry` is the newest; None if nobody does, or gave no sign for `stale` s."""
        if entry.done or entry.holder is None or gone(entry.holder):
            return None
        ages = [self.backend.age(self.key(key)) for key in (_entry(entry.number), _beat(entry.sitting))]
        return entry.holder if min((age for age in ages if age is not None), default=0.0) <= stale else None

    def take(self, who: dict[str, Any], stale: float) -> Entry:
        """The entry by which `who` works on the run from now on; or the last one of a run that is done.

        Raises BlockingIOError if another process is at work on it.
        """
        last = self.newest()
        if last is not None and last.done:
            return last
        if last is not None and (other := self.holder(last, stale)) is not None:
            raise BlockingIOError(
                f"{self.name}: {BUSY} ({other['host']}, process {other['pid']}); wait for it or stop it"
            )
        number = 1 if last is None else last.number + 1
        entry = Entry(number, number, who, False, {} if last is None else last.files, secrets.token_hex(8))
        if not self._create(entry):
            raise BlockingIOError(f"{self.name}: another process began work on it this moment")
        if self._highest() != number:  # this process slept since it looked; its entry stands where one was deleted
            self._delete(_entry(number))
            raise BlockingIOError(f"{self.name}: {BUSY}; wait for it or stop it")
        return entry

    def append(
        self, last: Entry, files: Mapping[str, Stored], *, holder: dict[str, Any] | None, done: bool = False
    ) -> Entry:
        """The next entry of who made `last`. Raises LeaseLost, and changes nothing, if another process took over.

        Entries by which a run was taken stay for good: what a stale holder would create exists already.
        """
        number = last.number + 1
        while True:
            entry = Entry(number, last.sitting, holder, done, dict(files), secrets.token_hex(8))
            if self._create(entry):
                break
            found = self.read(number)
            if found.sitting != last.sitting:
                raise LeaseLost(f"{self.name}: another process took over while this one was silent; its result is kept")
            if found.done:
                return found
            number += 1  # that was ours, and its answer was lost
        for older in range(last.number, number):
            if older != last.sitting:
                self._delete(_entry(older))
        kept = {one.key for one in files.values()}
        for key in {one.key for one in last.files.values()} - kept:
            self._delete(key)
        return entry

    def beat(self, sitting: int) -> None:
        """Say that the holder lives."""
        self.backend.write(self.key(_beat(sitting)), b"")

    def sweep(self, entry: Entry) -> None:
        """Delete the files that stopped holders left, and signs of life; for the holder of `entry`, or when done."""
        kept = {self.key(one.key) for one in entry.files.values()}
        if not entry.done:
            kept.add(self.key(_beat(entry.sitting)))
        with suppress(OSError):  # the next sweep will
            for folder in ("files", "beats"):
                for key in self.backend.sizes(self.key(folder)).keys() - kept:
                    self.backend.delete(key)

    def _highest(self) -> int:
        names = self.backend.names(self.key("entries"))
        return max((int(name[:10]) for name in names if ENTRY.fullmatch(f"entries/{name}")), default=0)

    def _create(self, entry: Entry) -> bool:
        """Whether the entry is there now. Raises OSError if that is not known."""
        key, data = self.key(_entry(entry.number)), entry.to_bytes()
        try:
            self.backend.create(key, data)
        except OSError as error:  # it exists; or the answer was lost
            try:
                return self.backend.read(key) == data
            except OSError:
                raise error from None
        return True

    def _delete(self, key: str) -> None:
        with suppress(OSError):  # swept later
            self.backend.delete(self.key(key))


def _entry(number: int) -> str:
    return f"entries/{number:010d}.json"


def _beat(sitting: int) -> str:
    return f"beats/{sitting:010d}"
