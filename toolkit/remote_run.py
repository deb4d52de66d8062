"""A run carried out on an object store: a worker trains in a scratch folder and puts there what it has saved.

Training, evaluation and checkpoints are those of a run in a folder. Taking a run fetches its files, each `commit` puts
those that changed and then one entry that names them all (see `toolkit.journal`), so what was only half put is never
read, and any machine resumes from the last commit bit for bit.
"""

from __future__ import annotations

import re
import secrets
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from toolkit.copies import copies_of, fetch, fetched, files_below
from toolkit.journal import Entry, Journal, Stored
from toolkit.lease import STALE_SECONDS, LeaseLost, gone, whoami
from toolkit.records import RunConfig
from toolkit.rundir import TAIL_BYTES
from toolkit.store.backend import backend
from toolkit.store.files import json_bytes, user_cache

BEAT_SECONDS = 15.0  # a put each
LOG_BYTES = 1 << 24


class RemoteRun:
    """The run `name` at a URL that holds runs; a `toolkit.rundir.Place`."""

    def __init__(self, out: str, name: str) -> None:
        """Nothing is asked of the server yet. Raises ValueError for a URL that is not understood."""
        self.out, self.run = out.rstrip("/"), name
        self.name = f"{self.out}/{name}"
        self.journal = Journal(backend(self.out), name)
        self._work = user_cache() / "work" / sha256(self.out.encode()).hexdigest()[:16]
        self.log = self._work / f"{name}.{_own()}.log"

    def finished(self) -> bool:
        """See `Place`."""
        last = self.journal.newest()
        return last is not None and last.done

    @contextmanager
    def hold(self, *, beat: float = BEAT_SECONDS, stale: float = STALE_SECONDS) -> Iterator[RemoteHold]:
        """See `Place`. The scratch folder is removed at the end; what is in it then is committed first.

        A holder that died on this machine is noticed at once, one elsewhere or without a pulse after `stale` seconds.
        """
        _sweep(self._work, self.run)
        entry = self.journal.take(whoami(), stale)
        scratch = self._work / f"{self.run}.{_own()}" / self.run
        held = RemoteHold(self.journal, entry, scratch)
        over = threading.Event()
        heart = threading.Thread(target=_pulse, args=(self.journal, entry.sitting, over, beat), daemon=True)
        try:
            if not entry.done:
                heart.start()
                self.journal.sweep(entry)
            held.fetch()
            yield held
        finally:
            over.set()
            held.release()
            if held.done:
                with suppress(OSError):  # a copy is there already
                    copies_of(self.out).mkdir(parents=True, exist_ok=True)
                    scratch.rename(copies_of(self.out) / self.run)
            shutil.rmtree(scratch.parent, ignore_errors=True)

    def result(self, config: RunConfig) -> Path:
        """See `Place`."""
        return fetched(self.name, whole=True)

    def told(self) -> str:
        """See `Place`."""
        try:
            return self.journal.backend.read(self._key("log.txt"), limit=LOG_BYTES)[-TAIL_BYTES:].decode(
                errors="replace"
            )
        except (OSError, ValueError):  # none yet, or out of reach
            return ""

    def failed(self, how: dict[str, Any]) -> None:
        """See `Place`."""
        self.journal.backend.write(self._key("failure.json"), json_bytes(how))

    def ended(self, *, good: bool) -> None:
        """See `Place`."""
        with suppress(OSError):  # the run itself is safe
            self.journal.backend.write(self._key("log.txt"), self.log.read_bytes()[-LOG_BYTES:])
            if good:
                self.journal.backend.delete(self._key("failure.json"))
        self.log.unlink(missing_ok=True)
        if good:
            shutil.rmtree(copies_of(self.out) / self.run, ignore_errors=True)

    def _key(self, key: str) -> str:
        return self.journal.key(key)


