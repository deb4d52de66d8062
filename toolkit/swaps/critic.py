"""Monte-Carlo values in the place of a learned critic."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree

from toolkit.core import ActionValue, Array, Policy, Step
from toolkit.envs._simulator import Played
from toolkit.envs._vector import VectorEnvironment
from toolkit.evaluate import executable
from toolkit.stage import Watched, play_out
from toolkit.swaps.scene import Scene, Simulated


class Chosen(Simulated):
    """At every step the best of a few candidate actions: by the learner's own critic, or by their true value.

    Candidates are the policy's own action and those of the training states nearest to the present one, so that no
    critic is asked about actions that the data never show there; discrete choices are all candidates. The `true`
    value of a candidate is what the simulator pays if it is taken and the learner's own policy goes on to the end of
    the episode. Both arms choose among the same kind of candidates: what one gains over the other is what the
    critic's errors cost; what the critic's choice gains over the policy is what was lost in extracting it.
    """

    def __init__(self, scene: Scene, *, true: bool) -> None:
        super().__init__(scene)
        self.true = true

    def __call__(self, policy: Policy, rows: int) -> tuple[Policy, VectorEnvironment]:
        watched, played = self.staged(rows)
        return _Choice(self, policy, watched, played), watched

    def candidates(self, obs: Array, own: Array) -> Array:
        """obs (k, O), the policy's own actions -> packed (k, N, A), the own first; one-hot if discrete."""
        scene = self.scene
        if scene.schema.discrete:
            every = np.eye(scene.schema.action_dim, dtype=np.float32)
            return np.stack([np.roll(every, -int(choice), axis=0) for choice in own])
        return np.concatenate([own[:, None], scene.near(obs, scene.candidates - 1)], axis=1)


class _Choice:
    def __init__(self, swap: Chosen, policy: Policy, watched: Watched, played: Played) -> None:
        self.swap, self.policy, self.watched, self.played = swap, policy, watched, played

    def act(self, step: Step) -> Array:
        own = np.array(self.policy.act(step))
        rows = np.flatnonzero(self.watched.running)
        if len(rows) == 0:
            return own
        obs = step.obs[rows]
        tried = self.swap.candidates(obs, own[rows])
        worth = self.true_value(rows, tried) if self.swap.true else self.critic(obs, tried)
        best = tried[np.arange(len(rows)), worth.argmax(1)]
        own[rows] = best.argmax(-1) if self.swap.scene.schema.discrete else best
        return own

    @torch.no_grad()
    def critic(self, obs: Array, tried: Array) -> Array:
        """The learner's own values (k, N)."""
        learner, count = self.swap.scene.learner, tried.shape[1]
        assert isinstance(learner, ActionValue)
        device = getattr(self.policy, "device", "cpu")
        asked = (np.repeat(obs, count, axis=0), tried.reshape(-1, tried.shape[-1]))
        found = learner.action_value(*(torch.from_numpy(part).to(device) for part in asked))
        return found.cpu().numpy().reshape(tried.shape[:2])

    def true_value(self, rows: Array, tried: Array) -> Array:
        """What the learner's policy gains after each candidate, undiscounted, to the end of the episode (k, N)."""
        schema, count = self.swap.scene.schema, tried.shape[1]

        def act(left: Array, shown: dict[str, Array]) -> Array:
            seen = schema.flatten(shown).astype(np.float32)
            moment = Step(seen, np.zeros(len(seen), np.float32), np.zeros(len(seen), bool))
            return executable(schema, np.asarray(self.policy.act(moment)))

        flat = tried.reshape(len(rows) * count, -1)
        first = executable(schema, flat.argmax(-1) if schema.discrete else flat)
        gained = play_out(self.swap.trial, np.repeat(self.played.states[rows], count, axis=0), first, act)
        return gained.reshape(len(rows), count)


class Nearest:
    """Actions that the data show nearest to a state, by standardised observations; constant numbers do not count."""

    def __init__(self, obs: Array, action: Array) -> None:
        """obs (n, O), packed action (n, A)."""
        std = obs.std(0)
        self.unit = np.where(std > 1e-6 * np.maximum(1.0, np.abs(obs.mean(0))), std, np.inf)
        self.tree, self.action = cKDTree(obs / self.unit), action

    def __call__(self, obs: Array, count: int) -> Array:
        """(k, O) -> (k, count, A); fewer rows in the data than `count` repeat the farthest."""
        found = self.tree.query(obs / self.unit, min(count, len(self.action)))[1].reshape(len(obs), -1)
        return self.action[np.pad(found, ((0, 0), (0, count - found.shape[1])), mode="edge")]
