"""Which row actions and rewards belong to, by least squares: the measured parts of `toolkit.alignment`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from toolkit.core import Array

SAMPLE = 20_000  # steps that the measured parts look at
LEAST = 200  # fewer prove nothing
QUADRATIC = 24  # numbers whose products are features too; beyond, only their squares
Outcome = Literal["aligned", "shifted", "undecided"]


@dataclass(frozen=True)
class Statement:
    """What one part of the proof came to."""

    part: str  # action, reward, jump
    outcome: Outcome
    why: str  # with the figures it rests on

    def __str__(self) -> str:
        return f"{self.part}: {self.outcome}, {self.why}"


def of_action(obs: Array, change: Array, actions: Array) -> Statement:
    """What the change (n, O) of observations (n, O) owes to actions (n, 3, A) of the step before, its own, the next."""
    moving = change.std(axis=0) > 1e-9
    if not moving.any() or not (actions.std(axis=(0, 1)) > 1e-9).any():
        return Statement("action", "undecided", "observations or actions do not change")
    target = change[:, moving]
    everything = _unexplained(_features(obs, *(actions[:, k] for k in range(3))), target)
    owed = []
    for offset in range(3):
        without = _features(obs, *(actions[:, k] for k in range(3) if k != offset))
        owed.append(float(np.clip(_unexplained(without, target) - everything, 0, 1).mean()))
    before, own, after = owed
    told = f"the change owes {own:.1%} to the step's action, {before:.1%} to the one before, {after:.1%} to the next"
    if max(before, after) > 0.01 and own < 0.1 * max(before, after):
        return Statement("action", "shifted", told)
    return Statement("action", "aligned" if own > max(0.01, 2 * before, 2 * after) else "undecided", told)


def of_reward(obs: Array, action: Array, following: Array, rewards: Array) -> Statement:
    """Which of the rewards (n, 3), of the step before, its own, the next, follows from steps (n, O), (n, A), (n, O)."""
    if (rewards.std(axis=0) < 1e-12).any():
        return Statement("reward", "undecided", "rewards do not change")
    before, own, after = _unexplained(_features(obs, action, following), rewards).clip(0, 1)
    told = f"a step leaves {own:.1%} of its reward open, {before:.1%} of the one before, {after:.1%} of the next"
    other = min(before, after)
    if own > 0.004 and other < 0.2 * own:
        return Statement("reward", "shifted", told)
    return Statement("reward", "aligned" if own < 0.5 and own < 0.8 * other else "undecided", told)


def _features(*parts: Array) -> Array:
    """Standardised columns, their squares, and their products if they are few; a constant first."""
    raw = np.concatenate(parts, axis=1)
    std = raw.std(axis=0)
    raw = (raw[:, std > 1e-12] - raw[:, std > 1e-12].mean(axis=0)) / std[std > 1e-12]
    ones = np.ones((len(raw), 1))
    if raw.shape[1] > QUADRATIC:
        return np.concatenate([ones, raw, raw**2], axis=1)
    left, right = np.triu_indices(raw.shape[1])
    return np.concatenate([ones, raw, raw[:, left] * raw[:, right]], axis=1)


def _unexplained(features: Array, target: Array) -> Array:
    """Share of each column's variance that least squares leaves on the half of the rows it was not fitted to."""
    fit = np.arange(len(features)) % 2 == 0
    gram = features[fit].T @ features[fit]
    gram[np.diag_indices_from(gram)] += 1e-6 * np.trace(gram) / len(gram)
    weights = np.linalg.solve(gram, features[fit].T @ target[fit])
    left = np.square(target[~fit] - features[~fit] @ weights).mean(axis=0)
    return left / np.maximum(target[~fit].var(axis=0), 1e-300)
