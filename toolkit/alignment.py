"""Proof that rows of an imported data set stand where they should, before anything is written.

**Certain**: flags of an end stand on the last step of an episode alone; next observations that the source keeps are the
observations one row on. **Measured**, by least squares on a sample of steps inside episodes, with quadratic features of
few dimensions:

- *action*: what the change of the observation owes to the action of its own step, beyond the observation and the
  actions of the steps before and after. It must not be a tenth of what it owes to one of those: then actions
  are shifted.
- *reward*: the reward of a step follows from its observation, action and next observation. They must not explain the
  reward of a step beside it five times better: then rewards are shifted.
- *jump*: no step moves half of all dimensions ten times farther than nine tenths of the steps do: episodes may have
  been joined there. Where known resets are no larger than that, this proves nothing, and says so.

Each of the three can come out as undecided (constant rewards, say); only what is wrong is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from toolkit.core import Array
from toolkit.formats import Recording
from toolkit.shifts import LEAST, SAMPLE, Statement, of_action, of_reward
from toolkit.store.schema import Schema

FARTHEST = 3  # steps of each episode kept as candidates for a jump
FIRST = 50  # episodes that set the scale by which candidates are chosen


def check_flags(recording: Recording) -> None:
    """Raise ValueError, naming the step, if a flag of an end is set before an episode's last step."""
    for name, values in recording.ends.items():
        if len(early := np.flatnonzero(values[:-1])):
            raise ValueError(
                f"{recording.where}: {name!r} is set at step {early[0]} of {len(values)}, and the episode goes on; "
                "expected it at the last step alone"
            )


def check_next(recording: Recording, observations: Mapping[str, Array]) -> None:
    """Raise ValueError, naming the step, if next observations of the source are not those one row on."""
    for name, following in recording.next_obs.items():
        ours = np.asarray(observations[name])[1:]
        count = min(len(ours), len(following))
        wrong = (np.asarray(following[:count]) != ours[:count]).reshape(count, -1).any(axis=1)
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"{recording.where}: the next observation of step {at} is not the observation of step {at + 1} "
                f"(in {int(wrong.sum())} of {count} steps of {name!r}); rows are shifted or episodes are joined"
            )


@dataclass
class _Sample:
    obs: list[Array] = field(default_factory=list)
    goals: list[Array] = field(default_factory=list)
    following: list[Array] = field(default_factory=list)
    actions: list[Array] = field(default_factory=list)  # (n, 3, A): of the step before, of the step, of the step after
    rewards: list[Array] = field(default_factory=list)  # (n, 3)


class Proof:
    """Collects what the proof needs from episodes, in memory that does not grow with their length."""

    def __init__(self, schema: Schema, episodes: int) -> None:
        self._schema = schema
        self._share = max(3, -(-SAMPLE // max(episodes, 1)))
        self._sample = _Sample()
        self._resets: list[Array] = []  # from the last observation of an episode to the first of the next
        self._last: Array | None = None
        self._far: list[tuple[str, int, Array]] = []
        self._scale: Array | None = None
        self._changes: list[Array] = []

    def add(self, recording: Recording, observations: Mapping[str, Array]) -> None:
        """One episode, its observations by name (T+1, ...). Raises ValueError for what is certain; see the module."""
        check_flags(recording)
        check_next(recording, observations)
        everything = self._schema.flatten(dict(observations)).astype(np.float64)
        obs, goal = np.split(everything, [self._schema.obs_dim - self._schema.goal_dim], axis=1)
        if not obs.shape[1]:
            return
        if self._last is not None:
            self._resets.append(obs[0] - self._last)
        self._last = obs[-1]
        steps = len(recording.reward)
        change = np.diff(obs, axis=0)
        if self._scale is None:
            self._changes.append(change[:: max(1, steps // 200)])
        self._candidates(recording.where, change)
        inside = max(steps - 2, 0)  # the first and the last step have no neighbour on one side
        rows: Array = np.unique(np.linspace(1, max(inside, 1), min(self._share, inside)).astype(int))
        if len(rows):
            actions = self._schema.action.pack(np.asarray(recording.action)).astype(np.float64)
            around = rows[:, None] + [-1, 0, 1]
            self._sample.obs.append(obs[rows])
            self._sample.goals.append(goal[rows])
            self._sample.following.append(obs[rows + 1])
            self._sample.actions.append(actions[around])
            self._sample.rewards.append(np.asarray(recording.reward, np.float64)[around])

    def _candidates(self, where: str, change: Array) -> None:
        if self._scale is None and len(self._changes) >= FIRST:
            self._scale = np.maximum(np.concatenate(self._changes).std(axis=0), 1e-12)
        scale = self._scale if self._scale is not None else np.maximum(change.std(axis=0), 1e-12)
        for at in np.argsort(-np.square(change / scale).sum(axis=1))[:FARTHEST].tolist():
            self._far.append((where, at, change[at]))

    def statements(self) -> list[Statement]:
        """What the measured parts came to, over all episodes added."""
        if not self._sample.obs or (count := sum(map(len, self._sample.obs))) < LEAST:
            few = 0 if not self._sample.obs else count
            why = f"there are {few} steps inside episodes, and {LEAST} are needed"
            return [Statement(part, "undecided", why) for part in ("action", "reward", "jump")]
        obs, goals, following, actions, rewards = (
            np.concatenate(getattr(self._sample, part.name))[: 2 * SAMPLE] for part in fields(self._sample)
        )
        return [
            of_action(obs, following - obs, actions),
            of_reward(np.concatenate([obs, goals], axis=1), actions[:, 1], following, rewards),
            self._jump(following - obs),
        ]

    def _jump(self, change: Array) -> Statement:
        usual = np.quantile(np.abs(change), 0.9, axis=0)
        moving = usual > 0
        if not moving.any():
            return Statement("jump", "undecided", "nothing moves")

        def jumps(steps: Array) -> Array:
            return (np.abs(steps[:, moving]) > 10 * usual[moving]).mean(axis=1) >= 0.5

        found = jumps(np.stack([step for _, _, step in self._far]))
        if found.any():
            where, at, _ = self._far[int(np.flatnonzero(found)[0])]
            return Statement(
                "jump", "shifted", f"{int(found.sum())} steps move as far as a reset does, such as step {at} of {where}"
            )
        seen = jumps(np.stack(self._resets)).mean() if self._resets else 0.0
        if seen < 0.5:
            return Statement("jump", "undecided", "no step stands out, but neither do the resets between episodes")
        return Statement("jump", "aligned", f"no step stands out, where {seen:.0%} of resets between episodes would")
