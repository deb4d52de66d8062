"""Every foreign format keeps the contract: what is written is read back, what is wrong refused, nothing half made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from toolkit import registry
from toolkit.core import Episode, leaves
from toolkit.store import ReplayStore, Schema
from toolkit.transfer import export_store, import_store


def _installed(name: str) -> bool:
    try:
        registry.format(name).check()
    except ImportError:
        return False
    return True


FORMATS = [name for name in sorted(registry.formats()) if _installed(name)]  # all of them in the reference environment
WRITTEN = [name for name in FORMATS if registry.format(name).writes]


def _store(path: Path, *, episodes: int = 12, steps: int = 30, seed: int = 0, terminated: bool = True) -> ReplayStore:
    """Episodes of a driven point (T = steps + number): position and speed, one action; every third is terminated."""
    schema = Schema.from_spaces(observation=spaces.Box(-np.inf, np.inf, (3,)), action=spaces.Box(-1, 1, (1,)))
    rng = np.random.default_rng(seed)
    with ReplayStore.create(path, schema).writer() as writer:
        for number in range(episodes):
            count = steps + number
            action = rng.uniform(-1, 1, (count, 1)).astype(np.float32)
            obs = np.zeros((count + 1, 3), np.float32)
            obs[0] = rng.normal(size=3) * 5
            for t in range(count):
                obs[t + 1] = obs[t] + [0.1 * obs[t, 1], 0.3 * action[t, 0], rng.normal() * 0.01]
            reward = -(obs[1:, 0] ** 2) - action[:, 0]
            writer.append(Episode(obs, action, reward.astype(np.float32), terminated and number % 3 == 0))
    return ReplayStore.open(path)


def _same_steps(ours: Episode, theirs: Episode, steps: int) -> None:
    theirs_obs, ours_obs = leaves(theirs.obs), leaves(ours.obs)
    assert np.array_equal(
        np.concatenate([np.asarray(v)[: steps + 1].reshape(steps + 1, -1) for v in theirs_obs.values()], axis=1),
        np.concatenate([np.asarray(v)[: steps + 1].reshape(steps + 1, -1) for v in ours_obs.values()], axis=1),
    )
    assert np.array_equal(theirs.action[:steps], ours.action[:steps])
    assert np.array_equal(theirs.reward[:steps], ours.reward[:steps])


@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_format_wrote_is_read_back_equal(name: str, tmp_path: Path) -> None:
    store, kept = _store(tmp_path / "a.zarr", terminated=registry.format(name).final_observation), registry.format(name)
    export_store(name, store, tmp_path / "there")
    back = import_store(name, tmp_path / "there", tmp_path / "b.zarr").store
    assert len(back) == len(store)
    for number in range(len(store)):
        ours, theirs = store.episode(number), back.episode(number)
        steps = len(ours) - (not kept.final_observation)
        assert len(theirs) == steps
        assert theirs.terminated == ours.terminated
        _same_steps(ours, theirs, steps)


@pytest.mark.parametrize("name", [name for name in WRITTEN if not registry.format(name).final_observation])
def test_a_terminated_step_without_its_next_observation_is_asked_about(name: str, tmp_path: Path) -> None:
    from toolkit.formats import Reading

    store = _store(tmp_path / "a.zarr")
    export_store(name, store, tmp_path / "there")
    with pytest.raises(ValueError, match="--final repeat"):
        import_store(name, tmp_path / "there", tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()
    repeated = import_store(name, tmp_path / "there", tmp_path / "b.zarr", reading=Reading(final="repeat")).store
    assert [repeated.episode(i).terminated for i in range(4)] == [True, False, False, True]
    (seen,) = leaves(repeated.episode(0).obs).values()  # a format may have a name of its own for it
    assert np.array_equal(seen[-1], store.episode(0).obs["observation"][-2])
    dropped = import_store(name, tmp_path / "there", tmp_path / "c.zarr", reading=Reading(final="drop")).store
    assert not any(dropped.episode(i).terminated for i in range(len(dropped)))
    _same_steps(store.episode(0), dropped.episode(0), len(store.episode(0)) - 1)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("content", ["nothing", "an empty file", "an empty folder", "text", "another store"])
def test_what_is_no_source_of_the_format_is_refused_and_nothing_is_made(
    name: str, content: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    if content == "an empty file":
        source.touch()
    elif content == "an empty folder":
        source.mkdir()
    elif content == "text":
        source.write_text("observations,actions\n1,2\n")
    elif content == "another store":
        _store(source, episodes=1)
    with pytest.raises((ValueError, FileNotFoundError), match=str(source.name)):
        import_store(name, source, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("name", WRITTEN)
def test_shifted_actions_are_refused_unless_told_otherwise(name: str, tmp_path: Path) -> None:
    right, wrong = _store(tmp_path / "right.zarr", terminated=False), tmp_path / "wrong.zarr"
    with ReplayStore.create(wrong, right.schema).writer() as writer:
        for number in range(len(right)):
            one = right.episode(number)
            action = np.concatenate([one.action[1:], one.action[-1:]])
            writer.append(Episode(one.obs, action, one.reward, one.terminated))
    export_store(name, ReplayStore.open(wrong), tmp_path / "there")
    with pytest.raises(ValueError, match="action: shifted"):
        import_store(name, tmp_path / "there", tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()
    done = import_store(name, tmp_path / "there", tmp_path / "out.zarr", unproven=True)
    assert done.store.schema.environment["import_proof"][0]["outcome"] == "shifted"


@pytest.mark.parametrize("name", WRITTEN)
def test_an_export_that_fails_leaves_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _store(tmp_path / "a.zarr", episodes=3)
    read, calls = ReplayStore.episode, []

    def failing(self: ReplayStore, index: int) -> Episode:
        calls.append(index)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        return read(self, index)

    monkeypatch.setattr(ReplayStore, "episode", failing)
    folder = tmp_path / "exports"
    with pytest.raises(OSError, match="No space left"):
        export_store(name, store, folder / "there")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", WRITTEN)
def test_an_interrupted_import_continues_to_the_same_episodes(name: str, tmp_path: Path) -> None:
    store = _store(tmp_path / "a.zarr", terminated=False)
    export_store(name, store, tmp_path / "there")

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "import" and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_store(name, tmp_path / "there", tmp_path / "b.zarr", progress=stop)
    assert len(ReplayStore.open(tmp_path / "b.zarr")) == 5
    resumed = import_store(name, tmp_path / "there", tmp_path / "b.zarr").store
    whole = import_store(name, tmp_path / "there", tmp_path / "c.zarr").store
    assert np.array_equal(resumed.episodes["uid"], whole.episodes["uid"])


def test_data_imported_for_a_suite_are_scored_by_acting_and_others_are_only_trained(tmp_path: Path) -> None:
    from toolkit.collect import collect
    from toolkit.records import load
    from toolkit.train import train

    store = collect("pendulum", out=tmp_path / "a.zarr", episodes=4, contexts=2, coverage=0.2, noise=0.1, seed=0)
    export_store("d4rl", store, tmp_path / "a.hdf5")
    scored = import_store("d4rl", tmp_path / "a.hdf5", tmp_path / "b.zarr", suite="pendulum").store
    assert (scored.schema.action.low, scored.schema.action.high) == ((-2.0,), (2.0,))
    run = train("bc", store=scored.path, steps=2, episodes=1, out=tmp_path / "runs")
    assert {record.split for record in load(run)} == {"seen", "interpolated"}
    other = import_store("d4rl", tmp_path / "a.hdf5", tmp_path / "c.zarr").store
    with pytest.raises(ValueError, match="names no suite"):
        train("bc", store=other.path, steps=2, episodes=1, out=tmp_path / "runs")
    train("bc", store=other.path, steps=2, episodes=0, out=tmp_path / "runs")


def test_a_suite_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    export_store("d4rl", _store(tmp_path / "a.zarr"), tmp_path / "a.hdf5")
    with pytest.raises(ValueError, match="'action' of suite 'hopper' is box"):
        import_store("d4rl", tmp_path / "a.hdf5", tmp_path / "b.zarr", suite="hopper")
    assert not (tmp_path / "b.zarr").exists()


def test_another_source_never_continues_a_store(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        export_store("d4rl", _store(tmp_path / f"{name}.zarr", seed=seed), tmp_path / f"{name}.hdf5")
    import_store("d4rl", tmp_path / "a.hdf5", tmp_path / "c.zarr")
    with pytest.raises(ValueError, match="digest"):
        import_store("d4rl", tmp_path / "b.hdf5", tmp_path / "c.zarr")
