"""Laws of the evaluation loop: a policy sees what the schema says, and acts as the environment takes it."""

from __future__ import annotations

from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from algos.bc import BCConfig
from toolkit.core import Episode, Step
from toolkit.envs import Suite
from toolkit.evaluate import rollouts
from toolkit.store import ReplayStore, Schema

ACTIONS = {
    "choice": spaces.Discrete(4, start=-1),
    "choices": spaces.MultiDiscrete([2, 3], start=[1, 0]),
    "switches": spaces.MultiBinary(2),
    "grid": spaces.Box(-1, 1, (2, 2)),
}


class Watched(gym.Env):
    """Episode k shows k in every pixel of its camera and t in its state, and lasts 3 + k steps."""

    def __init__(self, action_space: spaces.Space) -> None:
        self.action_space = action_space
        self.observation_space = spaces.Dict(
            {"body": spaces.Dict({"t": spaces.Box(0, 99, (1,))}), "camera": spaces.Box(0, 255, (2, 2, 3), np.uint8)}
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number, self.t = int(options["context"][0]), 0
        return self._look(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        return self._look(), 1.0, self.t == 3 + self.number, False, {"success": True}

    def _look(self):
        return {"body": {"t": np.float32([self.t])}, "camera": np.full((2, 2, 3), self.number, np.uint8)}


class Toy(Suite):
    """Only what `rollouts` asks of a suite."""

    name = "toy"
    context_names = ("number",)
    roles: ClassVar[dict[str, str]] = {}

    def __init__(self, action_space: spaces.Space) -> None:
        self.action_space = action_space

    def make(self) -> gym.Env:
        return Watched(self.action_space)

    def contexts(self, split, n, *, seed):
        raise NotImplementedError

    def expert(self, context, *, rng):
        raise NotImplementedError

    def coordinates(self, obs):
        raise NotImplementedError


class Looking:
    """Acts at random and keeps what it was shown."""

    def __init__(self, schema: Schema) -> None:
        self.schema, self.rng, self.seen = schema, np.random.default_rng(0), []

    def act(self, step: Step) -> np.ndarray:
        self.seen.append(step)
        rows, size = len(step.obs), self.schema.action_dim
        if self.schema.discrete:
            return self.rng.integers(0, size, rows)
        return self.rng.uniform(-1, 1, (rows, size)).astype(np.float32)


@pytest.mark.parametrize("kind", ACTIONS)
def test_policies_see_images_and_their_actions_reach_the_environment(kind):
    suite = Toy(ACTIONS[kind])
    env = suite.make()
    schema = Schema.from_spaces(observation=env.observation_space, action=env.action_space)
    policy = Looking(schema)
    outcomes, _ = rollouts(policy, suite, schema, np.arange(5.0)[:, None], range(5), rows=2)
    assert [outcome.length for outcome in outcomes] == [3, 4, 5, 6, 7]
    for step in policy.seen:
        assert step.obs.shape == (2, 1)
        assert step.images["camera"].shape == (2, 2, 2, 3)
        assert step.images["camera"].dtype == np.uint8
    shown = {int(step.images["camera"][row, 0, 0, 0]) for step in policy.seen for row in range(2)}
    assert shown == {0, 1, 2, 3, 4}
    assert policy.seen[0].images["camera"][1].max() == 1  # kept as it was shown, not overwritten since


@pytest.mark.parametrize("kind", ["choice", "choices", "switches"])
def test_a_learner_of_choices_serves_every_kind_of_choice(tmp_path, kind):
    suite = Toy(ACTIONS[kind])
    schema = Schema.from_spaces(observation=suite.make().observation_space, action=suite.action_space)
    suite.action_space.seed(0)
    rng = np.random.default_rng(0)
    with ReplayStore.create(tmp_path / "s.zarr", schema).writer() as writer:
        for _ in range(3):
            obs = {"body": {"t": rng.normal(size=(9, 1))}, "camera": np.zeros((9, 2, 2, 3), np.uint8)}
            action = np.stack([suite.action_space.sample() for _ in range(8)])
            writer.append(Episode(obs, action, np.zeros(8, np.float32), terminated=True))
    store = ReplayStore.open(tmp_path / "s.zarr")
    learner = BCConfig(hidden=(8,)).build(store.spec, seed=0, device="cpu")
    learner.update(store.sampler(batch_size=16, seed=0).next())
    outcomes, _ = rollouts(learner.policy(seed=0), suite, schema, np.zeros((2, 1)), range(2))
    assert len(outcomes) == 2
