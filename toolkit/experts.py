"""Training the experts of suites that have no script: Stable-Baselines3's PPO, in rounds, and what ships of it.

A training is a sequence of rounds. Each begins with fresh environments and its own seed, so it is a pure function of
the state the round before it left: a training that was stopped continues with the same bits, and an interrupt costs
one round at most. The state is safetensors and JSON; nothing that is read is executed.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from toolkit import registry
from toolkit.core import Array, child_seed
from toolkit.engines.local import only_one
from toolkit.envs._measure import measure, play
from toolkit.envs._trained import Actor, Recipe, TrainedSuite, read_actors, recipe_json, write_actors

ROLLOUTS = 20
"""Updates of the policy in a round."""
SCORED = 10
"""Episodes, always the same, that rank the rounds."""
MEASURED = 25
"""Episodes, of contexts no round was ranked on, behind the returns in the weights' metadata."""
HALF = 0.5
"""Where between random and expert the "medium" actor's return should lie."""


@dataclass(frozen=True)
class Round:
    """One round as its line in rounds.jsonl."""

    index: int
    steps: int  # of the training until here
    mean_return: float
    success: float
    seconds: float


def train_expert(
    suite_name: str,
    *,
    out: str | Path,
    seed: int = 0,
    steps: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Train the suite's expert in the folder `out` and return the file of weights, `out`/<suite>.safetensors.

    `steps` environment steps instead of the recipe's, rounded up to whole rounds; the learning rate falls as the
    recipe says. The same arguments continue a training that was stopped, more steps extend it; on one machine with
    the same versions the file is the same bit for bit, stopped or not. The best round by return becomes "expert";
    "medium" is the one before it that is nearest to halfway from random.

    Raises ValueError, before anything is written, for a suite without a recipe, numbers that do not fit, or a folder
    of another training; ImportError without Stable-Baselines3; BlockingIOError if another process trains there.
    """
    suite, out = registry.suite(suite_name), Path(out)
    if not isinstance(suite, TrainedSuite):
        trained = [name for name, other in registry.suites().items() if isinstance(other, TrainedSuite)]
        raise ValueError(
            f"suite {suite_name!r} has a scripted expert, nothing to train; expected one of {', '.join(trained)}"
        )
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    wanted = suite.recipe.steps if steps is None else steps
    if wanted < 1:
        raise ValueError(f"steps must be at least 1, got {wanted}")
    _library()
    suite.make().close()
    each = round_steps(suite.recipe)
    rounds = -(-wanted // each)
    config = {
        "suite": suite_name,
        "seed": seed,
        "recipe": recipe_json(suite.recipe),
        "round": each,
        "versions": _versions(),
    }
    _claim_folder(out, config)
    with only_one(out):
        for latest in _train(suite, out, rounds, seed):
            if progress is not None:
                note = f"return {latest.mean_return:.0f}, success {latest.success:.2f}"
                progress(latest.steps, rounds * each, note)
        command = f"packmule expert {suite_name} --seed {seed} --steps {rounds * each} --out DIR"
        return _choose(suite, out, _rounds(out)[:rounds], {"command": command, **config})


def _claim_folder(out: Path, config: dict[str, Any]) -> None:
    """Make the folder, or check that it belongs to this training."""
    path = out / "config.json"
    if path.exists():
        try:
            found = dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); give another --out") from error
        differing = sorted(key for key in config.keys() | found.keys() if config.get(key) != found.get(key))
        if differing:
            theirs, ours = ({key: one.get(key) for key in differing} for one in (found, config))
            raise ValueError(
                f"{out} holds a training with {theirs}, not {ours}: give the same flags to continue, or another --out"
            )
    elif out.exists() and any(entry.name != "config.json.partial" for entry in out.iterdir()):
        raise ValueError(f"{out} is not empty, and no training of an expert; give another --out")
    else:
        out.mkdir(parents=True, exist_ok=True)
        _replace(path, json.dumps(config, indent=1))


def _train(suite: TrainedSuite, out: Path, rounds: int, seed: int) -> Iterator[Round]:
    """Carry out those of the first `rounds` that are missing."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(1)  # the networks are too small to share
    (out / "actors").mkdir(exist_ok=True)
    done = _rounds(out)
    each = round_steps(suite.recipe)
    for index in range(len(done), rounds):
        began = time.monotonic()
        try:
            state = load_file(_state_path(out, index - 1)) if index else {}
        except SafetensorError as error:
            raise ValueError(f"{_state_path(out, index - 1)} is damaged ({error}); train in another --out") from error
        elapsed = min(index / -(-suite.recipe.steps // each), 1.0)
        state, actor = _round(suite, state, elapsed, child_seed(seed, "round", index) % 2**31)
        mean_return, success = score(suite, actor, seed=child_seed(seed, "score"))
        write_actors(_actor_path(out, index), {"actor": actor}, {"round": index})
        partial = out / "state.partial"
        save_file(state, partial)
        partial.replace(_state_path(out, index))
        done.append(Round(index, (index + 1) * each, mean_return, success, round(time.monotonic() - began, 1)))
        _replace(out / "rounds.jsonl", "".join(json.dumps(vars(one)) + "\n" for one in done))
        for old in out.glob("state-*.safetensors"):
            if old != _state_path(out, index):
                old.unlink()
        yield done[-1]


def _round(suite: TrainedSuite, state: dict[str, Any], elapsed: float, seed: int) -> tuple[dict[str, Any], Actor]:
    """One round of PPO from `state` (empty: from scratch), with `elapsed` of the training behind it."""
    import torch

    recipe, (ppo, vec_env, normalize) = suite.recipe, _library()

    def environment() -> Any:
        from gymnasium.wrappers import TransformObservation

        env = suite.make()
        return TransformObservation(env, lambda obs: obs["observation"], env.observation_space["observation"])  # type: ignore[index]

    envs = normalize(vec_env([environment] * recipe.envs), gamma=recipe.gamma, clip_obs=Actor.CLIP)
    model = ppo(
        "MlpPolicy",
        envs,
        n_steps=recipe.n_steps,
        batch_size=recipe.batch_size,
        n_epochs=recipe.n_epochs,
        learning_rate=recipe.learning_rate * (1 - 0.9 * elapsed),
        gamma=recipe.gamma,
        gae_lambda=recipe.gae_lambda,
        clip_range=recipe.clip_range,
        ent_coef=recipe.ent_coef,
        vf_coef=recipe.vf_coef,
        max_grad_norm=recipe.max_grad_norm,
        policy_kwargs={
            "net_arch": list(recipe.hidden),
            "activation_fn": torch.nn.Tanh,
            "log_std_init": recipe.log_std_init,
        },
        seed=seed,
        device="cpu",
    )
    if state:
        _restore(model, envs, state)
    model.learn(round_steps(recipe))
    saved, actor = _state_of(model, envs), _actor_of(model, envs)
    envs.close()
    return saved, actor


def _state_of(model: Any, envs: Any) -> dict[str, Any]:
    """Parameters, Adam's moments and the running statistics of observations and returns, as flat tensors."""
    import torch

    state = {f"policy/{name}": tensor.clone() for name, tensor in model.policy.state_dict().items()}
    for index, moments in model.policy.optimizer.state_dict()["state"].items():
        state |= {f"adam/{index}/{name}": torch.as_tensor(value).clone() for name, value in moments.items()}
    for name, running in (("obs", envs.obs_rms), ("ret", envs.ret_rms)):
        for part in ("mean", "var", "count"):
            state[f"running/{name}/{part}"] = torch.as_tensor(np.asarray(getattr(running, part), np.float64)).clone()
    return state


def _restore(model: Any, envs: Any, state: dict[str, Any]) -> None:
    """Inverse of `_state_of`."""
    optimizer = model.policy.optimizer.state_dict()
    running = {"obs": envs.obs_rms, "ret": envs.ret_rms}
    policy = {}
    for name, tensor in state.items():
        kind, _, rest = name.partition("/")
        if kind == "policy":
            policy[rest] = tensor
        elif kind == "adam":
            index, _, moment = rest.partition("/")
            optimizer["state"].setdefault(int(index), {})[moment] = tensor
        else:
            which, _, part = rest.partition("/")
            setattr(running[which], part, tensor.numpy() if tensor.ndim else float(tensor))
    model.set_parameters({"policy": policy, "policy.optimizer": optimizer}, device="cpu")


def _actor_of(model: Any, envs: Any) -> Actor:
    """The mean of the policy's Gaussian, as an Actor."""
    linear = [
        layer for layer in (*model.policy.mlp_extractor.policy_net, model.policy.action_net) if hasattr(layer, "weight")
    ]

    def plain(array: Any) -> Array:
        return np.array(array, np.float32)

    return Actor(
        plain(envs.obs_rms.mean),
        plain(np.sqrt(envs.obs_rms.var + envs.epsilon)),
        tuple(plain(layer.weight.detach().numpy()) for layer in linear),
        tuple(plain(layer.bias.detach().numpy()) for layer in linear),
        plain(model.action_space.low),
        plain(model.action_space.high),
    )


def score(suite: TrainedSuite, actor: Actor, *, seed: int, episodes: int = SCORED) -> tuple[float, float]:
    """Mean return and success of an actor in the first training contexts of `seed`."""
    env = suite.make()
    played = [
        play(env, actor, context, seed=child_seed(seed, "env", index))
        for index, context in enumerate(suite.contexts("train", episodes, seed=seed))
    ]
    env.close()
    returns, successes = zip(*played, strict=True)
    return float(np.mean(returns)), float(np.mean(successes))


def _choose(suite: TrainedSuite, out: Path, done: list[Round], about: dict[str, Any]) -> Path:
    """Pick the rounds that become "expert" and "medium", measure them, and write the file of weights."""
    path = out / f"{suite.name}.safetensors"
    if path.exists() and read_actors(path)[1].get("command") == about["command"]:
        return path
    best = max(done, key=lambda one: one.mean_return)
    random = measure(suite, "train", "random", episodes=SCORED).mean_return
    target = random + HALF * (best.mean_return - random)
    medium = min(done[: best.index] or [best], key=lambda one: abs(one.mean_return - target))
    actors, about = {}, dict(about)
    for name, chosen in (("expert", best), ("medium", medium)):
        actors[name] = read_actors(_actor_path(out, chosen.index))[0]["actor"]
        seed = child_seed(about["seed"], "final")
        mean_return, success = score(suite, actors[name], seed=seed, episodes=MEASURED)
        about[name] = {"steps": chosen.steps, "return": mean_return, "success": success, "episodes": MEASURED}
    write_actors(path, actors, about)
    return path


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("stable-baselines3", "torch", "gymnasium", "mujoco", "numpy")}


def round_steps(recipe: Recipe) -> int:
    """Environment steps in a round."""
    return ROLLOUTS * recipe.envs * recipe.n_steps


def _rounds(out: Path) -> list[Round]:
    """The rounds that are done. Raises ValueError if the record of them is damaged."""
    path = out / "rounds.jsonl"
    if not path.exists():
        return []
    try:
        done = [Round(**json.loads(line)) for line in path.read_text().splitlines()]
        if [one.index for one in done] != list(range(len(done))):
            raise ValueError("rounds are missing")
        return done
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); give another --out and train again") from error


def _state_path(out: Path, index: int) -> Path:
    return out / f"state-{index:04d}.safetensors"


def _actor_path(out: Path, index: int) -> Path:
    return out / "actors" / f"{index:04d}.safetensors"


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def _library() -> tuple[Any, Any, Any]:
    """PPO, DummyVecEnv and VecNormalize of Stable-Baselines3, imported without the old gym's notice."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            from stable_baselines3 import PPO
            from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
    except ImportError as error:
        raise ImportError(
            f"training an expert cannot import {error.name or error}; pip install 'packmule[experts]'"
        ) from error
    return PPO, DummyVecEnv, VecNormalize
