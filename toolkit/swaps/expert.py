"""The scripted expert's actions in the place of the learner's: on some steps, and on all states."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from toolkit.core import Array, Policy, Step, child_seed
from toolkit.envs import Behaviour
from toolkit.envs._simulator import Played
from toolkit.envs._vector import VectorEnvironment
from toolkit.evaluate import executable
from toolkit.records import Record
from toolkit.stage import Watched, one, play_out
from toolkit.store.schema import Schema
from toolkit.swaps.scene import Plain, Scene, Simulated

LOOKS = 200  # moments of an episode at which a deviation is tried, about
BRANCHES = 512  # played out together


class Labelled(Plain):
    """Nothing is swapped, but the expert says at every state that the learner visits what it would do there."""

    def __call__(self, policy: Policy, rows: int) -> tuple[Policy, VectorEnvironment]:
        watched = Watched(self.scene.suite.batch(rows))
        return _Labelled(self, policy, watched), watched


class _Labelled:
    def __init__(self, swap: Plain, policy: Policy, watched: Watched) -> None:
        self.policy, self.watched, self.experts = policy, watched, _Experts(swap.scene, watched)
        self.errors = swap.errors

    def act(self, step: Step) -> Array:
        actions = np.asarray(self.policy.act(step))
        for row in np.flatnonzero(self.watched.running).tolist():
            self.experts.compare(row, actions[row], self.errors)
        return actions


class Corrected(Plain):
    """The expert's action instead of the learner's on a random share of steps, drawn alike for every learner.

    The steps of a smaller share are among those of a larger one. A learner that remembers sees where it was led, and
    believes in its own action. Share 1 is the expert.
    """

    def __init__(self, scene: Scene, share: float) -> None:
        super().__init__(scene)
        self.share = share

    def __call__(self, policy: Policy, rows: int) -> tuple[Policy, VectorEnvironment]:
        watched = Watched(self.scene.suite.batch(rows))
        return _CorrectedPolicy(self, policy, watched), watched


class _Experts:
    """The scripted expert of every row's present episode."""

    def __init__(self, scene: Scene, watched: Watched) -> None:
        self.scene, self.watched = scene, watched
        self.of: dict[int, tuple[int, Behaviour]] = {}  # row -> its episode, and who acts there

    def expert(self, row: int) -> Behaviour:
        episode = int(self.watched.episode[row])
        if row not in self.of or self.of[row][0] != episode:
            rng = np.random.default_rng(int(self.watched.seed[row]))
            self.of[row] = (episode, self.scene.suite.expert(self.watched.context[row], rng=rng))
        return self.of[row][1]

    def action(self, row: int) -> Array:
        """As a policy gives it: (A,) float32, or the number of a choice. Ask once a step: an expert may remember."""
        return as_policy(self.scene.schema, self.expert(row)(self.watched.obs[row]))

    def compare(self, row: int, action: Array, errors: dict[int, list[float]]) -> Array:
        """The expert's action in a row; how far the learner's `action` is from it is added to the episode's errors."""
        own = self.action(row)
        errors.setdefault(int(self.watched.episode[row]), []).append(action_error(self.scene.schema, action, own))
        return own


def action_error(schema: Schema, action: Array, own: Array) -> float:
    """Root mean square over action numbers, in half ranges (2: from one limit to the other); of choices 0 or 1."""
    if schema.discrete:
        return float(action != own)
    ends = zip(schema.action.low, schema.action.high, strict=True)
    half = np.array([1.0 if low is None or high is None else (high - low) / 2 for low, high in ends])
    return float(np.sqrt(np.mean(np.square((action - own) / np.where(half > 0, half, 1.0)))))


def as_policy(schema: Schema, action: Array) -> Array:
    """An environment's action as a policy gives it."""
    packed = schema.action.pack(np.asarray(action))
    return packed.argmax(-1) if schema.discrete else packed


