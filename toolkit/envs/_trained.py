"""Experts that were trained: small networks that act in plain NumPy, kept as safetensors beside the suites.

`weights/<suite>.safetensors` holds one actor for each of its behaviours, and says in its metadata which command,
seed and versions made it and what it returned then. `packmule expert` writes such files; see toolkit.experts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from toolkit.core import Array
from toolkit.envs import Behaviour, Suite, context_array

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Recipe:
    """Settings of proximal policy optimisation (arXiv:1707.06347) for one suite; names are Stable-Baselines3's."""

    steps: int = 1_000_000
    envs: int = 4
    n_steps: int = 512  # steps of each environment between two updates
    batch_size: int = 64
    n_epochs: int = 10
    learning_rate: float = 3e-4  # falls linearly to a tenth over the training
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    log_std_init: float = -0.7
    hidden: tuple[int, ...] = (64, 64)


@dataclass(frozen=True)
class Actor:
    """A perceptron with tanh between its layers, on normalised observations; acts deterministically.

    Raises ValueError if the arrays do not fit together.
    """

    mean: Array  # (O,) float32
    scale: Array  # (O,) float32, what to divide by
    weights: tuple[Array, ...]  # (out, in) float32 each
    biases: tuple[Array, ...]  # (out,) float32 each
    low: Array  # (A,) float32 limits of the actions
    high: Array

    CLIP: ClassVar[float] = 10.0
    """Normalised observations are clipped to plus or minus this, in training too."""

    def __post_init__(self) -> None:
        sizes = [self.mean.shape, *(bias.shape for bias in self.biases)]
        chained = [(*out, *into) for into, out in pairwise(sizes)]
        if [weight.shape for weight in self.weights] != chained or not chained:
            raise ValueError(
                f"layers of shapes {[w.shape for w in self.weights]} do not follow from observations {self.mean.shape} "
                f"and biases {sizes[1:]}; expected {chained}"
            )
        if self.scale.shape != self.mean.shape or not self.low.shape == self.high.shape == sizes[-1]:
            raise ValueError(f"scale {self.scale.shape} or limits {self.low.shape} do not fit layers {sizes}")
        for array in (self.mean, self.scale, *self.weights, *self.biases, self.low, self.high):
            if array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"an array {array.shape} of {array.dtype} is not finite float32; the file is damaged")

    def __call__(self, obs: Mapping[str, Array]) -> Array:
        """obs["observation"] (O,) -> action (A,) float32 within the limits."""
        x = np.clip((obs["observation"] - self.mean) / self.scale, -self.CLIP, self.CLIP)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = np.tanh(weight @ x + bias)
        action = self.weights[-1] @ x + self.biases[-1]
        return np.minimum(np.maximum(action, self.low), self.high)

    def to_arrays(self) -> dict[str, Array]:
        """Names to arrays; `from_arrays` gives back an equal Actor."""
        arrays = {name: getattr(self, name) for name in ("mean", "scale", "low", "high")}
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            arrays |= {f"{index}.weight": weight, f"{index}.bias": bias}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Actor:
        """Inverse of `to_arrays`. Raises KeyError or ValueError if it does not fit."""
        layers = range(sum(name.endswith(".weight") for name in arrays))
        weights = tuple(arrays[f"{index}.weight"] for index in layers)
        biases = tuple(arrays[f"{index}.bias"] for index in layers)
        return cls(arrays["mean"], arrays["scale"], weights, biases, arrays["low"], arrays["high"])


def write_actors(path: Path, actors: Mapping[str, Actor], about: Mapping[str, Any]) -> None:
    """Write one safetensors file of actors by behaviour; `about` becomes its metadata, as JSON."""
    from safetensors.numpy import save_file

    arrays = {f"{name}/{key}": array for name, actor in actors.items() for key, array in actor.to_arrays().items()}
    partial = path.with_name(path.name + ".partial")
    save_file(arrays, partial, metadata={"about": json.dumps(about, sort_keys=True)})
    partial.replace(path)


def read_actors(path: Path) -> tuple[dict[str, Actor], dict[str, Any]]:
    """Actors by behaviour, and what the file says about them. Raises ValueError if it is not such a file."""
    from safetensors import SafetensorError, safe_open

    arrays: dict[str, dict[str, Array]] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["about"])
            for name in file.keys():  # noqa: SIM118  # not a dict
                behaviour, _, key = name.partition("/")
                arrays.setdefault(behaviour, {})[key] = file.get_tensor(name)
        return {behaviour: Actor.from_arrays(named) for behaviour, named in arrays.items()}, about
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a file of actors ({error}); packmule expert makes one") from error


class TrainedSuite(Suite):
    """A suite whose expert, and a weaker "medium", were trained by `packmule expert`; neither is told the context."""

    behaviours = ("expert", "medium", "random")
    recipe: ClassVar[Recipe]

    @property
    def weights(self) -> Path:
        """The file that ships with the suite."""
        return WEIGHTS / f"{self.name}.safetensors"

    @cached_property
    def actors(self) -> dict[str, Actor]:
        """Behaviour -> actor. Raises FileNotFoundError or ValueError if the file is missing or damaged."""
        if not self.weights.exists():
            raise FileNotFoundError(f"{self.weights} is missing; packmule expert {self.name} --out DIR makes one")
        actors, _ = read_actors(self.weights)
        if missing := {"expert", "medium"} - set(actors):
            raise ValueError(f"{self.weights} has no actor {', '.join(sorted(missing))}; packmule expert makes both")
        return actors

    def expert(self, context: Array, *, rng: np.random.Generator) -> Behaviour:
        """The trained expert; it draws nothing."""
        return self._actor("expert", context)

    def behaviour(self, name: str, context: Array, *, rng: np.random.Generator) -> Behaviour:
        """Also "medium": the same training, stopped about halfway between random and the expert in return."""
        return self._actor(name, context) if name == "medium" else super().behaviour(name, context, rng=rng)

    def _actor(self, name: str, context: Array) -> Actor:
        context_array(context, self.context_names)
        return self.actors[name]


def recipe_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain JSON."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(recipe).items()}
