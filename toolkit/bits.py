"""How many bits does a learner model, and how well: code lengths on held-out episodes.

Everything continuous is put into bins of the store's resolution, and a model is charged minus log2 of the
probability it gave to the bin that was observed, in raw units. Actions are those executed, so the probability a
model puts past a limit belongs to the limit's bin. Bits explained are the code length of the marginal less that of
the model; the width of the bins cancels in it, as long as they are narrow.

Two tables: actions given the observation, and next observation, reward and end given observation and action. What
never varied in the training data, as a goal within an episode, counts nothing on either side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from toolkit.configure import load_learner, open_data
from toolkit.core import (
    ActionDensity,
    ActionMass,
    Array,
    Exactness,
    Learner,
    Moments,
    Reached,
    Spec,
    TransitionMass,
    child_seed,
)
from toolkit.fqe import opened
from toolkit.given import check_shape
from toolkit.marginal import Bins, Marginal, choice_bits
from toolkit.records import RunConfig
from toolkit.stats import Estimate, student
from toolkit.store import Mixture, ReplayStore
from toolkit.store.spaces import BINS

What = Literal["action", "transition"]
Data = ReplayStore | Mixture
BLOCK = 4096  # transitions asked of a learner at once


@dataclass(frozen=True)
class CodeLength:
    """Bits a transition, on average over held-out transitions; intervals over their episodes."""

    what: What
    exactness: Exactness  # none: the learner has no probabilities, and only the marginal is told
    marginal: Estimate  # without the model: every number by its frequency in the training data
    model: Estimate | None
    explained: Estimate | None  # marginal - model; negative if the model misleads
    persistence: Estimate | None  # of transitions: every change by its frequency, wherever it begins
    episodes: int
    transitions: int

    @property
    def fraction(self) -> float | None:
        """Explained bits over those there were; depends on the resolution."""
        return None if self.explained is None else self.explained.value / self.marginal.value

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        parts = {name: getattr(self, name) for name in ("marginal", "model", "explained", "persistence")}
        told = {k: None if e is None else {"value": e.value, "low": e.low, "high": e.high} for k, e in parts.items()}
        rest = {name: getattr(self, name) for name in ("what", "exactness", "episodes", "transitions")}
        return {**rest, **told, "fraction": self.fraction}


@dataclass(frozen=True)
class Rows:
    """Transitions as arrays: n rows in order of episodes."""

    obs: Array  # (n, O) float32
    next_obs: Array  # (n, O)
    action: Array  # (n, A) float32; one-hot for discrete actions
    reward: Array  # (n,)
    terminated: Array  # (n,) bool
    episode: Array  # (n,) int64


def run_bits(
    folder: str | Path, store: str | Path, *, view: str | None = None, rows: int = 20_000, seed: int = 0
) -> list[CodeLength]:
    """Code lengths of a trained run on the episodes of a store that it was not trained on; see `code_lengths`.

    Raises ValueError if there are no such episodes, or the data are of another shape or suite than the run's.
    """
    run, learner, _ = load_learner(folder, device="cpu")
    torch.set_num_threads(run.threads)
    training, given = opened(run, None, None, None), open_data(store, None, view)
    return code_lengths(learner, training, given, fresh(folder, run, training, given), rows=rows, seed=seed)


def fresh(folder: str | Path, run: RunConfig, training: Data, given: Data) -> Array:
    """Positions (m,) of the episodes of `given` that the run in `folder` was not trained on.

    Raises ValueError if there are none, or the data are of another shape or suite than the run's.
    """
    if len(given) == 0:
        raise ValueError(f"{given.path} holds no episodes; give held-out data of {run.suite or 'the same kind'}")
    suite = given.schema.environment.get("suite", "")
    if suite != run.suite:
        raise ValueError(
            f"{given.path} holds {suite or 'no suite'}, and {folder} was trained on {run.suite or 'none'}: give "
            "held-out data of the same suite"
        )
    check_shape(folder, given.spec, str(given.path))
    known = {bytes(uid) for uid in training.episodes["uid"]}
    found = np.array([i for i, uid in enumerate(given.episodes["uid"]) if bytes(uid) not in known], np.int64)
    if len(found) == 0:
        raise ValueError(
            f"{folder} was trained on every episode of {given.path}; give held-out data: collect with another --seed"
        )
    return found


def code_lengths(
    learner: Learner, training: Data, held_out: Data, chosen: Array, *, rows: int = 20_000, seed: int = 0
) -> list[CodeLength]:
    """Code lengths of actions and of transitions on the `chosen` episodes (m,) of `held_out`.

    At most `rows` transitions are taken, of whole episodes in random order; the marginals are fitted to as many
    as five times that of `training`. A learner without probabilities has exactness "none", and the marginal alone.
    """
    return lengths(learner, training.spec, *sample(training, held_out, chosen, rows=rows, seed=seed))


def sample(training: Data, held_out: Data, chosen: Array, *, rows: int, seed: int) -> tuple[Rows, Rows]:
    """What marginals are fitted to, and what is coded: as `code_lengths` takes them."""
    rng = np.random.default_rng(child_seed(seed, "bits"))
    seen = transitions(training, rng.permutation(len(training)), 5 * rows)
    return seen, transitions(held_out, rng.permutation(chosen), rows)


def lengths(learner: Learner, spec: Spec, seen: Rows, test: Rows) -> list[CodeLength]:
    """Code lengths of actions and of transitions, marginals fitted to `seen`."""
    return [_actions(learner, spec, seen, test), transition_lengths(learner, spec, seen, test)]


def transitions(data: Data, order: Array, most: int) -> Rows:
    """Whole episodes in the given order, until there are `most` transitions."""
    parts: list[tuple[Array, ...]] = []
    total = 0
    for number in order.tolist():
        episode = data.episode(number)
        obs, steps = data.schema.flatten(episode.observations()).astype(np.float32), len(episode)
        action = np.asarray(episode.action)
        if data.spec.discrete:
            action = np.eye(data.spec.action_dim, dtype=np.float32)[action.astype(np.int64)]
        ended = np.zeros(steps, bool)
        ended[-1] = episode.terminated
        flat = np.asarray(action, np.float32).reshape(steps, -1)
        parts.append((obs[:-1], obs[1:], flat, np.asarray(episode.reward), ended, np.full(steps, number)))
        total += steps
        if total >= most:
            break
    return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _actions(learner: Learner, spec: Spec, seen: Rows, test: Rows) -> CodeLength:
    """Actions given observations."""
    if spec.discrete:
        before = choice_bits(seen.action.argmax(1), test.action.argmax(1), spec.action_dim)
        if not isinstance(learner, ActionDensity) or getattr(learner, "exactness", "exact") == "none":
            return told("action", "none", test, before)
        log_mass = blocks(len(before), lambda i: learner.action_log_prob(_tensor(test.obs[i]), _tensor(test.action[i])))
        return told("action", "exact", test, before, log_mass)
    limits = zip(spec.action_resolution.tolist(), spec.action_low.tolist(), spec.action_high.tolist(), strict=True)
    bins = [Bins(*each) if kept else None for each, kept in zip(limits, varies(spec.action), strict=True)]
    before, low, high = binned(bins, seen.action, test.action, seen.episode)
    if not isinstance(learner, ActionMass) or learner.exactness == "none":
        return told("action", "none", test, before)
    log_mass = blocks(len(before), lambda i: learner.action_log_mass(_tensor(test.obs[i]), low[i], high[i]))
    return told("action", learner.exactness, test, before, log_mass)


def transition_lengths(learner: object, spec: Spec, seen: Rows, test: Rows) -> CodeLength:
    """Next observation, reward and end, given observation and action."""
    kept = varies(spec.delta)
    bins = [Bins(width) if keep else None for width, keep in zip(spec.obs_resolution.tolist(), kept, strict=True)]
    reach = float(spec.reward.high[0] - spec.reward.low[0])
    reward = [Bins(reach / BINS) if varies(spec.reward)[0] else None]
    state, low, high = binned(bins, seen.next_obs, test.next_obs, seen.episode)
    paid, paid_low, paid_high = binned(reward, seen.reward[:, None], test.reward[:, None], seen.episode)
    end = choice_bits(seen.terminated.astype(int), test.terminated.astype(int), 2)
    stay = np.zeros(len(state))
    for number, one in enumerate(bins):
        if one is not None:
            moved, now = (one.index(x.next_obs[:, number]) - one.index(x.obs[:, number]) for x in (seen, test))
            stay += Marginal.fit(moved, seen.episode).bits(now)
    before, persistence = state + paid + end, stay + paid + end
    if not isinstance(learner, TransitionMass):
        return told("transition", "none", test, before, persistence=persistence)

    def log_mass(i: slice) -> Tensor:
        known = (_tensor(test.obs[i]), _tensor(test.action[i]), low[i], high[i], paid_low[i, 0], paid_high[i, 0])
        return learner.transition_log_mass(Reached(*known, torch.from_numpy(test.terminated[i])))

    return told("transition", learner.exactness, test, before, blocks(len(before), log_mass), persistence)


def binned(bins: Sequence[Bins | None], seen: Array, test: Array, group: Array) -> tuple[Array, Tensor, Tensor]:
    """Marginal code lengths (n,) of `test` (n, D) by `seen` (m, D) of episodes `group` (m,), and edges (n, D) float64.

    A dimension without bins counts zero bits, and its edges are infinite.
    """
    bits, low, high = np.zeros(len(test)), np.full(test.shape, -np.inf), np.full(test.shape, np.inf)
    for number, one in enumerate(bins):
        if one is not None:
            index = one.index(test[:, number])
            bits += Marginal.fit(one.index(seen[:, number]), group).bits(index)
            low[:, number], high[:, number] = one.edges(index)
    return bits, torch.from_numpy(low), torch.from_numpy(high)


def varies(moments: Moments) -> Array:
    """Which dimensions (D,) were not constant in the training data; the rule of `toolkit.normalize`."""
    return moments.std >= 1e-6 * np.maximum(1.0, np.abs(moments.mean))


@torch.no_grad()
def blocks(rows: int, log_mass: Callable[[slice], Tensor]) -> Array:
    """Code lengths (n,) in bits, from nats of a block of rows at a time."""
    parts = [log_mass(slice(first, first + BLOCK)).double() for first in range(0, rows, BLOCK)]
    return -torch.cat(parts).cpu().numpy() / math.log(2)


def told(
    what: What,
    exactness: Exactness,
    test: Rows,
    before: Array,
    after: Array | None = None,
    persistence: Array | None = None,
) -> CodeLength:
    """Means over transitions of code lengths (n,)."""
    per = [None if bits is None else per_transition(bits, test.episode) for bits in (before, after, persistence)]
    explained = None if after is None else per_transition(before - after, test.episode)
    assert per[0] is not None
    return CodeLength(what, exactness, per[0], per[1], explained, per[2], len(np.unique(test.episode)), len(before))


def per_transition(values: Array, episode: Array, level: float = 0.95) -> Estimate:
    """Mean of (n,) with Student's interval over episodes, which may differ in length (a ratio estimate)."""
    value = float(values.mean())
    _, group = np.unique(episode, return_inverse=True)
    count = int(group.max()) + 1
    if count < 2:
        return Estimate(value, -math.inf, math.inf, level, count)
    off = np.bincount(group, values - value)
    half = student(level, count - 1) * math.sqrt(count / (count - 1) * (off**2).sum()) / len(values)
    return Estimate(value, value - half, value + half, level, count)


def _tensor(rows: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows))
