"""Laws of the replay store: what is committed is what was appended, and nothing else is ever seen."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from conftest import counting_episode
from gymnasium import spaces

from toolkit.core import Episode
from toolkit.store import ReplayStore, Schema, StoreError, layout


def same(a: Episode, b: Episode) -> bool:
    return (
        all(np.array_equal(a.observations()[k], b.observations()[k]) for k in a.observations())
        and np.array_equal(a.action, b.action)
        and np.array_equal(a.reward, b.reward)
        and a.terminated == b.terminated
        and a.columns == b.columns
    )


def test_episodes_come_back_equal(make_store):
    lengths = [5, 1, 300, 7]
    store = make_store(lengths)
    assert len(store) == 4
    assert store.transitions == sum(lengths)
    assert store.episodes["length"].tolist() == lengths
    for number, steps in enumerate(lengths):
        assert same(store.episode(number), counting_episode(number, steps, terminated=number % 3 == 0))


def test_episodes_come_back_equal_across_chunks_and_commits(tmp_path, schema, monkeypatch):
    monkeypatch.setattr(layout, "MAX_CHUNK_ROWS", 16)
    monkeypatch.setattr(layout, "EPISODE_CHUNK", 4)
    store = ReplayStore.create(tmp_path / "s.zarr", schema)
    writer = store.writer()
    lengths = [3, 20, 15, 16, 1, 47, 8, 9, 31, 2]
    for number, steps in enumerate(lengths):
        writer.append(counting_episode(number, steps))
        if number % 3 != 1:
            writer.commit()
    writer.commit()
    store = ReplayStore.open(tmp_path / "s.zarr")
    assert len(store.commit.segments) == 1
    assert store._rows.packed.rows.shape[0] - store._rows.packed.spare == sum(lengths) + len(lengths)
    assert all(same(store.episode(i), counting_episode(i, n)) for i, n in enumerate(lengths))


def test_any_zarr_reader_sees_the_rows(make_store):
    store = make_store([4, 6])
    (segment,) = zarr.open_group(store.path, mode="r")["segments"].groups()
    obs = segment[1]["obs/observation"][:]
    assert obs.shape == (4 + 1 + 6 + 1, 3)
    assert segment[1]["episodes/start"][:].tolist() == [0, 5]


def test_nothing_is_visible_before_commit(tmp_path, schema):
    store = ReplayStore.create(tmp_path / "s.zarr", schema)
    writer = store.writer()
    writer.append(counting_episode(0, 5))
    assert len(ReplayStore.open(store.path)) == 0
    writer.commit()
    assert len(ReplayStore.open(store.path)) == 1


def test_a_block_that_raises_commits_nothing(tmp_path, schema):
    store = ReplayStore.create(tmp_path / "s.zarr", schema)
    writer = store.writer()
    writer.__enter__()
    writer.append(counting_episode(0, 5))
    writer.__exit__(RuntimeError, RuntimeError(), None)
    assert len(ReplayStore.open(store.path)) == 0


def test_a_commit_can_be_revisited(tmp_path, schema):
    store = ReplayStore.create(tmp_path / "s.zarr", schema)
    writer = store.writer()
    for number in range(3):
        writer.append(counting_episode(number, 4 + number))
        writer.commit()
    past = ReplayStore.open(store.path, commit=2)
    assert len(past) == 2
    assert past.spec.transitions == 4 + 5
    with pytest.raises(StoreError, match="no commit 9"):
        ReplayStore.open(store.path, commit=9)


def test_two_writers_lose_no_commit(tmp_path, schema):
    store = ReplayStore.create(tmp_path / "s.zarr", schema)
    one, two = store.writer(), store.writer()
    for number in range(4):
        one.append(counting_episode(number, 5))
        two.append(counting_episode(10 + number, 6))
        one.commit()
        two.commit()
    store = ReplayStore.open(store.path)
    assert sorted(store.episodes["seed"].tolist()) == [0, 1, 2, 3, 10, 11, 12, 13]
    assert store.transitions == 4 * 5 + 4 * 6


def test_statistics_of_a_commit_equal_those_of_its_rows(make_store):
    store = make_store([5, 30, 7])
    merged = store.commit.segments[0]["statistics"]
    assert np.allclose(merged["obs"]["mean"], store.spec.obs.mean)
    assert np.allclose(np.sqrt(np.array(merged["delta"]["m2"]) / merged["delta"]["count"]), store.spec.delta.std)


def test_a_views_statistics_do_not_see_other_episodes(make_store):
    store = make_store([5, 30, 7])
    assert store.view(np.array([True, False, False])).spec.obs.high[1] == 4
    assert store.spec.obs.high[1] == 29


def test_views_nest_and_are_pinned(make_store, tmp_path):
    store = make_store([5] * 20)
    small, large = store.nested(4, seed=1), store.nested(9, seed=1)
    assert set(small.episodes["seed"]) < set(large.episodes["seed"])
    store.save_view("small", small)
    store.save_view("small", small)
    assert store.view("small").fingerprint == small.fingerprint != large.fingerprint
    with pytest.raises(FileExistsError):
        store.save_view("small", large)
    with store.writer() as writer:
        writer.append(counting_episode(99, 3))
    with pytest.raises(StoreError, match="pinned to commit 1"):
        ReplayStore.open(store.path).view("small")
    assert len(ReplayStore.open(store.path, commit=1).view("small")) == 4


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "a" * 101, "x\n"])
def test_names_cannot_leave_the_store(make_store, name):
    store = make_store([5])
    with pytest.raises(ValueError, match="not a valid name"):
        store.save_view(name, store)
    with pytest.raises(ValueError, match="not a valid name"):
        store.view(name)


def test_a_segment_id_that_is_a_path_is_refused(make_store):
    store = make_store([5])
    path = store.path / layout.commit_key(1)
    body = json.loads(path.read_text())
    body.pop("digest")
    body["segments"][0]["id"] = "../../elsewhere"
    path.write_text(json.dumps({**body, "digest": layout.digest(body)}))
    with pytest.raises(StoreError, match="not a ULID"):
        ReplayStore.open(store.path, commit=1)


def good() -> Episode:
    return counting_episode(0, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs": np.zeros((5, 3), np.float32)}, "expected 6: keep the observation that follows"),
        ({"obs": np.full((6, 3), np.nan, np.float32)}, "not finite at step 0"),
        ({"reward": np.array([0, 0, np.inf, 0, 0], np.float32)}, "reward is not finite at step 2"),
        ({"obs": np.zeros((6, 4), np.float32)}, r"\(6, 4\); expected floating point \(6, 3\)"),
        ({"action": np.zeros((5, 2), np.int64)}, "action is int64"),
        ({"action": np.full((5, 2), 3.0, np.float32)}, "outside its limits -1.0 to 1.0"),
        ({"info": {"x": np.zeros(5)}}, "info keys"),
        ({"columns": {}}, "context has shape"),
        ({"reward": np.zeros(0), "action": np.zeros((0, 2)), "obs": np.zeros((1, 3))}, "no steps"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused_and_nothing_written(tmp_path, schema, change, message):
    store = ReplayStore.create(tmp_path / "s.zarr", schema)
    writer = store.writer()
    with pytest.raises(ValueError, match=message):
        writer.append(replace(good(), **change))
    assert not (store.path / "segments").exists()
    assert writer.commit() == 0


def test_discrete_actions_are_stored_as_integers_and_packed_one_hot(tmp_path):
    schema = Schema.from_spaces(observation=spaces.Box(-1, 1, (1,)), action=spaces.Discrete(3))
    store = ReplayStore.create(tmp_path / "d.zarr", schema)
    action = np.array([0, 2, 1])
    with store.writer() as writer:
        writer.append(Episode(np.zeros((4, 1), np.float32), action, np.zeros(3, np.float32), True))
        with pytest.raises(ValueError, match="expected 0 to 2"):
            writer.append(Episode(np.zeros((4, 1), np.float32), action + 1, np.zeros(3, np.float32), True))
    store = ReplayStore.open(store.path)
    assert np.array_equal(store.episode(0).action, action)
    assert np.array_equal(store._rows.packed.rows[:3, 1:4], np.eye(3)[action])


def test_goal_keys_are_packed_last(tmp_path):
    space = spaces.Dict({"a_goal": spaces.Box(-1, 1, (2,)), "position": spaces.Box(-1, 1, (3,))})
    schema = Schema.from_spaces(observation=space, action=spaces.Box(-1, 1, (1,)), roles={"a_goal": "goal"})
    flat = schema.flatten({"a_goal": np.array([8.0, 9.0]), "position": np.array([1.0, 2.0, 3.0])})
    assert flat.tolist() == [1, 2, 3, 8, 9]
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


def test_a_flipped_bit_is_an_error_never_wrong_data(make_store, tmp_path):
    store = make_store([40, 30])
    rng = random.Random(0)
    files = [p for p in store.path.rglob("*") if p.is_file() and "truncated" not in str(p)]
    for path in files:
        data = bytearray(path.read_bytes())
        used = len(data) if path.suffix == ".json" else min(len(data), 200)
        for _ in range(4):
            bit = rng.randrange(used * 8)
            data[bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
            try:
                read = ReplayStore.open(store.path)
                # a damaged commit falls back to the one before it; damaged data is refused
                if len(read):
                    assert read.fingerprint == store.fingerprint
                    assert np.array_equal(read._rows.packed.rows, store._rows.packed.rows)
            except StoreError:
                pass
            data[bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
    assert len(ReplayStore.open(store.path)) == 2


def test_a_deleted_chunk_is_an_error(make_store):
    store = make_store([40])
    chunk = next((store.path / "segments").rglob("reward/c/0"))
    chunk.unlink()
    with pytest.raises(StoreError, match="reward"):
        ReplayStore.open(store.path).sampler(seed=0)
    with pytest.raises(StoreError, match="reward"):
        _ = ReplayStore.open(store.path).view(np.array([0])).spec


def test_foreign_missing_and_newer_stores_are_refused_clearly(tmp_path, schema):
    with pytest.raises(StoreError, match="nothing is there"):
        ReplayStore.open(tmp_path / "none.zarr")
    zarr.create_group(tmp_path / "foreign.zarr")
    with pytest.raises(StoreError, match="not a packmule store"):
        ReplayStore.open(tmp_path / "foreign.zarr")
    ReplayStore.create(tmp_path / "new.zarr", schema)
    meta = tmp_path / "new.zarr" / "zarr.json"
    meta.write_text(meta.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(StoreError, match="upgrade packmule"):
        ReplayStore.open(tmp_path / "new.zarr")
    with pytest.raises(FileExistsError):
        ReplayStore.create(tmp_path / "foreign.zarr", schema)


APPENDER = """
import sys
sys.path.insert(0, sys.argv[2])
from conftest import counting_episode
from toolkit.store import ReplayStore, layout
layout.MAX_CHUNK_ROWS = 64
store = ReplayStore.open(sys.argv[1])
number = len(store)
writer = store.writer()
print("ready", flush=True)
while True:
    for _ in range(3):
        writer.append(counting_episode(number, 10 + number % 50))
        number += 1
    writer.commit()
    print(number, flush=True)
