"""Who works on a run: a numbered file in its folder, kept fresh by a heartbeat; the highest number holds.

It works wherever the folder is shared, also where locks are not. Age is measured by the file system's own clock: the
modification time of the lease beside that of a file written now, so clocks of machines need not agree.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
_NAME = re.compile(r"lease-(\d{1,9})\.json")


class LeaseLost(RuntimeError):
    """Another process took over, because this one gave no sign of life; what it would write is refused."""


class Lease:
    """Held on a folder by this process until released, or lost to another after a silence."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        self.path = folder / f"lease-{number}.json"

    def check(self) -> None:
        """Raise LeaseLost if another process has taken over; call it before each write."""
        if _newest(self.folder) != self.number:
            raise LeaseLost(f"{self.folder}: another process took over while this one was silent; its result is kept")

    def commit(self, *, done: bool = False) -> None:
        """Nothing to do: what is written in the folder stands. Runs elsewhere are put there now."""


@contextmanager
def hold(folder: Path, *, beat: float = BEAT_SECONDS, stale: float = STALE_SECONDS) -> Iterator[Lease]:
    """Hold the lease of `folder`. Raises BlockingIOError if another process has it.

    A holder that died on this machine is noticed at once, one elsewhere or without a pulse after `stale` seconds.
    """
    lease = _take(folder, stale)
    over = threading.Event()
    heart = threading.Thread(target=_pulse, args=(lease, over, beat), daemon=True)
    heart.start()
    try:
        yield lease
    finally:
        over.set()
        heart.join()
        with suppress(OSError):  # lost, or the folder is gone
            os.utime(lease.path, (0, 0))  # free; the number stays, so that none is ever given twice


def holder(folder: Path, *, stale: float = STALE_SECONDS, now: float | None = None) -> dict | None:
    """Who works on `folder` (host, pid, ...), or None. `now` is in seconds of the file system's clock, if known."""
    number = _newest(folder)
    path = folder / f"lease-{number}.json"
    try:
        beat = path.stat().st_mtime
        who = json.loads(path.read_bytes())
    except (OSError, ValueError):  # none yet, just taken over, or cut by a full disk
        return None
    silent = beat == 0 or (now is not None and now - beat > stale)
    return None if silent or gone(who) else who


def whoami() -> dict[str, Any]:
    """This process: host, place (where process numbers mean the same as here), pid, and when it started."""
    return {"host": socket.gethostname(), "place": _place(), "pid": os.getpid(), "started": _started(os.getpid())}


def gone(who: dict[str, Any]) -> bool:
    """Whether the process that `who` describes was one of this machine and has ended."""
    return who.get("place") == _place() and not _alive(who)


def _take(folder: Path, stale: float) -> Lease:
    candidate = folder / f".lease.{secrets.token_hex(8)}.partial"
    try:
        with candidate.open("w") as file:
            json.dump(whoami(), file)
            file.flush()
            os.fsync(file.fileno())
        number = _newest(folder)
        if (other := holder(folder, stale=stale, now=candidate.stat().st_mtime)) is not None:
            raise BlockingIOError(
                f"{folder}: another process is at work on it ({other['host']}, process {other['pid']}); "
                "wait for it or stop it"
            )
        try:
            os.link(candidate, folder / f"lease-{number + 1}.json")
        except FileExistsError:
            raise BlockingIOError(f"{folder}: another process began work on it this moment") from None
    finally:
        candidate.unlink(missing_ok=True)
    for older in folder.glob("lease-*.json"):
        if (found := _NAME.fullmatch(older.name)) and int(found[1]) <= number:
            older.unlink(missing_ok=True)
    return Lease(folder, number + 1)


def _pulse(lease: Lease, over: threading.Event, beat: float) -> None:
    while not over.wait(beat):
        try:
            os.utime(lease.path)
        except FileNotFoundError:  # taken over: `check` will say so
            return
        except OSError:
            continue  # a file server that is away for a moment


def _newest(folder: Path) -> int:
    """The highest number given in `folder`, or 0."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return 0
    return max((int(found[1]) for name in names if (found := _NAME.fullmatch(name))), default=0)


@cache
def _place() -> str:
    """Where process numbers mean the same as here: host, boot and namespace."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When a process of this machine began, in the kernel's ticks; None if it is gone, "" if that is not told."""
    if not Path("/proc/self/stat").exists():
        return ""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _alive(who: dict) -> bool:
    try:
        os.kill(int(who["pid"]), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, KeyError):
        return False
    return _started(int(who["pid"])) == who.get("started")
