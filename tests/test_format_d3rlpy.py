"""d3rlpy's replay buffers: what d3rlpy dumped is kept, what is written it loads, and its shifted rows are noticed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from toolkit.core import Array, Episode
from toolkit.formats import Reading
from toolkit.store import ReplayStore, Schema
from toolkit.transfer import export_store, import_store

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of gym, which d3rlpy imports
    from d3rlpy.dataset import InfiniteBuffer, MDPDataset, ReplayBuffer

LENGTHS = (5, 1, 8, 6)
ENDED = (True, True, False, False)
REPEAT = Reading(final="repeat")


def _dumped(path: Path, observations: Any, actions: Array) -> ReplayBuffer:
    """A buffer of d3rlpy's with episodes of LENGTHS, those ENDED terminated, dumped to `path`."""
    ends = np.zeros((2, sum(LENGTHS)))
    for stop, ended in zip(np.cumsum(LENGTHS), ENDED, strict=True):
        ends[int(not ended), stop - 1] = 1
    rewards = np.arange(sum(LENGTHS)) / 4
    dataset = MDPDataset(observations, actions, rewards, terminals=ends[0], timeouts=ends[1])
    with open(path, "w+b") as file:
        dataset.dump(file)
    return dataset


def _loaded(path: Path) -> ReplayBuffer:
    with open(path, "rb") as file:
        return ReplayBuffer.load(file, InfiniteBuffer())


def _numbers(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=(sum(LENGTHS), *shape)).astype(np.float32)


def test_what_d3rlpy_dumped_is_kept_and_the_steps_it_trains_on_are_the_same(tmp_path: Path) -> None:
    theirs = _dumped(tmp_path / "d.h5", _numbers(3), np.tanh(_numbers(2)))
    done = import_store("d3rlpy", tmp_path / "d.h5", tmp_path / "out.zarr", reading=REPEAT)
    ours = done.store
    assert [len(ours.episode(number)) for number in range(4)] == [5, 1, 7, 5]
    assert ours.transitions == theirs.transition_count
    for number, episode in enumerate(theirs.episodes):
        mine, steps = ours.episode(number), episode.transition_count
        for step in range(steps):
            picked = theirs.transition_picker(episode, step)
            assert np.array_equal(mine.obs["observation"][step], picked.observation)
            assert np.array_equal(mine.action[step], picked.action)
            assert mine.reward[step] == picked.reward[0]
            assert (mine.terminated and step == steps - 1) == bool(picked.terminal)
            if not picked.terminal:  # after a terminated step d3rlpy shows zeros
                assert np.array_equal(mine.obs["observation"][step + 1], picked.next_observation)
    assert any("last step of 2 truncated" in note for note in done.notes)


def test_choices_are_numbers_from_0_and_their_count_can_be_told(tmp_path: Path) -> None:
    actions = np.arange(sum(LENGTHS)) % 3
    _dumped(tmp_path / "d.h5", _numbers(2), actions)
    done = import_store("d3rlpy", tmp_path / "d.h5", tmp_path / "a.zarr", reading=REPEAT)
    assert done.store.schema.action.choices == (3,)
    assert any("3 actions to choose from" in note for note in done.notes)
    assert done.store.episode(0).action.tolist() == actions[:5].tolist()
    told = import_store("d3rlpy", tmp_path / "d.h5", tmp_path / "b.zarr", reading=Reading(None, "repeat", (0, 6)))
    assert told.store.schema.action.choices == (7,)
    for limits in ((0, 1), (1, 6), (0, float("inf"))):
        with pytest.raises(ValueError, match=r"d\.h5.*expected 0 and the last number"):
            import_store("d3rlpy", tmp_path / "d.h5", tmp_path / "c.zarr", reading=Reading(None, "repeat", limits))


