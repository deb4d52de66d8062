"""Minari data sets: what Minari wrote is kept step for step, what is written Minari gives back, and nothing is run."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium import spaces

from toolkit.core import Episode, leaves
from toolkit.formats import Reading
from toolkit.store import ReplayStore, Schema
from toolkit.transfer import export_store, import_store

minari = pytest.importorskip("minari")
T = (1, 4, 7)


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def _sampled(space: gym.Space, count: int) -> Any:
    """`count` samples of a space, nested like it, arrays of (count, ...)."""
    if isinstance(space, spaces.Dict):
        return {name: _sampled(inner, count) for name, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_sampled(inner, count) for inner in space.spaces)
    return np.asarray([space.sample() for _ in range(count)], space.dtype)


def _recorded(
    tmp_path: Path,
    observation: gym.Space,
    action: gym.Space,
    *,
    infos: Any = None,
    seeds: tuple[int, ...] = (3, 4, 5),
    options: dict[str, Any] | None = None,
    **given: Any,
) -> Path:
    """A data set as Minari writes it: episodes of T steps, the second terminated."""
    from minari.data_collector.episode_buffer import EpisodeBuffer

    observation.seed(0), action.seed(0)
    buffers = []
    for number, steps in enumerate(T):
        ends = np.zeros((2, steps), bool)  # terminations, truncations
        ends[int(number != 1), -1] = True
        buffers.append(
            EpisodeBuffer(
                id=number,
                seed=seeds[number],
                options=options,
                observations=_sampled(observation, steps + 1),
                actions=_sampled(action, steps),
                rewards=list(np.arange(steps) / 4 + number),
                terminations=list(ends[0]),
                truncations=list(ends[1]),
                infos=None if infos is None else infos(steps),
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about authors and licences
        minari.create_dataset_from_buffers(
            "test/made-v0", buffers, observation_space=observation, action_space=action, **given
        )
    return tmp_path / "minari" / "test" / "made-v0"


def _episodes(source: Path) -> Iterator[Any]:
    return iter(minari.MinariDataset(source / "data"))


def _is_same(ours: Episode, theirs: Any) -> bool:
    seen, recorded = ours.observations(), leaves(theirs.observations)
    return (
        set(seen) == set(recorded)
        and all(np.array_equal(seen[name], np.asarray(recorded[name], seen[name].dtype)) for name in seen)
        and np.array_equal(ours.action, np.asarray(theirs.actions, ours.action.dtype))
        and np.array_equal(ours.reward, np.asarray(theirs.rewards, np.float32))
        and ours.terminated == bool(theirs.terminations[-1])
    )


BOX = spaces.Box(-2, 2, (3,), np.float64)
OBSERVATIONS = {
    "box": BOX,
    "discrete": spaces.Dict({"at": spaces.Discrete(5), "speed": BOX}),
    "nested": spaces.Dict(
        {
            "arm": spaces.Dict({"joints": BOX, "grip": spaces.MultiBinary(2)}),
            "sides": spaces.Tuple([spaces.Box(0, 9, (2,), np.int32), spaces.MultiDiscrete([2, 3])]),
        }
    ),
    "image": spaces.Dict({"camera": spaces.Box(0, 255, (6, 5, 3), np.uint8), "speed": BOX}),
}
ACTIONS = {
    "box": spaces.Box(-1, 1, (2,)),
    "discrete": spaces.Discrete(4),
    "discrete from 2": spaces.Discrete(3, start=2),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "multi-binary": spaces.MultiBinary(3),
}


BOTH = [*((name, "box") for name in OBSERVATIONS), *(("box", name) for name in ACTIONS if name != "box")]


@pytest.mark.parametrize(
    ("observation", "action", "data_format"),
    [*((*pair, "hdf5") for pair in BOTH), *((*pair, "arrow") for pair in BOTH), ("nested", "discrete", "parquet")],
)
def test_what_minari_wrote_is_kept_step_for_step(
    observation: str, action: str, data_format: str, tmp_path: Path
) -> None:
    source = _recorded(tmp_path, OBSERVATIONS[observation], ACTIONS[action], data_format=data_format)
    store = import_store("minari", source, tmp_path / "out.zarr").store
    assert [len(store.episode(number)) for number in range(len(store))] == list(T)
    assert all(_is_same(store.episode(number), theirs) for number, theirs in enumerate(_episodes(source)))
    assert [store.episode(number).columns["seed"] for number in range(3)] == [3, 4, 5]


@pytest.mark.parametrize(("observation", "action"), BOTH)
def test_minari_gives_back_what_was_written(observation: str, action: str, tmp_path: Path) -> None:
    first = _recorded(tmp_path, OBSERVATIONS[observation], ACTIONS[action], infos=_infos)
    store = import_store("minari", first, tmp_path / "a.zarr", behaviour="random").store
    lost = export_store("minari", store, tmp_path / "minari" / "written-v1")
    assert lost == ()
    written = minari.load_dataset("written-v1")
    assert written.spec.total_steps == sum(T)
    assert written.action_space.shape == ACTIONS[action].shape
    assert all(_is_same(store.episode(number), theirs) for number, theirs in enumerate(written))
    back = import_store("minari", tmp_path / "minari" / "written-v1", tmp_path / "b.zarr").store
    assert np.array_equal(back.episodes["uid"], store.episodes["uid"])
    for number in range(len(store)):
        assert back.episode(number).columns == store.episode(number).columns
        assert np.array_equal(back.episode(number).info["speed"], store.episode(number).info["speed"])
    keys = [(key.name, key.shape, key.space, key.choices) for key in (*store.schema.observations, store.schema.action)]
    assert keys == [(k.name, k.shape, k.space, k.choices) for k in (*back.schema.observations, back.schema.action)]


def _infos(steps: int) -> dict[str, Any]:
    """As the collector records them, the reset's first."""
    return {"speed": list(np.arange(steps + 1.0)), "is_success": [at == min(steps, 4) for at in range(steps + 1)]}


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_infos_are_those_of_the_steps_and_the_last_says_success(data_format: str, tmp_path: Path) -> None:
    source = _recorded(tmp_path, BOX, ACTIONS["box"], infos=_infos, data_format=data_format)
    done = import_store("minari", source, tmp_path / "out.zarr")
    assert [done.store.episode(i).info["speed"].tolist() for i in range(2)] == [[1.0], [1.0, 2.0, 3.0, 4.0]]
    assert [done.store.episode(i).columns["success"] for i in range(3)] == [True, True, False]
    assert any("resets" in note for note in done.notes)


