"""A relabel is another task over recorded data: the same everywhere it is read, complete or absent, checked, pinned."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from conftest import counting_episode
from gymnasium import spaces

from toolkit import registry
from toolkit.cli import main
from toolkit.collect import collect
from toolkit.configure import configure, open_data
from toolkit.core import Episode
from toolkit.coverage import coverage
from toolkit.records import RunConfig
from toolkit.store import ReplayStore, Schema, StoreError, labels, mix
from toolkit.store import relabel as relabel_module
from toolkit.store.info import info
from toolkit.store.maintain import gc
from toolkit.store.mixture import open_mixture
from toolkit.store.relabel import relabel
from toolkit.store.validate import validate
from toolkit.train import train


def double(obs, action, then, info):
    """Twice the number of the next step: tells which step it is of."""
    return 2.0 * then["observation"][:, 1]


def at_step_four(obs, action, then, info):
    return then["observation"][:, 1] == 4


@pytest.fixture(params=[10, 1 << 14])
def chunk(request, monkeypatch) -> int:
    """Entries in a chunk: one in which every array has several, and the usual one."""
    monkeypatch.setattr(labels, "CHUNK", request.param)
    monkeypatch.setattr(relabel_module, "CHUNK", request.param)
    return request.param


def goal_store(path: Path, lengths=(6, 9, 3)) -> ReplayStore:
    """Positions 0, 1, 2, ... and a goal of two numbers that is 100."""
    schema = Schema.from_spaces(
        observation=spaces.Dict(
            {"desired_goal": spaces.Box(-200, 200, (2,)), "observation": spaces.Box(-200, 200, (3,))}
        ),
        action=spaces.Box(-1, 1, (1,)),
        roles={"desired_goal": "goal"},
        info={"cost": ()},
    )
    store = ReplayStore.create(path, schema)
    with store.writer() as writer:
        for steps in lengths:
            t = np.arange(steps + 1, dtype=np.float32)
            obs = {"observation": np.stack([t, 2 * t, 3 * t], 1), "desired_goal": np.full((steps + 1, 2), 100.0, "f4")}
            act, cost = np.zeros((steps, 1), np.float32), t[:steps]
            writer.append(Episode(obs, act, np.zeros(steps, np.float32), True, {"cost": cost}))
    return ReplayStore.open(path)


def test_every_reader_sees_the_same_labels(make_store, chunk):
    store = relabel(make_store([6, 9, 3, 4]), "double", reward=double, terminated=at_step_four)
    assert store.episodes["length"].tolist() == [4, 4, 3, 4]
    for index, episode in enumerate(store.episode(i) for i in range(len(store))):
        steps = len(episode)
        assert episode.reward.tolist() == [2.0 * t for t in range(1, steps + 1)]
        assert episode.terminated == (index != 2)
        assert episode.columns["success"] is None
        assert store.episodes["return"][index] == episode.reward.sum() == steps * (steps + 1)
    drawn = {tier: store.sampler(batch_size=500, seed=0, tier=tier).next() for tier in ("memory", "mapped")}
    drawn["streaming"] = store.sampler(batch_size=15, seed=0, tier="streaming").next()
    for batch in drawn.values():
        step = batch.obs[:, 1, 1]
        assert torch.equal(batch.reward[:, 0], 2 * step)
        assert torch.equal(batch.terminated[:, 0], step == 4)
        assert step.max() == 4, "steps behind the new end are left out"
    assert torch.equal(drawn["memory"].reward, drawn["mapped"].reward)
    assert sorted(drawn["streaming"].obs[:, 0, 0].tolist()) == sorted([0] * 4 + [1] * 4 + [2] * 3 + [3] * 4)
    assert store.spec.reward.high == 8
    assert store.spec.transitions == 15
    assert store.spec.horizon == 4


def test_windows_end_where_the_new_task_ends(make_store):
    store = relabel(make_store([9, 9]), "double", reward=double, terminated=at_step_four)
    batch = store.sampler(window=3, batch_size=200, seed=0, n_step=1, returns_to_go=True, discount=1.0).next()
    start = batch.obs[:, 0, 1]
    assert torch.equal(batch.valid.sum(1).float(), torch.clamp(4 - start, max=3))
    assert torch.equal(batch.return_to_go[:, 0], 20 - start * (start + 1))


def test_without_terminated_episodes_end_as_recorded(make_store):
    recorded = make_store([6, 9, 3])
    store = relabel(recorded, "double", reward=double)
    assert store.episodes["length"].tolist() == [6, 9, 3]
    assert [store.episode(i).terminated for i in range(3)] == [recorded.episode(i).terminated for i in range(3)]


def test_a_task_that_never_ends_leaves_every_episode_truncated(make_store):
    never = relabel(make_store([6, 3]), "never", reward=double, terminated=lambda o, a, n, i: np.zeros(len(a), bool))
    assert not never.episode(0).terminated
    assert not never.sampler(batch_size=100, seed=0).next().terminated.any()


def test_a_goal_is_new_in_batches_specs_and_episodes_and_the_reward_sees_it(tmp_path, chunk):
    store = goal_store(tmp_path / "g.zarr")
    new = relabel(
        store,
        "last",
        goal=lambda obs: {"desired_goal": obs["observation"][-1, :2]},
        reward=lambda obs, a, then, info: then["desired_goal"][:, 1] - info["cost"],
        terminated=lambda obs, a, then, info: (then["observation"][:, :2] == then["desired_goal"]).all(1),
    )
    for tier in ("memory", "mapped", "streaming"):
        batch = new.sampler(batch_size=18, seed=0, tier=tier).next()
        steps = torch.tensor([6.0, 9.0, 3.0])[batch.episode]
        assert torch.equal(batch.goal, torch.stack([steps, 2 * steps], 1)[:, None].expand(-1, 2, -1))
        assert torch.equal(batch.reward[:, 0], 2 * steps - batch.obs[:, 0, 0])
        assert torch.equal(batch.terminated[:, 0], batch.obs[:, 1, 0] == steps)
    assert new.episode(1).obs["desired_goal"].tolist() == [[9.0, 18.0]] * 10
    assert new.episode(1).obs["observation"].tolist() == store.episode(1).obs["observation"].tolist()
    assert new.spec.obs.high[-2:].tolist() == [9, 18]
    assert store.spec.obs.high[-2:].tolist() == [100, 100]


def test_labels_are_plain_zarr(make_store, chunk):
    store = relabel(make_store([6, 9]), "double", reward=double, terminated=at_step_four)
    group = zarr.open_group(store.path / store.labels.folder, mode="r", zarr_format=3)
    assert group["reward"][:].tolist() == [2, 4, 6, 8] + [0] * 3 + [2, 4, 6, 8] + [0] * 6
    assert np.flatnonzero(group["terminated"][:]).tolist() == [3, 10]
    assert group["episodes/length"][:].tolist() == [4, 4]
    assert group["episodes/return"][:].tolist() == [20, 20]


def test_views_are_taken_of_a_relabelled_store_or_relabelled_alike(make_store):
    recorded = make_store([6, 9, 3, 4])
    recorded.save_view("odd", recorded.view(np.array([1, 3])))
    whole = relabel(recorded, "double", reward=double)
    one, two = whole.view("odd"), recorded.view("odd").relabelled("double")
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint not in (whole.fingerprint, recorded.view("odd").fingerprint)
    assert [len(v.episode(0)) for v in (one, two)] == [9, 9]
    assert whole.nested(2, seed=0).labels is whole.labels
    assert one.episode(1).reward.tolist() == [2, 4, 6, 8]
    both = mix([(whole, 1.0), (recorded, 1.0)])
    rewards = both.sampler(batch_size=400, seed=0).next()
    mine = rewards.episode < 4
    assert torch.equal(rewards.reward[mine, 0], 2 * rewards.obs[mine, 1, 1])
    assert not torch.equal(rewards.reward[~mine, 0], 2 * rewards.obs[~mine, 1, 1])


def test_a_saved_mixture_keeps_what_its_parts_were_labelled_with(make_store, tmp_path):
    recorded = make_store([6, 9])
    mixed = mix([(relabel(recorded, "double", reward=double).view(np.array([1])), 1.0)])
    mixed.save(tmp_path / "m.json")
    again = open_mixture(tmp_path / "m.json")
    assert again.fingerprint == mixed.fingerprint
    batch = again.sampler(batch_size=50, seed=0).next()
    assert torch.equal(batch.reward, 2 * batch.obs[:, 1:, 1])
    shutil.rmtree(recorded.path / "derived" / "double")
    with pytest.raises(StoreError, match="has no relabel 'double'"):
        open_mixture(tmp_path / "m.json")
    relabel(recorded, "double", reward=lambda o, a, n, i: np.zeros(len(a)))
    with pytest.raises(StoreError, match="has another relabel 'double'"):
        open_mixture(tmp_path / "m.json")


def test_recorded_data_are_untouched(make_store):
    store = make_store([6, 9])
    before = {p: p.read_bytes() for p in store.path.rglob("*") if p.is_file()}
    fingerprint = store.fingerprint
    relabel(store, "double", reward=double, terminated=at_step_four)
    assert all(p.read_bytes() == content for p, content in before.items())
    again = ReplayStore.open(store.path)
    assert again.fingerprint == fingerprint
    assert again.transitions == 15


def test_the_same_again_changes_nothing_and_another_of_the_name_is_refused(make_store):
    store = make_store([6, 9])
    first = relabel(store, "double", reward=double)
    files = sorted(store.path.rglob("*"))
    assert relabel(store, "double", reward=double).fingerprint == first.fingerprint
    with pytest.raises(FileExistsError, match="another relabel 'double'; choose another name"):
        relabel(store, "double", reward=double, terminated=at_step_four)
    assert sorted(store.path.rglob("*")) == files
    assert relabel(store, "twice", reward=double).fingerprint == first.fingerprint, "the content counts, not the name"


def test_of_two_that_write_one_name_at_once_one_wins_whole(make_store):
    store, together = make_store([6, 9]), threading.Barrier(2)

    def write(factor):
        def reward(obs, action, then, info):
            if len(action) == 9:
                together.wait(timeout=30)
            return np.full(len(action), factor)

        try:
            return relabel(ReplayStore.open(store.path), "same", reward=reward).episode(0).reward[0]
        except FileExistsError:
            return None

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(write, [1.0, 2.0]))
    assert sorted(found, key=str)[1] is None
    won = store.relabelled("same")
    assert won.episode(1).reward.tolist() == [next(f for f in found if f is not None)] * 9
    assert validate(store) == []


def test_a_relabel_is_pinned_to_its_commit(make_store):
    store = make_store([6, 9])
    old = relabel(store, "double", reward=double)
    with store.writer() as writer:
        writer.append(counting_episode(7, 5))
    grown = ReplayStore.open(store.path)
    with pytest.raises(StoreError, match="'double' is of commit 1, but the store is open at 2: open it with commit=1"):
        grown.relabelled("double")
    assert ReplayStore.open(store.path, commit=1).relabelled("double").fingerprint == old.fingerprint
    assert len(relabel(grown, "double", reward=double)) == 3, "the name serves both commits"
    assert ReplayStore.open(store.path, commit=1).relabelled("double").fingerprint == old.fingerprint
    with pytest.raises(StoreError, match="no relabel 'other'; it has double"):
        grown.relabelled("other")


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ({"reward": lambda o, a, n, i: np.zeros(3)}, r"episode 0: reward gave float64 \(3,\); expected numbers \(6,\)"),
        ({"reward": lambda o, a, n, i: np.full(len(a), np.nan)}, "episode 0: reward gave numbers that are not finite"),
        ({"reward": lambda o, a, n, i: np.full(len(a), 1e300)}, "episode 0: reward gave numbers that are not finite"),
        ({"reward": lambda o, a, n, i: ["x"] * len(a)}, "episode 0: reward gave <U1"),
        ({"reward": double, "terminated": double}, "terminated gave float.* expected booleans"),
        ({"reward": double, "goal": lambda o: {}}, r"goal gave \[\]; expected each of \['desired_goal'\]"),
        ({"reward": double, "goal": lambda o: {"desired_goal": np.zeros(3)}}, r"goal 'desired_goal' is float64 \(3,\)"),
    ],
)
def test_what_cannot_be_a_label_is_named_and_nothing_is_left(tmp_path, functions, message):
    store = goal_store(tmp_path / "g.zarr")
    with pytest.raises(ValueError, match=message):
        relabel(store, "bad", **functions)
    assert list((store.path / "derived").rglob("*")) in ([], [store.path / "derived" / "bad"])
    assert validate(store) == []


def test_functions_cannot_change_what_they_are_given(make_store):
    def reward(obs, action, then, info):
        action[:] = 0
        return np.zeros(len(action))

    with pytest.raises(ValueError, match="read-only"):
        relabel(make_store([6]), "impure", reward=reward)


def test_views_and_relabels_and_stores_without_goal_or_episodes_are_refused(make_store, schema, tmp_path):
    store = make_store([6, 9])
    with pytest.raises(ValueError, match="relabel the whole store as recorded"):
        relabel(store.view(np.array([0])), "x", reward=double)
    with pytest.raises(ValueError, match="relabel the whole store as recorded"):
        relabel(relabel(store, "once", reward=double), "x", reward=double)
    with pytest.raises(ValueError, match="a goal was given, but"):
        relabel(store, "x", reward=double, goal=lambda obs: {})
    with pytest.raises(ValueError, match="no episodes yet"):
        relabel(ReplayStore.create(tmp_path / "empty.zarr", schema), "x", reward=double)


def test_goals_that_are_no_float_numbers_are_refused(tmp_path):
    schema = Schema.from_spaces(
        observation=spaces.Dict({"goal": spaces.Discrete(3), "x": spaces.Box(-1, 1, (1,))}),
        action=spaces.Box(-1, 1, (1,)),
        roles={"goal": "goal"},
    )
    store = ReplayStore.create(tmp_path / "d.zarr", schema)
    with store.writer() as writer:
        obs = {"goal": np.zeros(4, np.int64), "x": np.zeros((4, 1), np.float32)}
        writer.append(Episode(obs, np.zeros((3, 1), np.float32), np.zeros(3, np.float32), True))
    store = ReplayStore.open(tmp_path / "d.zarr")
    with pytest.raises(ValueError, match="goals of float32 numbers can be relabelled; goal of"):
        relabel(store, "x", reward=lambda o, a, n, i: np.zeros(len(a)), goal=lambda obs: {"goal": 1})
    assert len(relabel(store, "x", reward=lambda o, a, n, i: np.ones(len(a)))) == 1


@pytest.mark.parametrize("name", ["../out", "a/b", "", "packed-v1-0", ".hidden"])
def test_names_stay_inside_the_store(make_store, name):
    store = make_store([6])
    with pytest.raises(ValueError, match="name"):
        relabel(store, name, reward=double)
    with pytest.raises(ValueError, match="name"):
        store.relabelled(name)


def test_a_flipped_bit_is_found_wherever_it_is(make_store, monkeypatch):
    monkeypatch.setattr(labels, "CHUNK", 4)  # small files: every byte of a chunk, and every 13th of JSON, is tried
    monkeypatch.setattr(relabel_module, "CHUNK", 4)
    store = make_store([3])
    relabel(store, "double", reward=double)
    assert validate(store) == []
    files = [p for p in (store.path / "derived").rglob("*") if p.is_file()]
    assert len(files) == 11  # a description, two groups, four arrays of a zarr.json and a chunk each
    for file in files:
        content = file.read_bytes()
        for at in range(0, len(content), 13 if file.suffix == ".json" else 1):
            damaged = bytearray(content)
            damaged[at] ^= 1 << at % 8
            file.write_bytes(damaged)
            with pytest.raises(StoreError):
                store.relabelled("double").labels.check()
        file.unlink()
        (finding,) = validate(store) if file.suffix != ".json" or file.name == "zarr.json" else [None]
        assert finding is None or (finding.severity, finding.commit) == ("error", 1)
        file.write_bytes(content)
    assert validate(store) == []


def test_damage_is_an_error_where_it_is_read_and_never_wrong_data(make_store):
    store = make_store([6, 9])
    relabel(store, "double", reward=double)
    file = store.path / store.relabelled("double").labels.folder / "reward" / "c" / "0"
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    bad = store.relabelled("double")
    for read in (lambda: bad.episode(0), lambda: bad.spec, lambda: bad.sampler(batch_size=4, seed=0, tier="mapped")):
        for _ in range(2):  # also when it is tried again
            with pytest.raises(StoreError, match="reward/c/0 is not what was written; it is damaged"):
                read()
    file.unlink()
    with pytest.raises(StoreError, match="reward/c/0 is missing"):
        store.relabelled("double").episode(0)


def test_a_relabel_of_a_commit_that_is_gone_is_noted_and_kept(make_store):
    store = make_store([6])
    relabel(store, "double", reward=double)
    with store.writer() as writer:
        writer.append(counting_episode(7, 5))
    (store.path / "commits" / f"{1:020d}.json").unlink()
    notes = [f for f in validate(store.path) if f.where.startswith("derived/")]
    assert [f.severity for f in notes] == ["note"]
    assert "of a commit that is not there" in notes[0].what
    assert gc(store.path, age=0).relabels == ()


KILLED = """
import os, signal, sys, numpy as np
from toolkit.store import ReplayStore, labels, relabel
labels.CHUNK = relabel.CHUNK = 8
def reward(obs, action, then, info):
    if obs["observation"][0, 0] == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.ones(len(action))
