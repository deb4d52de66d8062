"""OGBench's npz: what OGBench learns from is what is kept, what is written it loads, and nothing is unpickled."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from toolkit import registry
from toolkit.core import Array, Episode
from toolkit.formats import Reading
from toolkit.store import ReplayStore, Schema
from toolkit.transfer import export_store, import_store

library = pytest.importorskip("ogbench.utils")
ROWS = (6, 2, 9)  # of each trajectory, its last observation among them


def _arrays(rows: tuple[int, ...] = ROWS) -> dict[str, Array]:
    """As OGBench writes a file: float32, but for the terminals."""
    rng, count = np.random.default_rng(0), sum(rows)
    terminals = np.zeros(count, bool)
    terminals[np.cumsum(rows) - 1] = True
    found = {
        name: rng.normal(size=(count, size)).astype(np.float32) for name, size in (("observations", 3), ("qpos", 4))
    }
    actions = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    return found | {"actions": actions, "terminals": terminals, "button_states": np.arange(count)[:, None] % 2}


def _saved(path: Path, **arrays: Array) -> Path:
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)
    return path


def _transitions(store: ReplayStore) -> dict[str, Array]:
    """All steps of a store, one after another, by OGBench's names."""
    episodes = [store.episode(number) for number in range(len(store))]
    ends = [np.arange(len(one)) == len(one) - 1 for one in episodes]
    parts = {
        "observations": [one.obs["observation"][:-1] for one in episodes],
        "next_observations": [one.obs["observation"][1:] for one in episodes],
        "actions": [one.action for one in episodes],
        "rewards": [one.reward for one in episodes],
        "masks": [1 - (end & one.terminated).astype(np.float32) for one, end in zip(episodes, ends, strict=True)],
        "terminals": [end.astype(np.float32) for end in ends],
        **{name: [one.info[name] for one in episodes] for name in store.schema.info},
    }
    return {name: np.concatenate(values) for name, values in parts.items()}


def test_the_steps_are_those_that_ogbench_loads(tmp_path: Path) -> None:
    path = _saved(tmp_path / "d.npz", **_arrays())
    done = import_store("ogbench", path, tmp_path / "out.zarr")
    ours, theirs = _transitions(done.store), library.load_dataset(path, add_info=True)
    assert set(ours) - set(theirs) == {"rewards", "masks"}
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert [len(done.store.episode(number)) for number in range(3)] == [5, 1, 8]
    assert not ours["rewards"].any()
    assert ours["masks"].all()
    for told in ("rewards are|no rewards in the file", "no masks", "state a step starts from"):
        assert any(any(part in note for part in told.split("|")) for note in done.notes)


def _goal_maze(tmp_path: Path) -> Path:
    """Two walks in OGBench's point maze, the first through the goal of its task, and as many to validate with."""
    import ogbench

    env = ogbench.make_env_and_datasets("pointmaze-medium-navigate-singletask-v0", env_only=True)
    kept: dict[str, list[Array]] = {name: [] for name in ("observations", "actions", "terminals", "qpos")}
    env.action_space.seed(0)
    for number in range(2):
        obs, _ = env.reset(seed=number)
        if number == 0:
            env.unwrapped.set_xy(np.add(env.unwrapped.cur_goal_xy, [0.0, 1.4]))
            obs = env.unwrapped.get_ob()
        for step in range(18):
            action = np.asarray([0, -1 if step < 6 else 1], np.float32) if number == 0 else env.action_space.sample()
            row = (obs, action, step == 17, env.unwrapped.data.qpos.copy())
            for values, value in zip(kept.values(), row, strict=True):
                values.append(np.asarray(value))
            obs = env.step(action)[0]
    arrays = {name: np.stack(values) for name, values in kept.items()}
    for name in ("maze.npz", "maze-val.npz"):
        _saved(tmp_path / name, **arrays)
    return tmp_path / "maze.npz"


def test_a_single_task_is_learned_from_as_ogbench_does(tmp_path: Path) -> None:
    import ogbench

    path, name = _goal_maze(tmp_path), "pointmaze-medium-navigate-singletask-v0"
    _, theirs, _ = ogbench.make_env_and_datasets(name, dataset_path=str(path), add_info=True)
    _, compact, _ = ogbench.make_env_and_datasets(name, dataset_path=str(path), add_info=True, compact_dataset=True)
    assert 0 < (theirs["masks"] == 0).sum() < len(theirs["masks"])
    done = import_store("ogbench", _saved(tmp_path / "task.npz", **compact), tmp_path / "out.zarr", unproven=True)
    ours = _transitions(done.store)
    for key in ("observations", "next_observations", "actions", "rewards", "masks", "qpos"):
        assert np.array_equal(ours[key], theirs[key].astype(ours[key].dtype)), key
    assert len(done.store) == 2 + (theirs["masks"] == 0).sum()
    assert any("masks of 0 ended" in note for note in done.notes)


