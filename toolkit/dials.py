"""The dials of a collection, never merged: contexts, coverage and quality; their presets; contexts in a narrowed range.

Contexts: how many starts, goals and dynamics there are, and from how much of their range. Coverage: how widely
actions spread in any one situation. Quality: how many episodes the expert plays rather than a weaker behaviour.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from toolkit.core import Array
from toolkit.envs import Split, Suite, check_split, random_policy

EXPLORATIONS = ("white", "ou", "pink")
SAMPLE = 1000
"""Contexts that measure the ranges of a split."""


@dataclass(frozen=True)
class Dials:
    """What differs between two collections of one suite besides seed and length.

    Raises ValueError for a number that does not fit, or for options that contradict each other.
    """

    contexts: int = 16
    """How many contexts the episodes take turns in."""
    context_range: float = 1.0
    """Share of the suite's contexts that may be drawn, those nearest to the middle of the ranges; see `drawn`."""
    coverage: float = 0.3
    """Share of time steps under the uniformly random policy, in blocks."""
    noise: float = 0.0
    """Standard deviation of the noise on the other steps' actions, as a share of half the action range."""
    exploration: str = "white"
    """How that noise hangs together in time: white (not at all), ou (for about 10 steps) or pink (at every scale)."""
    quality: float = 1.0
    """Share of episodes that the expert plays."""
    weaker: str | None = None
    """The suite's behaviour that plays the others."""

    def __post_init__(self) -> None:
        if self.contexts < 1:
            raise ValueError(f"contexts must be at least 1, got {self.contexts}")
        if not 1 / SAMPLE <= self.context_range <= 1:
            raise ValueError(f"context_range must lie in [{1 / SAMPLE:g}, 1], got {self.context_range}")
        if not 0 <= self.coverage <= 1:
            raise ValueError(f"coverage must lie in [0, 1], got {self.coverage}")
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"noise must be finite and at least 0, got {self.noise}")
        if self.exploration not in EXPLORATIONS:
            raise ValueError(f"unknown exploration {self.exploration!r}; expected one of {', '.join(EXPLORATIONS)}")
        if self.exploration != "white" and self.noise == 0:
            raise ValueError(
                f"exploration is {self.exploration!r} but noise is 0: give the noise a size, or leave it white"
            )
        if not 0 <= self.quality <= 1:
            raise ValueError(f"quality must lie in [0, 1], got {self.quality}")
        if (self.quality < 1) != (self.weaker is not None):
            raise ValueError(
                f"quality is {self.quality:g} and weaker is {self.weaker!r}; expected quality 1 without a weaker "
                "behaviour, or less than 1 and the name of the one that plays the other episodes"
            )

    def check(self, suite: Suite) -> None:
        """Raise ValueError if `suite` has no such behaviour, or its actions take no noise or no random policy."""
        others = [name for name in suite.behaviours if name != "expert"]
        if self.weaker is not None and self.weaker not in others:
            raise ValueError(
                f"suite {suite.name!r} has no weaker behaviour {self.weaker!r}; it has {', '.join(others)}"
            )
        if self.noise > 0 and not isinstance(suite.action_space, spaces.Box):
            kind = type(suite.action_space).__name__
            raise ValueError(f"noise is {self.noise:g} but the actions of suite {suite.name!r} are {kind}; expected 0")
        if self.coverage > 0:
            random_policy(suite.action_space, rng=np.random.default_rng(0))

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and strings, by name."""
        return asdict(self)


PRESETS: dict[str, dict[str, Any]] = {
    "narrow": {"contexts": 4, "context_range": 0.05, "coverage": 0.0},
    "wide-context": {"contexts": 100, "context_range": 1.0, "coverage": 0.0},
    "wide-coverage": {"contexts": 4, "context_range": 0.05, "coverage": 0.5},
    "both": {"contexts": 100, "context_range": 1.0, "coverage": 0.5},
}
"""The corners of the plane of contexts and coverage, for any suite. A size shows every context at least once."""

SIZES = {"small": 100, "medium": 1_000, "large": 10_000}
"""Episodes. With one seed, a smaller size is the beginning of a larger one."""


def choose(preset: str | None, size: str | None, **given: Any) -> tuple[int, Dials]:
    """Episodes and dials from a preset, a size, and what else is `given` (None is not given): "episodes", and dials.

    Raises ValueError for an unknown name, or for a dial given besides the preset or size that sets it.
    """
    given = {name: value for name, value in given.items() if value is not None}
    settings: dict[str, Any] = {}
    for what, name, known in (
        ("preset", preset, PRESETS),
        ("size", size, {k: {"episodes": v} for k, v in SIZES.items()}),
    ):
        if name is None:
            continue
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}; expected one of {', '.join(known)}")
        if twice := sorted(set(known[name]) & set(given)):
            raise ValueError(f"{what} {name!r} sets {', '.join(twice)} already; leave out one or the other")
        settings |= known[name]
    settings = {"episodes": SIZES["small"]} | settings | given
    return settings.pop("episodes"), Dials(**settings)


def drawn(suite: Suite, split: Split, n: int, *, seed: int, share: float) -> Array:
    """The first n contexts (n, C) of the split's stream that are among the `share` of its contexts nearest the middle.

    The middle is that of each number's range, distance the largest over the numbers, in half ranges: what is
    kept lies in a box around the middle that has the same share of every range. Ranges, and the distance that
    holds just `share` of the contexts, are measured on the first 1000 contexts of seed 0. So this is defined for
    every suite, whatever its numbers mean: cells and task numbers are ordered like any others. n = 10 is a prefix
    of n = 20, share 1 is the suite's own stream, and a smaller share keeps a part of what a larger one keeps.
    """
    check_split(split)
    if share == 1:
        return suite.contexts(split, n, seed=seed)
    sample = suite.contexts(split, SAMPLE, seed=0)
    middle = (sample.min(0) + sample.max(0)) / 2
    half = np.maximum((sample.max(0) - sample.min(0)) / 2, 1e-12)  # a number that never varies is always in the middle

    def distance(contexts: Array) -> Array:
        return np.abs((contexts - middle) / half).max(axis=1)

    limit = np.quantile(distance(sample), share, method="higher")
    looked = 64 + math.ceil(2 * n / share)
    while True:
        stream = suite.contexts(split, looked, seed=seed)
        near = stream[distance(stream) <= limit]
        if len(near) >= n:
            return near[:n]
        if looked > 1000 * (64 + n / share):
            raise ValueError(f"suite {suite.name!r} draws hardly any contexts near the middle; widen context_range")
        looked *= 2
