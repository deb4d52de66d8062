"""Laws of the tiers, of mixtures and of splits: one interface, the same transitions, and streams that continue."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import assert_same_batches, counting_episode
from gymnasium import spaces

from toolkit.sampling import Relabel
from toolkit.store import ReplayStore, Schema, StoreError, layout, mix, packed, rows

LENGTHS = [50, 3, 120, 77, 1, 200, 40, 40, 9]


@pytest.fixture
def store(make_store, monkeypatch, tmp_path):
    """Several segments, several chunks in each, several streamed chunks in a buffer."""
    monkeypatch.setattr(layout, "MAX_CHUNK_ROWS", 16)
    monkeypatch.setattr(rows, "STREAM_ROWS", 32)
    monkeypatch.setattr("toolkit.sampling.sampler.BLOCK_FLOATS", 1 << 12)
    monkeypatch.setenv("PACKMULE_CACHE", str(tmp_path / "cache"))
    made = make_store(LENGTHS[:4])
    for at in (4, 7):
        with made.writer() as writer:
            for number in range(at, min(at + 3, len(LENGTHS))):
                writer.append(counting_episode(number, LENGTHS[number], terminated=number % 3 == 0))
    return ReplayStore.open(made.path)


def derived(store):
    return sorted(path.name for path in (store.path / "derived").iterdir())


OPTIONS = [{}, {"window": 5, "next_action": True}, {"n_step": 3, "discount": 0.9, "frame_stack": 2}]
OPTIONS += [{"returns_to_go": True, "discount": 0.9}]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o) or "plain")
def test_mapped_serves_the_memory_tiers_stream(store, options):
    memory = store.sampler(seed=0, tier="memory", **options)
    mapped = ReplayStore.open(store.path).sampler(seed=0, tier="mapped", **options)
    assert_same_batches(memory, mapped)
    mapped.state = json.loads(json.dumps(memory.state))
    assert_same_batches(memory, mapped, 100)


def test_a_packed_file_is_built_once_and_survives_reopening(store):
    store.sampler(seed=0, tier="mapped")
    (name,) = derived(store)
    assert store.commit.digest[:40] in name
    again = ReplayStore.open(store.path)
    again._rows.blocks = lambda: pytest.fail("built again")
    again._rows.file.check()
    assert_same_batches(again.sampler(seed=0, tier="mapped"), store.sampler(seed=0))


def test_every_commit_has_its_own_packed_file(store):
    store.sampler(seed=0, tier="mapped")
    with store.writer() as writer:
        writer.append(counting_episode(9, 5))
    newer = ReplayStore.open(store.path)
    assert_same_batches(newer.sampler(seed=0, tier="mapped"), newer.sampler(seed=0))
    assert len(derived(store)) == 2


@pytest.mark.parametrize("damage", ["cut", "description", "no description", "layout"])
def test_a_packed_file_that_does_not_fit_is_rebuilt(store, damage, monkeypatch):
    store.sampler(seed=0, tier="mapped")
    (folder,) = (store.path / "derived").iterdir()
    meta = folder / "meta.json"
    if damage == "cut":
        with (folder / "rows.f32").open("r+b") as file:
            file.truncate(1000)
    elif damage == "description":
        meta.write_text(meta.read_text().replace('"rows"', '"Rows"'))
    elif damage == "layout":
        body = json.loads(meta.read_text())
        meta.write_text(json.dumps(body | {"layout": 0}))
    else:
        meta.unlink()
    again = ReplayStore.open(store.path)
    assert_same_batches(again.sampler(seed=0, tier="mapped"), store.sampler(seed=0))
    again._rows.file.check()


def test_a_flipped_bit_in_a_packed_file_is_found_by_its_check(store):
    store.sampler(seed=0, tier="mapped")
    (folder,) = (store.path / "derived").iterdir()
    data = bytearray((folder / "rows.f32").read_bytes())
    data[40 * 7 * 4] ^= 1
    (folder / "rows.f32").write_bytes(data)
    with pytest.raises(StoreError, match="rows 32 to 47 are damaged"):
        store._rows.file.check()


def test_damaged_rows_never_become_a_packed_file(store):
    chunk = next(path for path in (store.path / "segments").rglob("reward/c/0"))
    other = chunk.with_name("1")
    chunk.write_bytes(other.read_bytes())  # a valid checksum, the wrong rows
    with pytest.raises(StoreError, match="reward differs from what was committed"):
        ReplayStore.open(store.path).sampler(seed=0, tier="mapped")
    assert derived(store) == []


def test_an_interrupted_build_leaves_nothing_that_is_opened(store, monkeypatch):
    def torn():
        yield next(iter(store._rows.blocks()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store._rows.file.open(torn)
    assert derived(store) == []
    assert_same_batches(store.sampler(seed=0, tier="mapped"), store.sampler(seed=0, tier="memory"), 3)


def test_a_store_that_cannot_be_written_is_packed_in_the_users_cache(store, tmp_path, monkeypatch):
    (store.path / "derived").write_text("")  # a file where the folder should be: root may write anywhere else
    with pytest.raises(OSError, match="File exists"):
        store.sampler(seed=0, tier="mapped")
    (store.path / "derived").unlink()

    build = packed.PackedFile._build

    def read_only(self, folder, blocks):
        if folder.is_relative_to(store.path):
            raise PermissionError(13, "Permission denied", str(folder))
        return build(self, folder, blocks)

    monkeypatch.setattr(packed.PackedFile, "_build", read_only)
    assert_same_batches(store.sampler(seed=0, tier="mapped"), store.sampler(seed=0, tier="memory"), 3)
    assert not (store.path / "derived").exists()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_size_chooses_the_tier_and_the_caller_may_overrule(store, monkeypatch):
    size = store._rows.total * store._rows.width * 4
    monkeypatch.setattr(packed, "available_memory", lambda: 2 * size)
    assert store._rows.tier("auto") == "memory"
    monkeypatch.setattr(packed, "available_memory", lambda: 2 * size - 2)
    assert store._rows.tier("auto") == "mapped"
    monkeypatch.setattr(packed, "_room", lambda folder: 0)
    assert store._rows.tier("auto") == "streaming"
    assert store._rows.tier("memory") == "memory"
    with pytest.raises(ValueError, match="'disk' is unknown"):
        store.sampler(seed=0, tier="disk")


def test_available_memory_is_a_positive_number_of_bytes():
    assert 1 << 20 < packed.available_memory() < 1 << 50


@pytest.mark.parametrize("tier", ["mapped", "streaming"])
def test_statistics_do_not_depend_on_the_tier(store, tier, monkeypatch):
    view = store.view(np.array([5, 0, 7, 3]))
    expected = view.spec.to_json()
    size = store._rows.total * store._rows.width * 4
    monkeypatch.setattr(packed, "available_memory", lambda: size)
    if tier == "streaming":
        monkeypatch.setattr(packed, "_room", lambda folder: 0)
    found = ReplayStore.open(store.path).view(np.array([5, 0, 7, 3]))
    for name, value in found.spec.to_json().items():
        flat = value.items() if isinstance(value, dict) else [("", value)]
        for part, numbers in flat:
            known = expected[name][part] if part else expected[name]
            assert np.allclose(numbers, known, rtol=1e-6), (name, part)
    assert "packed" not in found._rows.__dict__


@pytest.mark.parametrize("chosen", [None, [5, 0, 7, 3]])
@pytest.mark.parametrize("buffer", [1, 100, 10_000])
def test_streaming_serves_every_transition_once_an_epoch(store, chosen, buffer):
    view = store if chosen is None else store.view(np.array(chosen))
    lengths = [LENGTHS[i] for i in chosen or range(len(LENGTHS))]
    sampler = view.sampler(seed=0, batch_size=1, tier="streaming", buffer=buffer)
    for _ in range(2):
        seen = []
        for _ in range(sum(lengths)):
            batch = sampler.next()
            episode, t = int(batch.episode), int(batch.obs[0, 0, 1])
            assert batch.obs[0, 0, 0] == (chosen or range(len(LENGTHS)))[episode]
            assert batch.obs[0, 1, 1] == t + 1
            seen.append((episode, t))
        assert sorted(seen) == [(e, t) for e, n in enumerate(lengths) for t in range(n)]


def test_streaming_shuffles_and_epochs_differ(store):
    sampler = store.sampler(seed=0, batch_size=sum(LENGTHS), tier="streaming", buffer=150)
    first, second = sampler.next(), sampler.next()
    assert not torch.equal(first.obs, second.obs)
    step = first.obs[:, 0, 1]
    assert (step[1:] == step[:-1] + 1).float().mean() < 0.05


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o) or "plain")
def test_streamed_windows_equal_those_in_memory(store, options):
    """Each streamed window is the one the memory tier would show for the same transition."""
    batch = store.sampler(seed=0, batch_size=200, tier="streaming", buffer=90, **options).next()
    column = -2 if options.get("frame_stack") else 1
    wanted = {(int(e), int(t)) for e, t in zip(batch.episode, batch.obs[:, 0, column], strict=True)}
    memory, found = store.sampler(seed=0, batch_size=4096, **options), {}
    while len(found) < len(wanted):
        plain = memory.next()
        for row, (e, t) in enumerate(zip(plain.episode.tolist(), plain.obs[:, 0, column].tolist(), strict=True)):
            if (e, int(t)) in wanted:
                found[e, int(t)] = (plain, row)
    for row, (e, t) in enumerate(zip(batch.episode.tolist(), batch.obs[:, 0, column].tolist(), strict=True)):
        plain, at = found[e, int(t)]
        for name in vars(batch):
            x, y = getattr(batch, name), getattr(plain, name)
            assert x is None or torch.allclose(x[row].float(), y[at].float(), rtol=1e-6), name


@pytest.mark.parametrize("stop", [0, 1, 7, 30, 64, 200])
@pytest.mark.parametrize("prefetch", [False, True])
def test_a_streamed_stream_continues_bit_for_bit(store, stop, prefetch, monkeypatch):
    monkeypatch.setattr("toolkit.sampling.sampler.BLOCK_FLOATS", 1500)
    settings = {"batch_size": 16, "tier": "streaming", "buffer": 100, "window": 2}
    first = store.sampler(seed=3, prefetch=prefetch, **settings)
    for _ in range(stop):
        first.next()
    second = store.sampler(seed=99, **settings)
    second.next()
    second.state = json.loads(json.dumps(first.state))
    assert_same_batches(first, second, 120)


def test_streaming_holds_no_more_than_its_buffer(store):
    sampler = store.sampler(seed=0, batch_size=8, tier="streaming", buffer=64)
    largest = max(n + 1 for n in LENGTHS)
    for _ in range(300):
        sampler.next()
        held = sampler._source._gather
        assert held is None or len(held.packed.rows) <= max(64, largest) + 1


def test_a_missing_chunk_is_an_error_when_streaming(store):
    next(path for path in (store.path / "segments").rglob("reward/c/1")).unlink()
    with pytest.raises(StoreError):
        ReplayStore.open(store.path).sampler(seed=0, tier="streaming").next()


def test_state_of_another_tier_of_stream_is_refused(store):
    state = store.sampler(seed=0, tier="streaming").state
    with pytest.raises(ValueError, match="source streamed, this sampler has uniform"):
        store.sampler(seed=0, tier="memory").state = state


def other_store(path, lengths, base):
    """Like make_store's, but observations start with `base` + number."""
    schema = Schema.from_spaces(
        observation=spaces.Box(-np.inf, np.inf, (3,)), action=spaces.Box(-1, 1, (2,)), environment={"suite": "other"}
    )
    with ReplayStore.create(path, schema).writer() as writer:
        for number, steps in enumerate(lengths):
            episode = counting_episode(base + number, steps)
            episode.columns.pop("context")
            writer.append(episode)
    return ReplayStore.open(path)


