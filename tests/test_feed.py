"""Laws of what a learner is given: the episodes, fields and goals it asked for, or clear words that there are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toolkit import feed, train
from toolkit.collect import collect
from toolkit.configure import configure, load_learner
from toolkit.core import Needs
from toolkit.records import load


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("feed") / "p.zarr"
    return collect("pendulum", out=path, episodes=10, contexts=4, coverage=0.5, seed=0)


@pytest.fixture(scope="module")
def maze(tmp_path_factory):
    path = tmp_path_factory.mktemp("feed") / "m.zarr"
    return collect("pointmaze", out=path, episodes=6, contexts=3, coverage=0.3, seed=0)


def test_the_top_fraction_is_the_episodes_of_highest_return(store):
    best = feed.training_data(store, Needs(top_fraction=0.3))
    assert sorted(best.episodes["return"]) == sorted(store.episodes["return"])[-3:]
    assert best.spec.returns.low > store.spec.returns.low
    assert len(feed.training_data(store, Needs(top_fraction=1e-9))) == 1
    assert feed.training_data(store, Needs()) is store


def test_a_filtered_learner_sees_only_those_episodes_and_their_statistics(store, tmp_path):
    config = configure("filtered-bc", store=store.path, steps=3, episodes=1, options={"top_fraction": 0.2})
    folder = train.run(config, tmp_path)
    _, learner, _ = load_learner(folder)
    best = feed.training_data(store, Needs(top_fraction=0.2))
    np.testing.assert_array_equal(learner.observe.mean, best.spec.obs.mean)
    assert load(folder)[0].behaviour == store.episodes["return"].mean()  # what it is compared with is all the data


def test_batches_hold_what_was_asked_for(store):
    asked = Needs(next_action=True, n_step=3, discount=0.9)
    batch = feed.sampler(store, asked, batch_size=32, seed=0).next()
    assert batch.next_action is not None
    powers = [0.9, 0.9**2, 0.9**3]
    assert np.isclose(batch.discount.numpy()[..., None], powers).any(-1).all()
    batch = feed.sampler(store, Needs(window=4, returns_to_go=True, discount=1.0), batch_size=32, seed=0).next()
    inside = batch.valid[:, 1]
    change = batch.return_to_go[:, 0] - batch.return_to_go[:, 1] - batch.reward[:, 0]
    np.testing.assert_allclose(change[inside], 0, atol=1e-2)


@pytest.mark.parametrize("learner", ["filtered-bc", "mixture-bc", "return-bc", "td3bc", "rebrac", "awac", "fql", "dt"])
def test_learners_that_ask_for_more_train_and_act(store, tmp_path, learner):
    options = {"width": 8, "layers": 1} if learner == "dt" else {"hidden": (8,)}
    config = configure(learner, store=store.path, steps=4, episodes=1, batch_size=16, options=options)
    assert len(load(train.run(config, tmp_path))) == 2


def test_goal_conditioned_cloning_is_shown_goals_its_episode_reached(maze, tmp_path):
    options = {"hidden": (8,), "achieved": (0, 1)}
    config = configure("goal-bc", store=maze.path, steps=4, episodes=1, batch_size=16, options=options)
    assert len(load(train.run(config, tmp_path))) == 2
    asked = Needs(goal=True, hindsight=1.0, achieved=(0, 1))
    batch = feed.sampler(maze, asked, batch_size=64, seed=0).next()
    for position, goal in zip(batch.episode.tolist(), batch.goal[:, 0], strict=True):
        reached = maze.schema.flatten({k: v for k, v in maze.episode(position).observations().items()})[:, :2]
        assert (np.abs(reached - goal.numpy()).max(1) < 1e-6).any()
    assert (batch.reward == 0).all()


def test_goals_that_are_not_there_are_asked_for_before_anything_is_written(store, maze, tmp_path):
    with pytest.raises(ValueError, match="needs goals and the data have none"):
        configure("goal-bc", store=store.path, steps=1)
    with pytest.raises(ValueError, match="expected 2 numbers from 0 to 3"):
        configure("goal-bc", store=maze.path, steps=1)


def test_n_step_learners_bootstrap_from_the_discounted_state_n_steps_on(store):
    """One n-step update equals the update on the same numbers written out by hand."""
    from algos.td3bc import TD3BCConfig

    config = TD3BCConfig(hidden=(8,), n_step=5, noise=0.0)
    learner = config.build(store.spec, seed=0, device="cpu")
    batch = feed.sampler(store, config.needs, batch_size=64, seed=0).next()
    with torch.no_grad():
        s, next_s = learner.observe(batch.obs).unbind(1)
        next_a = learner.actor_target(next_s).tanh()
        next_q = learner.targets(torch.cat([next_s, next_a], -1)).amin(0).squeeze(-1)
        target = batch.reward[:, 0] + batch.discount[:, 0] * ~batch.terminated[:, 0] * next_q
        q = learner.critics(torch.cat([s, learner.scale(batch.action[:, 0])], -1)).squeeze(-1)
    due = (q - target).square().mean(1).sum()
    np.testing.assert_allclose(learner.update(batch)["critic_loss"], due, rtol=1e-5)
    with pytest.raises(ValueError, match="no discount"):
        learner.update(feed.sampler(store, Needs(), batch_size=8, seed=0).next())
