"""How well the world model knows what it does not know, and how fast it trains.

    python benchmarks/world_model.py likelihood
    python benchmarks/world_model.py calibration [SUITE ...] [--updates 3000] [--folder DIR]
    python benchmarks/world_model.py speed [--rounds 7] [--updates 20] [--compile]

`likelihood`: noisy linear systems of known entropy (tests/known_dynamics.py), 6,000 transitions to train on and as many
to test; bits a transition above the entropy, for both heads, and what independent Gaussians must lose. With more bits
than the entropy a code is wasteful; fewer is chance.

`calibration`: 200 episodes of each suite to train on, 30 of another seed to test (kept in --folder): how many of up to
3,000 held-out steps central intervals of 90 % hold, least and most over the dimensions that vary and on average,
before and after the held-out calibration; then 50 % and 95 % on average, and the log-likelihood in nats a step. Of the
elite ensemble's marginals, by rank among 99 draws. Simulators here are deterministic: what is predicted is the model's
own error.

`speed`: milliseconds of one update of an ensemble of 7 members with 4 x 200 hidden units (SiLU), batch 256 for each
member, 11 observation numbers and 3 actions, one thread, float32, beside mbrl-lib 0.2.0's `GaussianMLP` in
`OneDTransitionRewardModel`, drawing the batch included, and beside the matrix products of such an update alone.
Processor time; rounds take turns; ratios are medians over rounds with their range. Equal: networks, learned bounds of
the log-variance, Gaussian likelihood, Adam with weight decay, input normalisation, rows that give gradients (nothing
is held out of so few episodes). Not equal: ours also learns termination, normalises targets, weighs episodes and
gives one batch to all members, where mbrl-lib draws a batch for each and reads its loss and gradient norms back as
Python numbers. With --compile, ours is also shown with its fit compiled (`train --compile on`), after it was. mbrl-lib
has to be importable:

    pip install --target PEERS --no-deps mbrl==0.2.0 hydra-core==1.3.8 omegaconf==2.3.0 \
        antlr4-python3-runtime==4.9.3 termcolor
    PYTHONPATH=PEERS python benchmarks/world_model.py speed
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from known_dynamics import ENTROPY, GAUSSIAN, known_system, part

from toolkit import feed
from toolkit.baselines import Transitions
from toolkit.collect import collect
from toolkit.compiled import compiled
from toolkit.core import Batch, Episode
from toolkit.diagnosis import coverage, pit
from toolkit.nets import generator
from toolkit.store import ReplayStore, Schema
from worldmodel.mpc import HEADS, MPC, MPCConfig

SUITES = ("pendulum", "hopper", "walker2d", "pointmaze", "cartpole")
OBS, ACTIONS, BATCH, EPISODES, STEPS = 11, 3, 256, 9, 5_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("likelihood", "calibration", "speed"))
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"{', '.join(SUITES)} by default")
    parser.add_argument("--folder", type=Path, help="where calibration keeps its stores; a temporary one by default")
    parser.add_argument("--rounds", type=int, default=7, help="at least 5")
    parser.add_argument("--updates", type=int, help="of a training, or timed in each round")
    parser.add_argument("--compile", action="store_true", help="also time ours compiled")
    given = parser.parse_args()
    if given.rounds < 5:
        parser.error(f"--rounds must be at least 5, got {given.rounds}")
    torch.set_num_threads(1)
    if given.what == "likelihood":
        likelihood(given.updates or 1500)
    elif given.what == "speed":
        speed(given.rounds, given.updates or 20, whole=given.compile)
    else:
        with tempfile.TemporaryDirectory() as folder:
            for suite in given.suites or SUITES:
                calibration(suite, given.updates or 3000, given.folder or Path(folder))


def likelihood(updates: int) -> None:
    columns = ["bits", "entropy", *HEADS, *HEADS, "least Gaussian"]
    print("".join(f"{column:>16}" for column in columns), " (last five: above the entropy)")
    bits = 1 / math.log(2)
    for system, entropy in ENTROPY.items():
        spec, batch = known_system(system, episodes=60, seed=0)  # type: ignore[arg-type]
        _, fresh = known_system(system, episodes=60, seed=1)  # type: ignore[arg-type]
        above = []
        for head in HEADS:
            config = MPCConfig(hidden=(64, 64), head=head)  # type: ignore[arg-type]
            learner, rng = config.build(spec, seed=0, device="cpu"), np.random.default_rng(0)
            for _ in range(updates):
                learner.update(part(batch, rng.integers(0, len(batch.episode), BATCH)))
            with torch.no_grad():
                found = learner.transition_log_prob(*steps(fresh)[:4])
            above.append((-found.mean().item() - entropy) * bits)
        least = (GAUSSIAN[system] - entropy) * bits
        shares = [f"{100 * a / abs(entropy * bits):.2f} %" for a in above]
        row = [system, f"{entropy * bits:.3f}", *(f"{a:+.3f}" for a in above), *shares, f"{least:+.3f}"]
        print("".join(f"{cell:>16}" for cell in row), flush=True)


def calibration(suite: str, updates: int, folder: Path) -> None:
    dials = {"contexts": 50, "coverage": 0.5}
    data = collect(suite, out=folder / f"{suite}.zarr", episodes=200, seed=0, **dials)
    fresh = collect(suite, out=folder / f"{suite}-fresh.zarr", episodes=30, seed=1, **dials)
    batch = feed.sampler(fresh, MPCConfig().needs, batch_size=min(3000, fresh.transitions), seed=1).next()
    for head in HEADS:
        config = MPCConfig(head=head)  # type: ignore[arg-type]
        learner = config.build(data.spec, seed=0, device="cpu")
        sampler = feed.sampler(data, config.needs, batch_size=BATCH, seed=0)
        for _ in range(updates):
            learner.update(sampler.next())
        fitted = learner.kept.head.scale.clone()
        for name, scale in (("as trained", torch.ones_like(fitted)), ("calibrated", fitted)):
            learner.kept.head.scale.copy_(scale)
            print(f"{suite:10} {head:14} {name}: {told(learner, batch)}", flush=True)


def told(learner: MPC, batch: Batch) -> str:
    """Coverage and likelihood of a batch's steps."""
    data = Transitions(*steps(batch), batch.episode.numpy())
    kept = learner.kept.targets.kept.numpy()
    found = pit(learner, data, samples=99, generator=generator(0), rng=np.random.default_rng(0))[:, kept]
    half, most, nearly = (100 * coverage(found, level).mean(0) for level in (0.5, 0.9, 0.95))
    with torch.no_grad():
        nats = learner.transition_log_prob(*steps(batch)[:4]).mean().item()
    inside = ((most >= 85) & (most <= 95)).sum()
    return (
        f"90 % holds {most.min():.1f} to {most.max():.1f}, mean {most.mean():.1f}, in 85 to 95 for {inside} of "
        f"{len(most)}; 50 % {half.mean():.1f}, 95 % {nearly.mean():.1f}; {nats:.2f} nats"
    )


