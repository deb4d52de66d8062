"""How fast plans are made: beside mbrl-lib 0.2.0 and pytorch-mppi 0.9.1, and by budget.

    python benchmarks/planning.py same [--rounds 7] [--plans 3]
    python benchmarks/planning.py return [--episodes 3] [--folder DIR]
    python benchmarks/planning.py budgets [--rounds 7]

One thread, float32, processor time of whole calls of `act`; rounds take turns; ratios are medians over rounds and their
range. All weights are an ensemble of ours, copied into the peers; that both predict the same is checked first.

`same`: one environment, hopper's sizes (11 observation numbers, 3 actions), 5 members, SiLU. CEM beside mbrl-lib's
`TrajectoryOptimizerAgent` with `CEMOptimizer`, 350 sequences, 5 iterations, horizon 15, 5 particles; MPPI beside
pytorch-mppi's `MPPI`, 500 sequences, one iteration, horizon 15, 1 particle. Equal: weights, sequences, iterations,
horizon, particles, learned reward, warm start, members dealt out evenly, no noise of the model: mbrl-lib is given
the means as a deterministic `GaussianMLP`, and is shown with its usual draws too; pytorch-mppi is given our own step of
the model as its dynamics. Not equal: ours also predicts the end of episodes, keeps states to the range of the data and
scores the mean again; mbrl-lib truncates its normal noise by rejection.

`return`: different work. The same trained model of pendulum and the learned reward; mbrl-lib with its usual budget (350
sequences, 5 iterations, horizon 15, 20 particles, drawn noise) and our default budget, in the same episodes: mean
returns of both, and plans per second.

`budgets`: milliseconds of a plan by preset, for 1 and 16 environments, models of 2 x 128 and 5 elite members.

The peers have to be importable:

    pip install --target PEERS --no-deps mbrl==0.2.0 hydra-core==1.3.8 omegaconf==2.3.0 \\
        antlr4-python3-runtime==4.9.3 termcolor pytorch-mppi==0.9.1 pytorch-seed arm-pytorch-utilities
    PYTHONPATH=PEERS python benchmarks/planning.py same
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from planning_peers import MbrlLib, pytorch_mppi
from world_model import milliseconds

from toolkit import registry
from toolkit.collect import collect
from toolkit.configure import load_learner
from toolkit.core import Array, Policy, Step
from toolkit.evaluate import rollouts
from toolkit.store import ReplayStore
from toolkit.train import train
from worldmodel.mpc import MPC, PRESETS, MPCConfig

CEM = MPCConfig(planner="cem", samples=350, iterations=5, horizon=15, particles=5, best=35)
MPPI = MPCConfig(planner="mppi", samples=500, iterations=1, horizon=15, colour=0.0, momentum=0.0)
WIDTHS = ((200,) * 4, (128,) * 2)
USUAL = 20  # particles of mbrl-lib's usual budget
Act = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("same", "return", "budgets"))
    parser.add_argument("--rounds", type=int, default=7, help="at least 5")
    parser.add_argument("--plans", type=int, default=3, help="plans timed in each round")
    parser.add_argument("--episodes", type=int, default=3, help="that `return` plays")
    parser.add_argument("--updates", type=int, default=3000, help="of the model that `return` plans with")
    parser.add_argument("--folder", type=Path, help="where `return` keeps its data and its run; nowhere by default")
    given = parser.parse_args()
    if given.rounds < 5 or min(given.plans, given.episodes, given.updates) < 1:
        parser.error("--rounds must be at least 5, and --plans, --episodes and --updates at least 1")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "return":
            at_equal_return(given.folder or Path(folder), given.updates, given.episodes)
            return
        store = collect("hopper", out=Path(folder) / "hopper.zarr", episodes=16, contexts=16, coverage=0.5)
        if given.what == "same":
            same(store, given.rounds, given.plans)
        else:
            budgets(store, given.rounds, given.plans)


def same(store: ReplayStore, rounds: int, plans: int) -> None:
    """The same work by all, for both sizes of model."""
    obs = observations(store, 1)
    for hidden in WIDTHS:
        print(f"{len(hidden)} x {hidden[0]}")
        cem = replace(CEM, hidden=hidden).build(store.spec, seed=0, device="cpu")
        acts = {"ours, CEM": repeated(cem.policy(seed=0), obs)}
        for name, noise in (("mbrl-lib, means", False), ("mbrl-lib, drawn", True)):
            acts[name] = repeated(MbrlLib(cem, CEM.particles, noise=noise), obs)
        times(acts, rounds, plans)
        mppi = replace(MPPI, hidden=hidden).build(store.spec, seed=0, device="cpu")
        times(
            {"ours, MPPI": repeated(mppi.policy(seed=0), obs), "pytorch-mppi": pytorch_mppi(mppi, obs)},
            rounds,
            plans * 5,
        )


def budgets(store: ReplayStore, rounds: int, plans: int) -> None:
    """Milliseconds of a plan by preset and number of environments."""
    acts: dict[str, Act] = {}
    for name, config in {"mpc": MPCConfig(), **PRESETS}.items():
        learner = replace(config, hidden=WIDTHS[1]).build(store.spec, seed=0, device="cpu")
        for rows in (1, 16):
            acts[f"{name}, {rows}"] = repeated(learner.policy(seed=0), observations(store, rows))
    times(acts, rounds, plans, ratios=False)


def at_equal_return(folder: Path, updates: int, episodes: int) -> None:
    """Mean returns on pendulum by mbrl-lib's usual budget and our default one, with one model, and plans a second."""
    store = collect("pendulum", out=folder / "pendulum.zarr", episodes=100, contexts=100, coverage=1.0)
    run = train(MPCConfig(), store=store.path, steps=updates, episodes=0, out=folder / "runs")
    _, learner, schema = load_learner(run)
    assert isinstance(learner, MPC)
    suite, seconds = registry.suite("pendulum"), {}
    contexts = suite.contexts("interpolated", episodes, seed=0)
    usual = MPC(replace(CEM, hidden=learner.config.hidden), learner.spec, seed=0, device="cpu")
    usual.load_state_dict(learner.state_dict())
    for name, policy in (("ours", learner.policy(seed=0)), ("mbrl-lib", MbrlLib(usual, USUAL, noise=True))):
        timed = Timed(policy)
        played, _ = rollouts(timed, suite, schema, contexts, range(episodes), rows=1)
        returns, seconds[name] = [outcome.episode_return for outcome in played], timed.seconds / timed.calls
        each = " ".join(f"{value:.0f}" for value in returns)
        print(f"{name:9} {1 / seconds[name]:7.1f} plans/s   return {np.mean(returns):.0f}; episodes {each}", flush=True)
    print(f"ours / mbrl-lib, plans a second, different work: {seconds['mbrl-lib'] / seconds['ours']:.0f}")


