"""Sampling speed, opening time and size: packmule's store beside d3rlpy and torchrl, same data, one run.

    python benchmarks/sampling.py [--rounds 7]

Data: 1,000 episodes of 1,000 hopper-sized steps (11 observations, 3 actions). One thread; uniform with replacement;
observation, action, reward, next observation and termination delivered. Rounds are interleaved, medians reported
and the range of the ratios over rounds. A peer that is not installed is skipped, and the output says so.

Not equal: packmule and torchrl deliver torch tensors, d3rlpy NumPy arrays that its learners still turn into tensors
(not charged to it), with returns-to-go and intervals; torchrl delivers a TensorDict with an index; its slices stay
inside an episode, packmule's windows may end early and say so in a mask. "plain gather" is one `index_select` of
presampled numbers into a given block, the same bytes and nothing else: what memory allows. torchrl is no dependency
of packmule: `pip install torchrl` beside it to compare.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from toolkit.core import Array, Episode
from toolkit.store import ReplayStore, Schema
from toolkit.store.encoding import Profile

EPISODES, STEPS, WINDOW = 1000, 1000, 16
Draw = Callable[[], object]
Data = tuple[Array, Array, Array]  # observations (E, T+1, 11), actions (E, T, 3), rewards (E, T)


def main() -> None:
    parser = argparse.ArgumentParser(description="sampling, opening and size beside d3rlpy and torchrl")
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(EPISODES, STEPS + 1, 11)).astype(np.float32)
    action = rng.uniform(-1, 1, (EPISODES, STEPS, 3)).astype(np.float32)
    data = obs, action, rng.normal(size=(EPISODES, STEPS)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fast.zarr"
        write_store(path, data, "fast")
        write_store(path.with_name("compact.zarr"), data, "compact")
        store = ReplayStore.open(path)
        theirs = installed("d3rlpy", lambda: d3rlpy_buffer(data))
        torchrl = installed("torchrl", lambda: torchrl_tables(data))
        for batch in (256, 4096):
            draws: dict[str, tuple[Draw, int]] = {"packmule": (store.sampler(batch_size=batch, seed=0).next, 1 << 21)}
            draws["plain gather"] = plain_gather(store, batch), 1 << 21
            if theirs is not None:
                draws["d3rlpy"] = (lambda n=batch: theirs.sample_transition_batch(n)), 1 << 14
            if torchrl is not None:
                draws["torchrl LazyTensorStorage"] = torchrl_uniform(torchrl, batch), 1 << 17
            compare(f"batch {batch}", draws, batch, rounds)
        steps = 256 * WINDOW
        draws = {"packmule": (store.sampler(window=WINDOW, batch_size=256, seed=0).next, 1 << 23)}
        if torchrl is not None:
            draws["torchrl SliceSampler"] = torchrl_slices(torchrl, steps), 1 << 18
        compare(f"256 windows of {WINDOW}, steps", draws, steps, rounds)
        store.sampler(seed=0, tier="mapped")
        draws = {
            f"packmule {tier}{', prefetch' if ahead else ''}": (
                ReplayStore.open(path).sampler(seed=0, tier=tier, prefetch=ahead).next,  # type: ignore[arg-type]
                1 << 20,
            )
            for tier, ahead in (("memory", False), ("mapped", False), ("streaming", False), ("streaming", True))
        }
        compare("tiers, batch 256", draws, 256, rounds)
        opening(path, theirs, Path(folder) / "d3rlpy.h5", rounds)
        size(path, data, Path(folder) / "next.npz")


def compare(title: str, draws: dict[str, tuple[Draw, int]], batch: int, rounds: int) -> None:
    """Interleaved rates; `draws` maps a name to how to draw a batch and how many transitions to time."""
    rates: dict[str, list[float]] = {name: [] for name in draws}
    for _ in range(rounds):
        for name, (draw, count) in draws.items():
            rates[name].append(rate(draw, batch, max(2, count // batch)))
    first = next(iter(rates))
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(rates[first], values, strict=True)]
        against = f"  {first} is {spread(ratios)} times it" if name != first else ""
        print(f"{title}: {name:28s} {statistics.median(values) / 1e6:8.3f} M/s{against}", flush=True)


def rate(draw: Draw, batch: int, repeats: int) -> float:
    draw()
    gc.collect()
    began = time.perf_counter()
    for _ in range(repeats):
        draw()
    return batch * repeats / (time.perf_counter() - began)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def installed(name: str, load: Callable[[], Any]) -> Any:
    """What `load` gives, or None, said aloud, if a peer is not installed."""
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load()
    except ImportError as error:
        print(f"{name} is not installed, so it is left out ({error})")
        return None


def write_store(path: Path, data: Data, profile: Profile) -> None:
    schema = Schema.from_spaces(observation=spaces.Box(-np.inf, np.inf, (11,)), action=spaces.Box(-1, 1, (3,)))
    obs, action, reward = data
    with ReplayStore.create(path, schema, profile=profile).writer() as writer:
        for i in range(EPISODES):
            writer.append(Episode(obs[i], action[i], reward[i], terminated=i % 2 == 0))


def plain_gather(store: ReplayStore, batch: int) -> Draw:
    rows, width = store._rows.packed.rows, store._rows.width
    pairs = rows.as_strided((len(rows) - 1, 2 * width), (width, 1))
    random = torch.Generator().manual_seed(0)
    numbers = cycle([torch.randint(len(pairs), (batch,), generator=random) for _ in range(1 << 18 >> 8)])
    block = torch.empty(batch, 2 * width)
    return lambda: torch.index_select(pairs, 0, next(numbers), out=block)


def d3rlpy_buffer(data: Data) -> Any:
    from d3rlpy.dataset import Episode as TheirEpisode
    from d3rlpy.dataset import create_infinite_replay_buffer

    obs, action, reward = data
    return create_infinite_replay_buffer(
        [TheirEpisode(obs[i, :-1], action[i], reward[i][:, None], terminated=i % 2 == 0) for i in range(EPISODES)]
    )


def torchrl_tables(data: Data) -> Any:
    import torchrl.data  # noqa: F401
    from tensordict import TensorDict

    obs, action, reward = (torch.from_numpy(values) for values in data)
    rows = EPISODES * STEPS
    ends = (torch.arange(rows) + 1) % STEPS == 0
    terminated = ends & (torch.arange(rows) // STEPS % 2 == 0)
    following = {
        "observation": obs[:, 1:].reshape(rows, 11),
        "reward": reward.reshape(rows, 1),
        "terminated": terminated[:, None],
        "done": ends[:, None],
    }
    fields = {"observation": obs[:, :-1].reshape(rows, 11), "action": action.reshape(rows, 3)}
    episode = torch.arange(rows) // STEPS
    return TensorDict({**fields, "next": TensorDict(following, [rows]), "episode": episode}, [rows])


def torchrl_uniform(table: Any, batch: int) -> Draw:
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(len(table)), batch_size=batch)
    buffer.extend(table)
    return buffer.sample


def torchrl_slices(table: Any, steps: int) -> Draw:
    from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer

    sampler = SliceSampler(slice_len=WINDOW, traj_key="episode", cache_values=True, strict_length=True)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(len(table)), sampler=sampler, batch_size=steps)
    buffer.extend(table)
    return buffer.sample


def opening(path: Path, theirs: Any, copy: Path, rounds: int) -> None:
    """Seconds from a path to the first batch of 256; files are in the page cache, three threads read (see Rows)."""

    def ours(profile: str, tier: str) -> None:
        ReplayStore.open(path.with_name(f"{profile}.zarr")).sampler(seed=0, tier=tier).next()  # type: ignore[arg-type]

    cases = [(p, t) for t in ("memory", "streaming") for p in ("fast", "compact")] + [("fast", "mapped")]
    ways: dict[str, Callable[[], None]] = {f"{p}, {t}": (lambda p=p, t=t: ours(p, t)) for p, t in cases}
    ours("fast", "mapped")  # builds the file
    if theirs is not None:
        from d3rlpy.dataset import InfiniteBuffer, ReplayBuffer

        with copy.open("w+b") as file:
            theirs.dump(file)

        def load() -> None:
            with copy.open("rb") as file:
                ReplayBuffer.load(file, InfiniteBuffer()).sample_transition_batch(256)

        ways["d3rlpy HDF5"] = load
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(min(rounds, 5)):
        for name, way in ways.items():
            gc.collect()
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    for name, values in seconds.items():
        line = f"open to first batch: {name:18s} {1000 * statistics.median(values):9.1f} ms"
        if "d3rlpy HDF5" in seconds and name != "d3rlpy HDF5":
            ratios = [b / a for a, b in zip(values, seconds["d3rlpy HDF5"], strict=True)]
            line += f"  d3rlpy takes {spread(ratios)} times as long"
        print(line)


def size(path: Path, data: Data, copy: Path) -> None:
    """Bytes on disk, beside an uncompressed file of the same transitions that stores next observations."""
    obs, action, reward = data
    ends = np.zeros((EPISODES, STEPS), bool)
    np.savez(copy, obs=obs[:, :-1], action=action, reward=reward, next_obs=obs[:, 1:], terminated=ends, truncated=ends)
    theirs = copy.stat().st_size
    for profile in ("fast", "compact"):
        folder = path.with_name(f"{profile}.zarr")
        ours = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and "derived" not in p.parts)
        share = f"{ours / theirs:.3f} of an uncompressed layout that stores next observations"
        print(f"size on disk, {profile}: {ours / 1e6:.1f} MB, {share} ({copy.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
