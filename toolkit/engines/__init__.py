"""Engines carry out tasks: on this machine, on a Ray cluster, or through Slurm. None of them owns the truth.

What is done, failed or under way is written in the folders of the runs; an engine only gives tasks a place to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

Task = tuple[Callable[..., Any], tuple[Any, ...]]  # a module-level function and its arguments


class TaskFailed(RuntimeError):
    """A task raised, or its process died; the message holds its traceback or how it ended."""


class Engine(Protocol):
    """Where tasks run."""

    def map(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Carry out tasks and yield (index, result) as they finish.

        A result is the function's return value, or a TaskFailed. When the iterator is closed or interrupted, what
        still runs is told to stop.
        """
