"""Laws of the sampler's options: each is compared with a slow, plain computation from the episodes themselves."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from conftest import assert_same_batches
from gymnasium import spaces

from toolkit.core import Batch, Episode
from toolkit.sampling import Relabel, stacked_spec
from toolkit.sampling.index import returns_to_go
from toolkit.store import ReplayStore, Schema

LENGTHS = [5, 1, 30, 7, 64, 2]
GAMMA = 0.9


def position(batch):
    """Episode number, step and steps left of each window's first row (B,), as counted by the fixture's episodes."""
    episode = batch.episode.numpy()
    step = batch.obs[:, 0, 1].long().numpy()
    return episode, step, np.array(LENGTHS)[episode] - step


def action_at(step):
    return (step % 7 / 7).astype(np.float32)


@pytest.mark.parametrize("window", [1, 6])
def test_next_action_is_the_following_steps_and_absent_at_every_end(make_store, window):
    batch = make_store(LENGTHS).sampler(window=window, batch_size=400, seed=0, next_action=True).next()
    _, step, left = position(batch)
    steps = np.arange(window)
    has = steps + 1 < left[:, None]
    assert np.array_equal(batch.next_valid.numpy(), has)
    assert np.allclose(batch.next_action[..., 0], np.where(has, action_at(step[:, None] + steps + 1), 0))
    ends = batch.valid.numpy() & ~has
    assert set(batch.terminated.numpy()[ends]) == {True, False}
    assert not (batch.next_valid & ~batch.valid).any()


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_n_step_returns_stop_at_the_end_and_bootstrap_from_where_they_stop(make_store, n):
    sampler = make_store(LENGTHS).sampler(batch_size=500, seed=0, n_step=n, discount=GAMMA, next_action=True)
    batch = sampler.next()
    episode, step, left = position(batch)
    taken = np.minimum(n, left)
    expected = [
        sum(GAMMA**i * (e + (t + i) / 1000) for i in range(m)) for e, t, m in zip(episode, step, taken, strict=True)
    ]
    assert np.allclose(batch.reward[:, 0], expected, rtol=1e-5)
    assert np.array_equal(batch.obs[:, 1, 1], step + taken)
    assert np.array_equal(batch.obs[:, 1, 0], episode)
    assert np.allclose(batch.discount[:, 0], GAMMA**taken)
    assert np.array_equal(batch.terminated[:, 0], (taken == left) & (episode % 3 == 0))
    assert np.array_equal(batch.next_valid[:, 0], taken < left)
    assert np.allclose(batch.next_action[:, 0, 0], np.where(taken < left, action_at(step + taken), 0))
    assert batch.valid.all()


def test_one_step_returns_are_the_plain_transitions(make_store):
    store = make_store(LENGTHS)
    plain, given = (
        store.sampler(batch_size=300, seed=1).next(),
        store.sampler(batch_size=300, seed=1, discount=0.5).next(),
    )
    for name in ("obs", "action", "reward", "terminated", "valid", "episode"):
        assert torch.equal(getattr(plain, name), getattr(given, name))
    assert (given.discount == 0.5).all()


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_returns_to_go_sum_to_the_episodes_end(make_store, window, gamma):
    store = make_store(LENGTHS).view(np.array([4, 0, 2]))
    batch = store.sampler(window=window, batch_size=400, seed=0, returns_to_go=True, discount=gamma).next()
    number, step = batch.obs[:, 0, 0].long().tolist(), batch.obs[:, 0, 1].long().tolist()
    for row, (e, t) in enumerate(zip(number, step, strict=True)):
        reward = e + np.arange(LENGTHS[e]) / 1000
        for i in range(window):
            rest = reward[t + i :]
            assert np.isclose(batch.return_to_go[row, i], (gamma ** np.arange(len(rest)) * rest).sum(), rtol=1e-5)


def test_returns_to_go_do_not_depend_on_how_episodes_are_grouped():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, 50)
    starts = np.cumsum([0, *(lengths[:-1] + 1)])
    reward = rng.normal(size=(lengths + 1).sum())
    whole = returns_to_go(reward, starts, lengths, 0.97)
    assert np.array_equal(whole, returns_to_go(reward, starts, lengths, 0.97, group=64))
    for start, steps in zip(starts, lengths, strict=True):
        slow = 0.0
        for t in reversed(range(steps)):
            slow = reward[start + t] + 0.97 * slow
            assert np.isclose(whole[start + t], slow, rtol=1e-5, atol=1e-5)
        assert whole[start + steps] == 0


@pytest.mark.parametrize(("window", "n"), [(1, 1), (6, 1), (1, 4)])
def test_frames_before_the_episode_are_its_first_observation(make_store, window, n):
    frames = 4
    sampler = make_store(LENGTHS).sampler(
        window=window, batch_size=300, seed=0, frame_stack=frames, n_step=n, discount=GAMMA
    )
    batch = sampler.next()
    assert batch.obs.shape == (300, window + 1, 3 * frames)
    obs = batch.obs.view(300, window + 1, frames, 3).numpy()
    episode = batch.episode.numpy()
    step = obs[:, 0, -1, 1].astype(int)
    left = np.array(LENGTHS)[episode] - step
    at = np.arange(window + 1)[None] if n == 1 else np.stack([0 * left, np.minimum(n, left)], 1)
    frame = np.maximum(step[:, None, None] + at[..., None] - np.arange(frames - 1, -1, -1), 0)
    inside = (at <= left[:, None])[..., None]
    assert np.array_equal(obs[..., 1], np.where(inside, frame, 0))
    assert np.array_equal(obs[..., 0], np.where(inside, episode[:, None, None], 0).repeat(frames, 2))


def test_a_stacked_spec_describes_stacked_batches(make_store):
    store = make_store(LENGTHS)
    spec = stacked_spec(store.spec, 3)
    batch = store.sampler(batch_size=8, seed=0, frame_stack=3).next()
    assert spec.obs_dim == batch.obs.shape[-1] == len(spec.obs.mean) == len(spec.obs_resolution)


@pytest.fixture
def goal_store(tmp_path):
    """Observation (number, t), goal (-number, -1): an achieved goal (t, number) says where it came from."""
    space = spaces.Dict({"goal": spaces.Box(-np.inf, np.inf, (2,)), "state": spaces.Box(-np.inf, np.inf, (2,))})
    schema = Schema.from_spaces(observation=space, action=spaces.Box(-1, 1, (1,)), roles={"goal": "goal"})
    with ReplayStore.create(tmp_path / "g.zarr", schema).writer() as writer:
        for number, steps in enumerate(LENGTHS):
            state = np.stack([np.full(steps + 1, number), np.arange(steps + 1)], 1).astype(np.float32)
            goal = np.tile(np.float32([-number - 1, -1]), (steps + 1, 1))
            action, reward = np.zeros((steps, 1), np.float32), np.full(steps, -7, np.float32)
            writer.append(Episode({"state": state, "goal": goal}, action, reward, terminated=False))
    return ReplayStore.open(tmp_path / "g.zarr")


def reached(achieved, goal):
    return (achieved == goal).all(-1)


def sparse(achieved, goal):
    return reached(achieved, goal).float() - 1


@pytest.mark.parametrize("strategy", ["future", "final"])
@pytest.mark.parametrize("window", [1, 5])
def test_hindsight_goals_were_reached_later_in_the_same_episode(goal_store, strategy, window):
    relabel = Relabel((1, 0), sparse, reached, strategy=strategy, share=0.5)
    batch = goal_store.sampler(window=window, batch_size=4000, seed=0, relabel=relabel).next()
    number, step = batch.obs[:, 0, 0], batch.obs[:, 0, 1]
    left = torch.tensor(LENGTHS)[batch.episode] - step
    goal = batch.goal[:, 0]
    kept = (goal[:, 0] == -number - 1) & (goal[:, 1] == -1)
    assert 0.45 < kept.float().mean() < 0.55
    hind = ~kept
    ahead = goal[hind, 0] - step[hind]
    assert torch.equal(goal[hind, 1], number[hind])
    assert ((ahead >= 1) & (ahead <= left[hind])).all()
    if strategy == "final":
        assert torch.equal(ahead, left[hind])
    else:
        assert len(set(ahead[left[hind] > 20].tolist())) > 10
    steps = torch.arange(window)
    inside = torch.arange(window + 1) <= left[:, None]
    assert torch.equal(batch.goal, goal[:, None] * inside[..., None])
    hit = (steps + 1 == (goal[:, :1] - step[:, None])) & hind[:, None]
    expected = torch.where(hind[:, None], hit.float() - 1, -7.0) * batch.valid
    assert torch.equal(batch.reward, expected)
    assert torch.equal(batch.terminated, hit & batch.valid)


def test_n_step_returns_of_hindsight_goals_stop_where_the_goal_is_reached(goal_store):
    relabel = Relabel((1, 0), sparse, reached, share=1.0)
    batch = goal_store.sampler(batch_size=1000, seed=0, relabel=relabel, n_step=4, discount=GAMMA, frame_stack=2).next()
    step = batch.obs[:, 0, 5].numpy()
    ahead = batch.goal[:, 0, 0].numpy() - step
    left = np.array(LENGTHS)[batch.episode] - step
    taken = np.minimum(np.minimum(4, left), ahead)
    assert np.array_equal(batch.obs[:, 1, 5], step + taken)
    assert np.array_equal(batch.terminated[:, 0], ahead <= 4)
    misses = np.where(ahead <= 4, ahead - 1, taken)
    assert np.allclose(batch.reward[:, 0], -(1 - GAMMA**misses) / (1 - GAMMA), rtol=1e-5)
    assert torch.equal(batch.obs[..., 2:4], batch.obs[..., 6:8])  # every frame shows the new goal


def test_final_rows_hold_no_action_even_where_actions_are_one_hot(tmp_path):
    schema = Schema.from_spaces(observation=spaces.Box(-1, 1, (1,)), action=spaces.Discrete(3))
    store = ReplayStore.create(tmp_path / "d.zarr", schema)
    with store.writer() as writer:
        writer.append(Episode(np.zeros((4, 1), np.float32), np.array([0, 2, 1]), np.zeros(3, np.float32), True))
    batch = ReplayStore.open(store.path).sampler(window=5, batch_size=32, seed=0, next_action=True).next()
    assert torch.equal(batch.action.sum(-1), batch.valid.float())
    assert torch.equal(batch.next_action.sum(-1), batch.next_valid.float())
    single = ReplayStore.open(store.path).sampler(batch_size=32, seed=0, next_action=True).next()
    assert torch.equal(single.next_action.sum(-1), single.next_valid.float())


OPTIONS = [
    {"next_action": True, "window": 3},
    {"n_step": 3, "discount": 0.9},
    {"returns_to_go": True, "discount": 0.9},
    {"frame_stack": 3, "window": 2},
    {"relabel": Relabel((1, 0), sparse)},
]


@pytest.mark.parametrize("stop", [0, 3, 70])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o))
def test_a_stream_with_options_continues_bit_for_bit(goal_store, options, stop):
    first = goal_store.sampler(batch_size=256, seed=3, **options)
    for _ in range(stop):
        first.next()
    second = goal_store.sampler(batch_size=256, seed=99, **options)
    second.next()
    second.state = json.loads(json.dumps(first.state))
    assert_same_batches(first, second, 80)


def test_state_of_other_options_is_refused(make_store):
    store = make_store(LENGTHS)
    state = store.sampler(seed=0, n_step=3, discount=0.9).state
    with pytest.raises(ValueError, match="n_step"):
        store.sampler(seed=0).state = state


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_step": 2, "window": 3, "discount": 0.9}, "n_step=2 and window=3"),
        ({"n_step": 2}, "needs a discount"),
        ({"returns_to_go": True}, "needs a discount"),
        ({"discount": 1.5}, "1.5"),
        ({"frame_stack": 0}, "frame_stack must be at least 1"),
        ({"relabel": Relabel((0, 1), sparse)}, "without goals"),
    ],
)
def test_contradictions_raise_naming_both(make_store, options, words):
    with pytest.raises(ValueError, match=words):
        make_store([4]).sampler(seed=0, **options)


def test_a_goal_mapping_that_does_not_fit_is_refused(goal_store):
    for achieved in ((0,), (0, 2), (-1, 0)):
        with pytest.raises(ValueError, match="expected 2 numbers from 0 to 1"):
            goal_store.sampler(seed=0, relabel=Relabel(achieved, sparse))
    with pytest.raises(ValueError, match="strategy 'past'"):
        Relabel((0, 1), sparse, strategy="past")


@pytest.mark.parametrize("window", [300, 500])
def test_windows_longer_than_the_spare_rows_are_served(make_store, window):
    batch = make_store([3, 290, 2]).sampler(window=window, batch_size=64, seed=0).next()
    t = batch.obs[:, 0, 1].long()
    left = torch.tensor([3, 290, 2])[batch.episode] - t
    assert torch.equal(batch.valid, torch.arange(window) < left[:, None])
    inside = torch.arange(window + 1) <= left[:, None]
    assert torch.equal(batch.obs[..., 1], torch.where(inside, t[:, None] + torch.arange(window + 1), 0).float())


def test_a_served_batch_is_a_whole_batch(make_store):
    batch = make_store(LENGTHS).sampler(batch_size=8, seed=0).next()
    assert vars(replace(batch)) == vars(batch)
    assert list(vars(batch)) == [field.name for field in fields(Batch)]


def test_prefetch_changes_nothing_but_the_time(make_store):
    store = make_store(LENGTHS)
    plain, ahead = (store.sampler(seed=0, window=2, prefetch=p) for p in (False, True))
    for _ in range(3):
        assert_same_batches(plain, ahead, 37)
        assert json.dumps(plain.state) == json.dumps(ahead.state)
    resumed = store.sampler(seed=5, window=2, prefetch=True)
    resumed.next()
    resumed.state = plain.state
    assert_same_batches(plain, resumed, 300)


def test_an_error_while_prefetching_is_raised_and_loses_nothing(goal_store, monkeypatch):
    monkeypatch.setattr("toolkit.sampling.sampler.BLOCK_FLOATS", 1 << 16)
    calls = []

    def flaky(achieved, goal):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("once")
        return sparse(achieved, goal)

    plain = goal_store.sampler(seed=0, relabel=Relabel((1, 0), sparse))
    ahead = goal_store.sampler(seed=0, relabel=Relabel((1, 0), flaky), prefetch=True)
    failed = 0
    for _ in range(200):
        expected = plain.next()
        try:
            found = ahead.next()
        except RuntimeError:
            failed += 1
            found = ahead.next()
        assert torch.equal(found.obs, expected.obs)
        assert torch.equal(found.reward, expected.reward)
    assert failed == 1