class _CorrectedPolicy:
    def __init__(self, swap: Corrected, policy: Policy, watched: Watched) -> None:
        self.swap, self.policy, self.watched = swap, policy, watched
        self.experts = _Experts(swap.scene, watched)
        self.drawn: dict[int, Array] = {}  # environment seed -> a number in [0, 1) for each step

    def act(self, step: Step) -> Array:
        schema, steps = self.swap.scene.schema, self.swap.scene.suite.max_steps
        if self.swap.share < 1:
            actions = np.array(self.policy.act(step))
        elif schema.discrete:
            actions = np.zeros(len(step.obs), np.int64)
        else:
            actions = np.zeros((len(step.obs), schema.action_dim), np.float32)
        for row in np.flatnonzero(self.watched.running).tolist():
            seed = int(self.watched.seed[row])
            if seed not in self.drawn:
                rng = np.random.default_rng(child_seed(self.swap.scene.seed, "corrected", seed))
                self.drawn[seed] = rng.random(steps)
            if self.swap.share < 1:  # also where the expert's is not taken: it may remember
                own = self.experts.compare(row, actions[row], self.swap.errors)
            else:
                own = self.experts.action(row)
            if self.drawn[seed][self.watched.steps[row]] < self.swap.share:
                actions[row] = own
        return actions


class ExpertStates(Simulated):
    """The score if the learner's actions cost, at the states it visits, what they cost at the expert's.

    The expert acts, the learner is asked. At state s_t of the expert's episode, the learner's action a costs
    V(s_t) - Q(s_t, a), V and Q being what the expert gains from there: the simulator takes a, then lets the expert
    finish. By the performance difference lemma (Kakade and Langford, 2002) the learner's whole loss is the sum of the
    same costs over the states that it visits itself. So: expert's return less the costs at the expert's states; what
    is missing from there to the expert is due to the choice of actions, and what the learner lies below it is due to
    drifting where its actions cost more (the compounding of arXiv:1011.0686). Where the expert makes good any single
    mistake, as when it balances a pole, one action costs nothing and all loss is of this second kind, however bad the
    learner: then compare the action errors, at its own states and at the expert's.

    Episodes of more than LOOKS steps are looked at every few steps, and the costs multiplied.
    """

    def __call__(self, policy: Policy, rows: int) -> tuple[Policy, VectorEnvironment]:
        watched, played = self.staged(rows)
        self.every = max(1, self.scene.suite.max_steps // LOOKS)
        self.shadow = _Shadowed(self, policy, watched, played)
        return self.shadow, watched

    def settle(self, records: Sequence[Record]) -> list[Record]:
        self.shadow.finish()
        returns = np.array([record.episode_return for record in records])
        costs = np.zeros(len(returns))
        np.add.at(costs, np.array(self.shadow.episode, int), returns[self.shadow.episode] - self.shadow.deviated)
        less = [
            replace(r, episode_return=r.episode_return - self.every * float(c))
            for r, c in zip(records, costs, strict=True)
        ]
        return super().settle(less)


class _Shadowed:
    """Acts as the expert, and plays out what the learner would have done at each look."""

    def __init__(self, swap: ExpertStates, policy: Policy, watched: Watched, played: Played) -> None:
        self.swap, self.policy, self.watched, self.played = swap, policy, watched, played
        self.experts = _Experts(swap.scene, watched)
        self.episode: list[int] = []  # of each deviation
        self.deviated: list[float] = []  # the whole episode's return with it
        self.waiting: list[tuple[Array, Array, Behaviour, float]] = []  # state, action, expert, gained before

    def act(self, step: Step) -> Array:
        asked = np.asarray(self.policy.act(step))
        actions = asked.copy()
        for row in np.flatnonzero(self.watched.running).tolist():
            expert, moment = self.experts.expert(row), int(self.watched.steps[row])
            offset = int(self.watched.seed[row]) % self.swap.every
            actions[row] = self.experts.compare(row, asked[row], self.swap.errors)
            if moment % self.swap.every == offset:
                self.episode.append(int(self.watched.episode[row]))
                taken = executable(self.swap.scene.schema, asked[row : row + 1])[0]
                state, gained = self.played.states[row].copy(), float(self.watched.gained[row])
                self.waiting.append((state, taken, copy.deepcopy(expert), gained))
        if len(self.waiting) >= BRANCHES:
            self.finish()
        return actions

    def finish(self) -> None:
        """Play out those that wait."""
        if not self.waiting:
            return
        states, taken, experts, gained = zip(*self.waiting, strict=True)
        self.waiting = []

        def act(left: Array, shown: dict[str, Array]) -> Array:
            return np.stack([np.asarray(experts[i](one(shown, k))) for k, i in enumerate(left.tolist())])

        rest = play_out(self.swap.trial, np.stack(states), np.stack(taken), act)
        self.deviated += (np.array(gained) + rest).tolist()
