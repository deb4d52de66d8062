"""A dataset's card: what it was asked to be, and what was counted and measured on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """One card for each view, in order: the items of `asked`, counts, and descriptors on equally many transitions.

    The descriptors carry 95% intervals over episodes; they are absent if a view has fewer than two episodes.
    """
    measurable = min(len(view) for view in views) > 1
    measured = coverage(views, seed=0) if measurable else [None] * len(views)
    return [_card(given, view, found) for given, view, found in zip(asked, views, measured, strict=True)]


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
    return {**told, "fingerprint": view.fingerprint}