class Timed:
    """A policy, and the processor time spent in it."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.seconds, self.calls = policy, 0.0, 0

    def act(self, step: Step) -> Array:
        began = time.process_time()
        action = self.policy.act(step)
        self.seconds, self.calls = self.seconds + time.process_time() - began, self.calls + 1
        return action


def observations(store: ReplayStore, rows: int) -> Array:
    """(rows, O) of the data."""
    return store.sampler(batch_size=rows, seed=0).next().obs[:, 0].numpy()


def repeated(policy: Policy, obs: Array) -> Act:
    """A plan from the same observations again, warm from the plan before."""
    first = np.ones(len(obs), bool)
    policy.act(Step(obs, np.zeros(len(obs), np.float32), first))
    return lambda: policy.act(Step(obs, np.zeros(len(obs), np.float32), ~first))


def times(acts: dict[str, Act], rounds: int, plans: int, *, ratios: bool = True) -> None:
    """Print milliseconds of each, medians over rounds with their range, and the others' over the first's."""
    for act in acts.values():
        milliseconds(act, 1)
    taken = [{name: milliseconds(act, plans) for name, act in acts.items()} for _ in range(rounds)]
    ours = next(iter(acts))
    for name in acts:
        each = [t[name] for t in taken]
        line = f"{name:16} {statistics.median(each):8.1f} ms ({min(each):.1f} to {max(each):.1f})"
        if ratios and name != ours:
            times_ours = [t[name] / t[ours] for t in taken]
            line += (
                f"   {statistics.median(times_ours):.2f} times ours ({min(times_ours):.2f} to {max(times_ours):.2f})"
            )
        print(line, flush=True)


if __name__ == "__main__":
    main()
