"""Environments that are watched while a policy acts in them: where each row stands, and since when.

Letters in shapes: N rows, k of them named, C context numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from toolkit.core import Array
from toolkit.envs._simulator import Simulator
from toolkit.envs._vector import Moves, VectorEnvironment

Act = Callable[[Array, Any], Array]
"""(which of the branches still run (k,), what they show, key -> (k, ...)) -> actions as environments take them."""


class Watched:
    """A vector environment that remembers what its rows show, and tells `seen` of every moment.

    Episodes are numbered as they start. `seen(rows, episodes, obs)` is called after each reset and step with the named
    rows' episodes (k,) and what they show, key -> (k, ...).
    """

    def __init__(
        self, envs: VectorEnvironment, *, seen: Callable[[Array, Array, dict[str, Any]], None] | None = None
    ) -> None:
        self.envs, self.rows, self.seen = envs, envs.rows, seen
        self.started = 0
        self.episode = np.full(self.rows, -1)
        self.running = np.zeros(self.rows, bool)
        self.steps = np.zeros(self.rows, int)
        self.gained = np.zeros(self.rows)  # rewards of the episode so far
        self.context: list[Array] = [np.zeros(0)] * self.rows
        self.seed = np.zeros(self.rows, np.int64)
        self.obs: list[Any] = [None] * self.rows  # what each row shows, as one environment does

    def reset(self, rows: Array, contexts: Array, seeds: Sequence[int]) -> dict[str, Array]:
        shown = self.envs.reset(rows, contexts, seeds)
        self.episode[rows] = np.arange(self.started, self.started + len(rows))
        self.started += len(rows)
        self.running[rows], self.steps[rows], self.gained[rows], self.seed[rows] = True, 0, 0.0, seeds
        for row, context in zip(rows.tolist(), contexts, strict=True):
            self.context[row] = context
        self._show(rows, shown)
        return shown

    def step(self, rows: Array, actions: Array) -> Moves:
        moves = self.envs.step(rows, actions)
        self.steps[rows] += 1
        self.gained[rows] += moves.reward
        self.running[rows[moves.over]] = False
        self._show(rows, moves.obs)
        return moves

    def close(self) -> None:
        self.envs.close()

    def _show(self, rows: Array, shown: dict[str, Any]) -> None:
        for i, row in enumerate(rows.tolist()):
            self.obs[row] = one(shown, i)
        if self.seen is not None:
            self.seen(rows, self.episode[rows], shown)


def one(shown: Any, row: int) -> Any:
    """What one of k environments shows, of dicts of any depth whose arrays begin with k."""
    if isinstance(shown, dict):
        return {key: one(part, row) for key, part in shown.items()}
    return shown[row]


def some(shown: Any, rows: Array) -> Any:
    """What some of k environments show, likewise."""
    if isinstance(shown, dict):
        return {key: some(part, rows) for key, part in shown.items()}
    return shown[rows]


def play_out(simulator: Simulator, states: Array, actions: Array, act: Act) -> Array:
    """Rewards (k,) until the episodes end, from states (k, S), with `actions` first and then as `act` says."""
    states, moves = simulator.step(states, actions)
    total, left = moves.reward.astype(np.float64), np.flatnonzero(~moves.over)
    states, shown = states[left], some(moves.obs, ~moves.over)
    while len(left):
        states, moves = simulator.step(states, act(left, shown))
        total[left] += moves.reward
        go = ~moves.over
        left, states, shown = left[go], states[go], some(moves.obs, go)
    return total
