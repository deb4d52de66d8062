"""What a store holds: every key's role, shape, type, limits and resolution, and what made it, as plain JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.core import Array, Episode, leaves
from toolkit.store.keys import InfoKey, Key, check_array, checked_path, groups_of
from toolkit.store.spaces import Widths, action_key, named_spaces, observation_key

if TYPE_CHECKING:
    import gymnasium as gym

REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(==[A-Za-z0-9][A-Za-z0-9.+!_-]{0,99})?")
Info = Mapping[str, InfoKey | tuple[int, ...]]  # a bare shape is float32


@dataclass(frozen=True)
class Schema:
    """The shape of a store's episodes. `environment` and the specs say what made them; data, never executed.

    Raises ValueError if a role is unknown, a name unsafe, a requirement odd, or there is no observation.
    """

    observations: tuple[Key, ...]
    action: Key
    discrete: bool  # an action is a choice; see `Key`
    context_names: tuple[str, ...] = ()
    info: Mapping[str, InfoKey] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)  # {"suite": name, ...}
    environment_spec: dict[str, Any] | None = None  # Gymnasium's EnvSpec as JSON; see toolkit.store.environment
    evaluation_spec: dict[str, Any] | None = None  # of the environment to evaluate in, where that is another
    requirements: tuple[str, ...] = ()  # "name==version" of the packages that made the episodes

    def __post_init__(self) -> None:
        info = {name: key if isinstance(key, InfoKey) else InfoKey(key) for name, key in self.info.items()}
        object.__setattr__(self, "info", info)
        for names in ([key.name for key in self.observations], list(self.info)):
            groups = {group for name in names for group in groups_of(checked_path("key", name))}
            if both := sorted(groups & set(names)):
                raise ValueError(f"key {both[0]!r} is also the beginning of another key; rename one")
            if len(set(names)) != len(names):
                raise ValueError(f"keys {sorted(names)} are not all different")
        if any(key.role == "action" for key in self.observations) or self.action.role != "action":
            raise ValueError("the role 'action' belongs to the action, and to nothing else")
        if not any(key.role in ("observation", "image") for key in self.observations):
            raise ValueError("schema has no key with the role 'observation' or 'image'; a store needs at least one")
        if self.discrete != self.action.one_hot:
            raise ValueError(f"discrete is {self.discrete}, but the action's space is {self.action.space}")
        for text in self.requirements:
            if not REQUIREMENT.fullmatch(text):
                raise ValueError(f"requirement {text!r} is not of the form name==version")
        order = sorted(self.observations, key=lambda key: key.role == "goal")
        object.__setattr__(self, "observations", tuple(order))

    @classmethod
    def from_spaces(
        cls,
        *,
        observation: gym.Space,
        action: gym.Space,
        roles: Mapping[str, str] | None = None,
        context_names: Sequence[str] = (),
        info: Info | None = None,
        environment: Mapping[str, Any] | None = None,
        resolution: Mapping[str, Widths] | None = None,
        environment_spec: Mapping[str, Any] | None = None,
        evaluation_spec: Mapping[str, Any] | None = None,
        requirements: Sequence[str] = (),
    ) -> Schema:
        """A schema from Gymnasium spaces.

        Observations: Box of any shape, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple spaces of them, nested:
        their keys are joined with "/". A Box of uint8 with three axes is an image (H, W, C). Actions: Box of any shape,
        Discrete, MultiDiscrete, MultiBinary. What each becomes in a Batch is `Key`'s.

        `roles` maps keys, or groups of them, to "observation" (the default), "image" or "goal". `info` maps extra keys
        to an `InfoKey`, or a shape for float32. `resolution` maps a key of floats (or "action") to its bin width or
        widths, in packed order; by default 1/256 of a bounded range, 0.01 of an unbounded one and 1 of integers.
        Raises ValueError naming a space that cannot be stored.
        """
        named, widths = named_spaces(observation), dict(resolution or {})
        given: dict[str, str | None] = dict(roles or {})
        groups = {group for name in named for group in groups_of(name)}
        for what, keys, known in (("roles", given, {*named, *groups}), ("resolution", widths, {*named, "action"})):
            if unknown := sorted(set(keys) - known):
                raise ValueError(f"{what} name {unknown}, but the keys are {sorted(known)}")
        for name in named:
            given.setdefault(name, next((given[group] for group in groups_of(name) if group in given), None))
        acting = action_key(action, widths.get("action"))
        seen = tuple(observation_key(k, space, given.get(k), widths.get(k)) for k, space in named.items())
        return cls(
            seen,
            acting,
            acting.one_hot,
            tuple(context_names),
            dict(info or {}),  # type: ignore[arg-type]  # shapes become keys
            dict(environment or {}),
            None if environment_spec is None else dict(environment_spec),
            None if evaluation_spec is None else dict(evaluation_spec),
            tuple(requirements),
        )

    @classmethod
    def from_env(cls, env: gym.Env, evaluation_env: gym.Env | None = None, **given: Any) -> Schema:
        """A schema from environments made by `gymnasium.make`: their spaces, specs and requirements.

        `given` are further arguments of `from_spaces`, and replace what is found. The key "desired_goal" of
        Gymnasium's goal environments has the role "goal". Raises ValueError or StoreError if a space cannot be stored,
        or an environment could not be rebuilt from its spec: it is rebuilt once, to see.
        """
        from toolkit.store.environment import schema_from_env

        return schema_from_env(env, evaluation_env, **given)

    @property
    def obs_dim(self) -> int:
        """O: all numbers of observations, goals last; images are not among them."""
        return sum(key.size for key in self.observations)

    @property
    def goal_dim(self) -> int:
        """G: the last G of the O numbers."""
        return sum(key.size for key in self.observations if key.role == "goal")

    @property
    def action_dim(self) -> int:
        """A: numbers in an action; the number of choices when discrete."""
        return self.action.size

    @property
    def images(self) -> dict[str, tuple[int, ...]]:
        """Key -> (H, W, C) of every image."""
        return {key.name: key.shape for key in self.observations if key.role == "image"}

    @property
    def imagined(self) -> bool:
        """Whether the episodes are rollouts of a learned model; see `toolkit.imagine`."""
        return "imagine" in self.environment

    def places(self, name: str) -> tuple[int, ...]:
        """Which of the O observation numbers are those of key `name`. Raises ValueError if it has none."""
        at = 0
        for key in self.observations:
            if key.name == name and key.size:
                return tuple(range(at, at + key.size))
            at += key.size
        raise ValueError(f"no key {name!r} is packed; there are {[key.name for key in self.observations if key.size]}")

    def flatten(self, obs: Any) -> Array:
        """Observations as the environment gives them, leaves (..., *shape) -> (..., O) float32 in packed order.

        Raises ValueError if a key is missing or a shape does not fit.
        """
        names, size = self._vectors
        if names and isinstance(obs, dict):  # the common case, at every step of an evaluation
            try:
                joined = np.concatenate([np.asarray(obs[name], np.float32) for name in names], axis=-1)
                if joined.shape[-1] == size:
                    return joined
            except (KeyError, ValueError):
                pass  # told below, by name
        found = self._leaves(obs)
        parts = [key.pack(found[key.name]) for key in self.observations if key.role != "image"]
        if not parts:
            image = self.observations[0]
            lead = np.shape(found[image.name])[:-3]
            return np.zeros((*lead, 0), np.float32)
        return np.concatenate(parts, axis=-1)

    @cached_property
    def _vectors(self) -> tuple[list[str], int]:
        """Names of the keys and O, where every key is a plain vector of numbers; else no names."""
        plain = all(not key.one_hot and len(key.shape) == 1 and "/" not in key.name for key in self.observations)
        return [key.name for key in self.observations] if plain else [], self.obs_dim

    def pictures(self, obs: Any) -> dict[str, Array]:
        """The images (..., H, W, C) uint8 of observations as the environment gives them. Raises as `flatten` does."""
        if not (names := self.images):
            return {}
        found = self._leaves(obs)
        return {name: np.asarray(found[name], np.uint8) for name in names}

    def stacked(self, observations: Sequence[Any]) -> dict[str, Array]:
        """Observations as the environment gave them, one after another -> each key (n, ...) in the dtype stored."""
        found = [self._leaves(obs) for obs in observations]
        return {key.name: np.asarray([one[key.name] for one in found], key.dtype) for key in self.observations}

    def _leaves(self, obs: Any) -> dict[str, Any]:
        found = leaves(obs)
        if missing := [key.name for key in self.observations if key.name not in found]:
            raise ValueError(f"observation has keys {sorted(found)} but the schema also needs {missing}")
        return found

    def check(self, episode: Episode) -> None:
        """Raise ValueError if a field's shape or dtype differs from the schema, naming both."""
        obs, steps = episode.observations(), len(episode)
        if set(obs) != {key.name for key in self.observations}:
            raise ValueError(
                f"episode has observation keys {sorted(obs)}; the schema has {[k.name for k in self.observations]}"
            )
        for key in self.observations:
            key.check(obs[key.name], steps + 1)
        check_array("reward", episode.reward, (steps,), "float32", "fiu")
        self.action.check(episode.action, steps)
        if not self.discrete:
            self._check_limits(np.asarray(episode.action).reshape(steps, -1))
        if set(episode.info) != set(self.info):
            raise ValueError(f"episode has info keys {sorted(episode.info)}; the schema has {sorted(self.info)}")
        for name, info in self.info.items():
            info.check(name, episode.info[name], steps)
        try:
            context = np.asarray(episode.columns.get("context", ()), np.float64)
        except (TypeError, ValueError):
            context = np.zeros((0, 0))
        if context.shape != (len(self.context_names),) or not np.isfinite(context).all():
            raise ValueError(f"context has shape {context.shape}; expected {len(self.context_names)} finite numbers")
        if not isinstance(episode.terminated, bool | np.bool_):
            raise ValueError(f"terminated is {episode.terminated!r}; expected True or False")
        seed, success = episode.columns.get("seed", -1), episode.columns.get("success")
        if not isinstance(seed, int | np.integer) or not -1 <= seed < 1 << 63:
            raise ValueError(f"seed is {seed!r}; expected an integer from 0 to 2**63 - 1, or -1 for unknown")
        if not isinstance(success, bool | np.bool_ | None):
            raise ValueError(f"success is {success!r}; expected True, False, or None for unknown")

    def _check_limits(self, action: Array) -> None:
        for i, (low, high) in enumerate(zip(self.action.low, self.action.high, strict=True)):
            slack = 1e-5 * (high - low) if low is not None and high is not None else 0.0
            worst = (float(action[:, i].min()), float(action[:, i].max()))
            if (low is not None and worst[0] < low - slack) or (high is not None and worst[1] > high + slack):
                raise ValueError(
                    f"action {i} spans {worst[0]:.6g} to {worst[1]:.6g}, outside its limits {low} to {high}: "
                    "store the action the environment executed (clip it)"
                )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` gives back an equal Schema."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Schema:
        """Inverse of `to_json`; of what older programs wrote as well, where later fields are absent.

        Raises KeyError, TypeError, AttributeError or ValueError if it does not fit.
        """

        def key(raw: Mapping[str, Any]) -> Key:
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
            if values["role"] == "action" and data["discrete"] and "space" not in values:
                choices = values["shape"]  # once the one-hot shape stood for the choices
                values |= {"shape": (), "dtype": "int64", "space": "discrete", "choices": choices, "start": (0,)}
            return Key(**values)

        def info(raw: Any) -> InfoKey:
            return InfoKey(tuple(raw)) if isinstance(raw, list) else InfoKey(tuple(raw["shape"]), raw["dtype"])

        specs = [data.get(name) for name in ("environment_spec", "evaluation_spec")]
        return cls(
            tuple(key(raw) for raw in data["observations"]),
            key(data["action"]),
            bool(data["discrete"]),
            tuple(data["context_names"]),
            {name: info(raw) for name, raw in data["info"].items()},
            dict(data["environment"]),
            None if specs[0] is None else dict(specs[0]),
            None if specs[1] is None else dict(specs[1]),
            tuple(data.get("requirements", ())),
        )
