"""A dataset's card: what it was asked to be, and what was counted and measured on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.coverage import Coverage, coverage

if TYPE_CHECKING:
    from toolkit.store import ReplayStore

MEASURED = {  # what a card calls a descriptor of `toolkit.coverage`
    "SACo": "saco",
    "TQ": "tq",
    "H(s)": "state_entropy",
    "H(a|s)": "behaviour_entropy",
    "H(a|s, episode)": "behaviour_entropy_within",
    "H(context)": "context_entropy",
}


def cards(asked: Sequence[Mapping[str, Any]], views: Sequence[ReplayStore]) -> list[dict[str, Any]]:
    """One card for each view, in order: the items of `asked`, counts, and descriptors.

    These are measured on equally many transitions of every view of a suite and carry 95% intervals over episodes; they
    are absent if one of its views has fewer than two episodes.
    """
    found: dict[int, Coverage] = {}
    suites = [view.schema.environment.get("suite", "") for view in views]
    for suite in dict.fromkeys(suites):
        own = [i for i, name in enumerate(suites) if name == suite]
        if min(len(views[i]) for i in own) > 1:
            found |= zip(own, coverage([views[i] for i in own], seed=0), strict=True)
    return [_card(given, view, found.get(i)) for i, (given, view) in enumerate(zip(asked, views, strict=True))]


def _card(asked: Mapping[str, Any], view: ReplayStore, found: Coverage | None) -> dict[str, Any]:
    episodes = view.episodes
    told = {
        **asked,
        "episodes": len(view),
        "transitions": view.transitions,
        "contexts": len(np.unique(episodes["context"], axis=0)),
        "mean return": round(float(episodes["return"].mean()), 2),
        "success": round(float(episodes["success"].mean()), 3),
    }
    if found is not None:
        sizes = {name: getattr(found, key) for name, key in MEASURED.items()}
        told |= {name: str(estimate) for name, estimate in sizes.items() if estimate is not None}
        told["measured on"] = f"{found.transitions:,} transitions"
        told["SACo against"] = found.against
    return {**told, "digest": _digest(view)}


def _digest(view: ReplayStore) -> str:
    """Of what was collected: the episodes' lengths, returns and contexts, in order; the same if collected again."""
    columns = (np.asarray(view.episodes[name], np.float64) for name in ("length", "return", "context"))
    return sha256(b"".join(column.tobytes() for column in columns)).hexdigest()[:16]
