"""Training experts: the same bits whether stopped or not, weights that act without torch, and clear refusals."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from toolkit import experts, registry
from toolkit.cli import main
from toolkit.envs import hopper
from toolkit.envs._trained import Actor, Recipe, TrainedSuite, read_actors, write_actors

SUITE = hopper.SUITE
TRAINED = [pytest.param(s, id=name) for name, s in registry.suites().items() if isinstance(s, TrainedSuite)]


@pytest.fixture
def small(monkeypatch):
    """A training of four rounds in seconds."""
    pytest.importorskip("stable_baselines3")
    recipe = Recipe(steps=512, envs=2, n_steps=64, batch_size=32, n_epochs=1, hidden=(8,))
    monkeypatch.setattr(hopper.Hopper, "recipe", recipe)
    for name, value in {"ROLLOUTS": 1, "SCORED": 2, "MEASURED": 2}.items():
        monkeypatch.setattr(experts, name, value)


def an_actor(*, hidden: int = 5) -> Actor:
    rng = np.random.default_rng(0)

    def some(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    limits = (-np.ones(3, np.float32), np.ones(3, np.float32))
    return Actor(
        some(11), np.abs(some(11)) + 0.1, (some(hidden, 11), some(3, hidden)), (some(hidden), some(3)), *limits
    )


def test_a_training_that_was_stopped_extended_or_interrupted_ends_with_the_same_bits(small, tmp_path):
    whole = experts.train_expert("hopper", out=tmp_path / "whole", seed=3)
    experts.train_expert("hopper", out=tmp_path / "parts", seed=3, steps=100)

    def stop(done: int, total: int, note: str) -> None:
        if done == 384:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experts.train_expert("hopper", out=tmp_path / "parts", seed=3, progress=stop)
    rounds = [json.loads(line) for line in (tmp_path / "parts/rounds.jsonl").read_text().splitlines()]
    assert [one["steps"] for one in rounds] == [128, 256, 384]
    parts = experts.train_expert("hopper", out=tmp_path / "parts", seed=3)
    assert parts.read_bytes() == whole.read_bytes()
    again = experts.train_expert("hopper", out=tmp_path / "whole", seed=3)
    assert again.read_bytes() == whole.read_bytes()
    other = experts.train_expert("hopper", out=tmp_path / "other", seed=4, steps=128)
    assert other.read_bytes() != whole.read_bytes()


def test_weights_say_how_they_were_made_and_the_best_round_is_the_expert(small, tmp_path):
    path = experts.train_expert("hopper", out=tmp_path / "run", seed=0)
    actors, about = read_actors(path)
    rounds = [json.loads(line) for line in (tmp_path / "run/rounds.jsonl").read_text().splitlines()]
    best = max(rounds, key=lambda one: one["mean_return"])
    assert about["command"] == "packmule expert hopper --seed 0 --steps 512 --out DIR"
    assert about["expert"]["steps"] == best["steps"]
    assert about["medium"]["steps"] <= best["steps"]
    assert {"stable-baselines3", "mujoco"} <= set(about["versions"])
    seed = experts.child_seed(0, "final")
    assert experts.score(SUITE, actors["expert"], seed=seed, episodes=2)[0] == about["expert"]["return"]


def test_an_actor_in_numpy_equals_the_network_that_was_trained(small):
    import torch

    state, actor = experts._round(SUITE, {}, 0.0, 5)
    net = {name.removeprefix("policy/"): tensor.double() for name, tensor in state.items()}
    obs = np.random.default_rng(0).normal(size=(50, 11)).astype(np.float32)
    spread = torch.sqrt(net["running/obs/var"] + 1e-8)
    x = torch.clamp((torch.from_numpy(obs).double() - net["running/obs/mean"]) / spread, -10, 10)
    x = torch.tanh(x @ net["mlp_extractor.policy_net.0.weight"].T + net["mlp_extractor.policy_net.0.bias"])
    expected = torch.clamp(x @ net["action_net.weight"].T + net["action_net.bias"], -1, 1).numpy()
    actions = np.array([actor({"observation": row}) for row in obs])
    assert actions.dtype == np.float32
    np.testing.assert_allclose(actions, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suite_name": "pendulum"}, "scripted expert, nothing to train; expected one of halfcheetah, hopper"),
        ({"suite_name": "hoper"}, "did you mean 'hopper'"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
    ],
)
def test_wrong_numbers_are_refused_before_anything_is_written(changes, message, tmp_path):
    arguments = {"suite_name": "hopper", "out": tmp_path / "run"} | changes
    with pytest.raises(ValueError, match=message):
        experts.train_expert(**arguments)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_refused_and_left_alone(small, tmp_path):
    experts.train_expert("hopper", out=tmp_path / "run", seed=0, steps=1)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "run").iterdir())
    with pytest.raises(ValueError, match=r"holds a training with \{'seed': 0\}, not \{'seed': 1\}"):
        experts.train_expert("hopper", out=tmp_path / "run", seed=1, steps=1)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "run").iterdir()) == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty, and no training"):
        experts.train_expert("hopper", out=tmp_path / "notes", steps=1)
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("name", ["config.json", "rounds.jsonl", "state-0000.safetensors"])
def test_a_damaged_training_is_named_and_refused(small, tmp_path, name):
    experts.train_expert("hopper", out=tmp_path, seed=0, steps=1)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"{name} is damaged"):
        experts.train_expert("hopper", out=tmp_path, seed=0, steps=200)


def test_without_the_library_the_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    assert main(["expert", "hopper", "--out", str(tmp_path / "run")]) == 2
    assert "pip install 'packmule[experts]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_damaged_or_foreign_weights_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    write_actors(path, {"expert": an_actor()}, {})
    arrays = an_actor().to_arrays()
    np.testing.assert_array_equal(read_actors(path)[0]["expert"].weights[1], arrays["1.weight"])
    whole = path.read_bytes()
    for bad in (whole[:100], whole[:-4], b"", b"\x80\x05K\x01."):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="is not a file of actors"):
            read_actors(path)
    with pytest.raises(ValueError, match="do not follow from observations"):
        Actor.from_arrays(arrays | {"1.weight": np.zeros((3, 6), np.float32)})
    with pytest.raises(ValueError, match="not finite float32"):
        Actor.from_arrays(arrays | {"0.bias": np.full(5, np.nan, np.float32)})


@pytest.mark.parametrize("suite", TRAINED)
def test_shipped_weights_are_small_and_say_how_they_were_made(suite):
    assert suite.weights.stat().st_size < 150_000
    actors, about = read_actors(suite.weights)
    assert set(actors) == {"expert", "medium"}
    assert about["suite"] == suite.name
    assert about["command"].startswith(f"packmule expert {suite.name} --seed {about['seed']} --steps ")
    assert about["recipe"] == experts.recipe_json(suite.recipe)
    assert about["expert"]["return"] == pytest.approx(suite.references["train"].expert, rel=0.3)
    assert suite.references["train"].random < about["medium"]["return"] < about["expert"]["return"]


def test_shipped_experts_act_without_torch():
    program = (
        "import sys, numpy as np\nfrom toolkit import registry\nsuite = registry.suite('halfcheetah')\n"
        "context = suite.contexts('train', 1, seed=0)[0]\n"
        "suite.expert(context, rng=np.random.default_rng(0))({'observation': np.zeros(17, np.float32)})\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_missing_file_of_weights_says_which_command_makes_it(monkeypatch, tmp_path):
    monkeypatch.setattr("toolkit.envs._trained.WEIGHTS", tmp_path)
    fresh = hopper.Hopper()
    with pytest.raises(FileNotFoundError, match="packmule expert hopper --out DIR makes one"):
        fresh.expert(fresh.contexts("train", 1, seed=0)[0], rng=np.random.default_rng(0))