def test_images_turn_and_parts_of_a_tuple_keep_their_places(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (sum(LENGTHS), 3, 6, 5), np.uint8)
    _dumped(tmp_path / "d.h5", (images, _numbers(2)), _numbers(1))
    store = import_store("d3rlpy", tmp_path / "d.h5", tmp_path / "a.zarr", reading=REPEAT).store
    assert store.schema.images == {"0": (6, 5, 3)}
    assert np.array_equal(store.episode(0).obs["0"][:5], images[:5].transpose(0, 2, 3, 1))
    alone = Reading(("1",), "repeat")
    assert import_store("d3rlpy", tmp_path / "d.h5", tmp_path / "b.zarr", reading=alone).store.schema.obs_dim == 2
    export_store("d3rlpy", store, tmp_path / "again.h5")
    back = _loaded(tmp_path / "again.h5").episodes[0].observations  # the vector first
    assert np.array_equal(back[1], images[:5])


def _store(path: Path, action: spaces.Space, **columns: Any) -> ReplayStore:
    observation = spaces.Dict({"a": spaces.Box(-9, 9, (2,)), "goal": spaces.Box(-9, 9, (1,))})
    schema = Schema.from_spaces(observation=observation, action=action, roles={"goal": "goal"})
    rng = np.random.default_rng(0)
    action.seed(0)
    with ReplayStore.create(path, schema).writer() as writer:
        for steps, ended in zip(LENGTHS, ENDED, strict=True):
            obs = {"a": rng.normal(size=(steps + 1, 2)).astype(np.float32), "goal": np.ones((steps + 1, 1), np.float32)}
            actions = np.asarray([action.sample() for _ in range(steps)], action.dtype)
            writer.append(Episode(obs, actions, rng.normal(size=steps).astype(np.float32), ended))
    return ReplayStore.open(path)


@pytest.mark.parametrize(
    ("action", "kind", "size"),
    [
        (spaces.Box(-1, 1, (2,)), "CONTINUOUS", 2),
        (spaces.Box(-1, 1, (2, 2)), "CONTINUOUS", 4),
        (spaces.Discrete(3, start=5), "DISCRETE", 3),
        (spaces.MultiDiscrete([2, 3]), "DISCRETE", 6),
    ],
)
def test_d3rlpy_loads_what_was_written(action: spaces.Space, kind: str, size: int, tmp_path: Path) -> None:
    store = _store(tmp_path / "a.zarr", action)
    lost = export_store("d3rlpy", store, tmp_path / "d.h5")
    theirs = _loaded(tmp_path / "d.h5")
    assert (theirs.dataset_info.action_space.name, theirs.dataset_info.action_size) == (kind, size)
    assert theirs.transition_count == sum(LENGTHS) - 2  # but for the last steps of the two truncated episodes
    for number, episode in enumerate(theirs.episodes):
        ours = store.episode(number)
        assert np.array_equal(episode.observations, store.schema.flatten(ours.obs)[:-1])
        assert np.array_equal(episode.rewards[:, 0], ours.reward)
        assert episode.terminated == ours.terminated
        packed = store.schema.action.pack(ours.action)
        assert np.array_equal(episode.actions, packed if kind == "CONTINUOUS" else packed.argmax(1)[:, None])
    assert "the observation after an episode's last action" in lost
    assert any("numbered from 0" in what for what in lost) == (kind == "DISCRETE")


def test_whole_numbers_that_d3rlpy_takes_for_choices_are_told(tmp_path: Path) -> None:
    schema = Schema.from_spaces(observation=spaces.Box(-9, 9, (2,)), action=spaces.Box(-1, 1, (1,)))
    with ReplayStore.create(tmp_path / "a.zarr", schema).writer() as writer:
        writer.append(Episode(np.zeros((4, 2)), np.ones((3, 1), np.float32), np.zeros(3, np.float32), False))
    lost = export_store("d3rlpy", ReplayStore.open(tmp_path / "a.zarr"), tmp_path / "d.h5")
    assert _loaded(tmp_path / "d.h5").dataset_info.action_space.name == "DISCRETE"
    assert any("actions are continuous" in what for what in lost)
    notes = import_store("d3rlpy", tmp_path / "d.h5", tmp_path / "b.zarr").notes
    assert any("taken as continuous" in note for note in notes)


