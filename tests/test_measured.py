"""Measured without acting: perfect and constant models have the numbers they must, and no work is done twice."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import toy_batch, toy_spec
from test_learner_contract import small

from toolkit import measure, measured, registry
from toolkit.baselines import linear, persistence
from toolkit.bits import sample
from toolkit.cli import main
from toolkit.collect import collect
from toolkit.core import ActionValue, Episode
from toolkit.engines.local import only_one
from toolkit.measure import Held, Settings
from toolkit.measured import models, produce
from toolkit.records import read_config, read_object, replace_json, run_folders
from toolkit.rows_of_runs import place
from toolkit.store import ReplayStore, Schema
from toolkit.tables import PROXIES
from toolkit.train import train

GAMMA, END = 0.5, 3.0
QUICK = Settings(rows=400, horizon=5, fqe_steps=3)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Held:
    """Walks x' = x + a that are paid x and end at END; a store of them is both trained on and held out."""
    box = spaces.Box(-np.inf, np.inf, (1,))
    schema = Schema.from_spaces(observation=box, action=spaces.Box(-1, 1, (1,)))
    store = ReplayStore.create(tmp_path_factory.mktemp("line") / "walks.zarr", schema)
    rng = np.random.default_rng(0)
    with store.writer() as writer:
        for _ in range(40):
            action = rng.choice([-1.0, 0.5, 1.0], 12)
            x = np.concatenate([[0.0], np.cumsum(action)])
            over = np.flatnonzero(x >= END)
            steps = int(over[0]) if len(over) else 12
            obs, action = (part.astype(np.float32)[:, None] for part in (x[: steps + 1], action[:steps]))
            writer.append(Episode(obs, action, obs[:-1, 0], terminated=bool(len(over))))
    store = ReplayStore.open(store.path)
    return Held(store, *sample(store, store, np.arange(len(store)), rows=10_000, seed=0))