@pytest.mark.parametrize("tier", ["memory", "streaming"])
def test_a_mixture_draws_its_parts_by_weight_and_each_part_evenly(store, tmp_path, tier):
    other = other_store(tmp_path / "o.zarr", [30, 10], base=100)
    view = store.view(np.array([1, 0]))
    mixture = mix([(view, 3), (other, 1)])
    assert (len(mixture), mixture.transitions) == (4, 93)
    sampler = mixture.sampler(seed=0, batch_size=1000, tier=tier)
    numbers, counts = [1, 0, 100, 101], np.zeros((4, 50))
    for _ in range(40):
        batch = sampler.next()
        assert torch.equal(torch.tensor(numbers)[batch.episode].float(), batch.obs[:, 0, 0])
        assert torch.allclose(batch.reward[:, 0], batch.obs[:, 0, 0] + batch.obs[:, 0, 1] / 1000)
        np.add.at(counts, (batch.episode.numpy(), batch.obs[:, 0, 1].long().numpy()), 1)
    for rows_of, expected in ((counts[:2], 30_000 / 53), (counts[2:], 10_000 / 40)):
        seen = rows_of[rows_of > 0]
        assert len(seen) == {0: 53, 1: 40}[int(expected < 300)]
        assert np.abs(seen - expected).max() < 5 * np.sqrt(expected)


