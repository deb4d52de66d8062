"""The two ways of writing a store hold the same data, and neither hides damage."""

from __future__ import annotations

import random
import resource
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from conftest import counting_episode
from test_store import same

from toolkit.cli import main
from toolkit.store import ReplayStore, StoreError, layout
from toolkit.store.encoding import SHARD_CHUNKS, Encoding
from toolkit.store.maintain import merge, repair
from toolkit.store.validate import validate

LENGTHS = (3, 40, 17, 200, 1, 90, 64, 31)  # with chunks of 16 rows, a shard holds 128


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(layout, "MAX_CHUNK_ROWS", 16)
    monkeypatch.setattr(layout, "EPISODE_CHUNK", 4)


def fill(path: Path, schema, profile: str, *, every: int = 3) -> ReplayStore:
    with ReplayStore.create(path, schema, profile=profile).writer() as writer:  # type: ignore[arg-type]
        for number, steps in enumerate(LENGTHS):
            writer.append(counting_episode(number, steps, terminated=number % 3 == 0))
            if number % every == every - 1:
                writer.commit()
    return ReplayStore.open(path)


@pytest.fixture
def compact(tmp_path, schema) -> ReplayStore:
    return fill(tmp_path / "compact.zarr", schema, "compact")


def files(store: ReplayStore) -> list[Path]:
    return sorted(path for path in (store.path / "segments").rglob("*") if path.is_file() and path.suffix != ".json")


@pytest.mark.parametrize("every", [1, 3, 100])
def test_profiles_hold_the_same_episodes_and_serve_the_same_batches(tmp_path, schema, every):
    fast = fill(tmp_path / "fast.zarr", schema, "fast", every=every)
    compact = fill(tmp_path / "compact.zarr", schema, "compact", every=every)
    assert all(same(fast.episode(i), compact.episode(i)) for i in range(len(LENGTHS)))
    assert fast.episodes["uid"].tolist() == compact.episodes["uid"].tolist()
    assert fast.commit.segments[0]["digest"] == compact.commit.segments[0]["digest"], "digests are of the content"
    for tier in ("memory", "mapped", "streaming"):
        one, two = (s.sampler(seed=3, batch_size=32, tier=tier) for s in (fast, compact))
        for _ in range(30):
            a, b = one.next(), two.next()
            assert (a.obs == b.obs).all()
            assert (a.reward == b.reward).all()
    assert [store.profile for store in (fast, compact)] == ["fast", "compact"]
    assert len(files(compact)) < len(files(fast)) / 3


@pytest.mark.parametrize("profile", ["fast", "compact"])
def test_any_zarr_reader_opens_every_array_of_either_profile(tmp_path, schema, profile):
    store = fill(tmp_path / "s.zarr", schema, profile)
    (entry,) = store.commit.segments
    group = zarr.open_group(store.path, mode="r", zarr_format=3)[f"segments/{entry['id']}"]
    rows = np.concatenate([store.episode(i).observations()["observation"] for i in range(len(store))])
    assert np.array_equal(group["obs/observation"][:], rows)
    assert group["episodes/length"][:].tolist() == list(LENGTHS)
    assert group["reward"].shape == (sum(LENGTHS) + len(LENGTHS),), "lengths on disk are those committed"
    assert group["episodes/context"][:].tolist() == store.episodes["context"].tolist()


def test_a_flipped_bit_anywhere_in_a_compact_segment_is_found_and_never_read(compact):
    rng = random.Random(5)
    known = [compact.episode(i) for i in range(len(compact))]
    for path in files(compact):
        data = path.read_bytes()
        ends = {0, 8 * len(data) - 1}
        for bit in ends | {rng.randrange(8 * len(data)) for _ in range(6)}:
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            found = [f for f in validate(compact.path) if f.severity == "error"]
            assert found, f"bit {bit} of {path.name}"
            try:
                opened = ReplayStore.open(compact.path)
                assert all(same(opened.episode(i), known[i]) for i in range(len(known)))
            except StoreError:
                pass
        path.write_bytes(data)
    assert validate(compact.path) == []


