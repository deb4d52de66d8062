"""Replay buffers of diffusion policies: numbers alone are decoded, and what is not there is said."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from damage import outcomes
from gymnasium import spaces
from numcodecs import Blosc

from toolkit.core import Episode
from toolkit.formats import Reading
from toolkit.store import ReplayStore, Schema
from toolkit.transfer import Imported, export_store, import_store

STOPS = [10, 25, 32]


def _buffer(path: Path, rows: int = 32, **more: np.ndarray) -> Path:
    """A folder as the library's own `save_to_path` makes it."""
    rng = np.random.default_rng(0)
    root = zarr.create_group(path, zarr_format=2)
    arrays = {
        "action": rng.uniform(0, 512, (rows, 2)).astype(np.float32),
        "state": rng.normal(size=(rows, 5)).astype(np.float32),
        "img": rng.integers(0, 256, (rows, 6, 7, 3)).astype(np.float32),
    }
    packed = Blosc(cname="zstd", clevel=5, shuffle=Blosc.BITSHUFFLE)
    for name, values in (arrays | more).items():
        chunks = (8, *values.shape[1:])
        root.create_array(f"data/{name}", data=values, chunks=chunks, compressors=packed)
    root.create_array("meta/episode_ends", data=np.array(STOPS), chunks=(3,), compressors=None)
    return path


def _read(path: Path, **reading: object) -> Imported:
    return import_store("diffusion-policy", path, path.parent / "out.zarr", reading=Reading(**reading))  # type: ignore[arg-type]


def _rewrite(path: Path, **changes: object) -> None:
    told = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps(told | changes))


def test_rows_become_episodes_without_their_last_step_and_what_is_not_there_is_said(tmp_path: Path) -> None:
    path = _buffer(tmp_path / "a.zarr")
    done = _read(path)
    assert [len(done.store.episode(i)) for i in range(3)] == [9, 14, 6]
    one, state = done.store.episode(1), zarr.open_array(path / "data" / "state", mode="r")
    assert np.array_equal(one.obs["state"], state[10:25])
    assert not one.reward.any()
    assert not one.terminated
    told = " ".join(done.notes)
    for part in ("taken as truncated", "every reward is 0", "last step of 3 truncated", "limits of the actions"):
        assert part in told


def test_images_of_whole_floats_become_bytes(tmp_path: Path) -> None:
    path = _buffer(tmp_path / "a.zarr")
    store = _read(path).store
    assert store.schema.images == {"img": (6, 7, 3)}
    seen = zarr.open_array(path / "data" / "img", mode="r")
    assert np.array_equal(store.episode(2).obs["img"], seen[25:32])


def test_images_of_other_floats_are_refused_unless_left_out(tmp_path: Path) -> None:
    path = _buffer(tmp_path / "a.zarr", img=np.random.default_rng(0).random((32, 6, 7, 3), np.float32))
    with pytest.raises(ValueError, match="data/img is float32"):
        _read(path)
    assert not (tmp_path / "out.zarr").exists()
    assert [key.name for key in _read(path, keys=("state",)).store.schema.observations] == ["state"]


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dtype": "|O", "filters": [{"id": "pickle"}]}, "never objects"),
        ({"filters": [{"id": "pickle"}]}, "codec 'pickle'"),
        ({"compressor": {"id": "pickle", "protocol": 5}}, "codec 'pickle'"),
        ({"compressor": {"id": "imagecodecs_jpegxl"}}, "codec 'imagecodecs_jpegxl'"),
        ({"dtype": [["a", "<f4"]]}, "never objects"),
        ({"chunks": [1 << 30, 5]}, "the most is"),
        ({"shape": [10**15, 5], "chunks": [8, 5]}, "rows|chunks"),
        ({"zarr_format": 3}, "format 2"),
        ({"shape": 7}, "format 2"),
    ],
)
def test_an_array_that_is_not_plain_numbers_is_refused_before_it_is_decoded(
    changes: dict[str, object], told: str, tmp_path: Path
) -> None:
    path, touched = _buffer(tmp_path / "a.zarr"), tmp_path / "touched"
    array = path / "data" / "state"
    _rewrite(array, **changes)
    for chunk in (array / f"{n}.0" for n in range(4)):
        chunk.write_bytes(pickle.dumps(_Trap(touched)))
    with pytest.raises(ValueError, match=told):
        _read(path)
    assert not touched.exists()
    assert not (tmp_path / "out.zarr").exists()


def _damaged(path: Path) -> None:
    (path / "data" / "action" / "1.0").write_bytes(b"\0" * 40)


def _linked(path: Path) -> None:
    (path / "data" / "action" / "1.0").rename(path.parent / "elsewhere")
    (path / "data" / "action" / "1.0").symlink_to(path.parent / "elsewhere")


def _no_action(path: Path) -> None:
    (path / "data" / "action").rename(path / "data" / "robot0_eef_pos")


def _unfilled(path: Path) -> None:
    _rewrite(path / "data" / "state", fill_value=None)
    (path / "data" / "state" / "2.0").unlink()


