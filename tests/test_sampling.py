"""Laws of sampling: every batch is made of real transitions, each as likely, and the stream can be continued."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from toolkit.sampling import EpisodeIndex


def test_a_transition_is_what_the_episode_holds(make_store):
    lengths = [5, 1, 300, 7, 64]
    store = make_store(lengths)
    sampler = store.sampler(batch_size=512, seed=0)
    for _ in range(20):
        batch = sampler.next()
        number, t = batch.obs[:, 0, 0], batch.obs[:, 0, 1]
        assert batch.obs.shape == (512, 2, 3)
        assert batch.action.shape == (512, 1, 2)
        assert torch.equal(batch.obs[:, 1, 0], number)
        assert torch.equal(batch.obs[:, 1, 1], t + 1)
        assert torch.allclose(batch.reward[:, 0], number + t / 1000)
        assert torch.allclose(batch.action[:, 0, 0], t % 7 / 7)
        assert batch.episode.dtype == torch.int64
        assert torch.equal(batch.episode.float(), number)
        length = torch.tensor(lengths)[batch.episode]
        ends = (t == length - 1) & (batch.episode % 3 == 0)
        assert torch.equal(batch.terminated[:, 0], ends)
        assert batch.valid.all()


def test_truncated_end_still_bootstraps(make_store):
    store = make_store([3, 4]).view(np.array([1]))
    batch = store.sampler(batch_size=256, seed=0).next()
    last = batch.obs[:, 0, 1] == 3
    assert last.any()
    assert not batch.terminated[last].any()
    assert (batch.obs[last, 1, 1] == 4).all()


@pytest.mark.parametrize("window", [2, 16, 100])
def test_a_window_never_shows_another_episode(make_store, window):
    lengths = [5, 1, 30, 7, 64]
    store = make_store(lengths)
    batch = store.sampler(window=window, batch_size=400, seed=0).next()
    t = batch.obs[:, 0, 1].long()
    left = torch.tensor(lengths)[batch.episode] - t
    steps = torch.arange(window)
    assert torch.equal(batch.valid, steps < left[:, None])
    inside = torch.arange(window + 1) <= left[:, None]
    assert torch.equal(batch.obs[..., 1], torch.where(inside, t[:, None] + torch.arange(window + 1), 0).float())
    assert (batch.obs[~inside] == 0).all()
    assert (batch.reward[~batch.valid] == 0).all()
    assert torch.equal(batch.obs[:, :, 0], torch.where(inside, batch.episode[:, None], 0).float())


def test_transitions_are_equally_likely(make_store):
    lengths = [5, 1, 30, 7]
    sampler = make_store(lengths).sampler(batch_size=1000, seed=0)
    counts = np.zeros((4, 30))
    for _ in range(100):
        batch = sampler.next()
        np.add.at(counts, (batch.episode.numpy(), batch.obs[:, 0, 1].long().numpy()), 1)
    seen = counts[counts > 0]
    assert len(seen) == sum(lengths)
    assert np.abs(seen - 1e5 / 43).max() < 5 * np.sqrt(1e5 / 43)


def test_locate_agrees_with_a_search_of_every_transition():
    rng = np.random.default_rng(0)
    for lengths in (rng.integers(1, 50, 300), np.ones(7, int), np.array([1000, 1, 1, 1, 1000])):
        starts = np.cumsum([0, *(lengths[:-1] + 1)])
        episode, row = EpisodeIndex(starts, lengths).locate(np.arange(lengths.sum()))
        assert np.array_equal(episode, np.repeat(np.arange(len(lengths)), lengths))
        assert np.array_equal(row, np.concatenate([s + np.arange(n) for s, n in zip(starts, lengths, strict=True)]))


@pytest.mark.parametrize("stop", [1, 3, 200])
def test_a_stream_continues_from_its_state_bit_for_bit(make_store, stop):
    store = make_store([50, 20, 90])
    first = store.sampler(batch_size=256, seed=3, window=4)
    for _ in range(stop):
        first.next()
    state = json.loads(json.dumps(first.state))
    second = store.sampler(batch_size=256, seed=99, window=4)
    second.state = state
    for _ in range(100):
        a, b = first.next(), second.next()
        assert torch.equal(a.obs, b.obs)
        assert torch.equal(a.episode, b.episode)


def test_a_view_samples_only_its_episodes(make_store):
    store = make_store([5, 6, 7, 8]).view(np.array([3, 1]))
    batch = store.sampler(batch_size=300, seed=0).next()
    assert set(batch.obs[:, 0, 0].tolist()) == {1.0, 3.0}
    assert torch.equal(batch.obs[:, 0, 0], torch.tensor([3.0, 1.0])[batch.episode])


def test_state_of_another_shape_is_refused(make_store):
    store = make_store([50])
    state = store.sampler(batch_size=8, seed=0).state
    with pytest.raises(ValueError, match="window 1 and batch size 8"):
        store.sampler(batch_size=9, seed=0).state = state