def _store(path: Path, observation: spaces.Space, action: spaces.Space) -> ReplayStore:
    schema = Schema.from_spaces(observation=observation, action=action, info={"qpos": (2,)})
    rng = np.random.default_rng(0)
    observation.seed(0)
    action.seed(0)
    with ReplayStore.create(path, schema).writer() as writer:
        for number, rows in enumerate(ROWS):
            obs = np.stack([observation.sample() for _ in range(rows)])
            actions = np.asarray([action.sample() for _ in range(rows - 1)], action.dtype)
            reward = rng.normal(size=rows - 1).astype(np.float32)
            info = {"qpos": rng.normal(size=(rows - 1, 2)).astype(np.float32)}
            writer.append(Episode(obs, actions, reward, number == 1, info))
    return ReplayStore.open(path)


@pytest.mark.parametrize(
    ("observation", "action"),
    [
        (spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))),
        (spaces.Box(0, 255, (6, 5, 3), np.uint8), spaces.Box(-1, 1, (2,))),
        (spaces.Box(0, 255, (6, 5, 3), np.uint8), spaces.Discrete(4)),
    ],
)
def test_ogbench_loads_what_was_written(observation: spaces.Box, action: spaces.Space, tmp_path: Path) -> None:
    store = _store(tmp_path / "a.zarr", observation, action)
    export_store("ogbench", store, tmp_path / "d.npz")
    ours, types = _transitions(store), {"ob_dtype": observation.dtype, "action_dtype": store.schema.action.dtype}
    theirs = library.load_dataset(tmp_path / "d.npz", add_info=True, **types)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    compact = library.load_dataset(tmp_path / "d.npz", compact_dataset=True, **types)
    valid = compact["valids"].astype(bool)
    assert all(np.array_equal(ours[name], compact[name][valid]) for name in ("observations", "actions"))
    following = np.flatnonzero(valid) + 1
    assert np.array_equal(ours["next_observations"], compact["observations"][following])
    with np.load(tmp_path / "d.npz") as file:
        assert all(np.array_equal(ours[name], file[name][valid]) for name in ("rewards", "masks"))
    limits = (0.0, 3.0) if isinstance(action, spaces.Discrete) else None
    back = import_store("ogbench", tmp_path / "d.npz", tmp_path / "b.zarr", reading=Reading(limits=limits)).store
    assert np.array_equal(back.episodes["uid"], store.episodes["uid"])
    assert back.schema.action.choices == store.schema.action.choices


def test_a_store_of_images_and_vectors_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    both = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(0, 255, (6, 5, 3), np.uint8)})
    schema = Schema.from_spaces(observation=both, action=spaces.Box(-1, 1, (1,)))
    with ReplayStore.create(tmp_path / "a.zarr", schema).writer() as writer:
        obs = {"a": np.zeros((2, 2), np.float32), "b": np.zeros((2, 6, 5, 3), np.uint8)}
        writer.append(Episode(obs, np.zeros((1, 1), np.float32), np.zeros(1, np.float32), False))
    with pytest.raises(ValueError, match="one vector or one image"):
        export_store("ogbench", ReplayStore.open(tmp_path / "a.zarr"), tmp_path / "d.npz")
    assert not (tmp_path / "d.npz").exists()


def test_an_action_of_no_use_sets_no_limits(tmp_path: Path) -> None:
    arrays = _arrays()
    arrays["actions"][arrays["terminals"]] = 50.0
    done = import_store("ogbench", _saved(tmp_path / "d.npz", **arrays), tmp_path / "out.zarr")
    assert done.store.schema.action.high == (1.0, 1.0)


def test_rows_without_an_end_and_rows_alone_are_told(tmp_path: Path) -> None:
    arrays = _arrays((4, 1, 3))
    arrays["terminals"][-1] = False
    done = import_store("ogbench", _saved(tmp_path / "d.npz", **arrays), tmp_path / "out.zarr")
    assert [len(done.store.episode(number)) for number in range(len(done.store))] == [3, 2]
    assert any("no end in the file" in note for note in done.notes)
    assert any("1 trajectories of one row" in note for note in done.notes)


