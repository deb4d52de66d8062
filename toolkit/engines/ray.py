"""Tasks on a Ray cluster, a Ray task each: a worker that dies takes only its own with it. Needs the extra `ray`."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from toolkit.engines import Task, TaskFailed

OBJECTS = 100 << 20  # bytes for Ray's own store, of which runs need next to nothing
AHEAD = 2  # tasks handed over for each slot: the next is there when one ends, and few are held back when it stops


@dataclass(frozen=True)
class Ray:
    """A cluster's engine. Its nodes see the folders of stores and runs under the same paths.

    Without an address a cluster of this machine is started, bound to loopback, and stopped at the end. Usage reports
    are off. Each task takes `threads` CPUs of a node.
    """

    address: str | None = None  # host:port of the head
    slots: int | None = None  # tasks at a time; by default what the cluster has CPUs for
    threads: int = 1

    def __post_init__(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # else 15: anything else on the machine goes first
        if self.address is None:
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's own name for: listen on loopback only
        try:
            import ray  # noqa: F401
        except ImportError:
            raise ImportError("--engine ray needs Ray: pip install 'packmule[ray]'") from None

    def map(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Carry out tasks and yield (index, result) as they finish; a node that dies gives TaskFailed."""
        import ray

        mine = not ray.is_initialized()
        if mine:
            cores = self.slots * self.threads if self.slots else os.cpu_count()
            try:
                ray.init(
                    address=self.address or "local",
                    include_dashboard=None if self.address else False,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    num_cpus=None if self.address else cores,
                    object_store_memory=None if self.address else OBJECTS,
                )
            except ConnectionError as error:
                raise ConnectionError(
                    f"{error}: start it by ray start --head; if it asks for a token, set RAY_AUTH_MODE=token and give "
                    "every machine the head's ~/.ray/auth_token"
                ) from None
        # a process is kept for many tasks; retries are the sweep's, which counts and shows them
        remote = ray.remote(num_cpus=self.threads, max_retries=0)(_call)
        waiting = deque(range(len(tasks)))
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self._room():
                    index = waiting.popleft()
                    running[remote.remote(*tasks[index])] = index
                ready, _ = ray.wait(list(running), timeout=5.0)
                for reference in ready:
                    yield running.pop(reference), _result(reference)
        finally:
            for reference in running:
                with suppress(Exception):  # the cluster may be gone
                    ray.cancel(reference, force=False)
            if running:
                with suppress(Exception):
                    ray.wait(list(running), num_returns=len(running), timeout=30.0)  # they save first
            if mine:
                ray.shutdown()

    def _room(self) -> int:
        """Tasks to hand over; a cluster may grow and shrink."""
        import ray

        if self.slots is not None:
            return self.slots
        return AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)) // self.threads)


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


def _result(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return TaskFailed(str(error))
    except ray.exceptions.RayError as error:  # its process or its node is gone
        return TaskFailed(f"the process or its node died ({' '.join(str(error).split())[:300]})")
