"""Laws of validation: what is intact is clean, and nothing that is not passes unnamed."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from conftest import counting_episode
from gymnasium import spaces

from toolkit.core import Episode
from toolkit.store import ReplayStore, Schema, StoreError, layout
from toolkit.store.chunks import SegmentFiles
from toolkit.store.validate import Finding, ranges, validate


@pytest.fixture
def small(tmp_path, schema, monkeypatch) -> ReplayStore:
    """Two segments, three commits that name them, a view; chunks of 16 rows and 4 episodes."""
    monkeypatch.setattr(layout, "MAX_CHUNK_ROWS", 16)
    monkeypatch.setattr(layout, "EPISODE_CHUNK", 4)
    store = ReplayStore.create(tmp_path / "s.zarr", schema)
    writer = store.writer()
    for number, steps in enumerate([5, 9, 1, 20, 3, 7]):
        writer.append(counting_episode(number, steps, terminated=number % 3 == 0))
        if number in (1, 5):
            writer.commit()
    with store.writer() as other:
        other.append(counting_episode(6, 4))
    opened = ReplayStore.open(store.path)
    opened.save_view("v", opened.nested(3, seed=0))
    return opened


def committed_files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file())


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def unnoticed(store: Path, file: Path, bits: list[int]) -> list[int]:
    """Those of the bits of `file` whose flip leads to no finding that names the file or its array."""
    relative, missed = file.relative_to(store).as_posix(), []
    for bit in bits:
        flip(file, bit)
        found = validate(store)
        named = relative.split("/c/")[0].removesuffix("/zarr.json").removesuffix("zarr.json")
        if not any(named in str(f) or (f.severity == "note" and relative.startswith(f.where)) for f in found):
            missed.append(bit)
        flip(file, bit)
    return missed


def test_an_intact_store_is_clean(small):
    assert validate(small) == validate(small.path) == []


def test_an_intact_store_of_every_kind_of_key_is_clean(tmp_path):
    space = spaces.Dict({"goal": spaces.Box(-1, 1, (2,)), "position": spaces.Box(-1, 1, (3,))})
    schema = Schema.from_spaces(
        observation=space, action=spaces.Discrete(4), roles={"goal": "goal"}, info={"force": (2,), "cost": ()}
    )
    store = ReplayStore.create(tmp_path / "k.zarr", schema)
    assert validate(store) == []
    rng = np.random.default_rng(0)
    with store.writer() as writer:
        for steps in (1, 30, 4):
            obs = {"goal": rng.random((steps + 1, 2)), "position": rng.random((steps + 1, 3))}
            info = {"force": np.full((steps, 2), np.nan), "cost": rng.random(steps)}
            action, reward = rng.integers(4, size=steps).astype(np.int32), rng.normal(size=steps) * 1e4
            writer.append(Episode(obs, action, reward, steps == 30, info))
    assert validate(store.path) == []


def test_every_bit_of_a_commit_a_view_and_a_chunk_is_guarded(tmp_path, schema, small):
    empty = ReplayStore.create(tmp_path / "e.zarr", schema).path
    commit = empty / layout.commit_key(0)
    assert unnoticed(empty, commit, list(range(8 * commit.stat().st_size))) == []
    chunk = sorted((small.path / "segments").rglob("terminated/c/2"))[0]
    assert chunk.stat().st_size == 16 + 4
    assert unnoticed(small.path, chunk, list(range(8 * 20))) == []


def test_a_flipped_bit_anywhere_is_found(small):
    """A sample of every file; PACKMULE_EVERY_BIT=1 tries all bits of all files (`make bits`)."""
    rng, every = random.Random(0), bool(os.environ.get("PACKMULE_EVERY_BIT"))
    for file in committed_files(small.path):
        size = 8 * file.stat().st_size
        bits = list(range(size)) if every else rng.sample(range(size), 6)
        assert unnoticed(small.path, file, bits) == [], file
    assert validate(small) == []


def test_a_flip_that_keeps_the_meaning_is_still_found(small):
    path = small.path / layout.commit_key(3)
    text = path.read_text()
    assert "e-" in text, "the statistics hold a number with an exponent"
    path.write_text(text.replace("e-", "E-", 1))
    assert json.loads(path.read_text()) == json.loads(text)
    (found,) = validate(small)
    assert "spelled" in found.what


def test_a_damaged_chunk_names_array_chunk_and_episodes(small):
    chunk = small.path / "segments" / small.commit.segments[0]["id"] / "reward/c/1"
    flip(chunk, 3)
    (found,) = validate(small)
    assert found.severity == "error"
    assert found.where.endswith("reward/c/1")
    assert "checksum" in found.what
    # rows 16 to 31: episode 1 owns rows 6 to 15, episode 2 rows 16 and 17, episode 3 rows 18 to 38
    assert (found.commit, found.episodes) == (3, ((2, 3),))
    assert found.uids == tuple(small.episodes["uid"][i].tobytes().hex() for i in (2, 3))
    assert validate(small, commit=1) == [], "the past commit ends before the damage"


def test_validation_never_stops_at_the_first_problem(small):
    first, second = (small.path / "segments" / segment["id"] for segment in small.commit.segments)
    flip(first / "obs/observation/c/0/0", 9)
    flip(first / "action/zarr.json", 200)
    (first / "truncated/c/2").unlink()
    (second / "episodes/seed/c/0").write_bytes(b"short")
    flip(small.path / layout.commit_key(1), 100)
    flip(small.path / "views" / "v.json", 100)
    found = validate(small)
    wheres = " ".join(f.where for f in found)
    for part in (
        "obs/observation/c/0/0",
        "action/zarr.json",
        "truncated/c/2",
        "episodes/seed/c/0",
        "commits/",
        "v.json",
    ):
        assert part in wheres, part


def test_a_deleted_commit_is_found(small):
    (small.path / layout.commit_key(1)).unlink()
    (found,) = validate(small)
    assert "missing" in found.what


def test_a_view_pinned_to_a_commit_that_is_not_there_is_found(small):
    (small.path / layout.commit_key(3)).unlink()
    assert [f.where for f in validate(small)] == ["views/v.json"]


def rewrite_chunk(path: Path, offset: int, value: np.generic) -> None:
    """Change one number and make the checksum fit, as a program that is not ours might."""
    data = bytearray(path.read_bytes())
    data[offset : offset + value.nbytes] = value.tobytes()
    data[-4:] = google_crc32c.value(bytes(data[:-4])).to_bytes(4, "little")
    path.write_bytes(data)


def test_a_change_under_a_fitting_checksum_is_found_with_its_episode(small):
    rewrite_chunk(small.path / "segments" / small.commit.segments[0]["id"] / "reward/c/1", 4, np.float32(5))
    found = validate(small)
    assert all(f.episodes == ((2, 2),) for f in found if f.severity == "error")
    assert {f.where.rpartition("/")[2] for f in found} == {"reward", small.commit.segments[0]["id"]}


@pytest.mark.parametrize(
    ("array", "offset", "value", "message"),
    [
        ("reward/c/0", 0, np.float32(99), "rewards sum"),
        ("reward/c/0", 0, np.float32(np.nan), "not finite"),
        ("reward/c/0", 4 * 5, np.float32(1), "not zero in the final row"),
        ("truncated/c/0", 2, np.bool_(True), "elsewhere than at the last step"),
        ("episodes/start/c/0", 8, np.int64(7), "where the episode before it ends"),
        ("episodes/length/c/0", 8, np.int64(1 << 62), "leave the committed rows"),
        ("episodes/behaviour/c/0", 0, np.int32(9), "outside the 2 categories"),
        ("episodes/success/c/0", 0, np.int8(3), "not -1, 0 or 1"),
        ("episodes/uid/c/0/0", 0, np.uint8(1), "uid"),
    ],
)
def test_rows_and_table_that_disagree_are_found_even_when_digests_fit(small, array, offset, value, message):
    """A writer with a mistake in it: checksums, digests and commit all fit what is wrong."""
    entry = small.commit.segments[0]
    path = small.path / "segments" / entry["id"] / array
    rewrite_chunk(path, offset, value)
    name = array.split("/c/")[0]
    for number in (1, 2, 3):
        commit = small.path / layout.commit_key(number)
        body = json.loads(commit.read_text())
        body.pop("digest")
        files = SegmentFiles(small.backend, small.schema, body["segments"][0])
        check = layout.ArrayDigest(name, files.chunk_size(name))
        check.update(0, files.read(name, 0, files.count(name)))
        body["segments"][0]["digest"][name] = check.hex()
        commit.write_text(json.dumps({**body, "digest": layout.digest(body)}, indent=1) + "\n")
    assert message in " ".join(f.what for f in validate(small))


def test_statistics_that_are_not_those_of_the_rows_are_found(small):
    commit = small.path / layout.commit_key(3)
    body = json.loads(commit.read_text())
    body.pop("digest")
    body["segments"][0]["statistics"]["reward"]["mean"][0] += 0.01
    commit.write_text(json.dumps({**body, "digest": layout.digest(body)}, indent=1) + "\n")
    (small.path / "views" / "v.json").unlink()
    (found,) = validate(small)
    assert "statistics" in found.what
    assert "reward" in found.what


def test_what_a_stopped_writer_leaves_is_a_note_not_damage(small):
    writer = small.writer()
    writer.append(counting_episode(7, 40))
    writer.append(counting_episode(8, 4))
    assert validate(small) == [], "a segment no commit names is not read"
    writer.commit()
    writer.append(counting_episode(9, 40))
    (found,) = validate(small.path)
    assert found.severity == "note"
    assert "writer" in found.what


def test_validate_names_what_is_missing(tmp_path, small):
    with pytest.raises(StoreError, match="nothing is there"):
        validate(tmp_path / "none.zarr")
    with pytest.raises(StoreError, match="no commit 9"):
        validate(small, commit=9)


def test_ranges_are_the_fewest():
    assert ranges([5, 1, 2, 3, 9]) == ((1, 3), (5, 5), (9, 9))
    assert ranges([]) == ()
    assert str(Finding("error", "w", "x", 2, ((1, 3), (5, 5)))) == "error: w: x [episodes 1 to 3, 5 of commit 2]"


def test_memory_of_validation_does_not_grow_with_the_store(tmp_path, schema):
    import tracemalloc

    def peak(episodes: int) -> int:
        store = ReplayStore.create(tmp_path / f"{episodes}.zarr", schema)
        with store.writer() as writer:
            for number in range(episodes):
                writer.append(counting_episode(number, 4000))
        tracemalloc.start()
        assert validate(store.path) == []
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(80) < 1.3 * peak(20)
