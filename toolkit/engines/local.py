"""Tasks on this machine: processes forked from one that has imported everything; signals and locks."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import ModuleType
from typing import Any

from toolkit.engines import Task, TaskFailed

SHUTDOWN_SECONDS = 30.0
WARM = "toolkit.warm"  # what every worker has imported before it exists


@dataclass(frozen=True)
class Local:
    """The engine of one machine: `slots` processes at a time, a new one for each task.

    A task that crashes, leaks or runs out of memory takes only its own process with it.
    """

    slots: int

    def map(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """As `map_tasks`."""
        return map_tasks(tasks, slots=self.slots, fresh=True)


def map_tasks(tasks: Sequence[Task], *, slots: int, fresh: bool = False) -> Iterator[tuple[int, Any]]:
    """Carry out tasks in `slots` processes and yield (index, result) as they finish.

    A result is the function's return value, or a TaskFailed: one task's crash touches no other. A process serves
    many tasks, or one if `fresh`. On KeyboardInterrupt the workers are told to stop, given time to save, and the
    interrupt goes on.
    """
    if slots < 1:
        raise ValueError(f"slots must be at least 1, got {slots}")
    waiting = deque(range(len(tasks)))
    script = any(b"__main__" in bytes(ForkingPickler.dumps(task)) for task in tasks)
    workers: dict[Connection, _Worker] = {}
    try:
        for _ in range(min(slots, len(tasks))):
            worker = _Worker(script=script)
            workers[worker.pipe] = worker
            worker.give(waiting.popleft(), tasks)
        while workers:
            for pipe in wait(list(workers)):
                assert isinstance(pipe, Connection)
                worker = workers[pipe]
                index = worker.index
                try:
                    good, value = pipe.recv()
                    result = value if good else TaskFailed(value)
                    over = fresh or not waiting
                except (EOFError, ConnectionResetError):
                    worker.process.join()
                    result, over = TaskFailed(_death(worker.process.exitcode)), True
                if over:
                    worker.pipe.close()
                    worker.process.join()
                    del workers[pipe]
                    if waiting:
                        worker = _Worker(script=script)
                        workers[worker.pipe] = worker
                if waiting:
                    worker.give(waiting.popleft(), tasks)
                yield index, result
    finally:
        _stop(workers.values())


def _death(code: int | None) -> str:
    """Why a process ended that said nothing."""
    if code == -signal.SIGKILL:
        return "the process was killed (signal 9): by hand, or by the system because memory ran out"
    if code is not None and code < 0:
        return f"the process died of signal {-code} ({signal.strsignal(-code)})"
    return f"the process died with exit code {code}"


def warm_up() -> None:
    """Start the server that workers are forked from, and return while it imports: a caller has other things to do."""
    with _starting():
        forkserver.ensure_running()


@contextmanager
def _starting() -> Iterator[None]:
    """What is started here has one thread a process, which beats one process of many, and does not die of Ctrl-C.

    Signals may reach the whole group. The mask is inherited: by the server, which ends with its driver, and by workers,
    so that none can hit one that is about to ignore or to handle it.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload([WARM])
    saved = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(dict.fromkeys(saved, "1"))
    resource_tracker.ensure_running()  # else its own start, inside ours, would lift the mask
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _scriptless() -> Iterator[None]:
    """What is started here does not run the caller's script to know its names, as multiprocessing would have it.

    That takes longer than all else a worker does before its task, and a script that has no guard
    (`if __name__ == "__main__"`) would begin itself again.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


class _Worker:
    """A process that carries out tasks, forked from a server that is single-threaded and has imported `WARM`.

    `script`: the tasks name what the caller's script defines, so it is run there, under another name.
    """

    def __init__(self, *, script: bool) -> None:
        context = multiprocessing.get_context("forkserver")
        self.pipe, theirs = context.Pipe()
        with _starting(), nullcontext() if script else _scriptless():
            # the server keeps the environment that it was started in, so today's goes along
            self.process = context.Process(target=_serve, args=(theirs, dict(os.environ)), daemon=False)
            self.process.start()
        theirs.close()
        self.index = -1

    def give(self, index: int, tasks: Sequence[Task]) -> None:
        self.index = index
        with suppress(BrokenPipeError, ConnectionResetError):  # it died: receiving will say so
            self.pipe.send(tasks[index])


def _stop(workers: Iterable[_Worker]) -> None:
    """Tell all to stop, give them time to save, and kill what is left. A second interrupt kills at once."""
    until = time.monotonic() + SHUTDOWN_SECONDS
    try:
        for worker in workers:
            if worker.process.is_alive() and worker.process.pid is not None:
                os.kill(worker.process.pid, signal.SIGTERM)  # the training loop saves a checkpoint on it
            worker.pipe.close()
        for worker in workers:
            worker.process.join(max(0.0, until - time.monotonic()))
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()


def _serve(pipe: Connection, environment: dict[str, str]) -> None:
    """Take tasks until the pipe closes. Ctrl-C reaches the whole group; the parent decides, by SIGTERM."""
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _raise_interrupt)
    threading.Thread(target=_follow, daemon=True).start()
    while True:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            function, arguments = pipe.recv()
            try:
                answer = (True, function(*arguments))
            except Exception:
                answer = (False, traceback.format_exc())
            pipe.send(answer)
        except (EOFError, KeyboardInterrupt, OSError):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # asking again changes nothing: it is stopping
            return


def _follow() -> None:
    """When the driver dies, however it dies, stop as on its request."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def interrupt_flag() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set an event instead of interrupting halfway through a step (main thread only)."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    old = {number: signal.signal(number, lambda *_: flag.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the lock of a run or store; the system drops it when the process dies, however it dies.

    Raises BlockingIOError if another process holds it.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"{folder}: another process is at work on it; wait for it or stop it") from None
        yield


def _raise_interrupt(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the first one stops; a second must not hit while it does
    raise KeyboardInterrupt
