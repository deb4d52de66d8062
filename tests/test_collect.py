"""The coverage dial, single episodes, and streams that do not depend on who produces them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from toolkit import registry
from toolkit.behaviours import BLOCK, behaviour_name, behaviour_policy
from toolkit.collect import collect
from toolkit.core import Episode
from toolkit.dials import Dials
from toolkit.engines.local import only_one
from toolkit.envs import random_policy
from toolkit.episodes import rollout, stream
from toolkit.store import ReplayStore

PENDULUM = registry.suite("pendulum")
ARGUMENTS = {"episodes": 8, "contexts": 3, "coverage": 0.3, "noise": 0.1, "seed": 4}


@pytest.fixture(params=["pendulum", "pointmaze"])
def suite(request):
    found = registry.suite(request.param)
    for module in found.requires:
        pytest.importorskip(module)
    return found


def equal(left: Episode, right: Episode) -> bool:
    """Bit for bit, columns included."""
    return (
        left.terminated == right.terminated
        and left.columns == right.columns
        and np.array_equal(left.action, right.action)
        and np.array_equal(left.reward, right.reward)
        and left.observations().keys() == right.observations().keys()
        and all(np.array_equal(values, right.observations()[key]) for key, values in left.observations().items())
    )


CONTEXT = PENDULUM.contexts("train", 1, seed=0)[0]
UPRIGHT = {"observation": np.array([1.0, 0.0, 0.0], np.float32)}


def dial(coverage: float, noise: float = 0.0, seed: int = 0, **others):
    dials = Dials(coverage=coverage, noise=noise, **others)
    return behaviour_policy(PENDULUM, CONTEXT, dials, rng=np.random.default_rng(seed))


def look(seed: int = 0):
    """Observations of pendulums in all positions."""
    for theta in np.random.default_rng(seed).uniform(-np.pi, np.pi, 2000):
        yield {"observation": np.array([np.cos(theta), np.sin(theta), theta], np.float32)}


@pytest.mark.parametrize("coverage", [0.0, 0.1, 0.3, 0.7, 1.0])
def test_coverage_is_the_share_of_random_steps_from_the_first_step_on(coverage):
    turns = []
    for seed in range(1000):
        behaviour = dial(coverage, seed=seed)
        for _ in range(40):
            behaviour(UPRIGHT)
            turns.append(behaviour.acting == "random")
    shares = np.reshape(turns, (1000, 40))
    assert shares.mean() == pytest.approx(coverage, abs=0.03)
    assert shares[:, 0].mean() == pytest.approx(coverage, abs=0.06)
    assert shares[:, -1].mean() == pytest.approx(coverage, abs=0.06)


def test_blocks_are_ten_steps_long_in_the_mean():
    """Who acts is drawn anew for each block, so at coverage 1/2 it changes every second block."""
    behaviour = dial(0.5)
    turns = []
    for _ in range(40_000):
        behaviour(UPRIGHT)
        turns.append(behaviour.acting)
    changes = sum(a != b for a, b in pairwise(turns))
    assert len(turns) / changes == pytest.approx(2 * BLOCK, rel=0.1)


def test_coverage_zero_without_noise_is_the_expert_and_coverage_one_never_asks_it():
    pure, wild = dial(0.0), dial(1.0, noise=0.5)
    expert = PENDULUM.expert(CONTEXT, rng=np.random.default_rng(0))
    actions = []
    for obs in look():
        np.testing.assert_array_equal(pure(obs), expert(obs))
        actions.append(wild(obs))
        assert wild.acting == "random"
    assert (pure.name, wild.name) == ("expert", "random")
    free = random_policy(PENDULUM.action_space, rng=np.random.default_rng(1))
    both = np.sort(np.concatenate(actions)), np.sort(np.concatenate([free({}) for _ in actions]))
    assert np.abs(both[0] - both[1]).max() < 0.25, "the two samples have other distributions"


def test_noise_has_the_declared_spread_and_stays_inside_the_limits():
    noisy = dial(0.0, noise=0.1)
    expert = PENDULUM.expert(CONTEXT, rng=np.random.default_rng(0))
    pairs = np.array([(noisy(obs)[0], expert(obs)[0]) for obs in look()])
    limit = float(PENDULUM.action_space.high[0])
    assert np.abs(pairs[:, 0]).max() <= limit
    inside = np.abs(pairs[:, 1]) < 0.5 * limit
    assert inside.sum() > 50
    assert np.std(pairs[inside, 0] - pairs[inside, 1]) == pytest.approx(0.1 * limit, rel=0.25)


def test_behaviour_names_tell_coverage_and_noise():
    names = [
        behaviour_name(Dials(coverage=c, noise=n))
        for c, n in ((0, 0), (1, 0), (1, 0.1), (0.3, 0), (0.3, 0.1), (0, 0.1))
    ]
    assert names == ["expert", "random", "random", "mixed-0.30", "mixed-0.30-noise-0.10", "expert-noise-0.10"]


def test_a_rollout_keeps_every_observation_and_says_where_it_came_from(suite):
    env, context = suite.make(), suite.contexts("interpolated", 1, seed=2)[0]
    expert = behaviour_policy(suite, context, Dials(coverage=0.0), rng=np.random.default_rng(0))
    episode = rollout(suite, env, context, expert, env_seed=9)
    first, _ = env.reset(seed=9, options={"context": context})
    assert set(episode.observations()) == set(suite.roles)
    for key, values in episode.observations().items():
        assert values.dtype == np.float32
        assert values.shape == (len(episode) + 1, *env.observation_space[key].shape)
        np.testing.assert_array_equal(values[0], first[key])
    assert episode.action.shape == (len(episode), *env.action_space.shape)
    assert episode.action.dtype == episode.reward.dtype == np.float32
    assert episode.terminated == (suite.name == "pointmaze")
    assert episode.terminated or len(episode) == suite.max_steps
    assert episode.columns == {
        "behaviour": "expert",
        "context": context.tolist(),
        "task": suite.name,
        "seed": 9,
        "success": True,
    }
    for t, action in enumerate(episode.action):
        obs, reward, *_ = env.step(action)
        assert np.float32(reward) == episode.reward[t]
        for key, values in episode.observations().items():
            np.testing.assert_array_equal(values[t + 1], obs[key])


def test_a_rollout_cut_by_the_time_limit_is_not_terminated():
    pytest.importorskip("gymnasium_robotics")
    played = stream("pointmaze", episodes=3, contexts=3, coverage=1.0, noise=0.0, seed=0)
    cut = [episode for episode in played if len(episode) == 300]
    assert cut
    assert not any(episode.terminated or episode.columns["success"] for episode in cut)


def test_a_stream_does_not_depend_on_how_it_is_split_up(suite):
    whole = list(stream(suite.name, **ARGUMENTS))
    parts = [*stream(suite.name, **ARGUMENTS, start=5), *stream(suite.name, **ARGUMENTS, stop=5)]
    assert len(whole) == 8
    assert all(equal(a, b) for a, b in zip(whole, [*parts[3:], *parts[:3]], strict=True))
    longer = stream(suite.name, **ARGUMENTS | {"episodes": 100}, start=7, stop=8)
    assert equal(whole[7], next(longer))
    assert len({episode.columns["seed"] for episode in whole}) == 8


def test_a_stream_cycles_through_the_first_contexts_of_its_split():
    due = PENDULUM.contexts("extrapolated", 3, seed=4).tolist()
    played = stream("pendulum", **ARGUMENTS, split="extrapolated")
    assert [episode.columns["context"] for episode in played] == [due[i % 3] for i in range(8)]


def test_more_coverage_gives_lower_returns():
    means = []
    for coverage in (0.0, 0.3, 1.0):
        played = stream("pendulum", **ARGUMENTS | {"episodes": 20, "contexts": 20, "coverage": coverage})
        means.append(np.mean([episode.reward.sum() for episode in played]))
    assert means[0] > means[1] + 50
    assert means[1] > means[2] + 50


def test_another_seed_gives_another_stream():
    one, other = (next(stream("pendulum", **ARGUMENTS | {"seed": seed})) for seed in (4, 5))
    assert not equal(one, other)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"episodes": 0}, "episodes must be at least 1, got 0"),
        ({"contexts": 0}, "contexts must be at least 1, got 0"),
        ({"coverage": 1.5}, r"coverage must lie in \[0, 1\], got 1.5"),
        ({"coverage": float("nan")}, r"coverage must lie in \[0, 1\], got nan"),
        ({"noise": -0.1}, "noise must be finite and at least 0, got -0.1"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"start": 5, "stop": 4}, "start 5 and stop 4 do not fit"),
        ({"stop": 9}, "expected 0 <= start <= stop <= 8"),
        ({"split": "test"}, "unknown split 'test'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_the_call(changed, complaint):
    with pytest.raises(ValueError, match=complaint):
        stream("pendulum", **ARGUMENTS | changed)


def test_an_unknown_suite_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'pendulum'"):
        stream("pendulm", **ARGUMENTS)


def test_an_interrupted_collection_commits_and_continues_to_the_same_episodes(tmp_path):
    def interrupt(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    arguments = {"episodes": 6, "contexts": 3, "coverage": 0.3, "seed": 4}
    with pytest.raises(KeyboardInterrupt):
        collect("pendulum", out=tmp_path / "parts", progress=interrupt, **arguments)
    assert len(ReplayStore.open(tmp_path / "parts")) == 3
    parts, whole = (collect("pendulum", out=tmp_path / name, **arguments) for name in ("parts", "whole"))
    assert (parts.episodes["uid"] == whole.episodes["uid"]).all()


def test_two_processes_cannot_collect_into_one_store(tmp_path):
    arguments = {"out": tmp_path / "s", "contexts": 3}
    collect("pendulum", episodes=2, **arguments)
    with only_one(tmp_path / "s"):
        assert len(collect("pendulum", episodes=2, **arguments)) == 2, "a finished one needs no lock"
        with pytest.raises(BlockingIOError, match="another process"):
            collect("pendulum", episodes=3, **arguments)
    assert len(ReplayStore.open(tmp_path / "s")) == 2


def test_contexts_that_no_episode_reaches_cost_nothing():
    (episode,) = stream("pendulum", **ARGUMENTS | {"episodes": 1, "contexts": 10**26})
    assert episode.columns["context"] == PENDULUM.contexts("train", 1, seed=4)[0].tolist()
