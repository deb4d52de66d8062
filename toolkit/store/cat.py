"""Episodes as text: one JSON line a step, or aligned columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from toolkit.store.reader import ReplayStore
from toolkit.text import aligned


def episode_range(text: str, count: int) -> range:
    """'3' -> episode 3, '3:7' -> 3 to 6, ':' -> all. Raises ValueError if it is none of these or outside 0..count."""
    first, colon, last = text.partition(":")
    try:
        low = int(first) if first else 0
        high = (int(last) if last else count) if colon else low + 1
    except ValueError:
        raise ValueError(f"episodes {text!r} are not a number or a range like 3:7") from None
    if not 0 <= low < high <= count or not (first or colon):
        raise ValueError(f"episodes {text!r} are not within the {count} there are (0 to {count - 1})")
    return range(low, high)


def steps(store: ReplayStore, chosen: range) -> Iterator[dict[str, Any]]:
    """One dict a row of each episode; the last row of an episode holds its final observation only.

    The first row of an episode also has its columns. Of an image there are the shape and the mean. Raises StoreError if
    a chunk is damaged.
    """
    images = store.schema.images
    for index in chosen:
        episode = store.episode(index)
        count = len(episode)
        columns = {**episode.columns, "uid": store.episodes["uid"][index].tobytes().hex()}
        for t in range(count + 1):
            row: dict[str, Any] = {"episode": index, "step": t}
            if t == 0:
                row["columns"] = columns
            row["obs"] = {
                name: _picture(values[t]) if name in images else _plain(values[t])
                for name, values in episode.observations().items()
            }
            if t < count:
                row |= {"action": _plain(episode.action[t]), "reward": _plain(episode.reward[t])}
                row |= {"terminated": episode.terminated and t == count - 1}
                row |= {"truncated": not episode.terminated and t == count - 1}
                if episode.info:
                    row["info"] = {name: _plain(values[t]) for name, values in episode.info.items()}
            yield row


def _picture(image: Any) -> dict[str, Any]:
    return {"shape": list(image.shape), "mean": round(float(image.mean()), 3)}


def _plain(value: Any) -> Any:
    """Numbers and lists; NaN and infinity, which JSON lacks, as text."""
    if isinstance(value, np.ndarray) and value.ndim:
        return [_plain(item) for item in value]
    number = value.item()
    return number if isinstance(number, (int, bool)) or np.isfinite(number) else str(number)


def json_lines(store: ReplayStore, chosen: range) -> Iterator[str]:
    """`steps` as JSON, a line each."""
    for row in steps(store, chosen):
        yield json.dumps(row, allow_nan=False)


def text(store: ReplayStore, chosen: range) -> Iterator[str]:
    """One block of text an episode: its columns, then a line a row."""
    for index in chosen:
        rows = list(steps(store, range(index, index + 1)))
        names = list(rows[0]["obs"])
        head = ", ".join(f"{name} {value}" for name, value in rows[0]["columns"].items() if value not in ("", None, []))
        table = [["step", *names, "action", "reward", "end"]]
        for row in rows:
            end = "terminated" if row.get("terminated") else "truncated" if row.get("truncated") else ""
            values = [*(row["obs"][name] for name in names), row.get("action", ""), row.get("reward", "")]
            table.append([str(row["step"]), *map(_short, values), end])
        yield f"episode {index}: {len(rows) - 1} steps, {head}\n{aligned(table)}\n"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "[" + " ".join(map(_short, value)) + "]"
    if isinstance(value, dict):
        return f"{'x'.join(map(str, value['shape']))} mean {value['mean']:.5g}"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
