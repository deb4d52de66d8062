"""Laws of an exported policy: it acts as the run's own, without our code, or is refused with the reason."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from toolkit import train
from toolkit.cli import main
from toolkit.collect import collect
from toolkit.configure import configure, load_learner
from toolkit.core import Step
from toolkit.export import export


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "p.zarr"
    return collect("pendulum", out=path, episodes=4, contexts=2, coverage=0.5, seed=0)


def trained(store, tmp_path, learner: str):
    options = {"width": 8} if learner == "dt" else {"hidden": (8,)}
    config = configure(learner, store=store.path, steps=3, episodes=0, batch_size=16, options=options)
    return train.run(config, tmp_path)


def acted(folder, obs: np.ndarray) -> np.ndarray:
    _, learner, _ = load_learner(folder)
    return learner.policy(seed=0).act(Step(obs, np.zeros(len(obs), np.float32), np.ones(len(obs), bool)))


OBS = np.random.default_rng(5).normal(size=(7, 3)).astype(np.float32)


@pytest.mark.parametrize("learner", ["bc", "mixture-bc", "td3bc", "rebrac", "awac", "iql", "cql"])
def test_a_torchscript_policy_acts_as_the_run_does(store, tmp_path, learner):
    folder = trained(store, tmp_path, learner)
    path = export(folder, tmp_path / "policy.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        policy = torch.jit.load(str(path))
    np.testing.assert_allclose(policy(torch.from_numpy(OBS)).detach(), acted(folder, OBS), rtol=1e-5, atol=1e-6)


def test_a_torchscript_policy_needs_nothing_of_ours(store, tmp_path):
    path = export(trained(store, tmp_path, "iql"), tmp_path / "policy.pt")
    program = (
        "import sys, torch; print(torch.jit.load(sys.argv[1])(torch.zeros(2, 3)).shape)\n"
        "assert 'toolkit' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "[2, 1]" in done.stdout


def test_an_onnx_policy_acts_as_the_run_does(store, tmp_path):
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx.reference")
    folder = trained(store, tmp_path, "iql")
    session = onnx.ReferenceEvaluator(str(export(folder, tmp_path / "policy.onnx")))
    (found,) = session.run(None, {"obs": OBS})
    np.testing.assert_allclose(found, acted(folder, OBS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("learner", ["return-bc", "dt", "fql"])
def test_policies_that_remember_or_sample_are_refused(store, tmp_path, learner):
    folder = trained(store, tmp_path, learner)
    with pytest.raises(ValueError, match="no function of the observation alone"):
        export(folder, tmp_path / "policy.pt")
    assert not (tmp_path / "policy.pt").exists()


def test_wrong_names_and_folders_are_one_clear_error(store, tmp_path, capsys):
    folder = trained(store, tmp_path, "bc")
    assert main(["export", str(folder), "--out", str(tmp_path / "policy.txt")]) == 2
    assert "end it in .pt or .onnx" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "nowhere"), "--out", str(tmp_path / "policy.pt")]) == 2
    assert "not a run" in capsys.readouterr().err
    assert main(["export", str(folder), "--out", str(tmp_path / "policy.pt")]) == 0