relabel.relabel(ReplayStore.open(sys.argv[1]), "killed", reward=reward)
"""


def test_a_killed_relabel_leaves_nothing_visible_and_gc_sweeps_it(make_store):
    store = make_store([9] * 8)
    done = subprocess.run([sys.executable, "-c", KILLED, str(store.path)])
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(StoreError, match="no relabel 'killed'; it has none"):
        store.relabelled("killed")
    assert validate(store) == []
    finished = relabel(store, "double", reward=double)
    (kept,) = gc(store.path).kept
    assert "derived/killed/" in kept
    assert gc(store.path, age=0, dry_run=True).relabels == gc(store.path, age=0).relabels != ()
    assert os.listdir(store.path / "derived" / "killed") == []
    assert store.relabelled("double").fingerprint == finished.fingerprint
    assert len(relabel(store, "killed", reward=double)) == 8


@pytest.fixture(scope="module")
def suites(tmp_path_factory) -> dict[str, ReplayStore]:
    folder = tmp_path_factory.mktemp("suites")
    settings = {"episodes": 10, "contexts": 5, "coverage": 0.4, "noise": 0.1, "seed": 0}
    return {name: collect(name, out=folder / f"{name}.zarr", **settings) for name in ("pendulum", "pointmaze")}


@pytest.mark.parametrize(("suite", "task"), [("pendulum", "upright"), ("pointmaze", "own")])
def test_the_recorded_task_gives_the_recorded_rewards_and_ends(suites, suite, task):
    store, named = suites[suite], registry.suite(suite).tasks[task]
    own = relabel(store, task, reward=named.reward, terminated=named.terminated, goal=named.goal)
    assert own.episodes["length"].tolist() == store.episodes["length"].tolist()
    for index in range(len(store)):
        one, two = own.episode(index), store.episode(index)
        np.testing.assert_allclose(one.reward, two.reward, atol=2e-5)
        assert one.terminated == two.terminated


def test_another_goal_ends_episodes_where_the_ball_is_near_it(suites):
    store, task = suites["pointmaze"], registry.suite("pointmaze").tasks["goal-3-4"]
    new = relabel(store, "middle", reward=task.reward, terminated=task.terminated, goal=task.goal)
    ended = 0
    for index in range(len(new)):
        episode = new.episode(index)
        gap = np.linalg.norm(episode.obs["observation"][1:, :2] - episode.obs["desired_goal"][1:], axis=1)
        assert (gap[:-1] > 0.45).all()
        assert (gap[-1] <= 0.45) == episode.terminated
        ended += episode.terminated
    assert 0 < ended < len(new)
    assert coverage([new], sample=200, seed=0)[0].tq is None, "references are of the recorded task"


def test_every_named_task_can_be_computed(suites):
    for name, store in suites.items():
        for task in registry.suite(name).tasks.values():
            assert task.about
        last = list(registry.suite(name).tasks)[-1]
        task = registry.suite(name).tasks[last]
        assert len(relabel(store, last, reward=task.reward, terminated=task.terminated, goal=task.goal)) == len(store)


def test_the_command_relabels_and_train_learns_it(suites, tmp_path, capsys):
    path = str(suites["pendulum"].path)
    assert main(["data", "relabel", path, "hang", "--task", "hang", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["transitions"] == 2000
    assert main(["data", "relabel", path, "x", "--task", "hangg"]) == 2
    assert "did you mean 'hang'" in capsys.readouterr().err
    assert "hang" in info(suites["pendulum"])["relabels"]
    flags = ["--store", path, "--relabel", "hang", "--steps", "2", "--out", str(tmp_path / "runs")]
    assert main(["train", "bc", *flags]) == 2
    assert "train with episodes 0" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert main(["train", "iql", *flags, "--episodes", "0"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "config.json").read_text())["relabel"] == "hang"
    assert main(["eval", str(run), "--episodes", "1"]) == 2
    assert "says nothing about it" in capsys.readouterr().err
    assert main(["train", "iql", *flags, "--episodes", "0", "--relabel", "absent"]) == 2


def test_a_relabel_is_part_of_a_runs_identity_and_none_changes_no_old_one(suites, tmp_path):
    store = suites["pendulum"]
    relabel(store, "halved", reward=lambda o, a, n, i: np.full(len(a), -0.5))
    settings = {"store": store.path, "steps": 2, "episodes": 0}
    plain, other = configure("iql", **settings), configure("iql", relabel="halved", **settings)
    assert plain.identity != other.identity
    assert RunConfig.from_json({k: v for k, v in plain.to_json().items() if k != "relabel"}) == plain
    assert replace(plain, relabel=None).identity == plain.identity
    assert "relabel" not in json.loads(json.dumps(plain.to_json())) or plain.relabel is None
    data = open_data(store.path, None, None, "halved")
    assert data.fingerprint == other.fingerprint
    assert (data.sampler(batch_size=8, seed=0).next().reward == -0.5).all()
    folder = train("iql", out=tmp_path, relabel="halved", **settings)
    assert folder.name == other.folder_name
