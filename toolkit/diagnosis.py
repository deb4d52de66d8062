"""How good a learned model is: statistics of `toolkit.core.Dynamics` on data it was not trained on.

Pure functions: data, models, policies and randomness are arguments. Letters in shapes: N transitions, S starts, H
steps, O observation numbers, K samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from toolkit.baselines import Transitions
from toolkit.core import Array, Dynamics, Policy, Step

ROWS = 1 << 13  # rows a model is asked about at once
LEVELS = (0.5, 0.9, 0.95)
RESAMPLES = 1000


@dataclass(frozen=True)
class Windows:
    """S windows of H steps; actions are one-hot if discrete."""

    obs: Tensor  # (S, H + 1, O) float32
    action: Tensor  # (S, H, A) float32
    reward: Tensor  # (S, H) float32
    episode: Array  # (S,) int64


def open_loop(model: Dynamics, windows: Windows, *, generator: Generator | None = None) -> tuple[Array, Array]:
    """The model's own states under the recorded actions: observations (S, H, O), rewards (S, H); see `Dynamics`."""
    obs, reached, paid = windows.obs[:, 0], [], []
    for action in windows.action.unbind(1):
        found = model.imagine(obs, action, generator=generator)
        obs = found.obs
        reached.append(obs)
        paid.append(found.reward)
    return torch.stack(reached, 1).numpy(), torch.stack(paid, 1).numpy()


def compounding(model: Dynamics, windows: Windows, unit: Array) -> Array:
    """(S, H) squared error of the expected states, mean over numbers, in units of `unit` (O,); 0 leaves one out."""
    reached, _ = open_loop(model, windows)
    kept = unit > 0
    error = (reached - windows.obs[:, 1:].numpy())[..., kept] / unit[kept]
    return np.square(error.astype(np.float64)).mean(-1)


