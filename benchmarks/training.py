"""Milliseconds for one update: our bc, iql and cql beside d3rlpy's own, and d3rlpy through our adapter.

    python benchmarks/training.py [--rounds 7] [--updates 10]

One thread, batch 256, hidden layers 256 x 256, 11 observation numbers and 3 actions as in Hopper. Time
is processor time of the thread; a round times each in turn, and the median of the rounds is shown.

Equal on both sides: batch, layer widths, activation, optimiser (Adam), number of critics, and for cql
the 30 sampled actions a state. Not equal: d3rlpy is handed its tensors ready-made, standardised and on
the device, while ours standardises inside the update; d3rlpy returns Python numbers, ours 0-d
tensors; d3rlpy's bc is a squared error and ours a likelihood; d3rlpy's cql has its multiplier switched
off here, as ours is by default.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from algos.bc import BCConfig
from algos.cql import CQLConfig
from algos.d3rlpy import D3rlpyBCConfig, D3rlpyCQLConfig, D3rlpyIQLConfig, library
from algos.iql import IQLConfig
from toolkit.core import Batch, LearnerConfig, Moments, Spec

OBS, ACTIONS, BATCH = 11, 3, 256
LEARNERS: dict[str, tuple[LearnerConfig, LearnerConfig, dict[str, float]]] = {
    "bc": (BCConfig(), D3rlpyBCConfig(), {}),
    "iql": (IQLConfig(), D3rlpyIQLConfig(), {}),
    "cql": (CQLConfig(), D3rlpyCQLConfig(options=("alpha_learning_rate=0",)), {"alpha_learning_rate": 0}),
}


def data() -> tuple[Spec, Batch]:
    """Standard normal observations and rewards, uniform actions."""
    random = torch.Generator().manual_seed(0)
    ones = np.ones(ACTIONS, np.float32)
    obs, delta, action, reward = (
        Moments.of(np.random.default_rng(0).normal(size=(1000, size))) for size in (OBS, OBS, ACTIONS, 1)
    )
    spec = Spec(
        obs_dim=OBS,
        action_dim=ACTIONS,
        discrete=False,
        goal_dim=0,
        action_low=-ones,
        action_high=ones,
        horizon=1000,
        episodes=10,
        transitions=10_000,
        obs=obs,
        delta=delta,
        action=action,
        reward=reward,
        obs_resolution=np.full(OBS, 0.01, np.float32),
        action_resolution=0.01 * ones,
    )
    return spec, Batch(
        obs=torch.randn(BATCH, 2, OBS, generator=random),
        action=2 * torch.rand(BATCH, 1, ACTIONS, generator=random) - 1,
        reward=torch.randn(BATCH, 1, generator=random),
        terminated=torch.zeros(BATCH, 1, dtype=torch.bool),
        valid=torch.ones(BATCH, 1, dtype=torch.bool),
        episode=torch.zeros(BATCH, dtype=torch.int64),
    )


def own_update(kind: str, options: dict[str, float], batch: Batch) -> Callable[[], object]:
    """d3rlpy's update on its own mini-batch, with nothing of ours in between."""
    algos = {"bc": library().algos.BCConfig, "iql": library().algos.IQLConfig, "cql": library().algos.CQLConfig}
    algo = algos[kind](**options).create(device="cpu")
    algo.create_impl((OBS,), ACTIONS)
    zero = torch.zeros(BATCH, 1)
    action = batch.action[:, 0].clone()
    obs, next_obs = (batch.obs[:, index].clone() for index in (0, 1))
    mini = library().torch_utility.TorchMiniBatch(
        obs, action, batch.reward.clone(), next_obs, action, zero, zero, zero + 1, device="cpu"
    )
    steps = iter(range(10**9))
    return lambda: algo.impl.update(mini, next(steps))


def milliseconds(update: Callable[[], object], updates: int) -> float:
    start = time.process_time()
    for _ in range(updates):
        update()
    return (time.process_time() - start) / updates * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="at least 5")
    parser.add_argument("--updates", type=int, default=10, help="updates timed in each round")
    given = parser.parse_args()
    if given.rounds < 5 or given.updates < 1:
        parser.error(f"--rounds must be at least 5 and --updates at least 1, got {given.rounds} and {given.updates}")
    torch.set_num_threads(1)
    spec, batch = data()
    print(f"{'':4} {'ours':>9} {'d3rlpy':>9} {'adapter':>9} {'d3rlpy/ours':>12} {'adapter/d3rlpy':>15}")
    for kind, (config, adapter, options) in LEARNERS.items():
        ours, theirs = (each.build(spec, seed=0, device="cpu") for each in (config, adapter))
        contenders: dict[str, Callable[[], object]] = {
            "ours": partial(ours.update, batch),
            "d3rlpy": own_update(kind, options, batch),
            "adapter": partial(theirs.update, batch),
        }
        for update in contenders.values():
            milliseconds(update, 3)
        rounds = [{k: milliseconds(u, given.updates) for k, u in contenders.items()} for _ in range(given.rounds)]
        middle = {k: statistics.median(r[k] for r in rounds) for k in contenders}
        ratio = statistics.median(r["d3rlpy"] / r["ours"] for r in rounds)
        overhead = statistics.median(r["adapter"] / r["d3rlpy"] for r in rounds)
        print(f"{kind:4} {middle['ours']:6.2f} ms {middle['d3rlpy']:6.2f} ms {middle['adapter']:6.2f} ms", end=" ")
        print(f"{ratio:12.2f} {overhead:15.2f}")


if __name__ == "__main__":
    main()
