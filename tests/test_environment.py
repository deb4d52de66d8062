"""Laws of rebuilding environments: what a store says is data, and only what is installed and registered is made."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import RecordVideo, RescaleAction, TimeAwareObservation, TransformReward

from toolkit.core import Episode
from toolkit.envs import pendulum
from toolkit.store import ReplayStore, Schema, StoreError
from toolkit.store.environment import installed, make_env, requirements, spec_of
from toolkit.store.validate import validate


@pytest.fixture
def cartpole():
    env = gym.make("CartPole-v1", max_episode_steps=33, sutton_barto_reward=True)
    yield env
    env.close()


@pytest.fixture
def recorded(cartpole) -> Schema:
    return Schema.from_env(cartpole)


def with_spec(schema: Schema, **change) -> Schema:
    assert schema.environment_spec is not None
    return replace(schema, environment_spec=schema.environment_spec | change)


def test_an_environment_is_rebuilt_from_the_store_as_it_was(tmp_path, recorded):
    ReplayStore.create(tmp_path / "c.zarr", recorded)
    store = ReplayStore.open(tmp_path / "c.zarr")
    assert store.schema == recorded
    env = store.make_env()
    assert env.spec is not None
    assert (env.spec.id, env.spec.max_episode_steps) == ("CartPole-v1", 33)
    assert env.spec.kwargs["sutton_barto_reward"] is True
    first, _ = env.reset(seed=3)
    other = gym.make("CartPole-v1", max_episode_steps=33, sutton_barto_reward=True)
    again, _ = other.reset(seed=3)
    assert np.array_equal(first, again)
    assert env.step(1)[1] == other.step(1)[1] == 0.0  # the reward that only the keyword argument gives
    env.close()
    other.close()


def test_wrappers_of_gymnasium_are_rebuilt_with_their_arguments():
    env = RescaleAction(
        TimeAwareObservation(gym.make("Pendulum-v1"), normalize_time=True), np.float32(-1), np.float32(1)
    )
    schema = Schema.from_env(env)
    again = make_env(schema)
    assert isinstance(again, RescaleAction)
    assert isinstance(again.env, TimeAwareObservation)
    assert again.observation_space == env.observation_space
    assert again.action_space == env.action_space
    assert EnvSpec.from_json(json.dumps(schema.environment_spec)).id == "Pendulum-v1"  # it is Gymnasium's own JSON
    env.close()
    again.close()


def test_arguments_that_json_does_not_hold_are_refused_by_name():
    env = TransformReward(gym.make("Pendulum-v1"), abs)
    with pytest.raises(ValueError, match=r"additional_wrappers.kwargs.func is <built-in"):
        Schema.from_env(env)
    assert Schema.from_env(env, environment_spec=None).environment_spec is None
    env.close()


def test_the_evaluation_environment_may_be_another(cartpole):
    longer = gym.make("CartPole-v1", max_episode_steps=500)
    schema = Schema.from_env(cartpole, longer)
    for evaluation, limit in ((False, 33), (True, 500)):
        env = make_env(schema, evaluation=evaluation)
        assert env.spec is not None
        assert env.spec.max_episode_steps == limit
        env.close()
    longer.close()
    env = make_env(Schema.from_env(cartpole), evaluation=True)  # none recorded: the same
    assert env.spec is not None
    assert env.spec.max_episode_steps == 33
    env.close()


def test_requirements_name_the_packages_and_versions_at_hand(recorded):
    assert f"gymnasium=={gym.__version__}" in recorded.requirements
    assert not [text for text in recorded.requirements if text.startswith(("numpy", "packmule", "pytest"))]
    assert requirements("mujoco.viewer", "gymnasium", "gymnasium") == (
        f"gymnasium=={gym.__version__}",
        f"mujoco=={installed('mujoco')}",
    )
    assert installed("no-such-package==1.0") is None
    with pytest.raises(ValueError, match="'no_such_module' belongs to no installed package"):
        requirements("no_such_module")


@pytest.mark.parametrize("name", ["Blackjack-v1", "Taxi-v4", "FrozenLake-v1", "HalfCheetah-v5", "FetchReach-v4"])
def test_gymnasiums_environments_are_stored_sampled_and_rebuilt(tmp_path, name):
    if name.startswith("Fetch"):
        gym.register_envs(pytest.importorskip("gymnasium_robotics"))
    env = gym.make(name)
    env.action_space.seed(0)
    schema = Schema.from_env(env)
    seen, actions, rewards, over = [env.reset(seed=0)[0]], [], [], False
    while len(actions) < 9 and not over:
        actions.append(env.action_space.sample())
        obs, reward, terminated, truncated, _ = env.step(actions[-1])
        seen, rewards, over = [*seen, obs], [*rewards, reward], terminated or truncated
    env.close()
    with ReplayStore.create(tmp_path / "s.zarr", schema).writer() as writer:
        writer.append(Episode(schema.stacked(seen), np.asarray(actions), np.float32(rewards), bool(terminated)))
    store = ReplayStore.open(tmp_path / "s.zarr")
    assert validate(store) == []
    batch = store.sampler(batch_size=8, seed=0).next()
    steps = {(one.tobytes(), two.tobytes()) for one, two in pairwise(map(schema.flatten, seen))}
    assert {(one.tobytes(), two.tobytes()) for one, two in batch.obs.numpy()} <= steps
    again = store.make_env()
    assert again.observation_space == env.observation_space
    again.close()
    assert ("mujoco" in " ".join(schema.requirements)) == (name in ("HalfCheetah-v5", "FetchReach-v4"))


class Reach(gym.Env):
    """A goal environment of spaces only."""

    box = spaces.Box(-1, 1, (2,))
    observation_space = spaces.Dict({"observation": box, "achieved_goal": box, "desired_goal": box})
    action_space = box


def test_goal_environments_have_their_goal_in_its_role():
    gym.register("Reach-test-v0", Reach)
    try:
        schema = Schema.from_env(gym.make("Reach-test-v0"))
    finally:
        del gym.registry["Reach-test-v0"]
    assert {key.name: key.role for key in schema.observations}["desired_goal"] == "goal"
    assert schema.places("achieved_goal") == (0, 1)
    assert schema.places("desired_goal") == (4, 5)
    with pytest.raises(ValueError, match="no key 'x' is packed"):
        schema.places("x")
    with pytest.raises(StoreError, match="'Reach-test-v0' is not registered"):
        make_env(schema)


def test_a_suites_environment_is_made_by_the_suite():
    suite = pendulum.SUITE
    env = suite.make()
    schema = Schema.from_spaces(
        observation=env.observation_space,
        action=env.action_space,
        environment={"suite": "pendulum"},
        requirements=requirements(*suite.requires),
    )
    env.close()
    for evaluation in (False, True):
        again = make_env(schema, evaluation=evaluation)
        assert isinstance(again, pendulum.PendulumEnv)
        again.close()
    with pytest.raises(StoreError, match=r"made by suite 'os.path'; there are"):
        make_env(replace(schema, environment={"suite": "os.path"}))


def test_requirements_a_suite_recorded_are_told_too(recorded):
    made = replace(recorded, environment={"suite": "pendulum", "requirements": {"mujoco": "0.0.1", "": "2", "../x": 3}})
    with pytest.raises(StoreError, match=rf"mujoco==0.0.1 \(installed: {installed('mujoco')}\).*x==3 .installed: none"):
        make_env(made)  # CartPole's schema, so pendulum is not it


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "antigravity:CartPole-v1"}, "is not registered"),
        ({"id": "NoSuchEnv-v0"}, r"made with .*gymnasium==.* \(installed: "),
        ({"id": ["CartPole-v1"]}, "is not registered"),
        ({"id": "CartPole"}, "is not registered"),
        ({"kwargs": "x"}, "not one of Gymnasium's"),
        ({"kwargs": {"no_such_argument": 1}}, "cannot be made .TypeError"),
        ({"max_episode_steps": "many"}, "not one of Gymnasium's"),
        ({"max_episode_steps": -5}, "cannot be made"),
        ({"additional_wrappers": ["x"]}, "not one of Gymnasium's specs"),
        ({"additional_wrappers": [{"name": "system", "entry_point": "os:system", "kwargs": {}}]}, "'os:system' cannot"),
        ({"id": "Pendulum-v1", "kwargs": {}}, "is not the environment of this store: 'observation' is box"),
    ],
    ids=lambda x: json.dumps(x)[:60] if isinstance(x, dict) else None,
)
def test_what_is_not_installed_or_not_gymnasiums_is_refused(recorded, change, words):
    with pytest.raises(StoreError, match=words):
        make_env(with_spec(recorded, **change))
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("name", ["RecordVideo", "HumanRendering", "JaxToTorch", "vector", "load_env_creator"])
def test_wrappers_that_write_or_convert_are_refused(recorded, tmp_path, name):
    wrapper = {
        "name": name,
        "entry_point": f"gymnasium.wrappers.x:{name}",
        "kwargs": {"video_folder": str(tmp_path / "v")},
    }
    with pytest.raises(StoreError, match="cannot be rebuilt"):
        make_env(with_spec(recorded, additional_wrappers=[wrapper]))
    assert not (tmp_path / "v").exists()


def test_a_wrapper_with_arguments_that_do_not_fit_is_an_error(recorded):
    wrapper = {"name": "TimeLimit", "entry_point": "gymnasium.wrappers.common:TimeLimit", "kwargs": {"nothing": 1}}
    with pytest.raises(StoreError, match="TimeLimit cannot be applied"):
        make_env(with_spec(recorded, additional_wrappers=[wrapper]))


def test_the_entry_point_in_a_store_is_never_used(recorded):
    env = make_env(with_spec(recorded, entry_point="os:system", vector_entry_point="os:system"))
    assert type(env.unwrapped).__name__ == "CartPoleEnv"
    env.close()


def test_wrappers_that_only_watch_are_left_out(tmp_path):
    pytest.importorskip("moviepy")
    env = RecordVideo(gym.make("CartPole-v1", render_mode="rgb_array"), str(tmp_path / "video"))
    assert spec_of(env)["additional_wrappers"] == []
    env.close()


def test_an_environment_that_could_not_be_rebuilt_is_refused_when_the_schema_is_made():
    class Mine(gym.Wrapper):
        pass

    env = Mine(gym.make("CartPole-v1"))
    with pytest.raises(StoreError, match="cannot be rebuilt"):
        Schema.from_env(env)
    env.close()
    bare = gym.make("CartPole-v1").unwrapped
    bare.spec = None
    with pytest.raises(ValueError, match=r"not made by gymnasium.make"):
        Schema.from_env(bare)


def test_a_store_without_an_environment_says_so(make_store):
    store = make_store([3])
    store.schema = replace(store.schema, environment={})
    with pytest.raises(StoreError, match="records no environment"):
        store.make_env()
