"""robomimic's files: what their flags do not say is not taken for granted, and their layout is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from damage import outcomes
from gymnasium import spaces

from toolkit.core import Episode
from toolkit.formats import Reading
from toolkit.store import ReplayStore, Schema
from toolkit.transfer import Imported, export_store, import_store

STEPS = 20
ROBOSUITE = {"env_name": "Lift", "type": 1, "env_kwargs": {"reward_shaping": False}}


def _file(path: Path, demos: int = 3, change: Callable[[h5py.File], None] | None = None) -> Path:
    """Demonstrations as robomimic's own script writes them, success in the last three steps of the odd ones."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(ROBOSUITE)
        for number in range(demos):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"], demo.attrs["model_file"] = STEPS, "<mujoco/>"
            walk = rng.normal(size=(STEPS + 1, 4)).cumsum(axis=0) + 100 * number
            seen = rng.integers(0, 256, (STEPS + 1, 6, 7, 3), np.uint8)
            for name, rows in (("robot0_eef_pos", walk), ("agentview_image", seen)):
                demo[f"obs/{name}"], demo[f"next_obs/{name}"] = rows[:-1], rows[1:]
            reached = (np.arange(STEPS) >= STEPS - 3) & (number % 2 == 1)
            demo["actions"], demo["states"] = rng.uniform(-1, 1, (STEPS, 2)), rng.normal(size=(STEPS, 5))
            demo["rewards"], demo["dones"] = reached.astype(float), reached.astype(int)
        file["mask/train"] = np.array(["demo_0"], dtype="S")
        if change is not None:
            change(file)
    return path


def _read(path: Path, **reading: object) -> Imported:
    return import_store("robomimic", path, path.with_suffix(".zarr"), reading=Reading(**reading))  # type: ignore[arg-type]


def test_done_before_the_end_is_no_termination_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    done = _read(_file(tmp_path / "a.hdf5"))
    episodes = [done.store.episode(i) for i in range(3)]
    assert [len(one) for one in episodes] == [STEPS] * 3
    assert not any(one.terminated for one in episodes)
    assert episodes[1].info["dones"].tolist() == [0] * (STEPS - 3) + [1] * 3
    assert episodes[0].info["states"].shape == (STEPS, 5)
    assert [one.columns["task"] for one in episodes] == ["Lift"] * 3
    told = " ".join(done.notes)
    for part in ("taken as truncated", "filter keys train", "model_file"):
        assert part in told


def test_success_is_read_where_success_alone_is_rewarded_and_unknown_elsewhere(tmp_path: Path) -> None:
    sparse = _read(_file(tmp_path / "sparse.hdf5")).store
    assert [sparse.episode(i).columns["success"] for i in range(3)] == [False, True, False]

    def shaped(file: h5py.File) -> None:
        told = ROBOSUITE | {"env_kwargs": {"reward_shaping": True}}
        file["data"].attrs["env_args"] = json.dumps(told)

    unknown = _read(_file(tmp_path / "shaped.hdf5", change=shaped)).store
    assert [unknown.episode(i).columns["success"] for i in range(3)] == [None] * 3


def test_demonstrations_come_in_order_of_number(tmp_path: Path) -> None:
    store = _read(_file(tmp_path / "a.hdf5", demos=12), keys=("robot0_eef_pos",)).store
    first = [float(store.episode(i).obs["robot0_eef_pos"][0].mean()) for i in range(12)]
    assert first == sorted(first)


