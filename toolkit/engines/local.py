"""Runs on this machine: one process a slot, kept between tasks so imports are paid once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

Task = tuple[Callable[..., Any], tuple[Any, ...]]  # a module-level function and its arguments
SHUTDOWN_SECONDS = 30.0


class TaskFailed(RuntimeError):
    """A task raised, or its process died; the message holds its traceback or exit code."""


def map_tasks(tasks: Sequence[Task], *, slots: int) -> Iterator[tuple[int, Any]]:
    """Carry out tasks in `slots` processes and yield (index, result) as they finish.

    A result is the function's return value, or a TaskFailed: one task's crash touches no other. On
    KeyboardInterrupt the workers are told to stop, given time to save, and the interrupt goes on.
    """
    if slots < 1:
        raise ValueError(f"slots must be at least 1, got {slots}")
    waiting = deque(range(len(tasks)))
    workers: dict[Connection, _Worker] = {}
    try:
        for _ in range(min(slots, len(tasks))):
            worker = _Worker()
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
                except EOFError:
                    worker.process.join()
                    result = TaskFailed(f"the process died with exit code {worker.process.exitcode}")
                    del workers[pipe]
                    if waiting:
                        worker = _Worker()
                        workers[worker.pipe] = worker
                if worker.pipe in workers:
                    if waiting:
                        worker.give(waiting.popleft(), tasks)
                    else:
                        worker.pipe.close()
                        del workers[worker.pipe]
                        worker.process.join()
                yield index, result
    finally:
        for worker in workers.values():
            worker.stop()


class _Worker:
    """A process that carries out one task after another."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=False)
        # one thread each: one process a core with one thread beats one process with many
        saved = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        os.environ.update(dict.fromkeys(saved, "1"))
        try:
            self.process.start()
        finally:
            for name, value in saved.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        theirs.close()
        self.index = -1

    def give(self, index: int, tasks: Sequence[Task]) -> None:
        self.index = index
        self.pipe.send(tasks[index])

    def stop(self) -> None:
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, signal.SIGTERM)  # the training loop saves a checkpoint on it
        self.pipe.close()
        self.process.join(SHUTDOWN_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _serve(pipe: Connection, parent: int) -> None:
    """Take tasks until the pipe closes. Ctrl-C reaches the whole group; the parent decides, by SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _raise_interrupt)
    while True:
        try:
            function, arguments = pipe.recv()
            try:
                answer = (True, function(*arguments))
            except Exception:
                answer = (False, traceback.format_exc())
            pipe.send(answer)
        except (EOFError, KeyboardInterrupt, BrokenPipeError):
            return
        if os.getppid() != parent:  # the driver was killed; what is saved is saved
            return


def _raise_interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