def steps(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Windows of one step, as `Transitions` takes them."""
    return batch.obs[:, 0], batch.action[:, 0], batch.obs[:, 1], batch.reward[:, 0], batch.terminated[:, 0]


def speed(rounds: int, updates: int, *, whole: bool) -> None:
    contenders = {"ours": ours()}
    if whole:
        contenders["compiled"] = ours(whole=True)
    contenders |= {"mbrl-lib": theirs(), "multiplies": multiplies()}
    for step in contenders.values():
        milliseconds(step, 5)
    times = [{name: milliseconds(step, updates) for name, step in contenders.items()} for _ in range(rounds)]
    for name in contenders:
        print(f"{name:10} {statistics.median(t[name] for t in times):6.2f} ms")
    pairs = [("mbrl-lib", name) for name in contenders if name != "mbrl-lib"]
    for over, under in pairs + [("compiled", "ours")] * whole:
        ratios = [t[over] / t[under] for t in times]
        told = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), {rounds} rounds"
        print(f"{over} / {under}{', what no code could pass' if under == 'multiplies' else ''}: {told}")


def numbers() -> dict[str, Any]:
    """Standard normal observations and rewards, uniform actions: (EPISODES, STEPS, ...) float32."""
    rng = np.random.default_rng(0)
    shapes = {"obs": (STEPS + 1, OBS), "reward": (STEPS,)}
    drawn = {name: rng.normal(size=(EPISODES, *shape)).astype(np.float32) for name, shape in shapes.items()}
    return drawn | {"action": rng.uniform(-1, 1, (EPISODES, STEPS, ACTIONS)).astype(np.float32)}


def ours(*, whole: bool = False) -> Callable[[], object]:
    """A step of ours: a batch from a store, then an update."""
    schema = Schema.from_spaces(observation=spaces.Box(-np.inf, np.inf, (OBS,)), action=spaces.Box(-1, 1, (ACTIONS,)))
    config, given = MPCConfig(hidden=(200,) * 4), numbers()
    with tempfile.TemporaryDirectory() as folder:
        with ReplayStore.create(Path(folder) / "d.zarr", schema).writer() as writer:
            for obs, action, reward in zip(given["obs"], given["action"], given["reward"], strict=True):
                writer.append(Episode(obs, action, reward, False))
        store = ReplayStore.open(Path(folder) / "d.zarr")
        sampler = feed.sampler(store, config.needs, batch_size=BATCH, seed=0, tier="memory")
        learner = config.build(store.spec, seed=0, device="cpu")
        sampler.next()  # reads the store
    update = compiled(learner) if whole else learner.update
    return lambda: update(sampler.next())


def theirs() -> Callable[[], object]:
    """A step of mbrl-lib's: a batch for each member from its bootstrap iterator, then `update`."""
    warnings.simplefilter("ignore")
    try:
        from mbrl.models import GaussianMLP, OneDTransitionRewardModel
        from mbrl.types import TransitionBatch
        from mbrl.util.replay_buffer import BootstrapIterator
    except ImportError as error:
        raise SystemExit(f"mbrl-lib is not importable ({error}); how to install it: python {__file__} --help") from None
    given, rows = numbers(), EPISODES * STEPS
    obs, following = (each.reshape(rows, OBS) for each in (given["obs"][:, :-1], given["obs"][:, 1:]))
    never = np.zeros(rows, bool)
    flat = given["action"].reshape(rows, ACTIONS), following, given["reward"].reshape(rows)
    data = TransitionBatch(obs, *flat, never, never)
    network = GaussianMLP(
        OBS + ACTIONS,
        OBS + 1,
        "cpu",
        num_layers=4,
        ensemble_size=7,
        hid_size=200,
        learn_logvar_bounds=True,
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )
    model = OneDTransitionRewardModel(network, normalize=True, num_elites=5)
    model.update_normalizer(data)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    iterator = BootstrapIterator(data, BATCH, 7, shuffle_each_epoch=True, permute_indices=False)

    def endless() -> Iterator[Any]:
        while True:
            yield from (batch for batch in iterator if len(batch.obs[0]) == BATCH)

    batches = endless()
    return lambda: model.update(next(batches), optimizer)


def multiplies() -> Callable[[], object]:
    """Nothing but the matrix products of a step, forward and backward, into memory that is there."""
    sizes = [OBS + ACTIONS, *(200,) * 4, 2 * (OBS + 1)]
    values = [torch.randn(7, BATCH, size) for size in sizes]
    weights = [torch.randn(7, *pair) for pair in pairwise(sizes)]
    layers = list(zip(weights, pairwise(values), strict=True))
    following, gradients, before = ([torch.empty_like(x) for x in group] for group in (values[1:], weights, values))

    def step() -> None:
        for i, (weight, (inputs, outputs)) in enumerate(layers):
            torch.bmm(inputs, weight, out=following[i])
            torch.bmm(inputs.mT, outputs, out=gradients[i])
            if i:
                torch.bmm(outputs, weight.mT, out=before[i])

    return step


def milliseconds(step: Callable[[], object], updates: int) -> float:
    start = time.process_time()
    for _ in range(updates):
        step()
    return (time.process_time() - start) / updates * 1e3


if __name__ == "__main__":
    main()
