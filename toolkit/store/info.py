"""What a store holds, for people and for programs."""

from __future__ import annotations

from typing import Any

import numpy as np

from toolkit.store.files import StoreError
from toolkit.store.layout import commit_numbers
from toolkit.store.reader import ReplayStore
from toolkit.text import aligned


def info(store: ReplayStore) -> dict[str, Any]:
    """Schema, commits, episodes by behaviour, contexts, returns and sizes; plain JSON."""
    table, schema = store.episodes, store.schema
    returns, lengths = table["return"], table["length"]
    behaviours = {}
    for name in sorted(set(table["behaviour"])):
        mine = table["behaviour"] == name
        success = table["success"][mine]
        behaviours[str(name)] = {
            "episodes": int(mine.sum()),
            "transitions": int(lengths[mine].sum()),
            "mean_return": float(returns[mine].mean()),
            "success": float(success[success >= 0].mean()) if (success >= 0).any() else None,
        }
    width = schema.obs_dim + schema.action_dim + 2
    return {
        "path": str(store.path),
        "commit": store.commit.number,
        "commits": len(commit_numbers(store.backend)),
        "fingerprint": store.fingerprint,
        "episodes": len(store),
        "transitions": store.transitions,
        "observations": {k.name: {"role": k.role, "shape": list(k.shape)} for k in schema.observations},
        "action": {"numbers": schema.action_dim, "discrete": schema.discrete},
        "environment": schema.environment,
        "context_names": list(schema.context_names),
        "contexts": len(np.unique(table["context"], axis=0)) if len(store) else 0,
        "behaviours": behaviours,
        "return": _summary(returns),
        "length": _summary(lengths),
        "views": store.view_names(),
        "bytes_on_disk": sum(store.backend.sizes().values()),
        "bytes_in_memory": 4 * width * (store.transitions + len(store)),
    }


def _summary(values: np.ndarray) -> dict[str, float] | None:
    if len(values) == 0:
        return None
    return {"mean": float(values.mean()), "least": float(values.min()), "greatest": float(values.max())}


def describe(found: dict[str, Any]) -> str:
    """`info` as aligned text."""
    if "path" not in found:
        raise StoreError("not the result of info()")
    observations = ", ".join(f"{k} {v['shape']} ({v['role']})" for k, v in found["observations"].items())
    action = found["action"]
    rows = [
        ["store", found["path"]],
        ["commit", f"{found['commit']} (of {found['commits']}), fingerprint {found['fingerprint'][:12]}"],
        ["episodes", f"{found['episodes']:,}"],
        ["transitions", f"{found['transitions']:,}"],
        ["observation", observations],
        ["action", f"{action['numbers']} {'choices' if action['discrete'] else 'numbers'}"],
        ["suite", str(found["environment"].get("suite", "none recorded"))],
        ["contexts", f"{found['contexts']} distinct of ({', '.join(found['context_names']) or 'none'})"],
        ["views", ", ".join(found["views"]) or "none"],
        ["size", f"{found['bytes_on_disk'] / 1e6:.1f} MB on disk, {found['bytes_in_memory'] / 1e6:.1f} MB in memory"],
    ]
    for name in ("return", "length"):
        if found[name]:
            rows.append([name, "mean {mean:.1f}, {least:.1f} to {greatest:.1f}".format(**found[name])])
    parts = [["behaviour", "episodes", "transitions", "mean return", "success"]]
    for name, b in found["behaviours"].items():
        success = "-" if b["success"] is None else f"{b['success']:.2f}"
        parts.append([name or "-", str(b["episodes"]), str(b["transitions"]), f"{b['mean_return']:.1f}", success])
    return aligned(rows) + ("\n\n" + aligned(parts) if len(parts) > 1 else "")