def root_mean(squares: Array, episode: Array, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Root of the mean over axis 0 of (n, ...), and its 95% interval by resampling episodes (n,)."""
    sums, counts = _by_episode(squares, episode)
    low, high = _interval(lambda w: np.sqrt(np.tensordot(w, sums, 1) / (w @ counts)), len(counts), rng)
    return np.sqrt(squares.mean(0)), low, high


def mean(values: Array, episode: Array, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Mean over axis 0 of (n, ...), and its 95% interval by resampling episodes (n,)."""
    sums, counts = _by_episode(values, episode)
    low, high = _interval(lambda w: np.tensordot(w, sums, 1) / (w @ counts), len(counts), rng)
    return values.mean(0), low, high


def _by_episode(values: Array, episode: Array) -> tuple[Array, Array]:
    _, place = np.unique(episode, return_inverse=True)
    sums = np.zeros((place.max() + 1, *values.shape[1:]))
    np.add.at(sums, place, values)
    return sums, np.bincount(place).astype(np.float64)


def _interval(statistic, episodes: int, rng: np.random.Generator) -> tuple[Array, Array]:  # type: ignore[no-untyped-def]
    if episodes == 1:
        whole = np.asarray(statistic(np.ones(1)))
        return np.full_like(whole, -np.inf), np.full_like(whole, np.inf)
    draws = rng.multinomial(episodes, np.full(episodes, 1 / episodes), RESAMPLES).astype(np.float64)
    low, high = np.quantile([statistic(draw) for draw in draws], [0.025, 0.975], axis=0)
    return low, high


def pit(model: Dynamics, data: Transitions, *, samples: int, generator: Generator, rng: np.random.Generator) -> Array:
    """(N, O + 1) probability integral transforms of what followed, by its rank among samples: uniform if calibrated.

    The last column is the reward's. Ties, and places between two samples, are drawn: a perfect model's are exactly
    uniform at any number of samples.
    """
    truth = torch.from_numpy(data.target.astype(np.float32))
    found = []
    size = _block(samples)
    for at in range(0, len(data), size):
        part = slice(at, at + size)
        obs, action = (each[part].repeat_interleave(samples, 0) for each in (data.obs, data.action))
        drawn = model.imagine(obs, action, generator=generator)
        values = torch.cat([drawn.obs, drawn.reward[:, None]], 1).unflatten(0, (-1, samples))  # (n, K, O + 1)
        below, equal = (each.sum(1).numpy() for each in (values < truth[part, None], values == truth[part, None]))
        found.append((below + rng.random(below.shape) * (equal + 1)) / (samples + 1))
    return np.concatenate(found)


def _block(samples: int) -> int:
    return max(1, ROWS // samples)


def pit_blocks(transitions: int, samples: int) -> int:
    """How often `pit` asks the model."""
    return -(-transitions // _block(samples))


def coverage(transforms: Array, level: float) -> Array:
    """(N, D) bool: whether the central interval of `level` holds what followed."""
    return np.abs(transforms - 0.5) <= level / 2


@dataclass(frozen=True)
class Reliability:
    """Predicted and observed frequencies of ends in bins (n,), and what they come to."""

    predicted: Array
    observed: Array
    low: Array  # Wilson's 95% interval of the observed
    high: Array
    count: Array
    ends: int
    brier: float
    climate: float  # Brier score of always saying the mean rate
    ece: float


def reliability(probability: Array, ended: Array, *, bins: int = 10) -> Reliability:
    """Of predicted probabilities (N,) and what happened (N,) bool. Bins hold equal shares of predicted and real ends.

    Equal widths would put nearly every step of a task that seldom ends into the first bin. The expected calibration
    error is the mean distance of predicted and observed rates, each bin weighing its steps.
    """
    p, y = np.asarray(probability, np.float64), np.asarray(ended, np.float64)
    order = np.argsort(p, kind="stable")
    mass = np.cumsum(p[order] + y[order] + 1e-12)
    group = np.minimum((mass / mass[-1] * bins).astype(int), bins - 1)
    group = group[np.searchsorted(p[order], p[order])]  # equal probabilities stay together, whatever happened
    group = np.unique(group, return_inverse=True)[1]
    count = np.bincount(group).astype(np.float64)
    predicted, observed = (np.bincount(group, values[order]) / count for values in (p, y))
    z = 1.959964
    middle = (observed + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(observed * (1 - observed) / count + z**2 / (4 * count**2))
    return Reliability(
        predicted=predicted,
        observed=observed,
        low=np.minimum(middle - half, observed).clip(0),
        high=np.maximum(middle + half, observed).clip(max=1),
        count=count.astype(int),
        ends=int(y.sum()),
        brier=float(np.square(p - y).mean()),
        climate=float(y.mean() * (1 - y.mean())),
        ece=float((count * np.abs(predicted - observed)).sum() / len(p)),
    )


def end_probability(model: Dynamics, data: Transitions) -> Array:
    """(N,) expected probability that each step ends the episode."""
    parts = zip(data.obs.split(ROWS), data.action.split(ROWS), strict=True)
    return np.concatenate([model.imagine(obs, action).end.numpy() for obs, action in parts])


def imagined_return(
    policy: Policy, model: Dynamics, start: Array, *, steps: int, choices: int = 0, generator: Generator | None = None
) -> Array:
    """(S,) undiscounted sum of rewards of the policy acting inside the model from raw `start` (S, O).

    Each reward counts by the probability of having survived until then. `choices` is the number of discrete actions.
    """
    obs, reward = torch.from_numpy(np.array(start, np.float32)), torch.zeros(len(start))
    alive, total = torch.ones(len(start), dtype=torch.float64), torch.zeros(len(start), dtype=torch.float64)
    for step in range(steps):
        shown = Step(obs.numpy().copy(), reward.numpy().copy(), np.full(len(obs), step == 0))
        action = torch.from_numpy(np.asarray(policy.act(shown)))
        code = torch.nn.functional.one_hot(action.long(), choices).float() if choices else action.float()
        found = model.imagine(obs, code, generator=generator)
        obs, reward = found.obs, found.reward
        total += alive * reward
        alive *= 1 - found.end.double()
    return total.numpy()


def windows_of(episodes: Sequence[Transitions], *, horizon: int, starts: int, rng: np.random.Generator) -> Windows:
    """`starts` windows of `horizon` steps, drawn without replacement among all there are.

    Raises ValueError if no episode is as long.
    """
    room = np.array([max(0, len(episode) - horizon + 1) for episode in episodes])
    if not room.sum():
        longest = max(len(episode) for episode in episodes)
        raise ValueError(f"no episode has {horizon} steps; the longest has {longest}: choose a shorter horizon")
    ends = np.cumsum(room)
    drawn = np.sort(rng.permutation(int(ends[-1]))[:starts])
    which = np.searchsorted(ends, drawn, side="right")
    first = drawn - (ends - room)[which]
    cut = [(episodes[e], slice(t, t + horizon)) for e, t in zip(which.tolist(), first.tolist(), strict=True)]
    return Windows(
        obs=torch.stack([torch.cat([e.obs[at], e.next_obs[at][-1:]]) for e, at in cut]),
        action=torch.stack([e.action[at] for e, at in cut]),
        reward=torch.stack([e.reward[at] for e, at in cut]),
        episode=which,
    )
