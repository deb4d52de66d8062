"""Exported policies act like the runs they come from, in both formats, for every learner that can be exported."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import toy_spec
from test_learner_contract import look, small, trained

from algos.d3rlpy import D3rlpyConfig
from toolkit import registry
from toolkit.cli import main
from toolkit.collect import collect
from toolkit.core import LearnerConfig, Reactive
from toolkit.export import Exported, check, export, loaded, quiet, to_onnx, to_torchscript
from toolkit.records import read_config
from toolkit.store import ReplayStore
from toolkit.train import train

TO = {"torchscript": to_torchscript, "onnx": to_onnx}
LEARNERS = {name: small(config) for name, config in registry.learners().items()}
OWN = {name: config for name, config in LEARNERS.items() if name == config.name}  # no presets, one adapter
ONE_EACH = [name for name in OWN if not name.startswith("d3rlpy-")]
DISCRETE = {name: LEARNERS[name] for name in ("bc", "cql", "iql")} | {
    f"d3rlpy-{algo}": small(D3rlpyConfig(algo=algo)) for algo in ("dqn", "discrete_sac")
}


def repeats(config: LearnerConfig, format: str, discrete: bool = False) -> None:
    if format == "onnx":
        pytest.importorskip("onnxscript")
    spec = toy_spec(discrete=discrete, goal=True, action_dim=3)
    learner = trained(config, 2, spec=spec)
    policy = learner.policy(seed=0)
    if not (isinstance(policy, Reactive) and policy.deterministic):
        pytest.skip("it cannot be exported")
    body = TO[format](Exported(learner, policy.choose), spec, {})
    function = loaded(body, format)
    for rows, scale in ((1, 1), (2, 1), (33, 1), (5, 100)):
        step = look(spec, rows, seed=rows)
        obs = step.obs * np.float32(scale)
        due = policy.act(type(step)(obs, step.reward, step.first))
        found = function(obs)
        assert found.shape == due.shape
        assert found.dtype == due.dtype
        np.testing.assert_allclose(found, due, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LEARNERS)
def test_torchscript_acts_like_the_policy(name):
    repeats(LEARNERS[name], "torchscript")


@pytest.mark.parametrize("name", [*ONE_EACH, "mixture-bc"])
def test_onnx_acts_like_the_policy(name):
    repeats(LEARNERS[name], "onnx")


@pytest.mark.parametrize("format", TO)
@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_policies_give_integers(name, format):
    repeats(DISCRETE[name], format, discrete=True)


def test_an_export_that_acts_otherwise_is_found_out():
    spec = toy_spec(goal=True)
    one, other = (trained(LEARNERS["bc"], 2, seed=seed, spec=spec) for seed in (0, 1))
    body = to_torchscript(Exported(one, one.policy(seed=0).choose), spec, {})
    check(body, "torchscript", one.policy(seed=0), spec)
    with pytest.raises(RuntimeError, match="does not act like the run's policy"):
        check(body, "torchscript", other.policy(seed=0), spec)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("export")
    store = collect("pendulum", out=folder / "p.zarr", episodes=2, contexts=2, coverage=0.5, noise=0.0, seed=0)
    made = {}
    for name in ("bc", "fql", "return-bc", "dt", "mpc"):
        options = {"hidden": (8, 8)} if name in ("bc", "return-bc", "mpc") else {}
        options |= {"context": 3, "width": 8} if name == "dt" else {}
        made[name] = train(
            name, store=store.path, steps=1, episodes=0, out=folder / "runs", batch_size=8, options=options
        )
    return made | {"store": store.path}


@pytest.mark.parametrize("format", TO)
def test_the_command_writes_a_function_that_names_its_run(runs, format, tmp_path, capsys):
    onnx = pytest.importorskip("onnx") if format == "onnx" else None
    out = tmp_path / "policy"
    arguments = ["export", str(runs["bc"]), "--format", format, "--out", str(out)]
    assert main(arguments) == 0
    assert str(out) in capsys.readouterr().out
    if onnx is not None:
        model = onnx.load(out)
        onnx.checker.check_model(model)
        about = {entry.key: entry.value for entry in model.metadata_props}["packmule.json"]
    else:
        files = {"packmule.json": ""}
        with quiet():
            torch.jit.load(io.BytesIO(out.read_bytes()), _extra_files=files)
        about = files["packmule.json"]
    config, about = read_config(runs["bc"]), json.loads(about)
    assert (about["run"], about["learner"], about["options"]) == (config.identity, "bc", config.options)
    assert about["obs"]["shape"] == [None, 3]
    assert about["action"]["high"] == [2.0]
    first = ReplayStore.open(runs["store"]).sampler(batch_size=4, seed=0).next().obs[:, 0].numpy()
    assert loaded(out.read_bytes(), format)(first).shape == (4, 1)
    before = out.read_bytes()
    assert main(arguments) == 2
    assert "already exists" in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [("fql", "draws random numbers"), ("dt", "remembers"), ("return-bc", "asks for a return"), ("mpc", "plans ahead")],
)
def test_what_is_no_function_of_the_observation_is_refused_with_the_reason(runs, name, reason, tmp_path):
    with pytest.raises(ValueError, match=f"{name} cannot be exported: .*{reason}"):
        export(runs[name], tmp_path / "policy.pt")
    assert not list(tmp_path.iterdir())


def test_folders_that_are_no_runs_and_places_that_are_no_folders_are_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="is not a run"):
        export(tmp_path, tmp_path / "policy.pt")
    with pytest.raises(FileNotFoundError, match="make it first"):
        export(runs["bc"], tmp_path / "none" / "policy.pt")
    with pytest.raises(ValueError, match=r"end it in \.pt or \.onnx"):
        export(runs["bc"], tmp_path / "policy.txt")


def test_a_torchscript_policy_needs_nothing_of_ours(runs, tmp_path):
    path = export(runs["bc"], tmp_path / "policy.pt")
    program = (
        "import sys, torch; print(torch.jit.load(sys.argv[1])(torch.zeros(2, 3)).shape)\n"
        "assert 'toolkit' not in sys.modules"
    )
    words = [sys.executable, "-W", "ignore", "-c", program, str(path)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[2, 1]" in done.stdout