def test_infos_that_differ_between_episodes_are_left_out_with_a_note(tmp_path: Path) -> None:
    def infos(steps: int) -> dict[str, Any]:
        return {"kept": {"x": np.zeros((steps + 1, 2))}, "wide": np.zeros((steps + 1, steps)), "text": ["a"] * steps}

    done = import_store("minari", _recorded(tmp_path, BOX, ACTIONS["box"], infos=infos), tmp_path / "out.zarr")
    assert set(done.store.schema.info) == {"kept/x"}
    assert any("text, wide were left out" in note for note in done.notes)


def test_what_is_not_kept_of_an_episode_is_said(tmp_path: Path) -> None:
    source = _recorded(tmp_path, BOX, ACTIONS["box"], seeds=(1, 1 << 63, 2), options={"cell": 3})
    done = import_store("minari", source, tmp_path / "out.zarr")
    assert [done.store.episode(i).columns["seed"] for i in range(3)] == [1, -1, 2]
    assert any("seeds of 1 episodes" in note for note in done.notes)
    assert any("options" in note for note in done.notes)


def test_desired_goals_are_goals_and_keys_choose(tmp_path: Path) -> None:
    goals = spaces.Dict({name: BOX for name in ("observation", "achieved_goal", "desired_goal")})
    source = _recorded(tmp_path, goals, ACTIONS["box"])
    whole = import_store("minari", source, tmp_path / "a.zarr").store
    assert (whole.schema.goal_dim, whole.schema.obs_dim) == (3, 9)
    some = import_store("minari", source, tmp_path / "b.zarr", reading=Reading(("observation", "desired_goal"))).store
    assert (some.schema.goal_dim, some.schema.obs_dim) == (3, 6)
    with pytest.raises(ValueError, match=r"no observation is called speed.*achieved_goal"):
        import_store("minari", source, tmp_path / "c.zarr", reading=Reading(("speed",)))


def test_text_is_refused_by_name_and_can_be_left_out(tmp_path: Path) -> None:
    source = _recorded(tmp_path, spaces.Dict({"mission": spaces.Discrete(2), "speed": BOX}), ACTIONS["box"])
    path = source / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    space = json.loads(metadata["observation_space"])
    space["subspaces"]["mission"] = {"type": "Text", "max_length": 9, "min_length": 0, "charset": "ab"}
    path.write_text(json.dumps({**metadata, "observation_space": json.dumps(space)}))
    with pytest.raises(ValueError, match=r"made-v0.*'mission' has space Text"):
        import_store("minari", source, tmp_path / "out.zarr")


def test_the_environment_is_recorded_and_can_be_made_again(tmp_path: Path) -> None:
    made = gym.make("CartPole-v1", max_episode_steps=50)
    source = _recorded(
        tmp_path, made.observation_space, made.action_space, env=made.spec, eval_env="CartPole-v0",
        requirements=[f"gymnasium=={gym.__version__}", "numpy>=2"],
    )  # fmt: skip
    done = import_store("minari", source, tmp_path / "out.zarr")
    schema = done.store.schema
    assert schema.requirements == (f"gymnasium=={gym.__version__}",)
    assert any("numpy>=2" in note for note in done.notes)
    assert done.store.make_env().spec.max_episode_steps == 50
    assert done.store.make_env(evaluation=True).spec.id == "CartPole-v0"
    export_store("minari", done.store, tmp_path / "minari" / "again-v0")
    again = minari.load_dataset("again-v0")
    assert (again.recover_environment().spec.max_episode_steps, again.spec.env_spec.id) == (50, "CartPole-v1")