def test_a_mixtures_order_within_a_batch_tells_nothing_of_the_part(store, tmp_path):
    mixture = mix([(store, 1), (other_store(tmp_path / "o.zarr", [30], base=100), 1)])
    share = torch.stack([(mixture.sampler(seed=s, batch_size=64).next().episode == 9).float() for s in range(200)])
    halves = share[:, :32].mean(), share[:, 32:].mean()
    assert all(abs(half - 0.5) < 0.03 for half in halves)


@pytest.mark.parametrize("tier", ["memory", "mapped", "streaming"])
@pytest.mark.parametrize("stop", [0, 5, 45])
def test_a_mixture_continues_bit_for_bit(store, tmp_path, tier, stop):
    mixture = mix([(store, 0.3), (other_store(tmp_path / "o.zarr", [30, 10], base=100), 0.7)])
    settings = {"tier": tier, "buffer": 90, "batch_size": 100, "next_action": True, "window": 2}
    first = mixture.sampler(seed=1, **settings)
    for _ in range(stop):
        first.next()
    second = mixture.sampler(seed=2, **settings)
    second.next()
    second.state = json.loads(json.dumps(first.state))
    assert_same_batches(first, second, 50)


def test_a_mixtures_spec_describes_what_is_drawn(store, tmp_path):
    mixture = mix([(store.view(np.array([0, 1])), 1), (other_store(tmp_path / "o.zarr", [30, 10], base=100), 4)])
    spec = mixture.spec
    obs = torch.cat([b.obs[:, 0] for b in (mixture.sampler(seed=0, batch_size=200_000).next(),)]).double()
    assert np.allclose(spec.obs.mean, obs.mean(0), rtol=0.01)
    assert np.allclose(spec.obs.std, obs.std(0), rtol=0.01)
    assert (spec.obs.low[0], spec.obs.high[0]) == (0, 101)
    assert (spec.episodes, spec.transitions, spec.horizon) == (4, 93, 50)
    assert mixture.fingerprint != mix([(view, 1) for view in mixture.views]).fingerprint