"""


def test_sigkill_while_appending_loses_nothing_committed(tmp_path, schema, monkeypatch):
    monkeypatch.setattr(layout, "MAX_CHUNK_ROWS", 64)
    store = ReplayStore.create(tmp_path / "s.zarr", schema)
    rng = random.Random(7)
    acknowledged = 0
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(store.path), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.02, 0.6))
        process.send_signal(signal.SIGKILL)
        lines = process.communicate()[0].split()
        acknowledged = int(lines[-1]) if lines else acknowledged
        opened = ReplayStore.open(store.path)
        assert len(opened) >= acknowledged
        assert len(opened) % 3 == 0
        assert opened.transitions == sum(10 + n % 50 for n in range(len(opened)))
        assert opened._rows.packed.rows[:, 1].max() > 0 or not len(opened)
        for index in range(0, len(opened), max(1, len(opened) // 5)):
            assert same(opened.episode(index), counting_episode(index, 10 + index % 50))
    assert acknowledged > 0


def test_a_write_that_fails_commits_nothing_and_says_where(tmp_path, schema):
    store = ReplayStore.create(tmp_path / "s.zarr", schema)
    with store.writer() as writer:
        writer.append(counting_episode(0, 5))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writer = store.writer()
    writer.append(counting_episode(1, 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(OSError, match=str(store.path)):
            writer.commit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    with pytest.raises(StoreError, match="appended again with a new writer"):
        writer.commit()
    assert len(ReplayStore.open(store.path)) == 1
    assert not [p for p in store.path.rglob("*.partial") if os.path.exists(p)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs": np.full((6, 3), 1e39)}, "beyond 1.7e.38, which float32 cannot hold"),
        ({"reward": np.full(5, -3e38, np.float32)}, "beyond 1.7e.38"),
        ({"terminated": "no"}, "terminated is 'no'; expected True or False"),
        ({"columns": {"context": [np.nan]}}, "1 finite numbers"),
        ({"columns": {"context": [0.0], "seed": 1 << 63}}, "expected an integer from 0"),
        ({"columns": {"context": [0.0], "seed": None}}, "seed is None"),
        ({"columns": {"context": [0.0], "success": "no"}}, "success is 'no'"),
    ],
)
def test_what_cannot_be_stored_as_it_is_is_refused_not_changed(tmp_path, schema, change, message):
    store = ReplayStore.create(tmp_path / "s.zarr", schema)
    with pytest.raises(ValueError, match=message):
        store.writer().append(replace(good(), **change))
    assert not (store.path / "segments").exists()


def test_a_single_episode_of_a_deleted_chunk_is_an_error_never_zeros(make_store):
    store = make_store([40])
    next((store.path / "segments").rglob("action/c/0/0")).unlink()
    with pytest.raises(StoreError, match="it was deleted"):
        store.episode(0)


def test_the_uid_is_that_of_the_content_as_stored(tmp_path, schema):
    uids = []
    for name, kind in (("a", np.float32), ("b", np.float64)):
        store = ReplayStore.create(tmp_path / name, schema)
        with store.writer() as writer:
            writer.append(replace(good(), action=good().action.astype(kind)))
        uids.append(bytes(ReplayStore.open(store.path).episodes["uid"][0]))
    assert uids[0] == uids[1]


def test_a_store_appears_whole_or_not_at_all(tmp_path, schema, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", "x")

    with monkeypatch.context() as broken:
        broken.setattr(layout, "publish", full)
        with pytest.raises(OSError, match="No space"):
            ReplayStore.create(tmp_path / "s.zarr", schema)
    assert list(tmp_path.iterdir()) == []
    assert len(ReplayStore.create(tmp_path / "s.zarr", schema)) == 0