def test_a_reader_goes_on_while_a_writer_adds_to_the_last_shard(tmp_path, schema):
    writer = ReplayStore.create(tmp_path / "s.zarr", schema, profile="compact").writer()
    writer.append(counting_episode(0, 20))
    writer.commit()
    early = ReplayStore.open(tmp_path / "s.zarr")
    early.episodes.columns  # noqa: B018  # the table is read, the rows are not
    sizes = early._committed.segments[0].sizes("reward")
    for number in range(1, 6):
        writer.append(counting_episode(number, 20))
        writer.commit()
    assert sizes != ReplayStore.open(early.path)._committed.segments[0].sizes("reward"), "the file did grow"
    assert same(early.episode(0), counting_episode(0, 20))
    assert early.sampler(seed=0, tier="memory", batch_size=4).next().obs.shape == (4, 2, 3)
    assert early.sampler(seed=0, tier="streaming", batch_size=4).next().obs.shape == (4, 2, 3)


def forged(path: Path, entries: list[tuple[int, int]]) -> None:
    """Give a shard another index, with a checksum that fits."""
    index = np.full((SHARD_CHUNKS, 2), (1 << 64) - 1, "<u8")
    for place, entry in enumerate(entries):
        index[place] = entry
    body = path.read_bytes()[: -(SHARD_CHUNKS * 16 + 4)]
    path.write_bytes(body + index.tobytes() + google_crc32c.value(index.tobytes()).to_bytes(4, "little"))


@pytest.mark.parametrize("entries", [[], [(0, 1 << 62)], [(1 << 40, 10)], [(0, 8)], [(0, 20), (0, 20)]])
def test_a_forged_shard_index_is_refused_within_bounded_memory(compact, entries):
    path = next(p for p in files(compact) if "reward" in p.parts)
    forged(path, entries)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 36, hard))
    try:
        with pytest.raises(StoreError, match="damaged"):
            compact.sampler(seed=0, tier="memory")
        assert any("reward" in f.where for f in validate(compact.path))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_chunk_that_claims_to_unpack_to_gigabytes_is_refused_before_anything_is_allocated():
    encoding = Encoding("float32", (16,), "compact")
    content = bytearray(encoding.encode(np.zeros(16, np.float32))[:-4])
    content[4:8] = (1 << 31).to_bytes(4, "little")
    data = bytes(content) + google_crc32c.value(bytes(content)).to_bytes(4, "little")
    with pytest.raises(ValueError, match="claims 2147483648 bytes of data; expected 64"):
        encoding.decode(data)


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "uint8", "float64"])
@pytest.mark.parametrize("profile", ["fast", "compact"])
def test_what_is_encoded_is_decoded_equal(profile, dtype):
    rng = np.random.default_rng(0)
    encoding = Encoding(dtype, (16, 3), profile)
    chunks = [(rng.normal(size=(16, 3)) * 100).astype(dtype) for _ in range(encoding.chunks)]
    file = encoding.file([encoding.encode(chunk) for chunk in chunks])
    assert all(np.array_equal(encoding.decode(a), b) for a, b in zip(encoding.cut(file), chunks, strict=True))
    least, most = encoding.file_bytes()
    assert least <= len(file) <= most


def test_an_unknown_profile_is_refused_before_anything_is_written(tmp_path, schema):
    with pytest.raises(ValueError, match="'zip' is unknown; expected one of fast, compact"):
        ReplayStore.create(tmp_path / "s.zarr", schema, profile="zip")  # type: ignore[arg-type]
    assert not (tmp_path / "s.zarr").exists()


def test_merge_and_repair_keep_or_change_the_profile(tmp_path, schema, compact):
    plain, copied, _ = merge([compact], tmp_path / "fast.zarr", profile="fast")
    assert (plain.profile, copied) == ("fast", len(LENGTHS))
    assert all(same(plain.episode(i), compact.episode(i)) for i in range(len(LENGTHS)))
    assert main(["data", "merge", str(plain.path), "--into", str(tmp_path / "again.zarr"), "--profile", "compact"]) == 0
    assert ReplayStore.open(tmp_path / "again.zarr").profile == "compact"
    path = next(p for p in files(compact) if "reward" in p.parts)
    path.write_bytes(path.read_bytes()[:-1])
    assert repair(compact.path).rewritten
    mended = ReplayStore.open(compact.path)
    assert [segment["profile"] for segment in mended.commit.segments] == ["compact"]
    assert [f for f in validate(mended, commit=mended.commit.number) if f.severity == "error"] == []
