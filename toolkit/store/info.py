"""What a store holds, for people and for programs."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np

from toolkit.core import Array
from toolkit.store import layout
from toolkit.store.backend import Backend
from toolkit.store.environment import installed, recorded
from toolkit.store.files import StoreError
from toolkit.store.keys import Key
from toolkit.store.labels import label_key, label_names
from toolkit.store.reader import ReplayStore
from toolkit.text import aligned

COMMITS = 20  # the newest ones, told one by one
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def info(store: ReplayStore) -> dict[str, Any]:
    """Schema, commits, episodes by behaviour and context, returns, environment and sizes; plain JSON."""
    table, schema = store.episodes, store.schema
    width = schema.obs_dim + schema.action_dim + 2
    pixels = sum(math.prod(shape) for shape in schema.images.values())
    return {
        "path": str(store.path),
        "commit": store.commit.number,
        "commits": len(layout.commit_numbers(store.backend)),
        "history": _history(store.backend),
        "fingerprint": store.fingerprint,
        "episodes": len(store),
        "transitions": store.transitions,
        "keys": _keys(store),
        "observations": {k.name: {"role": k.role, "shape": list(k.shape)} for k in schema.observations},
        "action": {"numbers": schema.action_dim, "discrete": schema.discrete},
        "environment": schema.environment,
        "environment_spec": schema.environment_spec,
        "evaluation_spec": schema.evaluation_spec,
        "requirements": {text: installed(text) for text in recorded(schema)},
        "context_names": list(schema.context_names),
        "contexts": len(np.unique(table["context"], axis=0)) if len(store) else 0,
        "by_context": _contexts(store),
        "behaviours": _behaviours(store),
        "return": _summary(table["return"]),
        "length": _summary(table["length"]),
        "views": store.view_names(),
        "relabels": sorted(n for n, keys in label_names(store.backend).items() if label_key(n, store.commit) in keys),
        "bytes_on_disk": sum(store.backend.sizes().values()),
        "bytes_in_memory": (4 * width + pixels) * (store.transitions + len(store)),
    }


def _keys(store: ReplayStore) -> list[dict[str, Any]]:
    """Every array of a step: role, type, shape and limits, and the range seen in the whole commit."""
    schema, seen = store.schema, store.statistics if len(store) else {}
    found: list[dict[str, Any]] = []
    at = 0
    for key in (*schema.observations, schema.action):
        acting = key.role == "action"
        part = slice(0, None) if acting else slice(at, at + key.size)
        at += 0 if acting else key.size
        found.append(
            {
                "key": key.name,
                "role": key.role,
                "dtype": key.dtype,
                "shape": list(key.shape),
                "space": key.space,
                "limits": _limits(key),
                "seen": None if key.one_hot or not key.size else _seen(seen.get("action" if acting else "obs"), part),
                "numbers": key.size,
            }
        )
    plain: dict[str, Any] = {"space": None, "limits": None, "seen": None, "numbers": 0}
    reward: dict[str, Any] = {"key": "reward", "role": "reward", "dtype": "float32", "shape": []}
    found.append(reward | plain | {"seen": _seen(seen.get("reward"), slice(None)), "numbers": 1})
    for name, extra in schema.info.items():
        found.append({"key": name, "role": "info", "dtype": extra.dtype, "shape": list(extra.shape)} | plain)
    return found


def _limits(key: Key) -> list[float | None]:
    """Least and greatest value that any number of the key may have; None where one is unbounded."""
    if key.role == "image":
        return [0, 255]
    if key.space != "box":
        return [min(key.start), max(np.add(key.start, key.choices).tolist()) - 1]
    low = None if None in key.low else min(x for x in key.low if x is not None)
    return [low, None if None in key.high else max(x for x in key.high if x is not None)]


def _seen(running: Any, part: slice) -> list[float] | None:
    return None if running is None else [float(running.low[part].min()), float(running.high[part].max())]


def _history(place: Backend) -> list[dict[str, Any]]:
    """The newest commits, newest first: number, parent, episodes, and when the file was written (a copy is newer)."""
    found = []
    for number in reversed(layout.commit_numbers(place)[-COMMITS:]):
        one: dict[str, Any] = {"number": number, "parent": None, "episodes": None, "segments": None, "written": None}
        try:
            if (age := place.age(layout.commit_key(number))) is not None:
                one["written"] = datetime.fromtimestamp(time.time() - age, UTC).isoformat(timespec="seconds")
            commit = layout.read_commit(place, number)
            one |= {"parent": commit.parent, "episodes": commit.episodes, "segments": len(commit.segments)}
        except (OSError, StoreError):
            one["damaged"] = True
        found.append(one)
    return found


def _behaviours(store: ReplayStore) -> dict[str, dict[str, Any]]:
    table, found = store.episodes, {}
    for name in sorted(set(table["behaviour"])):
        mine = table["behaviour"] == name
        success = table["success"][mine]
        found[str(name)] = {
            "episodes": int(mine.sum()),
            "transitions": int(table["length"][mine].sum()),
            "mean_return": float(table["return"][mine].mean()),
            "success": float(success[success >= 0].mean()) if (success >= 0).any() else None,
        }
    return found


def _contexts(store: ReplayStore) -> dict[str, Any] | None:
    """How episodes spread over contexts: the range of each context number, and episodes a context by quantile."""
    context = store.episodes["context"]
    if not context.size:
        return None
    _, counts = np.unique(context, axis=0, return_counts=True)
    ranges = zip(store.schema.context_names, context.min(0).tolist(), context.max(0).tolist(), strict=True)
    return {
        "distinct": len(counts),
        "ranges": {name: [low, high] for name, low, high in ranges},
        "episodes_each": dict(zip(map(str, QUANTILES), np.quantile(counts, QUANTILES).tolist(), strict=True)),
    }


def _summary(values: Array) -> dict[str, float] | None:
    if len(values) == 0:
        return None
    found = {"mean": float(values.mean()), "least": float(values.min()), "greatest": float(values.max())}
    return found | {"median": float(np.median(values)), "std": float(values.std())}


def describe(found: dict[str, Any]) -> str:
    """`info` as aligned text."""
    if "path" not in found:
        raise StoreError("not the result of info()")
    rows = [
        ["store", found["path"]],
        ["commit", f"{found['commit']} (of {found['commits']}), fingerprint {found['fingerprint'][:12]}"],
        ["episodes", f"{found['episodes']:,}"],
        ["transitions", f"{found['transitions']:,}"],
        ["suite", str(found["environment"].get("suite", "none recorded"))],
    ]
    for what in ("environment", "evaluation"):
        if (spec := found[f"{what}_spec"]) is not None:
            kwargs = spec.get("kwargs")
            arguments = ", ".join(f"{k}={v!r}" for k, v in kwargs.items()) if isinstance(kwargs, dict) else ""
            rows.append([what, f"{spec.get('id')}({arguments})"])
    if found["requirements"]:
        given = [_requirement(text, now) for text, now in found["requirements"].items()]
        rows.append(["requirements", ", ".join(given)])
    rows += [
        ["contexts", f"{found['contexts']} distinct of ({', '.join(found['context_names']) or 'none'})"],
        ["views", ", ".join(found["views"]) or "none"],
        ["relabels", ", ".join(found["relabels"]) or "none of this commit"],
        ["size", f"{found['bytes_on_disk'] / 1e6:.1f} MB on disk, {found['bytes_in_memory'] / 1e6:.1f} MB in memory"],
    ]
    for name in ("return", "length"):
        if found[name]:
            line = "mean {mean:.1f}, std {std:.1f}, median {median:.1f}, {least:.1f} to {greatest:.1f}"
            rows.append([name, line.format(**found[name])])
    tables = [rows, _key_table(found["keys"])]
    if len(found["behaviours"]):
        tables.append(_behaviour_table(found["behaviours"]))
    if found["by_context"]:
        tables += _context_tables(found["by_context"])
    tables.append(_commit_table(found["history"]))
    return "\n\n".join(aligned(table) for table in tables)


def _requirement(text: str, now: str | None) -> str:
    same = now is not None and text in (text.partition("==")[0], f"{text.partition('==')[0]}=={now}")
    return text if same else f"{text} (installed: {now or 'none'})"


def _key_table(keys: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["key", "role", "type", "shape", "limits", "seen"]]
    for key in keys:
        shape = "x".join(map(str, key["shape"])) or "1"
        kind = key["dtype"] if key["space"] in (None, "box") else f"{key['dtype']} ({key['space']})"
        rows.append([key["key"], key["role"], kind, shape, _range(key["limits"]), _range(key["seen"])])
    return rows


def _range(ends: list[float | None] | None) -> str:
    if ends is None:
        return "-"
    if ends == [None, None]:
        return "unbounded"
    low, high = ("?" if x is None else f"{x:.4g}" for x in ends)
    return f"{low} to {high}"


def _behaviour_table(behaviours: dict[str, dict[str, Any]]) -> list[list[str]]:
    rows = [["behaviour", "episodes", "transitions", "mean return", "success"]]
    for name, b in behaviours.items():
        success = "-" if b["success"] is None else f"{b['success']:.2f}"
        rows.append([name or "-", str(b["episodes"]), str(b["transitions"]), f"{b['mean_return']:.1f}", success])
    return rows


def _context_tables(contexts: dict[str, Any]) -> list[list[list[str]]]:
    ranges = [["context number", "least", "greatest"]]
    ranges += [[name, f"{low:.4g}", f"{high:.4g}"] for name, (low, high) in contexts["ranges"].items()]
    names = [
        ("least" if float(q) == 0 else "most" if float(q) == 1 else f"{100 * float(q):.0f}%")
        for q in contexts["episodes_each"]
    ]
    counts = [f"{n:g}" for n in contexts["episodes_each"].values()]
    return [ranges, [["episodes a context", *names], [f"{contexts['distinct']} contexts", *counts]]]


def _commit_table(history: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["commit", "written", "episodes", "segments", "parent"]]
    for one in history:
        if one.get("damaged"):
            rows.append([str(one["number"]), one["written"] or "-", "damaged", "-", "-"])
            continue
        parent = "-" if one["parent"] is None else str(one["parent"])
        rows.append([str(one["number"]), one["written"], str(one["episodes"]), str(one["segments"]), parent])
    return rows
