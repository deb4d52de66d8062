"""What can be told of a trained model without acting: numbers on held-out episodes that may stand in for its return.

Each is turned so that more should be better, and None where a learner has nothing of the kind. Bits: `toolkit.bits`;
the value: `toolkit.fqe`; the error of rollouts: `toolkit.diagnosis`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from toolkit import bits, diagnosis, fqe
from toolkit.baselines import Transitions
from toolkit.bits import BLOCK, CodeLength, Data, Rows
from toolkit.configure import load_learner, open_data
from toolkit.core import ActionValue, Dynamics, Learner, Reactive, Spec, child_seed
from toolkit.records import RunConfig, read_config

STARTS = 500  # windows of the rollout error


@dataclass(frozen=True)
class Settings:
    """How models are measured."""

    rows: int = 20_000
    """Held-out transitions at most, of whole episodes."""
    horizon: int = 25
    """Steps a model of the dynamics is left alone; fewer if no held-out episode is as long."""
    fqe_steps: int = 2_000
    """Updates of fitted Q evaluation, one network of 2 x 128; 0 leaves it out. Targets are 95% of the way by then."""
    seed: int = 0
    """Of the choice of episodes and windows, and of fitted Q."""

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("horizon", 1), ("fqe_steps", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def __str__(self) -> str:
        return f"rows {self.rows}, horizon {self.horizon}, fqe {self.fqe_steps}, seed {self.seed}"


@dataclass(frozen=True)
class Held:
    """What models trained on one dataset are measured with."""

    training: Data
    seen: Rows  # of the training data, for marginals
    test: Rows  # of the held-out data

    @property
    def spec(self) -> Spec:
        """Of the training data."""
        return self.training.spec

    @property
    def episodes(self) -> list[Transitions]:
        """The held-out episodes, one after another."""
        r = self.test
        obs, action, next_obs, reward, ended = map(_tensor, (r.obs, r.action, r.next_obs, r.reward, r.terminated))
        every = Transitions(obs, action, next_obs, reward, ended, r.episode)
        edges = [0, *(np.flatnonzero(np.diff(r.episode)) + 1).tolist(), len(r.episode)]
        return [every.take(np.arange(first, last)) for first, last in pairwise(edges)]


@lru_cache(maxsize=2)  # models are measured run by run
def held(folder: str | Path, store: str | Path, view: str | None, settings: Settings) -> Held:
    """The data to measure a run with: its own, and the episodes of `store` that are not. Raises as `bits.fresh`."""
    run, given = read_config(folder), open_data(store, None, view)
    training = fqe.opened(run, None, None, None)
    chosen = bits.fresh(folder, run, training, given)
    return Held(training, *bits.sample(training, given, chosen, rows=settings.rows, seed=settings.seed))


def loaded(folder: str | Path, step: int) -> Learner:
    """A run's learner as it was after `step` steps, to be asked in one process as the run was trained."""
    run, learner, _ = load_learner(folder, step=step, device="cpu")
    torch.set_num_threads(run.threads)
    return learner


def code_lengths(learner: Learner, data: Held) -> list[CodeLength]:
    """Of actions and of transitions."""
    return bits.lengths(learner, data.spec, data.seen, data.test)


def explained(length: CodeLength) -> float | None:
    """Bits a transition."""
    return None if length.explained is None else length.explained.value


def proxies(run: RunConfig, learner: Learner, data: Held, settings: Settings) -> dict[str, float | None]:
    """Proxy -> its value, None where it is undefined or not finite."""
    action, transition = code_lengths(learner, data)
    found = {
        "action bits": explained(action),
        "transition bits": explained(transition),
        "TD error": -td_error(learner, data.test) if isinstance(learner, ActionValue) else None,
        "FQE": fitted_value(learner, data, settings) if settings.fqe_steps else None,
        "rollout error": -rollout_error(cast(Dynamics, learner), data, settings)
        if isinstance(learner, Dynamics)
        else None,
    }
    return {name: value if value is not None and math.isfinite(value) else None for name, value in found.items()}


@torch.no_grad()
def td_error(learner: ActionValue, test: Rows) -> float:
    """Root mean square of r + discount V(s') - Q(s, a), in the units of the data's rewards.

    After a terminated step nothing follows; a truncated one bootstraps. V and Q are the learner's own.
    """

    def errors(at: slice) -> Tensor:
        obs, action, following = (_tensor(part[at]) for part in (test.obs, test.action, test.next_obs))
        alive = 1 - _tensor(test.terminated[at]).float()
        target = _tensor(test.reward[at]) + learner.discount * alive * learner.state_value(following)
        return (target - learner.action_value(obs, action)).double()

    return float(_blocks(len(test.reward), errors).square().mean().sqrt())


def fqe_config(settings: Settings) -> fqe.FQEConfig:
    """A small network whose targets are 95% of the way from zero to the values when the updates end."""
    rate = 3 / (settings.fqe_steps * (1 - fqe.FQEConfig.discount))
    return fqe.FQEConfig(steps=settings.fqe_steps, tau=min(1.0, rate), members=1, hidden=(128, 128))


def fitted_value(learner: Learner, data: Held, settings: Settings) -> float | None:
    """The policy's value at the held-out episodes' first states, by a Q fitted to the training data.

    None for a policy that remembers, plans or asks for a return, and where the fit is not finite.
    """
    policy = learner.policy(seed=child_seed(settings.seed, "fqe", "policy"))
    if not isinstance(policy, Reactive):
        return None
    config = fqe_config(settings)
    sampler = data.training.sampler(batch_size=config.batch_size, seed=child_seed(settings.seed, "fqe", "batches"))
    try:
        fitted = fqe.fit(policy, sampler.next, data.spec, config, seed=child_seed(settings.seed, "fqe"))
    except FloatingPointError:
        return None
    first = torch.stack([episode.obs[0] for episode in data.episodes])
    return float(fitted.values(first).double().mean())


@torch.no_grad()
def rollout_error(model: Dynamics, data: Held, settings: Settings) -> float:
    """Root mean square error of the model's own states, all steps of `horizon` alike, in the data's deviations."""
    episodes = data.episodes
    rng = np.random.default_rng(child_seed(settings.seed, "rollouts"))
    horizon = min(settings.horizon, max(map(len, episodes)))
    windows = diagnosis.windows_of(episodes, horizon=horizon, starts=STARTS, rng=rng)
    unit = np.where(bits.varies(data.spec.delta), data.spec.obs.std, 0.0)
    return float(np.sqrt(diagnosis.compounding(model, windows, unit).mean()))


def _blocks(rows: int, asked: Callable[[slice], Tensor]) -> Tensor:
    return torch.cat([asked(slice(first, first + BLOCK)) for first in range(0, rows, BLOCK)])


def _tensor(rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows))
