"""Training from a store three times larger than memory, with the limit enforced by a control group.

    python benchmarks/larger_than_memory.py [--gigabytes 12] [--limit 4] [--folder DIR] [--steps 2000]

A store of episodes of 1,000 steps (114 observations, 12 actions: 512 bytes a row) is generated, `--gigabytes` large.
Then a process that the kernel allows `--limit` GiB in all, its page cache included, opens it, draws batches of 256 and
trains behaviour cloning on them, once from the mapped tier (built by that process, within the limit) and once from
the streaming tier. Printed: batches a second drawn and trained, the process's own peak of memory (page cache not
counted), the group's peak (page cache counted), and whether the limit ever killed or failed anything. Beside them the
memory tier of a store of the same rows that fits, without a limit. Needs root and control groups (version 1 or 2).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces

from toolkit import registry
from toolkit.core import Episode
from toolkit.store import ReplayStore, Schema

OBS, ACTIONS, STEPS = 114, 12, 1000
GIB = 1 << 30
DRAWS = 10  # batches drawn for each one trained on: with 2,000 steps, ten fills of the streaming tier's buffer


def main() -> None:
    parser = argparse.ArgumentParser(description="train from a store larger than memory")
    parser.add_argument("--gigabytes", type=float, default=12.0)
    parser.add_argument("--limit", type=float, default=4.0, help="GiB of memory")
    parser.add_argument("--folder", type=Path, default=None, help="where to write; a temporary folder by default")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--measure", nargs=2, metavar=("STORE", "TIER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(Path(given.measure[0]), given.measure[1], given.steps)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        need = 2.2 * given.gigabytes * 1e9
        if (free := shutil.disk_usage(folder).free) < need:
            raise SystemExit(f"{folder} has {free / 1e9:.0f} GB free; store and packed file take {need / 1e9:.0f} GB")
        small = generate(Path(folder) / "small.zarr", min(given.gigabytes, 1.0))
        report("memory, 1 GB at most, no limit", run(small, "memory", given.steps, None))
        large = generate(Path(folder) / "large.zarr", given.gigabytes)
        for tier in ("streaming", "mapped"):
            with limited(int(given.limit * GIB)) as group:
                found = run(large, tier, given.steps, group)
                found |= {"group_peak": group_peak(group)}
            report(f"{tier}, {given.gigabytes:g} GB under {given.limit:g} GiB", found)


def generate(path: Path, gigabytes: float) -> Path:
    schema = Schema.from_spaces(observation=spaces.Box(-np.inf, np.inf, (OBS,)), action=spaces.Box(-1, 1, (ACTIONS,)))
    episodes = int(gigabytes * 1e9 / ((STEPS + 1) * 4 * (OBS + ACTIONS + 2)))
    rng, began = np.random.default_rng(0), time.perf_counter()
    obs = rng.normal(size=(STEPS + 1, OBS)).astype(np.float32)
    action = rng.uniform(-1, 1, (STEPS, ACTIONS)).astype(np.float32)
    reward = rng.normal(size=STEPS).astype(np.float32)
    with ReplayStore.create(path, schema).writer() as writer:
        for number in range(episodes):
            writer.append(Episode(obs + np.float32(number), action, reward, terminated=number % 2 == 0))
    seconds = time.perf_counter() - began
    print(
        f"{path.name}: {episodes} episodes, {episodes * STEPS / 1e6:.1f} M transitions in {seconds:.0f} s", flush=True
    )
    return path


def measure(path: Path, tier: str, steps: int) -> dict[str, float]:
    """In a process of its own: seconds to the first batch, then batches a second drawn and trained."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    store = ReplayStore.open(path)
    learner = registry.learner("bc").build(store.spec, seed=0, device="cpu")
    sampler = store.sampler(batch_size=256, seed=0, tier=tier)  # type: ignore[arg-type]
    sampler.next()
    first = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(DRAWS * steps):
        sampler.next()
    drawn = DRAWS * steps / (time.perf_counter() - began)
    began = time.perf_counter()
    for _ in range(steps):
        learner.update(sampler.next())
    trained = steps / (time.perf_counter() - began)
    status = Path("/proc/self/status").read_text().splitlines()
    anonymous = sum(int(line.split()[1]) * 1024 for line in status if line.startswith(("RssAnon", "VmSwap")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"first": first, "drawn": drawn, "trained": trained, "own": anonymous, "peak": peak}


def run(path: Path, tier: str, steps: int, group: Path | None) -> dict[str, float]:
    command = [sys.executable, __file__, "--steps", str(steps), "--measure", str(path), tier]

    def join() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    done = subprocess.run(command, preexec_fn=join, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{tier}: the process ended with {done.returncode}: it did not stay within the limit")
    return dict(json.loads(done.stdout))


@contextlib.contextmanager
def limited(size: int) -> Iterator[Path]:
    """A control group that may hold `size` bytes, page cache and kernel buffers of its processes included."""
    one, two = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    group = (one if one.is_dir() else two) / f"packmule-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if one.is_dir() else "memory.max")).write_text(str(size))
        yield group
    finally:
        group.rmdir()


def group_peak(group: Path) -> float:
    names = ("memory.max_usage_in_bytes", "memory.peak")
    return float(next(group / name for name in names if (group / name).exists()).read_text())


def report(title: str, found: dict[str, float]) -> None:
    line = (
        f"{title}: first batch after {found['first']:.1f} s; {found['drawn']:.0f} batches/s drawn "
        f"({found['drawn'] * 256 / 1e6:.2f} M transitions/s), {found['trained']:.0f} trained; "
        f"own memory {found['own'] / GIB:.2f} GiB at the end"
    )
    if "group_peak" in found:
        line += f", group with page cache at most {found['group_peak'] / GIB:.2f} GiB"
    print(line, flush=True)


if __name__ == "__main__":
    main()
