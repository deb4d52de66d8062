"""Carrying out runs on an engine: what is done is skipped, what failed is tried again, what broke touches no other."""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.engines import Engine, Task, TaskFailed
from toolkit.records import RunConfig
from toolkit.rundir import TAIL_BYTES, Place, finished, place_of

BUSY_SECONDS = 2.0  # before a run that another process works on is asked for again

DONE, BUSY = "done", "busy"


@dataclass
class Outcome:
    """What a sweep came to."""

    done: int = 0
    """Runs finished now."""
    skipped: int = 0
    """Runs that were finished before."""
    failed: dict[str, str] = field(default_factory=dict)
    """Folder name -> the last lines of each run that failed for good."""


Watch = Callable[[int, str], None]  # runs finished so far, and the folder name of the one that just was


def sweep(
    configs: Sequence[RunConfig], out: str | Path, *, engine: Engine, retries: int = 1, watch: Watch | None = None
) -> Outcome:
    """Carry out every run in `out`, and each that fails up to `retries` times more, after the others.

    `out` is a folder that all workers see, or a URL like s3://bucket/runs. Finished runs are skipped, begun ones
    resume. A run that another sweep works on is waited for. Failures are shown on standard error as they happen, with
    the tail of the run's log. Raises ValueError for negative retries.
    """
    if retries < 0:
        raise ValueError(f"retries must be at least 0, got {retries}")
    outcome = Outcome()
    over = finished(out, [config.folder_name for config in configs])
    todo = {name: config for config in configs if (name := config.folder_name) not in over}
    outcome.skipped = len(configs) - len(todo)
    if watch is not None:
        watch(outcome.skipped, "")
    attempts: dict[str, int] = dict.fromkeys(todo, 0)
    while todo:
        busy = True
        again: dict[str, RunConfig] = {}
        for name, result in _results(engine, todo, out):
            if result == BUSY:
                again[name] = todo[name]
                continue
            busy = False
            if not isinstance(result, TaskFailed):
                outcome.done += 1
            elif _failed(place_of(out, name), name, str(result), attempts, retries):
                again[name] = todo[name]
            else:
                outcome.failed[name] = tail(place_of(out, name), str(result))
            if watch is not None:
                watch(outcome.skipped + outcome.done, name)
        todo = again
        if busy and todo:
            time.sleep(BUSY_SECONDS)
    return outcome


def _results(engine: Engine, todo: dict[str, RunConfig], out: str | Path) -> Iterator[tuple[str, Any]]:
    names = list(todo)
    tasks: list[Task] = [(attempt, (config.to_json(), str(out), os.getcwd())) for config in todo.values()]
    for index, result in engine.map(tasks):
        yield names[index], result


def _failed(place: Place, name: str, message: str, attempts: dict[str, int], retries: int) -> int:
    """Keep and show a failure; how many more times the run will be tried."""
    attempts[name] += 1
    left = retries + 1 - attempts[name]
    said = tail(place, message)
    place.failed({"attempts": attempts[name], "message": message[-TAIL_BYTES:]})
    what = f"will be tried again ({left} left)" if left else "given up for now; the same command tries again"
    print(f"\nfailed: {name}, {what}:\n{said}", file=sys.stderr, flush=True)
    return left


def tail(place: Place, message: str) -> str:
    """How a run failed: the end of its log, and what the engine says unless the log says it."""
    message, log = message.strip(), place.told().strip()
    last = message.splitlines()[-1] if message else ""
    return log if last and last in log else f"{log}\n{message[-TAIL_BYTES:]}".strip()


def attempt(config: dict[str, Any], out: str, where: str) -> str:
    """One run in a process of its own: "done", or "busy" if another process is at work on it.

    Relative paths are those of folder `where`. What it prints goes to the run's log.txt; so does the traceback of what
    it raises, and of a crash.
    """
    from toolkit.train import run

    os.chdir(where)
    ready = RunConfig.from_json(config)
    place = place_of(out, ready.folder_name)
    if place.finished():  # another sweep was faster
        return DONE
    with logged(place.log):
        try:
            run(ready, out)
        except BlockingIOError as error:
            print(error, file=sys.stderr)
            return BUSY
        except KeyboardInterrupt:
            print("stopped; a checkpoint is saved", file=sys.stderr)
            place.ended(good=False)
            raise
        except BaseException:
            traceback.print_exc()
            place.ended(good=False)
            raise
        print("done", file=sys.stderr)
        place.ended(good=True)
    return DONE


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Send standard output and error of this process, its libraries and children, to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [os.dup(1), os.dup(2)]
    with path.open("a", buffering=1) as file:
        sys.stdout.flush()
        sys.stderr.flush()
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        faulthandler.enable(file)
        streams = sys.stdout, sys.stderr  # these may not write to 1 and 2
        sys.stdout = sys.stderr = file
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {socket.gethostname()} process {os.getpid()}", file=file)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = streams
            faulthandler.disable()
            for number, handle in zip((1, 2), kept, strict=True):
                os.dup2(handle, number)
                os.close(handle)
