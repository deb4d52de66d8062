"""What a store holds: every key's role, shape, dtype, limits and resolution, as plain JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.core import Array, Episode
from toolkit.store.files import checked_name

if TYPE_CHECKING:
    import gymnasium as gym

ROLES = ("observation", "goal")
LARGEST = float(np.finfo(np.float32).max) / 2  # the difference of two such numbers is finite too
BINS = 256  # default resolution: this many bins across a bounded range


@dataclass(frozen=True)
class Key:
    """One observation key. Vector observations only, so far: shape (D,), float32 on disk."""

    name: str
    role: str  # "observation", or "goal" (constant in an episode, last in the packed observation)
    shape: tuple[int, ...]
    low: tuple[float | None, ...]  # None: unbounded
    high: tuple[float | None, ...]
    resolution: tuple[float, ...]  # bin width for code lengths, raw units

    @property
    def size(self) -> int:
        """Numbers in one observation of this key."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Schema:
    """The shape of a store's episodes. `environment` says what made them; it is data, never executed.

    Raises ValueError if a role is unknown, a name unsafe, or there is no observation.
    """

    observations: tuple[Key, ...]
    action: Key  # shape (A,); for discrete actions (choices,) with resolution 1
    discrete: bool
    context_names: tuple[str, ...] = ()
    info: dict[str, tuple[int, ...]] = field(default_factory=dict)  # key -> shape of one step, float32
    environment: dict[str, Any] = field(default_factory=dict)  # {"suite": name, ...}

    def __post_init__(self) -> None:
        for key in self.observations:
            checked_name("observation key", key.name)
            if key.role not in ROLES:
                raise ValueError(f"observation {key.name!r} has role {key.role!r}; expected one of {', '.join(ROLES)}")
        for name in self.info:
            checked_name("info key", name)
        if not any(key.role == "observation" for key in self.observations):
            raise ValueError("schema has no key with the role 'observation'; a store needs at least one")
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
        info: Mapping[str, tuple[int, ...]] | None = None,
        environment: Mapping[str, Any] | None = None,
        resolution: Mapping[str, float] | None = None,
    ) -> Schema:
        """A schema from Gymnasium spaces: Box or Dict of one-dimensional Boxes; actions Box (A,) or Discrete.

        `roles` maps keys to "observation" (the default) or "goal". `resolution` maps a key (or "action") to its
        bin width; by default 1/256 of a bounded range and 0.01 of an unbounded one.
        Raises ValueError naming a space that cannot be stored.
        """
        from gymnasium import spaces

        widths = dict(resolution or {})

        def key(name: str, space: gym.Space, role: str) -> Key:
            if not isinstance(space, spaces.Box) or len(space.shape) != 1:
                raise ValueError(f"{name!r} has space {space}; a store holds Box spaces of one dimension so far")
            low = tuple(float(x) if np.isfinite(x) else None for x in space.low)
            high = tuple(float(x) if np.isfinite(x) else None for x in space.high)
            width = tuple(
                widths.get(name, 0.01 if a is None or b is None else (b - a) / BINS)
                for a, b in zip(low, high, strict=True)
            )
            return Key(name, role, tuple(space.shape), low, high, width)

        if isinstance(action, spaces.Discrete):
            if action.start != 0:
                raise ValueError(f"discrete actions start at {action.start}; a store counts them from 0")
            n = int(action.n)
            action_key = Key("action", "action", (n,), (0.0,) * n, (1.0,) * n, (1.0,) * n)
        else:
            action_key = key("action", action, "action")
        named = dict(observation.spaces) if isinstance(observation, spaces.Dict) else {"observation": observation}
        given = dict(roles or {})
        if unknown := set(given) - set(named):
            raise ValueError(f"roles name {sorted(unknown)}, but the observation keys are {sorted(named)}")
        keys = tuple(key(name, space, given.get(name, "observation")) for name, space in named.items())
        return cls(
            keys,
            action_key,
            isinstance(action, spaces.Discrete),
            tuple(context_names),
            dict(info or {}),
            dict(environment or {}),
        )

    @property
    def obs_dim(self) -> int:
        """O: all vector observations, goals last."""
        return sum(key.size for key in self.observations)

    @property
    def goal_dim(self) -> int:
        """G: the last G of the O numbers."""
        return sum(key.size for key in self.observations if key.role == "goal")

    @property
    def action_dim(self) -> int:
        """A: numbers in an action; the number of choices when discrete."""
        return self.action.size

    def flatten(self, obs: Mapping[str, Array]) -> Array:
        """Observations by key (..., D) -> (..., O) float32 in packed order. Raises ValueError if a key is missing."""
        if missing := [key.name for key in self.observations if key.name not in obs]:
            raise ValueError(f"observation has keys {sorted(obs)} but the schema also needs {missing}")
        return np.concatenate([np.asarray(obs[key.name], np.float32) for key in self.observations], axis=-1)

    def check(self, episode: Episode) -> None:
        """Raise ValueError if a field's shape or dtype differs from the schema, naming both."""
        obs, steps = episode.observations(), len(episode)
        if set(obs) != {key.name for key in self.observations}:
            raise ValueError(
                f"episode has observation keys {sorted(obs)}; the schema has {[k.name for k in self.observations]}"
            )
        for key in self.observations:
            self._check_array(f"observation {key.name!r}", obs[key.name], (steps + 1, *key.shape), "f")
        self._check_array("reward", episode.reward, (steps,), "fiu")
        if self.discrete:
            self._check_array("action", episode.action, (steps,), "iu")
            action = np.asarray(episode.action)
            if action.min() < 0 or action.max() >= self.action_dim:
                raise ValueError(f"actions span {action.min()} to {action.max()}; expected 0 to {self.action_dim - 1}")
        else:
            self._check_array("action", episode.action, (steps, *self.action.shape), "f")
            self._check_limits(np.asarray(episode.action))
        if set(episode.info) != set(self.info):
            raise ValueError(f"episode has info keys {sorted(episode.info)}; the schema has {sorted(self.info)}")
        for name, shape in self.info.items():
            self._check_array(f"info {name!r}", episode.info[name], (steps, *shape), "fiub")
        context = np.asarray(episode.columns.get("context", ()), np.float64)
        if context.shape != (len(self.context_names),) or not np.isfinite(context).all():
            raise ValueError(f"context has shape {context.shape}; expected {len(self.context_names)} finite numbers")
        if not isinstance(episode.terminated, bool | np.bool_):
            raise ValueError(f"terminated is {episode.terminated!r}; expected True or False")
        seed, success = episode.columns.get("seed", -1), episode.columns.get("success")
        if not isinstance(seed, int | np.integer) or not -1 <= seed < 1 << 63:
            raise ValueError(f"seed is {seed!r}; expected an integer from 0 to 2**63 - 1, or -1 for unknown")
        if not isinstance(success, bool | np.bool_ | None):
            raise ValueError(f"success is {success!r}; expected True, False, or None for unknown")

    @staticmethod
    def _check_array(name: str, values: Any, shape: tuple[int, ...], kinds: str) -> None:
        array = np.asarray(values)
        if array.shape != shape or array.dtype.kind not in kinds:
            expected = {"f": "floating point", "iu": "integer"}.get(kinds, "numeric")
            raise ValueError(f"{name} is {array.dtype} {array.shape}; expected {expected} {shape}")
        if kinds != "iu" and array.dtype.kind == "f" and (np.abs(array) > LARGEST).any():
            raise ValueError(f"{name} has numbers beyond {LARGEST:.2g}, which float32 cannot hold and subtract")

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
        """Inverse of `to_json`. Raises KeyError, TypeError or ValueError if it does not fit."""

        def key(raw: Mapping[str, Any]) -> Key:
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
            return Key(**values)

        return cls(
            tuple(key(raw) for raw in data["observations"]),
            key(data["action"]),
            bool(data["discrete"]),
            tuple(data["context_names"]),
            {name: tuple(shape) for name, shape in data["info"].items()},
            dict(data["environment"]),
        )