def test_images_are_kept_as_they_are_and_keys_select(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.hdf5")
    store = _read(path).store
    assert store.schema.images == {"agentview_image": (6, 7, 3)}
    with h5py.File(path) as file:
        last = file["data/demo_2/next_obs/agentview_image"][-1]
        assert np.array_equal(store.episode(2).obs["agentview_image"][:-1], file["data/demo_2/obs/agentview_image"])
    assert np.array_equal(store.episode(2).obs["agentview_image"][-1], last)
    path.with_suffix(".zarr").rename(tmp_path / "whole.zarr")
    assert [key.name for key in _read(path, keys=("robot0_eef_pos",)).store.schema.observations] == ["robot0_eef_pos"]


def test_without_next_observations_the_last_step_is_left_out(tmp_path: Path) -> None:
    def bare(file: h5py.File) -> None:
        del file["data/demo_1/next_obs"]

    done = _read(_file(tmp_path / "a.hdf5", change=bare))
    assert [len(done.store.episode(i)) for i in range(3)] == [STEPS - 1] * 3
    assert any("last step of 3 truncated episodes" in note for note in done.notes)


def test_a_last_observation_written_twice_is_no_next_observation(tmp_path: Path) -> None:
    def doubled(file: h5py.File) -> None:
        for demo in file["data"].values():
            for name in demo["obs"]:
                demo[f"next_obs/{name}"][-1] = demo[f"obs/{name}"][-1]

    done = _read(_file(tmp_path / "a.hdf5", change=doubled))
    assert [len(done.store.episode(i)) for i in range(3)] == [STEPS - 1] * 3
    assert any("taken as not recorded" in note for note in done.notes)


def _cut(file: h5py.File) -> None:
    file["data/demo_1"].attrs["num_samples"] = STEPS - 1


def _shift(file: h5py.File) -> None:
    rows = file["data/demo_1/next_obs/robot0_eef_pos"]
    rows[:-1] = rows[1:]


def _soft(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1/actions"] = h5py.SoftLink("/data/demo_0/actions")


def _outside(file: h5py.File) -> None:
    file["data/demo_3"] = h5py.ExternalLink("other.hdf5", "/data/demo_0")


def _raw(file: h5py.File) -> None:
    for demo in file["data"].values():
        del demo["obs"]


def _stranger(file: h5py.File) -> None:
    file["data/demo_one/actions"] = np.zeros((3, 2))


def _reshaped(file: h5py.File) -> None:
    del file["data/demo_2/actions"]
    file["data/demo_2/actions"] = np.zeros((STEPS, 3))


def _inside_itself(file: h5py.File) -> None:
    file["data/demo_1/again"] = file["data/demo_1"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_cut, "demo_1.*num_samples 19"),
        (_shift, "demo_1: the next observation of step 0"),
        (_soft, "actions is a link"),
        (_outside, "demo_3 is a link"),
        (_raw, "dataset_states_to_obs"),
        (_stranger, "demo_one is no demonstration"),
        (_reshaped, "demo_2/actions is"),
        (_inside_itself, "nested more than"),
    ],
)
def test_a_file_that_is_wrong_is_refused_and_nothing_is_made(
    change: Callable[[h5py.File], None], told: str, tmp_path: Path
) -> None:
    path = _file(tmp_path / "a.hdf5", change=change)
    with pytest.raises(ValueError, match=told):
        _read(path)
    assert not path.with_suffix(".zarr").exists()


def test_extras_that_are_not_of_one_shape_are_left_out_by_name(tmp_path: Path) -> None:
    def other(file: h5py.File) -> None:
        del file["data/demo_1/states"]
        file["data/demo_1/states"] = np.zeros((STEPS, 6))
        file["data/demo_0/datagen/gripper"] = np.zeros((STEPS, 1))

    done = _read(_file(tmp_path / "a.hdf5", change=other))
    assert set(done.store.schema.info) == {"dones"}
    assert any("datagen/gripper, states were left out" in note for note in done.notes)


