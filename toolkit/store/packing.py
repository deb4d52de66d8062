"""Episodes to the rows of a segment's arrays, and these to packed rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from toolkit.core import Array, Episode
from toolkit.store.schema import Schema


def episode_rows(schema: Schema, episode: Episode) -> tuple[dict[str, Array], Array]:
    """The T+1 rows of each array, and the same rows packed (T+1, W). Row T holds the final observation only."""
    steps, obs = len(episode), episode.observations()

    def padded(values: Any, dtype: str) -> Array:
        array = np.asarray(values, dtype)
        return np.concatenate([array, np.zeros((1, *array.shape[1:]), array.dtype)])

    end = np.arange(steps + 1) == steps - 1
    rows = {f"obs/{key.name}": np.asarray(obs[key.name], key.dtype) for key in schema.observations}
    rows |= {
        "action": padded(episode.action, schema.action.dtype),
        "reward": padded(episode.reward, "float32"),
        "terminated": end & bool(episode.terminated),
        "truncated": end & (not episode.terminated),
    }
    rows |= {f"info/{name}": padded(episode.info[name], key.dtype) for name, key in schema.info.items()}
    return rows, pack(schema, rows)


def pack(schema: Schema, rows: dict[str, Array], out: Array | None = None) -> Array:
    """Row arrays -> (R, O + A + 2) float32, in `out` if given: observation, action (one-hot if discrete), reward, end.

    Images are left out. A choice that is out of range, as in a final row, counts as the nearest one.
    """
    parts = [key.pack(rows[f"obs/{key.name}"]) for key in schema.observations if key.role != "image"]
    parts += [schema.action.pack(rows["action"]), rows["reward"][:, None], rows["terminated"][:, None]]
    if out is None:
        return np.concatenate(parts, axis=1, dtype=np.float32)
    return np.concatenate(parts, axis=1, out=out)
