"""Noisy linear systems whose entropy is known: what a model of them cannot beat, and how near it comes."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch

from toolkit.core import Batch, Moments, Spec

System = Literal["independent", "correlated", "bimodal"]
STEPS, NOISE = 100, 0.05
CORRELATION, JUMP = 0.95, 0.3
ONE = 0.5 * math.log(2 * math.pi * math.e) + math.log(NOISE)  # nats of one number's noise
ENTROPY = {  # of both observation numbers and the reward, nats a transition
    "independent": 3 * ONE,
    "correlated": 3 * ONE + 0.5 * math.log(1 - CORRELATION**2),
    "bimodal": 3 * ONE + math.log(2),  # the jumps lie six standard deviations apart
}
GAUSSIAN = {  # the least code length of independent Gaussians
    "independent": 3 * ONE,
    "correlated": 3 * ONE,
    "bimodal": 3 * ONE + math.log(1 + (JUMP / NOISE) ** 2),
}


def end_probability(state: np.ndarray) -> np.ndarray:
    """Of states (n, 2): (n,)."""
    return 1 / (1 + np.exp(-3 * (state[:, 0] - 1)))


def known_system(system: System, *, episodes: int, seed: int, ends: bool = False) -> tuple[Spec, Batch]:
    """Every transition of x' = A x + B u + noise as one batch, and its Spec; the reward is linear and noisy too.

    "correlated": both numbers' noise. "bimodal": both jump by JUMP, in opposite directions, one way or the other.
    With `ends`, steps terminate at random, as `end_probability` says.
    """
    rng = np.random.default_rng(seed)
    count = episodes * STEPS
    state, action = rng.normal(size=(count, 2)), rng.uniform(-1, 1, (count, 1))
    noise = rng.normal(size=(count, 2))
    if system == "correlated":
        noise[:, 1] = CORRELATION * noise[:, 0] + math.sqrt(1 - CORRELATION**2) * noise[:, 1]
    noise *= NOISE
    if system == "bimodal":
        noise += JUMP * rng.choice([-1, 1], (count, 1)) * np.array([1, -1])
    later = state @ np.array([[0.9, -0.1], [0.2, 0.8]]) + action @ np.array([[0.0, 0.3]]) + noise
    reward = -0.5 * state[:, 0] + 0.2 * action[:, 0] + NOISE * rng.normal(size=count)
    terminated = (rng.random(count) < end_probability(state)) & ends
    state, action, later, reward = (x.astype(np.float32) for x in (state, action, later, reward))
    spec = Spec(
        obs_dim=2,
        action_dim=1,
        discrete=False,
        goal_dim=0,
        action_low=np.array([-1], np.float32),
        action_high=np.array([1], np.float32),
        horizon=STEPS,
        episodes=episodes,
        transitions=count,
        obs=Moments.of(state),
        delta=Moments.of(later - state),
        action=Moments.of(action),
        reward=Moments.of(reward[:, None]),
        returns=Moments.of(reward.reshape(episodes, STEPS).sum(1, keepdims=True)),
        obs_resolution=np.full(2, 1e-3, np.float32),
        action_resolution=np.full(1, 1e-3, np.float32),
    )
    batch = Batch(
        obs=torch.from_numpy(np.stack([state, later], 1)),
        action=torch.from_numpy(action)[:, None],
        reward=torch.from_numpy(reward)[:, None],
        terminated=torch.from_numpy(terminated)[:, None],
        valid=torch.ones(count, 1, dtype=torch.bool),
        episode=torch.from_numpy(np.repeat(np.arange(episodes), STEPS)),
    )
    return spec, batch


def part(batch: Batch, rows: np.ndarray) -> Batch:
    """The windows at `rows`."""
    at = torch.from_numpy(rows)
    names = ("obs", "action", "reward", "terminated", "valid", "episode")
    return Batch(**{name: getattr(batch, name)[at] for name in names})