@pytest.mark.parametrize("stated", [True, False])
def test_nothing_that_a_data_set_names_is_imported(
    stated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _recorded(tmp_path, BOX, ACTIONS["box"])
    path = source / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    spec = {"id": "Evil-v0", "entry_point": "evil_environments:Env", "kwargs": {}, "additional_wrappers": []}
    metadata |= {"env_spec": json.dumps(spec), "eval_env_spec": json.dumps({**spec, "id": "evil_environments:Evil-v0"})}
    if not stated:
        del metadata["observation_space"]
    path.write_text(json.dumps(metadata))
    (tmp_path / "evil_environments.py").write_text("import gymnasium\nclass Env(gymnasium.Env): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    if stated:
        assert import_store("minari", source, tmp_path / "out.zarr").store.schema.environment_spec == spec
    else:  # Minari would make the environment to see its spaces
        with pytest.raises(ValueError, match="states no observation_space"):
            import_store("minari", source, tmp_path / "out.zarr")
    assert "evil_environments" not in sys.modules


def _links(data: Path) -> None:
    (data / "main_data.hdf5").rename(data.parent.parent / "elsewhere.hdf5")
    (data / "main_data.hdf5").symlink_to(data.parent.parent / "elsewhere.hdf5")


def _links_inside(data: Path) -> None:
    with h5py.File(data / "main_data.hdf5", "a") as file:
        del file["episode_1/actions"]
        file["episode_1/actions"] = h5py.ExternalLink("elsewhere.hdf5", "/actions")


def _claims_terabytes(data: Path) -> None:
    with h5py.File(data / "main_data.hdf5", "a") as file:
        del file["episode_1/observations"]
        file.create_dataset("episode_1/observations", (1 << 40, 3), "float32")


def _states_more(data: Path) -> None:
    metadata = json.loads((data / "metadata.json").read_text())
    (data / "metadata.json").write_text(json.dumps({**metadata, "total_episodes": 4}))


def _claims_a_huge_space(data: Path) -> None:
    metadata = json.loads((data / "metadata.json").read_text())
    space = {"type": "Box", "dtype": "float32", "shape": [1 << 40], "low": -1, "high": 1}
    (data / "metadata.json").write_text(json.dumps({**metadata, "observation_space": json.dumps(space)}))


def _loses_a_row(data: Path) -> None:
    with h5py.File(data / "main_data.hdf5", "a") as file:
        file["episode_1/observations"].resize(4, axis=0)


def _ends_early(data: Path) -> None:
    with h5py.File(data / "main_data.hdf5", "a") as file:
        file["episode_2/terminations"][2] = True


def _is_cut_short(data: Path) -> None:
    whole = (data / "main_data.hdf5").read_bytes()
    (data / "main_data.hdf5").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_links, "is a link"),
        (_links_inside, "is a link"),
        (_claims_terabytes, "claims"),
        (_states_more, "says 4"),
        (_claims_a_huge_space, "do not have its shape"),
        (_loses_a_row, "episode 1"),
        (_ends_early, "'terminations' is set at step 2 of 7"),
        (_is_cut_short, "cut short"),
    ],
)
def test_a_spoilt_data_set_is_refused_and_nothing_is_made(spoil: Any, told: str, tmp_path: Path) -> None:
    source = _recorded(tmp_path, BOX, ACTIONS["box"])
    spoil(source / "data")
    with pytest.raises(ValueError, match=told):
        import_store("minari", source, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


def test_jpeg_is_read_as_minari_decodes_it_with_a_note(tmp_path: Path) -> None:
    space = spaces.Dict({"camera": spaces.Box(0, 255, (32, 40, 3), np.uint8), "speed": BOX})
    source = _recorded(tmp_path, space, ACTIONS["box"])
    done = import_store("minari", source, tmp_path / "out.zarr")
    assert all(_is_same(done.store.episode(number), theirs) for number, theirs in enumerate(_episodes(source)))
    assert any("JPEG" in note for note in done.notes)
    export_store("minari", done.store, tmp_path / "minari" / "plain-v0")  # without loss, so no note on coming back
    again = import_store("minari", tmp_path / "minari" / "plain-v0", tmp_path / "back.zarr")
    assert np.array_equal(again.store.episodes["uid"], done.store.episodes["uid"])
    assert not any("JPEG" in note for note in again.notes)


def test_a_name_minari_does_not_find_is_told_and_the_data_set_opens_all_the_same(tmp_path: Path) -> None:
    schema = Schema.from_spaces(observation=BOX, action=ACTIONS["box"], context_names=("mass",))
    with ReplayStore.create(tmp_path / "a.zarr", schema).writer() as writer:
        columns = {"context": [1.5]}
        writer.append(
            Episode(np.zeros((3, 3)), np.zeros((2, 2), np.float32), np.zeros(2, np.float32), True, {}, columns)
        )
    lost = export_store("minari", ReplayStore.open(tmp_path / "a.zarr"), tmp_path / "my data")
    assert any("rename the folder to my_data-v0" in what for what in lost)
    assert "contexts" in lost
    written = minari.MinariDataset(tmp_path / "my data" / "data")
    assert written.spec.dataset_id == "my_data-v0"
    assert "total_steps=2" in repr(written[0])  # without infos too
