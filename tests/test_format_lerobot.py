"""LeRobot's data sets: both versions on disk read alike, nothing outside the folder, nothing taken for granted."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import outcomes
from gymnasium import spaces
from PIL import Image

from toolkit.core import Episode
from toolkit.formats import Reading
from toolkit.store import ReplayStore, Schema
from toolkit.transfer import Imported, export_store, import_store

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

LENGTHS = [6, 9, 4]
NEWER = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
OLDER = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
TASKS = ["push", "pull"]
Change = Callable[[dict[str, Any]], None]


def _png(image: np.ndarray, form: str = "PNG") -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=form)
    return {"bytes": buffer.getvalue(), "path": "frame.png"}


def _frames(number: int, steps: int) -> dict[str, Any]:
    """The columns of one episode, as plain lists."""
    rng = np.random.default_rng(number)
    start = sum(LENGTHS[:number])
    return {
        "observation.state": rng.normal(size=(steps, 3)).astype(np.float32).tolist(),
        "observation.images.top": [_png(image) for image in rng.integers(0, 256, (steps, 4, 5, 3), np.uint8)],
        "action": rng.normal(size=(steps, 2)).astype(np.float32).tolist(),
        "next.reward": np.arange(steps, dtype=np.float32).tolist(),
        "next.done": [False] * (steps - 1) + [True],
        "timestamp": (np.arange(steps) / 10).tolist(),
        "frame_index": list(range(steps)),
        "episode_index": [number] * steps,
        "index": list(range(start, start + steps)),
        "task_index": [number % 2] * steps,
    }


FEATURES: dict[str, Any] = {
    "observation.state": ("float32", [3]), "observation.images.top": ("image", [4, 5, 3]), "action": ("float32", [2]),
    "next.reward": ("float32", [1]), "next.done": ("bool", [1]), "timestamp": ("float32", [1]),
    "frame_index": ("int64", [1]), "episode_index": ("int64", [1]), "index": ("int64", [1]),
    "task_index": ("int64", [1]),
}  # fmt: skip


def _folder(path: Path, version: str = "v3.0", info: Change | None = None, frames: Change | None = None) -> Path:
    """A data set of three episodes; `info` and `frames` (of the second one) may change what is written of them."""
    features = {name: {"dtype": dtype, "shape": shape, "names": None} for name, (dtype, shape) in FEATURES.items()}
    newer = version.startswith("v3")
    told = {"codebase_version": version, "fps": 10, "features": features, "chunks_size": 1000}
    told["data_path"] = NEWER if newer else OLDER
    columns = [_frames(number, steps) for number, steps in enumerate(LENGTHS)]
    if frames is not None:
        for one in columns:
            if one["episode_index"][0] == 1:
                frames(one)
    if info is not None:
        info(told)
    (path / "meta").mkdir(parents=True)
    (path / "data" / "chunk-000").mkdir(parents=True)
    (path / "meta" / "info.json").write_text(json.dumps(told))
    tables = [pa.table(one) for one in columns]
    if newer:
        pq.write_table(pa.concat_tables(tables[:2]), path / "data" / "chunk-000" / "file-000.parquet", row_group_size=7)
        pq.write_table(tables[2], path / "data" / "chunk-000" / "file-001.parquet")
        (path / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
        episodes = {
            "episode_index": [0, 1, 2], "length": LENGTHS, "data/chunk_index": [0, 0, 0], "data/file_index": [0, 0, 1]
        }  # fmt: skip
        pq.write_table(pa.table(episodes), path / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
        named = pa.table({"task_index": [0, 1], "__index_level_0__": TASKS})
        pq.write_table(named, path / "meta" / "tasks.parquet")
        return path
    for number, table in enumerate(tables):
        pq.write_table(table, path / "data" / "chunk-000" / f"episode_{number:06d}.parquet")
    episodes = [{"episode_index": n, "tasks": [TASKS[n % 2]], "length": steps} for n, steps in enumerate(LENGTHS)]
    (path / "meta" / "episodes.jsonl").write_text("\n".join(map(json.dumps, episodes)))
    tasks = [{"task_index": n, "task": task} for n, task in enumerate(TASKS)]
    (path / "meta" / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    return path


def _read(path: Path, **reading: Any) -> Imported:
    return import_store("lerobot", path, path.parent / "out.zarr", reading=Reading(**reading))


def _refused(path: Path, told: str, **reading: Any) -> None:
    with pytest.raises(ValueError, match=told):
        _read(path, **reading)
    assert not (path.parent / "out.zarr").exists()


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
def test_every_version_is_read_alike_without_the_last_frame_s_step(version: str, tmp_path: Path) -> None:
    done = _read(_folder(tmp_path / "a", version))
    for number, steps in enumerate(LENGTHS):
        one, frames = done.store.episode(number), _frames(number, steps)
        assert len(one) == steps - 1
        assert np.array_equal(one.obs["observation.state"], np.asarray(frames["observation.state"], np.float32))
        assert np.array_equal(one.action, np.asarray(frames["action"], np.float32)[:-1])
        assert one.reward.tolist() == frames["next.reward"][:-1]
        assert one.columns["task"] == TASKS[number % 2]
        assert not one.terminated
    assert any("next.done alone does not say" in note for note in done.notes)


def test_pictures_are_decoded_exactly_and_keys_select(tmp_path: Path) -> None:
    path = _folder(tmp_path / "a")
    store = _read(path).store
    cells = _frames(1, LENGTHS[1])["observation.images.top"]
    seen = np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in cells])
    assert np.array_equal(store.episode(1).obs["observation.images.top"], seen)
    (tmp_path / "out.zarr").rename(tmp_path / "whole.zarr")
    alone = _read(path, keys=("observation.state",)).store
    assert [key.name for key in alone.schema.observations] == ["observation.state"]


def _truncated(told: dict[str, Any]) -> None:
    told["features"]["next.truncated"] = {"dtype": "bool", "shape": [1], "names": None}


def test_an_end_is_terminated_only_where_the_source_says_that_it_was_not_truncated(tmp_path: Path) -> None:
    path = _folder(tmp_path / "a", "v2.1", info=_truncated)
    for number, steps in enumerate(LENGTHS):
        file = path / "data" / "chunk-000" / f"episode_{number:06d}.parquet"
        cut = [False] * (steps - 1) + [number != 1]
        pq.write_table(pq.read_table(file).append_column("next.truncated", pa.array(cut)), file)
    _refused(path, "--final repeat")
    store = _read(path, final="repeat").store
    assert [store.episode(i).terminated for i in range(3)] == [False, True, False]
    assert [len(store.episode(i)) for i in range(3)] == [5, 9, 3]


def test_videos_and_texts_are_left_out_by_name_and_refused_if_asked_for(tmp_path: Path) -> None:
    def more(told: dict[str, Any]) -> None:
        told["features"]["observation.images.side"] = {"dtype": "video", "shape": [9, 9, 3], "names": None}
        told["features"]["subtask"] = {"dtype": "string", "shape": [1], "names": None}

    path = _folder(tmp_path / "a", info=more)
    _refused(path, "turn videos into", keys=("observation.images.side",))
    told = " ".join(_read(path).notes)
    assert "observation.images.side (video) were left out" in told
    assert "subtask were left out" in told


def test_rewards_that_are_not_there_are_zero_and_success_is_any_frame_s(tmp_path: Path) -> None:
    def renamed(told: dict[str, Any]) -> None:
        told["features"]["next.success"] = told["features"].pop("next.done")
        del told["features"]["next.reward"]

    path = _folder(tmp_path / "a", "v2.1", info=renamed)
    for number in range(3):
        file = path / "data" / "chunk-000" / f"episode_{number:06d}.parquet"
        table = pq.read_table(file)
        names = ["next.success" if name == "next.done" else name for name in table.column_names]
        pq.write_table(table.rename_columns(names), file)
    done = _read(path)
    assert not any(done.store.episode(i).reward.any() for i in range(3))
    assert any("every reward is 0" in note for note in done.notes)
    assert [done.store.episode(i).columns["success"] for i in range(3)] == [True] * 3


def test_an_episode_of_several_tasks_has_none(tmp_path: Path) -> None:
    done = _read(_folder(tmp_path / "a", frames=lambda one: one.update(task_index=[0] * 4 + [1] * 5)))
    assert [done.store.episode(i).columns["task"] for i in range(3)] == ["push", "", "push"]
    assert any("1 episodes have no task, or several" in note for note in done.notes)


@pytest.mark.parametrize(
    "pattern",
    [
        "../outside/file-{file_index:03d}.parquet",
        "/etc/file-{file_index:03d}.parquet",
        "data/{file_index.__class__}.parquet",
        "data/{file_index:999999999d}.parquet",
        "data/{robot}/file.parquet",
        "data//file.parquet",
    ],
)
def test_a_path_that_leaves_the_folder_or_is_no_plain_pattern_is_refused(pattern: str, tmp_path: Path) -> None:
    path = _folder(tmp_path / "a", info=lambda told: told.update(data_path=pattern))
    (tmp_path / "outside").mkdir()
    (path / "data" / "chunk-000" / "file-000.parquet").rename(tmp_path / "outside" / "file-000.parquet")
    _refused(path, "data_path")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    path = _folder(tmp_path / "a")
    file = path / "data" / "chunk-000" / "file-000.parquet"
    file.rename(tmp_path / "elsewhere.parquet")
    file.symlink_to(tmp_path / "elsewhere.parquet")
    _refused(path, "is a link")


def _pictures(replacement: Any) -> Change:
    def change(one: dict[str, Any]) -> None:
        one["observation.images.top"][3] = replacement

    return change


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        (lambda one: one.update(frame_index=[0, 1, 2, 3, 5, 4, 6, 7, 8]), "expected frames 0 to 8"),
        (lambda one: one.update(episode_index=[1] * 8 + [7]), r"rows of episodes \[7\]"),
        (lambda one: one.update(episode_index=[1] * 4 + [0] + [1] * 4), "an episode in two places"),
        (lambda one: one.update({"next.done": [False, True] + [False] * 7}), "'next.done' is set at step 1"),
        (lambda one: one["observation.state"].__setitem__(2, [1.0]), "differ in length"),
        (lambda one: one["action"].__setitem__(2, None), "not all there"),
        (_pictures(_png(np.zeros((4, 6, 3), np.uint8))), r"it is \(4, 6, 3\); expected \(4, 5, 3\)"),
        (_pictures(_png(np.zeros((4, 5, 3), np.uint8), "GIF")), "picture . cannot be read"),
        (_pictures({"bytes": None, "path": "/etc/passwd"}), "is not embedded"),
        (_pictures(_png(np.zeros((4, 5), np.uint16))), "its mode is I;16"),
    ],
)
def test_rows_that_are_wrong_are_refused_and_nothing_is_made(frames: Change, told: str, tmp_path: Path) -> None:
    _refused(_folder(tmp_path / "a", frames=frames), told)


@pytest.mark.parametrize(
    ("info", "told"),
    [
        (lambda told: told.update(codebase_version="v1.6"), "version 'v1.6'"),
        (lambda told: told.update(codebase_version=None), "version None"),
        (lambda told: told["features"].pop("action"), "has no action"),
        (lambda told: told["features"]["action"].update(dtype="int64"), "has int64 action"),
        (lambda told: told["features"]["action"].update(shape=[3]), r"expected \(3,\) numbers"),
        (lambda told: told["features"]["action"].update(dtype="O"), "feature 'action'"),
        (lambda told: told["features"].update({"observation.x": {"dtype": "float32", "shape": [1]}}), "no column"),
        (lambda told: told.pop("features"), "has no features"),
    ],
)
def test_what_is_said_of_a_data_set_must_be_so(info: Change, told: str, tmp_path: Path) -> None:
    _refused(_folder(tmp_path / "a", info=info), told)


def _store(path: Path, same: bool = False) -> ReplayStore:
    seen = {
        "arm": spaces.Dict({"angle": spaces.Box(-np.inf, np.inf, (2,))}),
        "camera": spaces.Box(0, 255, (5, 4, 3), np.uint8),
        "grid": spaces.Box(-np.inf, np.inf, (2, 3)),
    }
    if same:
        seen["arm.angle"] = spaces.Box(-np.inf, np.inf, (2,))
    schema = Schema.from_spaces(observation=spaces.Dict(seen), action=spaces.Box(-1, 1, (2,)), info={"force": (3,)})
    rng = np.random.default_rng(0)
    with ReplayStore.create(path, schema).writer() as writer:
        for number in range(4):
            steps = 8 + number
            obs = {
                name: {"angle": rng.normal(size=(steps + 1, 2)).astype(np.float32)}
                if name == "arm"
                else rng.integers(0, 256, (steps + 1, *space.shape)).astype(space.dtype)
                for name, space in seen.items()
            }
            action = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
            info = {"force": rng.normal(size=(steps, 3)).astype(np.float32)}
            columns = {"task": f"task {number % 2}", "success": number == 1}
            reward = np.arange(steps, dtype=np.float32)
            writer.append(Episode(obs, action, reward, number == 0, info, columns))
    return ReplayStore.open(path)


def test_what_is_written_keeps_pictures_tasks_success_ends_and_extras_over_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"GROUP": 15, "FILE": 1, "FILES": 1}.items():
        monkeypatch.setattr(f"toolkit.formats._lerobot_writing.{name}", value)
    store = _store(tmp_path / "a.zarr")
    export_store("lerobot", store, tmp_path / "there")
    files = sorted(path.relative_to(tmp_path / "there").as_posix() for path in (tmp_path / "there").rglob("data/*/*"))
    assert files == ["data/chunk-000/file-000.parquet", "data/chunk-001/file-000.parquet"]
    back = _read(tmp_path / "there", final="repeat").store
    for number in range(4):
        ours, theirs = store.episode(number), back.episode(number)
        steps = len(ours) - (number > 0)
        assert (len(theirs), theirs.terminated) == (steps, ours.terminated)
        assert [theirs.columns[name] for name in ("task", "success")] == [f"task {number % 2}", number == 1]
        for name, column in {
            "arm/angle": "observation.arm.angle", "camera": "observation.images.camera", "grid": "observation.grid"
        }.items():  # fmt: skip
            assert np.array_equal(theirs.obs[column][: len(ours)], ours.obs[name][:-1])
        assert np.array_equal(theirs.info["force"], ours.info["force"][:steps])


def test_what_is_written_says_of_itself_what_the_library_looks_for(tmp_path: Path) -> None:
    store, meta = _store(tmp_path / "a.zarr"), tmp_path / "there" / "meta"
    export_store("lerobot", store, tmp_path / "there")
    info = json.loads((meta / "info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"]) == ("v3.0", 4, store.transitions)
    episodes = pq.read_table(meta / "episodes" / "chunk-000" / "file-000.parquet").to_pydict()
    assert episodes["dataset_to_index"] == [8, 17, 27, 38]
    assert episodes["tasks"] == [["task 0"], ["task 1"], ["task 0"], ["task 1"]]
    pandas = json.loads(pq.read_schema(meta / "tasks.parquet").metadata[b"pandas"])
    assert pandas["index_columns"] == ["__index_level_0__"]
    stats, actions = (
        json.loads((meta / "stats.json").read_text()),
        np.concatenate([store.episode(i).action for i in range(4)]),
    )
    assert np.allclose(stats["action"]["mean"], actions.mean(0))
    assert np.allclose(stats["action"]["std"], actions.std(0))
    assert np.shape(stats["observation.images.camera"]["mean"]) == (3, 1, 1)
    assert np.max(stats["observation.images.camera"]["max"]) <= 1


def test_keys_that_would_become_one_column_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    store = _store(tmp_path / "a.zarr", same=True)
    with pytest.raises(ValueError, match=r"written as 'observation\.arm\.angle'"):
        export_store("lerobot", store, tmp_path / "out" / "there")
    assert list((tmp_path / "out").iterdir()) == []


def test_damage_anywhere_is_refused_or_does_no_harm(tmp_path: Path) -> None:
    found = outcomes("lerobot", _folder(tmp_path / "a"), count=60)
    assert set(found) == {"read", "refused"}