def test_a_mixture_of_unlike_schemas_is_refused_naming_the_difference(store, tmp_path):
    schema = Schema.from_spaces(observation=spaces.Box(-np.inf, np.inf, (3,)), action=spaces.Box(-2, 1, (2,)))
    other = ReplayStore.create(tmp_path / "x.zarr", schema)
    with pytest.raises(ValueError, match=r"schema.action.low\[0\] is -2.0, not -1.0"):
        mix([(store, 1), (other, 1)])
    with pytest.raises(ValueError, match="positive"):
        mix([(store, 1), (store, 0)])
    with pytest.raises(ValueError, match="at least one"):
        mix([])


def test_a_split_is_by_episode_disjoint_and_repeatable(store):
    train, validation = store.split(0.7, seed=4)
    one, other = set(train.episodes["seed"].tolist()), set(validation.episodes["seed"].tolist())
    assert (len(one), len(other)) == (6, 3)
    assert one | other == set(range(len(LENGTHS)))
    again, _ = store.split(0.7, seed=4)
    assert again.fingerprint == train.fingerprint
    assert store.split(0.7, seed=5)[0].fingerprint != train.fingerprint
    for fraction in (0.0, 1.0, 0.01):
        with pytest.raises(ValueError, match="one side empty"):
            store.split(fraction, seed=0)


def test_hindsight_goals_work_when_streaming(tmp_path):
    space = spaces.Dict({"goal": spaces.Box(-9, 99, (1,)), "state": spaces.Box(-9, 99, (1,))})
    schema = Schema.from_spaces(observation=space, action=spaces.Box(-1, 1, (1,)), roles={"goal": "goal"})
    with ReplayStore.create(tmp_path / "g.zarr", schema).writer() as writer:
        state = np.arange(21, dtype=np.float32)[:, None]
        episode = counting_episode(0, 20, action_dim=1)
        writer.append(type(episode)({"state": state, "goal": state * 0 - 5}, episode.action, episode.reward, False))
    relabel = Relabel((0,), lambda achieved, goal: (achieved == goal).all(-1), strategy="final", share=1.0)
    store = ReplayStore.open(tmp_path / "g.zarr")
    batch = store.sampler(seed=0, batch_size=20, tier="streaming", relabel=relabel).next()
    assert (batch.goal[:, 0] == 20).all()
    assert torch.equal(batch.reward[:, 0], (batch.obs[:, 1, 0] == 20).float())


def test_a_copied_store_uses_its_own_packed_file(store, tmp_path):
    store.sampler(seed=0, tier="mapped")
    shutil.copytree(store.path, tmp_path / "copy.zarr")
    shutil.rmtree(store.path / "derived")
    copy = ReplayStore.open(tmp_path / "copy.zarr")
    copy._rows.blocks = lambda: pytest.fail("built again")
    assert_same_batches(copy.sampler(seed=0, tier="mapped"), store.sampler(seed=0), 3)