def _empty(path: Path) -> None:
    for number in range(4):
        (path / "data" / "state" / f"{number}.0").unlink()


def _falling(path: Path) -> None:
    zarr.open_array(path / "meta" / "episode_ends")[:] = [10, 8, 32]


def _beyond(path: Path) -> None:
    zarr.open_array(path / "meta" / "episode_ends")[:] = [10, 25, 33]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_damaged, "action cannot be decoded"),
        (_linked, "is a link"),
        (_no_action, "no array data/action"),
        (_unfilled, "1 of its 4 chunks are not there"),
        (_empty, "4 of its 4 chunks are not there"),
        (_falling, "expected growing"),
        (_beyond, "the episodes end at row 33"),
    ],
)
def test_a_buffer_that_is_wrong_is_refused_and_nothing_is_made(
    change: Callable[[Path], None], told: str, tmp_path: Path
) -> None:
    path = _buffer(tmp_path / "a.zarr")
    change(path)
    with pytest.raises(ValueError, match=told):
        _read(path)
    assert not (tmp_path / "out.zarr").exists()


def test_a_chunk_that_stands_for_its_fill_value_is_told(tmp_path: Path) -> None:
    path = _buffer(tmp_path / "a.zarr")
    (path / "data" / "state" / "1.0").unlink()
    done = _read(path)
    assert any("1 of 4 chunks of state are not there" in note for note in done.notes)
    assert not done.store.episode(1).obs["state"][:6].any()


def test_rows_after_the_last_episode_are_left_out_and_told(tmp_path: Path) -> None:
    done = _read(_buffer(tmp_path / "a.zarr", rows=40))
    assert done.store.transitions == 29
    assert any("8 rows of action after the last episode" in note for note in done.notes)


def _store(path: Path) -> ReplayStore:
    seen = spaces.Dict(
        {
            "arm": spaces.Dict({"angle": spaces.Box(-np.inf, np.inf, (2,))}),
            "camera": spaces.Box(0, 255, (5, 4, 3), np.uint8),
        }
    )
    schema = Schema.from_spaces(observation=seen, action=spaces.Box(-1, 1, (2,)), info={"force": (3,)})
    rng = np.random.default_rng(0)
    with ReplayStore.create(path, schema).writer() as writer:
        for number in range(3):
            angle = rng.normal(size=(9, 2)).astype(np.float32)
            camera = rng.integers(0, 256, (9, 5, 4, 3), np.uint8)
            action = rng.uniform(-1, 1, (8, 2)).astype(np.float32)
            info = {"force": np.zeros((8, 3), np.float32)}
            obs = {"arm": {"angle": angle}, "camera": camera}
            writer.append(Episode(obs, action, np.arange(8, dtype=np.float32), number == 0, info))
    return ReplayStore.open(path)


@pytest.mark.parametrize("name", ["there", "there.zarr.zip"])
def test_what_is_written_has_the_library_s_layout_and_keeps_images_rewards_and_ends(name: str, tmp_path: Path) -> None:
    store, path = _store(tmp_path / "a.zarr"), tmp_path / name
    lost = export_store("diffusion-policy", store, path)
    assert "info force" in lost
    assert list(tmp_path.glob("there*")) == [path]
    if name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            archive.extractall(tmp_path / "folder")
    root = zarr.open_group(tmp_path / "folder" if name.endswith(".zip") else path, mode="r", zarr_format=2)
    assert set(root["data"].array_keys()) == {"arm_angle", "camera", "action", "reward"}
    assert list(root["data"].group_keys()) == []  # the library takes every member for an array
    assert root["meta/episode_ends"][:].tolist() == [8, 16, 24]
    assert np.array_equal(root["data/camera"][8:16], store.episode(1).obs["camera"][:-1])
    back = import_store("diffusion-policy", path, tmp_path / "b.zarr", reading=Reading(final="repeat")).store
    assert [back.episode(i).terminated for i in range(3)] == [True, False, False]
    assert np.array_equal(back.episode(0).obs["camera"][:-1], store.episode(0).obs["camera"][:-1])
    assert np.array_equal(back.episode(0).reward, store.episode(0).reward)


def test_rows_are_written_in_whole_chunks_whatever_the_lengths_of_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.formats.diffusion_policy.MOST_ROWS", 5)
    store = _store(tmp_path / "a.zarr")
    export_store("diffusion-policy", store, tmp_path / "there")
    written = zarr.open_group(tmp_path / "there", mode="r", zarr_format=2)["data/action"]
    assert written.chunks == (5, 2)
    assert np.array_equal(written[:], np.concatenate([store.episode(i).action for i in range(3)]))


def test_damage_anywhere_is_refused_or_does_no_harm(tmp_path: Path) -> None:
    export_store("diffusion-policy", _store(tmp_path / "a.zarr"), tmp_path / "a.zip")
    for source in (_buffer(tmp_path / "a"), tmp_path / "a.zip"):
        assert set(outcomes("diffusion-policy", source, count=20)) == {"read", "refused"}
