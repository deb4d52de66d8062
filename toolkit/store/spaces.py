"""Gymnasium spaces to the keys of a schema, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.core import leaves
from toolkit.store.keys import INTEGERS, LARGEST, Key, Kind, checked_choices

if TYPE_CHECKING:
    import gymnasium as gym

BINS = 256  # default resolution: this many bins across a bounded range
UNBOUNDED = 0.01  # default resolution where there is no range
CHANNELS = (1, 3, 4)

Widths = float | Sequence[float]  # one bin width for every number of a key, or one each


def named_spaces(space: gym.Space) -> dict[str, gym.Space]:
    """The spaces inside nested Dict and Tuple spaces by name; see `toolkit.core.leaves`."""
    from gymnasium import spaces

    def plain(part: Any) -> Any:
        if isinstance(part, spaces.Dict):
            if odd := [key for key in part.spaces if not isinstance(key, str) or "/" in key]:
                raise ValueError(f"an observation has the keys {odd}; a store needs text without a slash")
            return {key: plain(inner) for key, inner in part.spaces.items()}
        if isinstance(part, spaces.Tuple):
            return tuple(plain(inner) for inner in part.spaces)
        return part

    return leaves(plain(space))


def observation_key(name: str, space: gym.Space, role: str | None, widths: Widths | None) -> Key:
    """The key of one observation; without a `role`, "image" for uint8 Boxes of three axes, else "observation".

    Raises ValueError naming a space that cannot be stored, or a role or resolution that does not fit it.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3:
        if role in (None, "image"):
            return _image(name, space, widths)
    elif role == "image":
        raise ValueError(f"{name!r} has the role 'image' and the space {space}; an image is a Box of uint8 (H, W, C)")
    if role == "action":
        raise ValueError(f"observation {name!r} has the role 'action'; expected 'observation', 'goal' or 'image'")
    return _key(name, space, role or "observation", widths)


def action_key(space: gym.Space, widths: Widths | None) -> Key:
    """The action's key. Raises ValueError, saying what to do, if the space cannot be stored."""
    from gymnasium import spaces

    if isinstance(space, spaces.Box) and space.dtype.kind != "f":
        raise ValueError(
            f"actions have space {space}; a store holds Boxes of floating point: use Discrete, MultiDiscrete or "
            "MultiBinary for choices, or wrap the environment to take floats"
        )
    if isinstance(space, spaces.Dict | spaces.Tuple):
        raise ValueError(f"actions have space {space}; join them into one Box or MultiDiscrete with a wrapper")
    return _key("action", space, "action", widths)


def key_space(key: Key) -> gym.Space:
    """The Gymnasium space of what is stored under `key`."""
    from gymnasium import spaces

    if key.space == "discrete":
        return spaces.Discrete(key.choices[0], start=key.start[0])
    if key.space == "multi-discrete":
        nvec, start = (np.reshape(values, key.shape) for values in (key.choices, key.start))
        return spaces.MultiDiscrete(nvec, start=start)
    if key.space == "multi-binary":
        return spaces.MultiBinary(key.shape)
    dtype: Any = np.dtype(key.dtype).type
    if key.role == "image":
        return spaces.Box(0, 255, key.shape, dtype)
    floating = key.dtype == "float32"
    limits = (-np.inf, np.inf) if floating else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    low, high = (
        np.asarray([free if x is None else x for x in side], np.float64 if floating else object).reshape(key.shape)
        for side, free in ((key.low, limits[0]), (key.high, limits[1]))
    )
    return spaces.Box(low.astype(dtype), high.astype(dtype), key.shape, dtype)


def _image(name: str, space: gym.spaces.Box, widths: Widths | None) -> Key:
    height, _, channels = space.shape
    if min(space.shape) < 1:
        raise ValueError(f"image {name!r} has space {space}, which holds no pixels")
    if height in CHANNELS and channels > max(CHANNELS):
        raise ValueError(
            f"{name!r} has shape {space.shape}, which looks like (C, H, W); a store holds images as (H, W, C): "
            f"transpose them, or give {name!r} the role 'observation' if they are no images"
        )
    if widths is not None:
        raise ValueError(f"resolution was given for the image {name!r}; pixels are integers and need none")
    return Key(name, "image", tuple(space.shape), (), (), (), "uint8")


def _key(name: str, space: gym.Space, role: str, widths: Widths | None) -> Key:
    from gymnasium import spaces

    if isinstance(space, spaces.Box):
        return _box(name, space, role, widths)
    kind: Kind
    shape: tuple[int, ...]
    choices: Any
    start: Any
    if isinstance(space, spaces.Discrete):
        kind, shape, dtype, choices, start = "discrete", (), "int64", [space.n], [space.start]
    elif isinstance(space, spaces.MultiDiscrete):
        kind, shape, dtype = "multi-discrete", tuple(space.nvec.shape), "int64"
        choices, start = space.nvec.ravel(), space.start.ravel()
    elif isinstance(space, spaces.MultiBinary):
        kind, shape, dtype = "multi-binary", tuple(space.shape), "int8"
        count = int(np.prod(shape))
        choices, start = [2] * count, [0] * count
    else:
        raise ValueError(
            f"{name!r} has space {space}; a store holds Box, Discrete, MultiDiscrete and MultiBinary spaces, and Dict "
            "and Tuple spaces of them"
        )
    if widths is not None:
        raise ValueError(f"resolution was given for {name!r}, whose space is {space}; choices are exact and need none")
    few, first = tuple(int(n) for n in choices), tuple(int(n) for n in start)
    if not few:
        raise ValueError(f"{name!r} has space {space}, which holds no numbers; leave it out")
    binary = kind == "multi-binary" and role != "action"
    size = len(few) if binary else checked_choices(name, role, few)
    return Key(name, role, shape, (0.0,) * size, (1.0,) * size, (1.0,) * size, dtype, kind, few, first)


def _box(name: str, space: gym.spaces.Box, role: str, widths: Widths | None) -> Key:
    dtype = "float32" if space.dtype.kind == "f" else str(space.dtype)
    if dtype not in ("float32", *INTEGERS):
        raise ValueError(
            f"{name!r} has space {space}; a store holds Boxes of floating point or integers: use MultiBinary"
        )
    if min(space.shape, default=1) < 1:
        raise ValueError(f"{name!r} has space {space}, which holds no numbers; leave it out")
    low, high = (
        tuple(None if abs(float(x)) > LARGEST else float(x) for x in side.ravel()) for side in (space.low, space.high)
    )
    ranges = [None if a is None or b is None else b - a for a, b in zip(low, high, strict=True)]
    if widths is None:
        exact = dtype != "float32"
        found = tuple(1.0 if exact else span / BINS if span else UNBOUNDED for span in ranges)
    else:
        found = _given(name, widths, space.shape)
    return Key(name, role, tuple(space.shape), low, high, found, dtype)


def _given(name: str, widths: Widths, shape: tuple[int, ...]) -> tuple[float, ...]:
    """Bin widths as given, one for each packed number. Raises ValueError unless they are as many and positive."""
    size = math.prod(shape)
    try:
        given = np.asarray(widths, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"resolution of {name!r} is {widths!r}; expected one number or {size} of them") from None
    if given.shape not in ((), (size,), shape):
        raise ValueError(f"resolution of {name!r} has shape {given.shape}; expected one number or {size} of them")
    if not (np.isfinite(given) & (given > 0)).all():
        raise ValueError(f"resolution of {name!r} is {given.tolist()}; expected finite widths above 0")
    return tuple(float(x) for x in np.broadcast_to(given, size if given.ndim < 2 else shape).ravel())
