"""How many runs this machine takes at a time."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from toolkit.store.packed import available_memory


def free_slots(threads: int = 1) -> int:
    """Runs of so many threads that this machine takes at a time, by cores and by memory (1 GiB each); at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError, IndexError):  # a container's share of them
        group = Path("/proc/self/cgroup").read_text().split("::")[1].splitlines()[0].strip("/")
        quota, period = (Path("/sys/fs/cgroup") / group / "cpu.max").read_text().split()
        cores = min(cores, int(quota) // int(period))
    return max(1, min(cores // threads, available_memory() >> 30))