def _npy(values: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def _holds_objects(path: Path, arrays: dict[str, Array]) -> None:
    _saved(path, **arrays, extra=np.asarray([{"a": 1}, None], object))


def _is_a_bomb(path: Path, arrays: dict[str, Array]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, values in arrays.items():
            archive.writestr(f"{name}.npy", _npy(values))
        with archive.open("qvel.npy", "w") as file:
            for _ in range(257):
                file.write(bytes(1 << 20))


def _claims_terabytes(path: Path, arrays: dict[str, Array]) -> None:
    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 3)}
    np.lib.format.write_array_header_1_0(file, header)
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in arrays.items():
            archive.writestr(f"{name}.npy", file.getvalue() if name == "observations" else _npy(values))


def _has_no_terminals(path: Path, arrays: dict[str, Array]) -> None:
    _saved(path, **{name: values for name, values in arrays.items() if name != "terminals"})


def _has_half_terminals(path: Path, arrays: dict[str, Array]) -> None:
    _saved(path, **arrays | {"terminals": arrays["terminals"] * 0.5})


def _is_loaded_already(path: Path, arrays: dict[str, Array]) -> None:
    _saved(path, **arrays, next_observations=arrays["observations"])


def _has_fewer_actions(path: Path, arrays: dict[str, Array]) -> None:
    _saved(path, **arrays | {"actions": arrays["actions"][:-1]})


def _is_flipped(path: Path, arrays: dict[str, Array]) -> None:
    with open(path, "wb") as file:
        np.savez(file, **arrays)
    data, at = bytearray(path.read_bytes()), path.read_bytes().index(arrays["observations"][3].tobytes())
    data[at] ^= 1
    path.write_bytes(data)


def _is_cut_short(path: Path, arrays: dict[str, Array]) -> None:
    _saved(path, **arrays)
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_holds_objects, "Python objects"),
        (_is_a_bomb, "claims to hold"),
        (_claims_terabytes, "bytes are not"),
        (_has_no_terminals, "has no terminals"),
        (_has_half_terminals, "expected one 0 or 1 a row"),
        (_is_loaded_already, "has next_observations"),
        (_has_fewer_actions, "arrays differ in length"),
        (_is_flipped, "observations is no array, or is damaged"),
        (_is_cut_short, "cut short"),
    ],
)
def test_a_spoilt_file_is_refused_and_nothing_is_made(spoil: Any, told: str, tmp_path: Path) -> None:
    spoil(tmp_path / "d.npz", _arrays())
    with pytest.raises(ValueError, match=rf"d\.npz.*{told}"):
        import_store("ogbench", tmp_path / "d.npz", tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


def test_a_changed_byte_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    whole = _saved(tmp_path / "whole.npz", **_arrays())
    reader, rng, refused = registry.format("ogbench"), np.random.default_rng(0), 0

    def rows(path: Path) -> list[bytes]:
        found = reader.read(path, Reading()).recordings(0)
        return [np.concatenate([one.obs.ravel(), one.action.ravel()]).tobytes() for one in found]

    for at in rng.integers(whole.stat().st_size, size=60).tolist():
        data = bytearray(whole.read_bytes())
        data[at] ^= 1 << int(rng.integers(8))
        (tmp_path / "d.npz").write_bytes(data)
        try:
            assert rows(tmp_path / "d.npz") == rows(whole), at
        except ValueError as error:
            assert "d.npz" in str(error)
            refused += 1
    assert refused > 40


def test_a_file_is_continued_where_its_import_stopped_inside_a_trajectory(tmp_path: Path) -> None:
    arrays = _arrays()
    masks = np.ones(len(arrays["terminals"]))
    masks[[1, 2, 10]] = 0
    path = _saved(tmp_path / "d.npz", **arrays, masks=masks)

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "import" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_store("ogbench", path, tmp_path / "a.zarr", progress=stop)
    assert len(ReplayStore.open(tmp_path / "a.zarr")) == 2
    resumed = import_store("ogbench", path, tmp_path / "a.zarr").store
    whole = import_store("ogbench", path, tmp_path / "b.zarr").store
    assert np.array_equal(resumed.episodes["uid"], whole.episodes["uid"])
    assert [(len(one), one.terminated) for one in map(whole.episode, range(len(whole)))] == [
        (2, True), (1, True), (2, False), (1, False), (3, True), (5, False),
    ]  # fmt: skip
