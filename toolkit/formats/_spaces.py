"""Spaces of what a source holds, where it does not state them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from gymnasium import spaces

from toolkit.core import Array
from toolkit.formats import Reading
from toolkit.store.keys import checked_path


def observed(shape: Sequence[int], dtype: np.dtype) -> spaces.Box:
    """The space of observations (*shape) of a dtype: an image if uint8 (H, W, C), integers, or unbounded float32.

    Raises ValueError for text and objects.
    """
    if dtype.kind in "iu":
        least = np.iinfo(dtype)
        return spaces.Box(least.min, least.max, tuple(shape), dtype.type)
    if dtype.kind not in "fb":
        raise ValueError(f"observations of type {dtype} cannot be stored; leave them out with --keys")
    return spaces.Box(-np.inf, np.inf, tuple(shape), np.float32)


def acted(
    shape: Sequence[int], actions: Iterable[Array], reading: Reading, convention: tuple[float, float] | None = None
) -> tuple[spaces.Box, str]:
    """The space of continuous actions (*shape), and what was taken for granted of its limits ("" if nothing).

    Limits are those asked for, else the format's `convention` if the actions keep to it, else the least and greatest
    of the `actions`, arrays (n, *shape). Raises ValueError if actions are not finite or outside limits asked for.
    """
    size = int(np.prod(shape, dtype=int))
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    for part in actions:
        flat = np.asarray(part, np.float64).reshape(len(part), -1)
        if not np.isfinite(flat).all():
            raise ValueError("some actions are not finite; NaN and infinity cannot be stored")
        if len(flat):
            low, high = np.minimum(low, flat.min(0)), np.maximum(high, flat.max(0))
    given, told = reading.limits, ""
    if given is not None and not given[0] < given[1]:
        raise ValueError(f"limits are {given[0]} and {given[1]}; expected the lower one first")
    chosen = given or convention
    if chosen is not None and low.min(initial=np.inf) >= chosen[0] and high.max(initial=-np.inf) <= chosen[1]:
        if given is None:
            told = f"actions are taken to lie between {chosen[0]:g} and {chosen[1]:g}, as is usual in this format"
        low, high = np.full(size, chosen[0]), np.full(size, chosen[1])
    elif given is not None:
        raise ValueError(f"actions reach from {low.min():g} to {high.max():g}, outside --limits {given[0]} {given[1]}")
    else:
        wide = np.maximum(high - low, 1e-6)
        high = np.where(high > low, high, low + wide)
        told = "the limits of the actions are the least and greatest in the data; say --limits LOW HIGH if known"
    # float32 limits must not lie inside what float32 actions reach
    low32, high32 = low.astype(np.float32), high.astype(np.float32)
    return spaces.Box(low32.reshape(tuple(shape)), high32.reshape(tuple(shape)), tuple(shape), np.float32), told


def numbered(actions: Iterable[Array], reading: Reading) -> tuple[spaces.Discrete, str]:
    """The space of choices numbered from 0, and what was taken for granted of how many there are ("" if nothing).

    They are as many as asked for with limits 0 and the last number, else as the greatest of the `actions`, arrays of
    integers, needs. Raises ValueError if a number is negative or beyond the limits.
    """
    least, most = 0, 0
    for part in actions:
        if np.size(part):
            least, most = min(least, int(np.min(part))), max(most, int(np.max(part)))
    if least < 0:
        raise ValueError(f"an action is {least}; expected choices numbered from 0, or numbers of floating point")
    if (limits := reading.limits) is None:
        return spaces.Discrete(most + 1), (
            f"there are taken to be {most + 1} actions to choose from, as the greatest number in the data is {most}; "
            "say --limits 0 LAST if there are more"
        )
    if limits[0] != 0 or not float(limits[1]).is_integer() or limits[1] < most:
        raise ValueError(
            f"limits are {limits[0]:g} and {limits[1]:g}; actions are choices numbered 0 to {most}: expected 0 and the "
            "last number"
        )
    return spaces.Discrete(int(limits[1]) + 1), ""


def chosen_keys(found: Sequence[str], reading: Reading) -> list[str]:
    """Which of the observations `found` to keep. Raises ValueError naming those asked for that are not there."""
    if reading.keys is None:
        return list(found)
    if missing := [key for key in reading.keys if key not in found]:
        raise ValueError(f"no observation is called {', '.join(missing)}; the source has {', '.join(found)}")
    return [key for key in found if key in reading.keys]


def is_info(name: str) -> bool:
    """Whether an info of a store may have this name of the source's."""
    try:
        return bool(checked_path("info", name))
    except ValueError:
        return False