@dataclass
class Critic:
    """V(x) = `worth`(x), and Q by one step of the known walk, off by `error`."""

    slope: float
    error: float
    discount: float = GAMMA

    def state_value(self, obs: torch.Tensor) -> torch.Tensor:
        return self.slope * obs[:, 0] + 2.0

    def action_value(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        after = obs + action
        alive = (after[:, 0] < END).float()
        return obs[:, 0] + GAMMA * alive * self.state_value(after) + self.error


def test_the_td_error_of_a_consistent_critic_is_zero_and_a_constant_error_is_itself(line):
    assert line.test.terminated.any()
    assert isinstance(Critic(1.0, 0.0), ActionValue)
    assert measure.td_error(Critic(1.0, 0.0), line.test) == pytest.approx(0, abs=1e-6)
    assert measure.td_error(Critic(1.0, -0.75), line.test) == pytest.approx(0.75, abs=1e-6)


def test_a_truncated_step_bootstraps_in_the_td_error(line):
    ended = line.test.terminated.copy()
    line.test.terminated[:] = False
    try:
        assert measure.td_error(Critic(1.0, 0.0), line.test) > 0.1
    finally:
        line.test.terminated[:] = ended


def test_a_perfect_model_has_no_rollout_error_and_a_constant_one_that_of_the_walk(line):
    every = line.episodes
    assert sum(map(len, every)) == len(line.test.reward)
    data = measure.Transitions(*(torch.cat([getattr(e, n) for e in every]) for n in (
        "obs", "action", "next_obs", "reward", "terminated")), np.concatenate([e.episode for e in every]))  # fmt: skip
    assert measure.rollout_error(linear(data), line, Settings(horizon=1)) == pytest.approx(0, abs=1e-4)
    assert measure.rollout_error(linear(data), line, Settings(horizon=8)) == pytest.approx(0, abs=1e-3)
    moved = float(np.sqrt(np.square(line.test.action).mean()) / line.spec.obs.std[0])
    found = measure.rollout_error(persistence(data), line, Settings(horizon=1))
    assert found == pytest.approx(moved, rel=0.05)


@pytest.mark.parametrize("name", ["cql", "td3bc", "awac", "rebrac"])
def test_a_critic_values_a_state_as_it_values_its_own_policys_action(name):
    for discrete in (False, True) if name == "cql" else (False,):
        spec = toy_spec(discrete)
        learner = small(registry.learner(name)).build(spec, seed=0, device="cpu")
        obs = toy_batch(spec, 16).obs[:, 0]
        with torch.no_grad():
            action = learner.choose(obs)
            action = torch.nn.functional.one_hot(action, spec.action_dim).float() if discrete else action
            assert isinstance(learner, ActionValue)
            torch.testing.assert_close(learner.action_value(obs, action), learner.state_value(obs))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two draws of data, held-out data, other data, and runs of three learners with snapshots."""
    folder = tmp_path_factory.mktemp("trained")
    for seed in (0, 1, 9):
        collect("pendulum", out=folder / f"{seed}.zarr", episodes=4, contexts=2, seed=seed)
    collect("reacher", out=folder / "other.zarr", episodes=2, contexts=2)
    planner = {"samples": 4, "iterations": 1, "horizon": 2, "best": 2, "members": 2, "elites": 1}
    for name, options in {"bc": {}, "iql": {}, "mpc": planner}.items():
        config = small(registry.learner(name))
        config = type(config)(**{**vars(config), **options})
        for seed in (0, 1):
            train(
                config, store=folder / f"{seed}.zarr", steps=6, batch_size=32, episodes=1, splits=("interpolated",),
                evaluate_every=2, out=folder / "runs",
            )  # fmt: skip
    return folder


def told(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_kept_model_has_a_row_a_proxy_that_packmule_bits_and_the_evaluations_agree_with(
    trained, tmp_path, capsys
):
    table = tmp_path / "proxies_of_runs.csv"
    argv = ["proxies", str(trained / "runs"), "--store", str(trained / "9.zarr"), "--table", str(table)]
    argv += ["--rows", "400", "--horizon", "5", "--fqe-steps", "3", "--slots", "1"]
    assert main(argv) == 0
    assert "rollout error" in capsys.readouterr().out
    rows = told(table)
    assert len(rows) == 3 * 2 * 3 * 5  # learners, draws, steps, proxies
    assert {(r["dataset"], r["draw"]) for r in rows} == {
        ("pendulum / 800 / 2 / 0.3", "0"),
        ("pendulum / 800 / 2 / 0.3", "1"),
    }
    defined = {
        learner: {r["proxy"] for r in rows if r["learner"] == learner and r["value"]}
        for learner in ("bc", "iql", "mpc")
    }
    assert defined == {
        "bc": {"action bits", "FQE"},
        "iql": {"action bits", "TD error", "FQE"},
        "mpc": {"transition bits", "rollout error"},
    }
    for folder in run_folders(trained / "runs"):
        config = read_config(folder)
        assert main(["bits", str(folder), "--store", str(trained / "9.zarr"), "--rows", "400", "--json"]) == 0
        lengths = {one["what"]: one for one in map(json.loads, capsys.readouterr().out.splitlines())}
        own = [r for r in rows if r["run"] == config.identity and r["step"] == "6"]
        for what in ("action", "transition"):
            value = next(r["value"] for r in own if r["proxy"] == f"{what} bits")
            explained = lengths[what]["explained"]
            assert float(value) == explained["value"] if explained else value == ""
        reached = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
        for r in (r for r in rows if r["run"] == config.identity):
            assert float(r["return"]) == next(e["episode_return"] for e in reached if str(e["step"]) == r["step"])
    argv = ["plot", str(trained / "runs"), str(table), "--figure", "proxies", "selection", "--out", str(tmp_path)]
    assert main(argv) == 0
    assert {r["models"] for r in told(tmp_path / "proxies.csv") if r["kind"] == "tau"} == {"6"}


def test_interrupted_production_keeps_what_was_measured_and_ends_in_the_same_bytes(trained, tmp_path):
    asked = models(run_folders(trained / "runs"), trained / "9.zarr", QUICK)
    assert len(asked) == 18
    whole, parts = (tmp_path / name / "proxies_of_runs.csv" for name in ("whole", "parts"))
    assert produce(PROXIES, measured.proxy_rows, asked, whole) == {}
    count = 0

    def stopping(model):
        nonlocal count
        count += 1
        if count % 7 == 0:
            raise KeyboardInterrupt
        return measured.proxy_rows(model)

    for done in (6, 12):
        with pytest.raises(KeyboardInterrupt):
            produce(PROXIES, stopping, list(reversed(asked)), parts)
        assert len(PROXIES.read(parts)) == 5 * done
    assert produce(PROXIES, stopping, asked, parts) == {}
    assert count == 18 + 2, "what was there was not measured again"
    assert parts.read_bytes() == whole.read_bytes()
    assert produce(PROXIES, lambda model: pytest.fail("measured again"), asked, parts) == {}
    assert parts.read_bytes() == whole.read_bytes()


def test_a_failure_is_told_and_tried_again_and_the_others_are_kept(trained, tmp_path):
    asked = models(run_folders(trained / "runs"), trained / "9.zarr", QUICK, every=False)
    table = tmp_path / "proxies_of_runs.csv"

    def failing(model):
        if "mpc" in model.folder:
            raise RuntimeError("on purpose")
        return measured.proxy_rows(model)

    failed = produce(PROXIES, failing, asked, table)
    assert len(failed) == 2
    assert all("mpc" in name and "on purpose" in why for name, why in failed.items())
    assert {r["learner"] for r in PROXIES.read(table)} == {"bc", "iql"}
    assert produce(PROXIES, measured.proxy_rows, asked, table) == {}
    assert {r["learner"] for r in PROXIES.read(table)} == {"bc", "iql", "mpc"}


def test_other_data_or_settings_replace_a_models_rows_and_other_runs_stay(trained, tmp_path):
    table, folders = tmp_path / "proxies_of_runs.csv", run_folders(trained / "runs")
    bc = [folder for folder in folders if folder.name.startswith("bc")]
    produce(PROXIES, measured.proxy_rows, models(bc, trained / "9.zarr", QUICK, every=False), table)
    iql = [folder for folder in folders if folder.name.startswith("iql")]
    produce(PROXIES, measured.proxy_rows, models(iql, trained / "9.zarr", QUICK, every=False), table)
    other = Settings(rows=200, horizon=5, fqe_steps=3)
    produce(PROXIES, measured.proxy_rows, models(bc, trained / "9.zarr", other, every=False), table)
    assert {(r["learner"], r["settings"]) for r in told(table)} == {("bc", str(other)), ("iql", str(QUICK))}
    assert len(told(table)) == 5 * 4


def test_hyperparameters_are_told_in_the_checkpoint_where_they_differ(trained, tmp_path):
    config = small(registry.learner("bc"))
    train(
        type(config)(**{**vars(config), "lr": 0.01}), store=trained / "0.zarr", steps=2, batch_size=32, episodes=1,
        splits=("interpolated",), out=tmp_path / "runs",
    )  # fmt: skip
    folders = [*run_folders(tmp_path / "runs"), *run_folders(trained / "runs")]
    table = tmp_path / "proxies_of_runs.csv"
    produce(PROXIES, measured.proxy_rows, models(folders, trained / "9.zarr", QUICK, every=False), table)
    checkpoints = {(r["learner"], r["checkpoint"]) for r in told(table)}
    assert checkpoints == {("bc", "2 lr=0.01"), ("bc", "6 lr=default"), ("iql", "6"), ("mpc", "6")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"store": "other.zarr"}, r"other\.zarr holds reacher, and .*bc-.* was trained on pendulum"),
        ({"store": "0.zarr"}, r"bc-.* was trained on every episode of .*0\.zarr"),
        ({"store": "empty.zarr"}, r"empty\.zarr holds no episodes"),
        ({"store": "absent.zarr"}, r"absent\.zarr"),
        ({"runs": "absent"}, "absent does not exist"),
        ({"runs": "0.zarr"}, "no finished runs under"),
        ({"gone": "snapshots/4"}, r"snapshots/4 is not there, though the run was evaluated at that step"),
        ({"table": "p.csv"}, r"named proxies_of_runs\.csv; call it that"),
        ({"flags": ["--rows", "0"]}, "rows must be at least 1, got 0"),
        ({"flags": ["--slots", "0"]}, "slots must be at least 1, got 0"),
    ],
)
def test_bad_input_is_told_before_anything_is_written(trained, tmp_path, capsys, change, message):
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    schema = ReplayStore.open(folder / "9.zarr").schema
    ReplayStore.create(folder / "empty.zarr", schema)
    if "gone" in change:
        shutil.rmtree(run_folders(folder / "runs")[0] / change["gone"])
    argv = ["proxies", str(folder / change.get("runs", "runs")), "--store", str(folder / change.get("store", "9.zarr"))]
    argv += ["--slots", "1"] if "--slots" not in change.get("flags", []) else []
    argv += ["--table", str(folder / change["table"])] if "table" in change else []
    assert main([*argv, *change.get("flags", [])]) == 2
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))
    assert not list(folder.rglob("*.csv"))


def test_a_run_without_evaluation_or_end_is_named(trained, tmp_path):
    bare = train(small(registry.learner("bc")), store=trained / "0.zarr", steps=1, episodes=0, out=tmp_path)
    with pytest.raises(ValueError, match=r"bc-.* was trained without evaluation"):
        models([bare], trained / "9.zarr", QUICK)
    (bare / "DONE").unlink()
    with pytest.raises(ValueError, match=r"bc-.* is not a finished run"):
        models([bare], trained / "9.zarr", QUICK)


def test_a_table_made_by_hand_is_not_written_over(trained, tmp_path):
    table = tmp_path / "proxies_of_runs.csv"
    table.write_text("learner,dataset,draw,seed,checkpoint,proxy,value,return,score\niql,d,0,0,5,FQE,1,2,0.5\n")
    before = table.read_bytes()
    with pytest.raises(ValueError, match=r"has no column run, so it was not made here"):
        produce(PROXIES, measured.proxy_rows, models(run_folders(trained / "runs"), trained / "9.zarr", QUICK), table)
    assert table.read_bytes() == before


def test_two_processes_do_not_write_one_table(trained, tmp_path):
    asked = models(run_folders(trained / "runs")[:1], trained / "9.zarr", QUICK)
    with only_one(tmp_path), pytest.raises(BlockingIOError, match="another process is at work on it"):
        produce(PROXIES, measured.proxy_rows, asked, tmp_path / "proxies_of_runs.csv")
    assert not list(tmp_path.glob("*.csv"))


def test_numbers_that_are_not_finite_are_undefined(line):
    class Wild(Critic):
        def action_value(self, obs, action):
            return torch.full((len(obs),), math.inf)

        def policy(self, *, seed):
            return None

    found = measure.proxies(None, Wild(1.0, 0.0), line, Settings(fqe_steps=0))
    assert found == dict.fromkeys(found)
    assert "TD error" in found


def test_data_collected_alike_are_draws_of_one_dataset_and_others_are_not(trained, tmp_path):
    runs = {int(place(folder)["draw"]): folder for folder in run_folders(trained / "runs")}
    assert place(runs[0])["dataset"] == place(runs[1])["dataset"]
    copy = Path(shutil.copytree(runs[0], tmp_path / "noisy"))
    saved = read_object(copy / "spec.json")
    saved["schema"]["environment"]["collect"]["noise"] = 0.2
    replace_json(copy / "spec.json", saved)
    assert place(copy)["dataset"] == "pendulum / 800 / 2 / 0.3 / noise 0.2"
    del saved["schema"]["environment"]["collect"]
    replace_json(copy / "spec.json", saved)
    assert place(copy)["dataset"] == read_config(copy).fingerprint
