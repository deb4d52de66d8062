"""The plan of a study: typed, printable, fixed before anything runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import product
from typing import Any


@dataclass(frozen=True)
class Dataset:
    """One store of one independent draw: its cells are the nested sizes of it."""

    draw: int
    contexts: int
    coverage: float

    @property
    def name(self) -> str:
        """Folder name of the store."""
        return f"draw{self.draw}-contexts{self.contexts}-coverage{self.coverage:g}.zarr"


@dataclass(frozen=True)
class Design:
    """A full factorial: episodes x contexts x coverage, for each learner, in independent draws of the data.

    Sizes are nested: the smaller dataset is inside the larger one of the same draw, contexts and coverage.
    Raises ValueError if a factor has no level, repeats one, or a dataset has fewer episodes than contexts.
    """

    name: str
    suite: str
    sizes: tuple[int, ...]  # episodes
    contexts: tuple[int, ...]  # distinct contexts under them
    coverages: tuple[float, ...]  # share of steps under the random policy
    noise: float  # action noise of every behaviour, share of half the action range
    draws: int  # independent draws of the data
    seeds: int  # training seeds on each draw
    learners: dict[str, dict[str, Any]]  # name -> options over the learner's defaults
    steps: int
    batch_size: int
    episodes: int  # evaluation episodes a run and split
    splits: tuple[str, ...] = ("seen", "interpolated")
    notes: tuple[str, ...] = field(default=())  # what this tier can and cannot show

    def __post_init__(self) -> None:
        for name in ("sizes", "contexts", "coverages", "learners"):
            levels = list(getattr(self, name))
            if not levels or len(set(levels)) != len(levels):
                raise ValueError(f"{name} must name each level once and at least one, got {levels}")
        for name in ("draws", "seeds", "steps", "batch_size", "episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if min(self.sizes) < max(self.contexts):
            raise ValueError(
                f"{max(self.contexts)} contexts do not fit in {min(self.sizes)} episodes; "
                "every dataset must show all its contexts, so that size and contexts stay separate factors"
            )

    def datasets(self) -> Iterator[Dataset]:
        """Every store to collect."""
        for draw, contexts, coverage in product(range(self.draws), self.contexts, self.coverages):
            yield Dataset(draw, contexts, coverage)

    @property
    def runs(self) -> int:
        """Training runs in all."""
        cells = len(self.sizes) * len(self.contexts) * len(self.coverages)
        return cells * len(self.learners) * self.draws * self.seeds

    def to_json(self) -> dict[str, Any]:
        """Plain JSON with the design's hash."""
        body = json.loads(json.dumps(asdict(self), allow_nan=False))
        return {**body, "hash": self.hash}

    @property
    def hash(self) -> str:
        """SHA-256 over everything in the plan, 16 hex digits."""
        body = json.dumps(asdict(self), sort_keys=True, allow_nan=False)
        return sha256(body.encode()).hexdigest()[:16]

    def describe(self) -> str:
        """The plan in plain words."""
        return (
            f"design {self.name} ({self.hash}): {self.runs} runs = {len(self.learners)} learners x "
            f"{len(self.sizes)} sizes {list(self.sizes)} x {len(self.contexts)} context counts {list(self.contexts)} x "
            f"{len(self.coverages)} coverages {list(self.coverages)} x {self.draws} draws x {self.seeds} seeds, "
            f"{self.steps} gradient steps each, on {self.suite}"
        )


def difference(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """'field: old -> new' for each field in which two designs differ."""
    names = sorted(set(saved) | set(now) - {"hash"})
    return [f"{n}: {saved.get(n)} -> {now.get(n)}" for n in names if n != "hash" and saved.get(n) != now.get(n)]


# Two thousand steps are short: all learners get 64-wide networks and a higher learning rate than their papers', and the
# value learners a reward scale, since their constants presume advantages of about one (see `IQLConfig`, `CQLConfig`).
SMOKE = Design(
    name="smoke",
    suite="pendulum",
    sizes=(10, 80),
    contexts=(1, 10),
    coverages=(0.05, 0.2),
    noise=0.1,
    draws=3,
    seeds=1,
    learners={
        "cql": {"hidden": (64, 64), "actor_lr": 1e-3, "critic_lr": 1e-3, "samples": 4, "reward_scale": 0.1},
        "mpc": {"hidden": (64, 64), "members": 3, "elites": 2, "samples": 40, "iterations": 2, "best": 5},
        "iql": {"hidden": (64, 64), "lr": 1e-3, "reward_scale": 0.1},
        "bc": {"hidden": (64, 64), "lr": 1e-3},
    },
    steps=2000,
    batch_size=128,
    episodes=10,
    notes=(
        "The smoke tier proves the plumbing and shows the direction of diversity. With three draws and one training "
        "seed on each it is not meant to decide the claim.",
        "Levels and learning rates were chosen on trial runs of this suite so that the levels differ visibly within "
        "minutes: read differences here as a check of the machinery, not as evidence about the claim.",
    ),
)

TIERS: dict[str, Design] = {"smoke": SMOKE}