class RemoteHold:
    """A run taken by this process, and the scratch folder where it works; a `toolkit.rundir.Held`."""

    def __init__(self, journal: Journal, entry: Entry, folder: Path) -> None:
        self.folder, self.done = folder, entry.done
        self._journal, self._entry = journal, entry
        self._known: dict[str, tuple[tuple[int, ...], Stored]] = {}  # path -> the file as it was when put
        self._fetched = self._lost = False

    def fetch(self) -> None:
        """Make the scratch folder what the run is."""
        self.folder.mkdir(parents=True)
        fetch(self._journal, self._entry, self.folder)
        for path, stored in self._entry.files.items():
            self._known[path] = (_signature(self.folder / path), stored)
        self._fetched = True

    def check(self) -> None:
        """Raise LeaseLost if a commit was refused. Nothing is asked: the scratch folder is this process's own."""
        if self._lost:
            raise LeaseLost(f"{self._journal.name}: another process took over while this one was silent")

    def commit(self, *, done: bool = False) -> None:
        """Put what changed, then the entry that names it. Raises LeaseLost, and changes nothing, if another took over.

        A server that does not answer stops only what is `done`; else the next commit puts it all.
        """
        try:
            self._append(None if done else whoami(), done)
        except LeaseLost:
            self._lost = True
            raise
        except OSError as error:
            if done:
                raise
            print(f"not saved at {self._journal.name}, the next save tries again: {error}", file=sys.stderr)

    def release(self) -> None:
        """Commit what there is and let go of the run, unless it is done or lost; errors leave it to grow stale.

        If not all of it could be fetched, it stays as it was.
        """
        if not (self.done or self._lost):
            with suppress(OSError, LeaseLost):
                if self._fetched:
                    self._append(None, False)
                else:
                    self._journal.append(self._entry, self._entry.files, holder=None)

    def _append(self, holder: dict[str, Any] | None, done: bool) -> None:
        prefix = f"files/{self._entry.number + 1:010d}-{secrets.token_hex(8)}"
        files: dict[str, Stored] = {}
        changed: dict[str, bytes] = {}
        known = dict(self._known)
        for path in files_below(self.folder):
            signature = _signature(self.folder / path)
            if path not in known or known[path][0] != signature:
                data = (self.folder / path).read_bytes()
                stored = Stored(f"{prefix}/{path}", sha256(data).hexdigest(), len(data))
                if path in known and known[path][1].sha256 == stored.sha256:  # written again as it was
                    stored = known[path][1]
                else:
                    changed[self._journal.key(stored.key)] = data
                known[path] = (signature, stored)
            files[path] = known[path][1]
        self._journal.backend.write_many(changed)
        self._entry = self._journal.append(self._entry, files, holder=holder, done=done)
        self._known = known
        if done:
            self.done = True
            self._journal.sweep(self._entry)


def check_url(out: str) -> None:
    """Raise ValueError, ImportError or OSError saying in one line why runs cannot be kept at `out`; writes nothing."""
    if out.startswith("memory:"):
        raise ValueError(
            f"{out} is kept in one process, and runs are to outlive it; give s3://bucket/prefix or a folder"
        )
    place = backend(out)
    key = f".check.{secrets.token_hex(8)}.partial"
    place.create(key, b"")  # sees to it as well that the server keeps two from creating one key
    place.delete(key)


def _signature(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _pulse(journal: Journal, sitting: int, over: threading.Event, beat: float) -> None:
    while not over.wait(beat):
        with suppress(OSError):  # a server that is away for a moment
            journal.beat(sitting)


def _own(who: dict[str, Any] | None = None) -> str:
    """How scratch folders of a process end, by default this one's."""
    who = whoami() if who is None else who
    return f"{sha256(who['place'].encode()).hexdigest()[:8]}-{who['pid']}-{who['started']}"


def _sweep(work: Path, run: str) -> None:
    """Remove what processes of this machine that were killed have left of a run's scratch folders."""
    here = whoami()
    for path in work.glob(f"{run}.*"):
        found = re.fullmatch(r"([0-9a-f]{8})-(\d+)-(\d*)(\.log)?", path.name[len(run) + 1 :])
        if found and found[1] == _own()[:8] and gone({**here, "pid": found[2], "started": found[3]}):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
