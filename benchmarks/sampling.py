"""Transitions sampled a second: packmule's store against d3rlpy's replay buffer, on the same data, in one run.

    python benchmarks/sampling.py

Equal: the same 1,000 episodes of 1,000 hopper-sized steps (11 observations, 3 actions), one thread, uniform
with replacement, observation, action, reward, next observation and termination delivered in batches of 256.
Not equal: packmule delivers torch tensors, d3rlpy NumPy arrays that its learners still turn into tensors
(the conversion is not charged to it); d3rlpy also delivers returns-to-go and intervals.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces

from toolkit.core import Episode
from toolkit.store import ReplayStore, Schema

EPISODES, STEPS, ROUNDS = 1000, 1000, 7


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(EPISODES, STEPS + 1, 11)).astype(np.float32)
    action = rng.uniform(-1, 1, (EPISODES, STEPS, 3)).astype(np.float32)
    reward = rng.normal(size=(EPISODES, STEPS)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        ours = packmule_sampler(Path(folder) / "hopper.zarr", obs, action, reward)
        theirs = d3rlpy_sampler(obs, action, reward)
        for batch in (256, 4096):
            rates: dict[str, list[float]] = {"packmule": [], "d3rlpy": []}
            draw = {"packmule": ours(batch), "d3rlpy": theirs(batch)}
            for _ in range(ROUNDS):
                rates["packmule"].append(rate(draw["packmule"], batch, 4_000_000 // batch))
                rates["d3rlpy"].append(rate(draw["d3rlpy"], batch, max(2, 40_000 // batch)))
            ratios = [a / b for a, b in zip(rates["packmule"], rates["d3rlpy"], strict=True)]
            for name, values in rates.items():
                print(f"batch {batch:5d}  {name:9s} {statistics.median(values) / 1e6:8.3f} M transitions/s")
            print(
                f"batch {batch:5d}  ratio     {statistics.median(ratios):8.0f}"
                f"  ({min(ratios):.0f} to {max(ratios):.0f} over {ROUNDS} interleaved rounds)"
            )


def rate(draw: Callable[[], object], batch: int, repeats: int) -> float:
    draw()
    began = time.perf_counter()
    for _ in range(repeats):
        draw()
    return batch * repeats / (time.perf_counter() - began)


def packmule_sampler(path: Path, obs: np.ndarray, action: np.ndarray, reward: np.ndarray) -> Callable:
    schema = Schema.from_spaces(observation=spaces.Box(-np.inf, np.inf, (11,)), action=spaces.Box(-1, 1, (3,)))
    with ReplayStore.create(path, schema).writer() as writer:
        for i in range(EPISODES):
            writer.append(Episode(obs[i], action[i], reward[i], terminated=i % 2 == 0))
    store = ReplayStore.open(path)
    return lambda batch: store.sampler(batch_size=batch, seed=0).next


def d3rlpy_sampler(obs: np.ndarray, action: np.ndarray, reward: np.ndarray) -> Callable:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from d3rlpy.dataset import Episode as TheirEpisode
        from d3rlpy.dataset import create_infinite_replay_buffer

    episodes = [
        TheirEpisode(obs[i, :-1], action[i], reward[i][:, None], terminated=i % 2 == 0) for i in range(EPISODES)
    ]
    buffer = create_infinite_replay_buffer(episodes)
    return lambda batch: lambda: buffer.sample_transition_batch(batch)


if __name__ == "__main__":
    main()
