"""Milliseconds for one training step, batches drawn from the store included: ours beside d3rlpy's own, in one run.

    python benchmarks/training.py [LEARNER ...] [--rounds 7] [--updates 20] [--compile]

One thread, batch 256, hidden layers 256 x 256, 11 observation numbers and 3 actions as in Hopper, 100 episodes of
1,000 steps. A step draws a batch and updates: ours from a zarr store, d3rlpy from its replay buffer through its own
`update`. Time is processor time of the process; rounds take turns, medians are shown, ratios are medians over rounds
with their range. "of sgemm" is the share of what a plain 256 x 256 x 256 multiply reaches in the same round: the
multiplications of an update (counted by torch) over its time.

Equal on both sides: data, batch, layer widths, activation, optimiser (Adam), number of critics, how often the actor
moves, and for cql the 30 sampled actions a state; its multiplier is off on both. `bc` fits the same squared error as
d3rlpy's; `bc likelihood` learns a variance too, which d3rlpy has not, and is shown against the same peer. Not equal:
ours standardises observations and scales actions, d3rlpy is asked for neither; d3rlpy returns Python numbers, ours
0-d tensors. With --compile, ours is also shown with its update compiled (`train --compile on`), after it was: the
seconds that took are printed. d3rlpy's own `compile_graph` does nothing on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces
from torch.utils.flop_counter import FlopCounterMode

from algos.bc import BCConfig
from algos.cql import CQLConfig
from algos.d3rlpy import library
from algos.iql import IQLConfig
from algos.td3bc import TD3BCConfig
from toolkit import feed
from toolkit.compiled import compiled
from toolkit.core import Episode, LearnerConfig
from toolkit.store import ReplayStore, Schema

OBS, ACTIONS, BATCH, EPISODES, STEPS = 11, 3, 256, 100, 1000
Update = Callable[[], object]


@dataclass(frozen=True)
class Pair:
    """One of our learners and d3rlpy's name and options for the same work."""

    ours: LearnerConfig
    theirs: str
    options: dict[str, float]


PAIRS = {
    "bc": Pair(BCConfig(head="squared"), "BCConfig", {}),
    "bc likelihood": Pair(BCConfig(), "BCConfig", {}),
    "td3bc": Pair(TD3BCConfig(), "TD3PlusBCConfig", {}),
    "iql": Pair(IQLConfig(), "IQLConfig", {}),
    "cql": Pair(CQLConfig(hidden=(256, 256)), "CQLConfig", {"alpha_learning_rate": 0}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("learners", nargs="*", metavar="LEARNER", help=f"of {', '.join(PAIRS)}; all by default")
    parser.add_argument("--rounds", type=int, default=7, help="at least 5")
    parser.add_argument("--updates", type=int, default=20, help="updates timed in each round, an even number")
    parser.add_argument("--compile", action="store_true", help="also time ours compiled")
    given = parser.parse_args()
    if given.rounds < 5 or given.updates < 2 or given.updates % 2:
        parser.error(f"--rounds must be at least 5 and --updates even, got {given.rounds} and {given.updates}")
    if unknown := set(given.learners) - set(PAIRS):
        parser.error(f"unknown learners {', '.join(sorted(unknown))}; choose from {', '.join(PAIRS)}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store, buffer = data(Path(folder) / "hopper.zarr")
        print(f"{'':14} {'ours':>9} {'of sgemm':>9} {'d3rlpy':>10}  d3rlpy / ours")
        for name in given.learners or PAIRS:
            compare(name, PAIRS[name], store, buffer, given)


def compare(name: str, pair: Pair, store: ReplayStore, buffer: object, given: argparse.Namespace) -> None:
    """Print one line for ours, and one for ours compiled if asked."""
    contenders = {"": ours(pair.ours, store), "d3rlpy": theirs(pair, buffer)}
    if given.compile:
        contenders[" compiled"] = ours(pair.ours, store, whole=True)
    waited = {}
    for kind, step in contenders.items():
        began = time.perf_counter()
        milliseconds(step, 4)
        waited[kind] = time.perf_counter() - began
    rounds = []
    for _ in range(given.rounds):
        rounds.append({k: milliseconds(step, given.updates) for k, step in contenders.items()} | {"sgemm": sgemm()})
    with FlopCounterMode(display=False) as counter:
        for _ in range(2):
            contenders[""]()
    flops = counter.get_total_flops() / 2
    middle = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
    for kind in contenders:
        if kind != "d3rlpy":
            ratios = [r["d3rlpy"] / r[kind] for r in rounds]
            share = statistics.median(flops / (r[kind] * 1e6) / r["sgemm"] for r in rounds)
            print(f"{name + kind:14} {middle[kind]:6.2f} ms {share:9.2f} {middle['d3rlpy']:7.2f} ms", end="  ")
            print(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", end="")
            print(f"  after {waited[kind]:.0f} s" if kind == " compiled" else "", flush=True)


def data(path: Path) -> tuple[ReplayStore, object]:
    """Standard normal observations and rewards, uniform actions: as our store and as d3rlpy's buffer."""
    schema = Schema.from_spaces(observation=spaces.Box(-np.inf, np.inf, (OBS,)), action=spaces.Box(-1, 1, (ACTIONS,)))
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(EPISODES, STEPS + 1, OBS)).astype(np.float32)
    action = rng.uniform(-1, 1, (EPISODES, STEPS, ACTIONS)).astype(np.float32)
    reward = rng.normal(size=(EPISODES, STEPS)).astype(np.float32)
    with ReplayStore.create(path, schema).writer() as writer:
        for o, a, r in zip(obs, action, reward, strict=True):
            writer.append(Episode(o, a, r, False))
    dataset = library().dataset
    episodes = [
        dataset.Episode(o[:-1], a, r[:, None], terminated=False) for o, a, r in zip(obs, action, reward, strict=True)
    ]
    return ReplayStore.open(path), dataset.ReplayBuffer(dataset.InfiniteBuffer(), episodes=episodes)


def ours(config: LearnerConfig, store: ReplayStore, *, whole: bool = False) -> Update:
    """A step of ours: a batch from the store, then an update."""
    sampler = feed.sampler(store, config.needs, batch_size=BATCH, seed=0)
    learner = config.build(store.spec, seed=0, device="cpu")
    update = compiled(learner) if whole else learner.update
    return lambda: update(sampler.next())


def theirs(pair: Pair, buffer: object) -> Update:
    """A step of d3rlpy's: a batch from its buffer, then its own `update`."""
    algo = getattr(library().algos, pair.theirs)(batch_size=BATCH, **pair.options).create(device="cpu")
    algo.build_with_dataset(buffer)
    return lambda: algo.update(buffer.sample_transition_batch(BATCH))  # type: ignore[attr-defined]


def milliseconds(step: Update, updates: int) -> float:
    start = time.process_time()
    for _ in range(updates):
        step()
    return (time.process_time() - start) / updates * 1e3


def sgemm(size: int = 256, repeats: int = 100) -> float:
    """GFLOP/s of a plain multiply."""
    a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    return 2 * size**3 / (milliseconds(lambda: torch.mm(a, b, out=out), repeats) * 1e6)


if __name__ == "__main__":
    main()