class Cart(gym.Env):
    """A pushed cart that starts far from where it was: its resets stand out from its steps."""

    observation_space, action_space = spaces.Box(-99, 99, (2,)), spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-9, 9, 2).astype(np.float32)
        return self.state, {}

    def step(self, action: Array) -> Any:
        position, speed = self.state
        self.state = np.asarray([position + 0.1 * speed, speed + 0.3 * action[0]], np.float32)
        return self.state, float(-abs(position)), False, False, {}


def test_the_rows_that_d3rlpys_minari_loader_shifts_are_refused_and_ours_are_not_shifted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("minari")
    from d3rlpy.datasets import get_minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setitem(gym.registry, "Cart-v0", EnvSpec("Cart-v0", f"{__name__}:Cart", max_episode_steps=60))
    env = gym.make("Cart-v0")
    schema = Schema.from_env(env)
    env.action_space.seed(0)
    with ReplayStore.create(tmp_path / "a.zarr", schema).writer() as writer:
        for number in range(12):
            seen, actions, rewards, over = [env.reset(seed=number)[0]], [], [], False
            while not over:
                actions.append(env.action_space.sample())
                obs, reward, _, over, _ = env.step(actions[-1])
                seen.append(obs)
                rewards.append(reward)
            writer.append(Episode(np.stack(seen), np.stack(actions), np.asarray(rewards, np.float32), False))
    store = ReplayStore.open(tmp_path / "a.zarr")
    export_store("minari", store, tmp_path / "cart-v0")
    theirs, _ = get_minari("cart-v0")
    assert np.array_equal(theirs.episodes[1].observations[1:], store.episode(1).obs["observation"][:-2])  # a row late
    with open(tmp_path / "shifted.h5", "w+b") as file:
        theirs.dump(file)
    with pytest.raises(ValueError, match=r"shifted\.h5.* a row late for every episode before.*get_minari"):
        import_store("d3rlpy", tmp_path / "shifted.h5", tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()
    right = import_store("minari", tmp_path / "cart-v0", tmp_path / "b.zarr")
    assert np.array_equal(right.store.episodes["uid"], store.episodes["uid"])
    assert right.proof[0].outcome == "aligned"


def _is_old(file: h5py.File) -> None:
    del file["version"]
    file["version"] = "2.0"


def _has_no_ends(file: h5py.File) -> None:
    del file["terminated_2"]


def _has_fewer_rewards(file: h5py.File) -> None:
    del file["rewards_2"]
    file["rewards_2"] = np.zeros((7, 1))


def _has_two_rewards(file: h5py.File) -> None:
    del file["rewards_2"]
    file["rewards_2"] = np.zeros((8, 2))


def _has_another_form(file: h5py.File) -> None:
    del file["observations_2"]
    file["observations_2"] = np.zeros((8, 4))


def _links(file: h5py.File) -> None:
    del file["actions_2"]
    file["actions_2"] = h5py.SoftLink("/actions_0")


def _states_more(file: h5py.File) -> None:
    file["num_episodes"][()] = 5


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_is_old, "version"),
        (_has_no_ends, "episode 2 does not say whether it terminated"),
        (_has_fewer_rewards, "episode 2: arrays differ in length"),
        (_has_two_rewards, r"episode 2 has rewards of shape \(8, 2\)"),
        (_has_another_form, r"episode 2 has observations float64 \(4,\)"),
        (_links, "is a link"),
        (_states_more, "has no array 'actions_4'"),
    ],
)
def test_a_spoilt_file_is_refused_and_nothing_is_made(spoil: Any, told: str, tmp_path: Path) -> None:
    _dumped(tmp_path / "d.h5", _numbers(3), _numbers(2))
    with h5py.File(tmp_path / "d.h5", "a") as file:
        spoil(file)
    with pytest.raises(ValueError, match=rf"d\.h5.*{told}"):
        import_store("d3rlpy", tmp_path / "d.h5", tmp_path / "out.zarr", reading=REPEAT)
    assert not (tmp_path / "out.zarr").exists()


def test_a_data_set_of_d3rlpy_1_is_named_as_one(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["observations"], file["actions"] = _numbers(3), _numbers(2)
    with pytest.raises(ValueError, match="MDPDataset of d3rlpy 1"):
        import_store("d3rlpy", tmp_path / "d.h5", tmp_path / "out.zarr")
