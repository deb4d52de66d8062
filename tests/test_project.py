"""Laws of the project: what is installed is ours alone, imports point one way, one file adds a learner."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.collect import collect

ROOT = Path(__file__).parent.parent
PACKAGES = ("toolkit", "algos", "worldmodel")


def test_the_import_packages_belong_to_this_distribution_alone():
    owners = importlib.metadata.packages_distributions()
    for package in PACKAGES:
        # an editable install may name its distribution twice
        assert set(owners.get(package, ["packmule"])) == {"packmule"}, owners[package]
    others = [
        f"{dist.name}: {file}"
        for dist in importlib.metadata.distributions()
        if dist.name != "packmule"
        for file in dist.files or []
        if file.parts[0] in PACKAGES
    ]
    assert others == []
    import algos
    import toolkit
    import worldmodel

    assert {Path(module.__file__).parent.parent for module in (toolkit, algos, worldmodel)} == {ROOT}
    assert all((ROOT / package / "py.typed").exists() for package in PACKAGES)


def test_imports_point_the_agreed_way():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(lint), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


TOY = '''
"""A toy learner: it always acts with the mean action of its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from toolkit.core import Batch, Family, LearnerConfig, Spec, Step


@dataclass(frozen=True)
class ToyConfig(LearnerConfig):
    """The running mean of actions."""

    name: ClassVar[str] = "toy"
    family: ClassVar[Family] = "unsupervised"
    actions: ClassVar = ("continuous", "discrete")
    rate: float = 0.1
    """Share of each batch's mean."""

    def build(self, spec: Spec, *, seed: int, device: str) -> Toy:
        return Toy(self, spec, seed)


class Toy:
    def __init__(self, config: ToyConfig, spec: Spec, seed: int) -> None:
        self.rate, self.discrete = config.rate, spec.discrete
        generator = torch.Generator().manual_seed(seed)
        self.mean = torch.rand(spec.action_dim, generator=generator) * 0.01
        self.low, self.high = spec.action_low, spec.action_high

    def update(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.mean = torch.lerp(self.mean, batch.action[:, 0].mean(0), self.rate)
        return {"mean": self.mean.mean()}

    def policy(self, *, seed: int) -> Toy:
        return self

    def act(self, step: Step) -> np.ndarray:
        if self.discrete:
            return np.full(len(step.obs), int(self.mean.argmax()), np.int64)
        action = np.clip(self.mean.numpy(), self.low, self.high).astype(np.float32)
        return np.tile(action, (len(step.obs), 1))

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean = state["mean"].clone()
'''

TOY_FORMAT = '''
"""A line of JSON an episode."""

import json

import numpy as np
from gymnasium import spaces

from toolkit.formats import Format, Recording, Source
from toolkit.formats._spaces import acted, observed
from toolkit.store.schema import Schema


class Toy(Format):
    name = "toy-lines"
    about = "lines of JSON"

    def read(self, source, reading):
        if not source.is_file():
            raise ValueError(f"{source} is no file")
        try:
            found = [json.loads(line) for line in source.read_text().splitlines()]
            obs, action = np.array(found[0]["obs"]), np.array(found[0]["action"])
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{source} holds no lines of JSON ({error})") from None
        space, limits = acted(action.shape[1:], (np.array(one["action"]) for one in found), reading)
        schema = Schema.from_spaces(observation=observed(obs.shape[1:], obs.dtype), action=space)

        def recordings(first):
            for number, one in enumerate(found[first:], first):
                arrays = {name: np.array(one[name], np.float32) for name in ("obs", "action", "reward")}
                yield Recording(where=f"line {number}", terminated=one["terminated"], **arrays)

        return Source(schema, len(found), recordings, (), limits)

    def write(self, store, target):
        episodes = (store.episode(number) for number in range(len(store)))
        target.write_text("\\n".join(json.dumps({
            "obs": store.schema.flatten(one.observations()).tolist(), "action": one.action.tolist(),
            "reward": one.reward.tolist(), "terminated": bool(one.terminated),
        }) for one in episodes))
        return ()


FORMAT = Toy()
'''


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A copy of the three packages with one more file, as a user who adds a learner would have it."""
    root = tmp_path_factory.mktemp("extended")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", root / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", root / "setup.cfg")
    (root / "algos" / "toy.py").write_text(TOY)
    (root / "toolkit" / "formats" / "toy.py").write_text(TOY_FORMAT)
    return root


def run(root: Path, *argv: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, *argv], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_file_adds_a_learner_everywhere(extended):
    collect("pendulum", out=extended / "d.zarr", episodes=4, contexts=2, coverage=0.5, seed=0)
    assert "toy" in run(extended, "-m", "toolkit.cli", "learners")
    flags = ["--store", "d.zarr", "--steps", "20", "--episodes", "2"]
    for seed in ("0", "1"):
        run(extended, "-m", "toolkit.cli", "train", "toy", *flags, "--seed", seed, "--learner.rate", "0.5")
    (folder,) = (extended / "runs").glob("toy-seed0-*")
    assert json.loads((folder / "config.json").read_text())["options"] == {"rate": 0.5}
    assert "toy" in run(extended, "-m", "toolkit.cli", "eval", str(folder))
    run(extended, "-m", "toolkit.cli", "plot", "runs", "--figure", "comparison", "--out", "figures")
    assert "toy" in (extended / "figures" / "comparison.csv").read_text()


@pytest.mark.parametrize("contract", ["test_learner_contract.py", "test_formats.py"])
def test_the_contract_suites_pick_up_one_more_file(extended, contract):
    out = run(extended, "-m", "pytest", f"tests/{contract}", "-k", "toy", "-p", "no:cacheprovider")
    assert "passed" in out


def test_one_file_adds_a_format(extended):
    collect("pendulum", out=extended / "f.zarr", episodes=4, contexts=2, coverage=0.5, seed=0)
    run(extended, "-m", "toolkit.cli", "data", "export", "toy-lines", "f.zarr", "f.jsonl")
    out = run(extended, "-m", "toolkit.cli", "data", "import", "toy-lines", "f.jsonl", "back.zarr")
    assert "back.zarr: 4 episodes, 800 transitions" in out


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("train_one_learner.py", ["--steps", "50", "--episodes", "4"]),
        ("compare_learners.py", ["--steps", "20", "--episodes", "4", "--seeds", "1"]),
        ("plan_with_world_model.py", ["--steps", "20", "--episodes", "4", "--starts", "1"]),
        ("imagine.py", ["--steps", "5", "--episodes", "4", "--model-steps", "20"]),
    ],
)
def test_examples_run_and_stay_short(tmp_path, script, flags):
    path = ROOT / "examples" / script
    assert len(path.read_text().splitlines()) < 60
    assert run(tmp_path, str(path), *flags)