def _nested(path: Path, terminated: bool = True) -> ReplayStore:
    seen = spaces.Dict(
        {
            "arm": spaces.Dict({"angle": spaces.Box(-np.inf, np.inf, (2,))}),
            "camera": spaces.Box(0, 255, (5, 4, 3), np.uint8),
        }
    )
    schema = Schema.from_spaces(observation=seen, action=spaces.Box(-1, 1, (2, 1)), info={"force": (3,)})
    rng = np.random.default_rng(0)
    with ReplayStore.create(path, schema).writer() as writer:
        for number in range(3):
            obs = {
                "arm": {"angle": rng.normal(size=(9, 2)).astype(np.float32)},
                "camera": rng.integers(0, 256, (9, 5, 4, 3), np.uint8),
            }
            action = rng.uniform(-1, 1, (8, 2, 1)).astype(np.float32)
            info = {"force": rng.normal(size=(8, 3)).astype(np.float32)}
            columns = {"success": number == 0, "behaviour": "expert"}
            reward = np.arange(8, dtype=np.float32)
            writer.append(Episode(obs, action, reward, terminated and number == 0, info, columns))
    return ReplayStore.open(path)


def test_what_is_written_has_the_layout_that_robomimic_reads(tmp_path: Path) -> None:
    store = _nested(tmp_path / "a.zarr")
    lost = export_store("robomimic", store, tmp_path / "a.hdf5")
    assert "column behaviour" in lost
    assert not any("success" in one for one in lost)
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert file["data"].attrs["total"] == store.transitions
        assert set(json.loads(file["data"].attrs["env_args"])) == {"env_name", "type", "env_kwargs"}
        for number in range(3):
            demo, ours = file[f"data/demo_{number}"], store.episode(number)
            assert demo.attrs["num_samples"] == 8
            assert demo["actions"].shape == (8, 2)
            assert demo["dones"][:].tolist() == [0] * 7 + [int(number == 0)]
            assert np.array_equal(demo["obs/arm_angle"], ours.obs["arm/angle"][:-1])
            assert np.array_equal(demo["next_obs/camera"], ours.obs["camera"][1:])


def test_a_written_file_keeps_termination_success_images_and_extras(tmp_path: Path) -> None:
    store = _nested(tmp_path / "a.zarr")
    export_store("robomimic", store, tmp_path / "a.hdf5")
    back = import_store("robomimic", tmp_path / "a.hdf5", tmp_path / "b.zarr").store
    for number in range(3):
        ours, theirs = store.episode(number), back.episode(number)
        assert (theirs.terminated, theirs.columns["success"]) == (ours.terminated, ours.columns["success"])
        assert np.array_equal(theirs.obs["camera"], ours.obs["camera"])
        assert np.array_equal(theirs.info["force"], ours.info["force"])


def test_names_that_would_become_one_and_choices_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    both = spaces.Dict({"a": spaces.Dict({"b": spaces.Box(-1, 1, (1,))}), "a_b": spaces.Box(-1, 1, (1,))})
    for name, schema in {
        "both": Schema.from_spaces(observation=both, action=spaces.Box(-1, 1, (1,))),
        "choice": Schema.from_spaces(observation=spaces.Box(-1, 1, (1,)), action=spaces.Discrete(2)),
    }.items():
        value = np.zeros((3, 1), np.float32)
        obs = {"a": {"b": value}, "a_b": value} if name == "both" else value
        with ReplayStore.create(tmp_path / f"{name}.zarr", schema).writer() as writer:
            action = np.zeros((2, 1), np.float32) if name == "both" else np.zeros(2, np.int64)
            writer.append(Episode(obs, action, np.zeros(2, np.float32), False))
        with pytest.raises(ValueError, match=r"would both be written as 'a_b'|has choices"):
            export_store("robomimic", ReplayStore.open(tmp_path / f"{name}.zarr"), tmp_path / "out" / "a.hdf5")
        assert list((tmp_path / "out").iterdir()) == []


def test_damage_anywhere_is_refused_or_does_no_harm(tmp_path: Path) -> None:
    found = outcomes("robomimic", _file(tmp_path / "a.hdf5"), count=30)
    assert set(found) == {"read", "refused"}
