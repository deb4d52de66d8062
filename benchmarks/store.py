"""What a store costs as it grows: appending, opening, memory. No peer: each figure is packmule beside itself.

    python benchmarks/store.py [--episodes 10000] [--many 1000000] [--folder DIR]

Three parts. (1) Append and commit one episode of 100 hopper-sized steps at a time: the 95th percentile of the time
around the last episodes beside that around the first ones, two stores in turns on one disk, so that its mood is the
same for both. (2) Append without commit, the same. (3) Opening a store of a million episodes of 2 steps, and the
bytes its table and index take, as Python's allocator counts them.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
from gymnasium import spaces

from toolkit.core import Episode
from toolkit.store import ReplayStore, Schema
from toolkit.store.writer import Writer

AROUND = 200  # appends measured at each end
SHORT = 2  # steps of an episode of the large store


def main() -> None:
    parser = argparse.ArgumentParser(description="appending, opening and memory of a growing store")
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--many", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; a temporary folder by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        appending(Path(folder), given.episodes)
        opening(Path(folder), given.many)


def schema() -> Schema:
    return Schema.from_spaces(observation=spaces.Box(-np.inf, np.inf, (11,)), action=spaces.Box(-1, 1, (3,)))


def episode(steps: int, seed: int = 0) -> Episode:
    rng = np.random.default_rng(seed)
    obs, action = rng.normal(size=(steps + 1, 11)), rng.uniform(-1, 1, (steps, 3))
    return Episode(obs.astype(np.float32), action.astype(np.float32), rng.normal(size=steps).astype(np.float32), True)


def appending(folder: Path, episodes: int) -> None:
    """A young and an old store in turns."""
    one = episode(100)
    for title, commit in (("append and commit", True), ("append", False)):
        old = ReplayStore.create(folder / f"old-{commit}.zarr", schema()).writer()
        began = time.perf_counter()
        for number in range(episodes - AROUND):
            old.append(one)
            if commit and number % 10 == 0:
                old.commit()
        print(f"{title}: {episodes - AROUND} episodes in {time.perf_counter() - began:.0f} s, then:", flush=True)
        young = ReplayStore.create(folder / f"young-{commit}.zarr", schema()).writer()
        for _ in range(10):
            timed(young, one, commit)
        times = [(timed(young, one, commit), timed(old, one, commit)) for _ in range(AROUND)]
        early, late = ([1000 * pair[i] for pair in times] for i in (0, 1))
        ratio = np.percentile(late, 95) / np.percentile(early, 95)
        print(
            f"{title}: from the 10th on {statistics.median(early):.2f} ms (p95 {np.percentile(early, 95):.2f}), "
            f"up to the {episodes}th {statistics.median(late):.2f} ms (p95 {np.percentile(late, 95):.2f}): "
            f"ratio of p95 {ratio:.2f}",
            flush=True,
        )


def timed(writer: Writer, one: Episode, commit: bool) -> float:
    began = time.perf_counter()
    writer.append(one)
    if commit:
        writer.commit()
    return time.perf_counter() - began


def opening(folder: Path, many: int) -> None:
    path = folder / "many.zarr"
    began = time.perf_counter()
    with ReplayStore.create(path, schema()).writer() as writer:
        one = episode(SHORT)
        for _ in range(many):
            writer.append(one)
    print(f"{many} episodes of {SHORT} steps written in {time.perf_counter() - began:.0f} s", flush=True)
    seconds = []
    for _ in range(5):
        gc.collect()
        began = time.perf_counter()
        ReplayStore.open(path)
        seconds.append(time.perf_counter() - began)
    tracemalloc.start()
    store = ReplayStore.open(path)
    table = tracemalloc.get_traced_memory()[0]
    index = store.index()
    both = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    print(
        f"open {many} episodes: median {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}); "
        f"episode table {table / 1e6:.1f} MB, with the sampling index {both / 1e6:.1f} MB ({index.total} transitions)"
    )


if __name__ == "__main__":
    main()
