"""What writers share: names without slashes, and what of a store a format has no place for."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from toolkit.store import ReplayStore


def flat_names(names: Iterable[str], separator: str) -> dict[str, str]:
    """Each name of a nested key -> the same with `separator` for its slashes. Raises ValueError if two become one."""
    flat = {name: name.replace("/", separator) for name in names}
    taken: dict[str, str] = {}
    for name, short in flat.items():
        if (other := taken.setdefault(short, name)) != name:
            raise ValueError(f"keys {other!r} and {name!r} would both be written as {short!r}; rename one")
    return flat


def left_behind(
    store: ReplayStore, kept: Collection[str] = (), convention: tuple[float, float] | None = None
) -> list[str]:
    """What `store` holds that is not `kept`: episode columns, goals, limits of actions other than the `convention`."""
    table, schema = store.episodes, store.schema
    filled = {
        "behaviour": (table["behaviour"] != "").any(),
        "task": (table["task"] != "").any(),
        "seed": (table["seed"] >= 0).any(),
        "success": (table["success"] >= 0).any(),
        "context": len(schema.context_names) > 0,
    }
    found = [f"column {name}" for name, there in filled.items() if there and name not in kept]
    if any(key.role == "goal" for key in schema.observations):
        found.append("which observations are goals")
    limits = np.asarray([schema.action.low, schema.action.high], np.float64)  # (2, A), NaN where there is none
    if convention is None or (limits != np.reshape(convention, (2, 1))).any():
        found.append("limits of the actions")
    return found
