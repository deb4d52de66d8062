"""The plan of a study: typed, printable, fixed before anything runs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import product
from typing import Any, Literal

from toolkit import registry
from toolkit.runs import Cell

Arm = Literal["updates", "compute"]  # equal gradient steps, or equal time for them


@dataclass(frozen=True)
class Task:
    """One suite, and what is particular to it."""

    suite: str
    weaker: str = "random"  # the behaviour that plays the other episodes where quality is below 1
    reward_scale: float = 1.0  # for every learner that has such an option and is not given another

    def episodes(self, size: int) -> int:
        """Episodes of a dataset of `size` transitions, if each lasts as long as the suite allows."""
        return -(-size // registry.suite(self.suite).max_steps)


@dataclass(frozen=True)
class Tuning:
    """Equal tuning for all: as many configurations a learner, compared on one task that is not tested on."""

    suite: str
    grid: dict[str, list[dict[str, Any]]]  # learner -> options over the design's, for each configuration
    seeds: int
    reward_scale: float = 1.0


@dataclass(frozen=True)
class Condition:
    """What the main question is asked again under: data of another quality, or the other budget."""

    quality: float = 1.0
    arm: Arm = "updates"

    @property
    def tags(self) -> dict[str, Any]:
        """Of a run's records, besides its cell; none for the usual condition."""
        tags: dict[str, Any] = {} if self.quality == 1 else {"quality": self.quality}
        return tags if self.arm == "updates" else tags | {"arm": self.arm}

    def __str__(self) -> str:
        return f"quality {self.quality:g}, equal {self.arm}"


@dataclass(frozen=True)
class Dataset:
    """One store of one independent draw; its nested sizes are views of it."""

    task: Task
    draw: int
    contexts: int
    coverage: float
    quality: float
    sizes: tuple[int, ...]  # transitions

    @property
    def name(self) -> str:
        """Folder of the store, below that of the data."""
        quality = "" if self.quality == 1 else f"-quality{self.quality:g}"
        return f"{self.task.suite}/draw{self.draw}-contexts{self.contexts}-coverage{self.coverage:g}{quality}.zarr"


@dataclass(frozen=True)
class Design:
    """Sizes x contexts x coverages for each task and learner in independent draws; then, in fewer cells, the same under
    other conditions.

    Sizes are nested: the smaller dataset is inside the larger one of the same draw, contexts and coverage. A "star"
    grid holds the top cell, the walks from it along each axis, and the bottom cell: all that verdicts use. Other
    conditions walk along size alone.
    Raises ValueError if a factor has no level, repeats one, or a dataset has fewer episodes than contexts.
    """

    name: str
    tasks: tuple[Task, ...]
    sizes: tuple[int, ...]  # transitions
    contexts: tuple[int, ...]  # distinct contexts under them
    coverages: tuple[float, ...]  # share of steps under the random policy
    noise: float  # action noise of every behaviour, share of half the action range
    draws: int  # independent draws of the data
    seeds: int  # training seeds on each draw
    learners: dict[str, dict[str, Any]]  # name -> options over the learner's defaults
    steps: int  # gradient steps
    batch_size: int
    episodes: int  # evaluation episodes a run and split
    splits: tuple[str, ...] = ("seen", "interpolated")
    grid: Literal["full", "star"] = "full"
    qualities: tuple[float, ...] = (1.0,)  # share of episodes that the expert plays; the first is the usual one
    arms: tuple[Arm, ...] = ("updates",)  # of budgets; the first is the usual one
    costs: dict[str, float] = field(default_factory=dict)  # learner -> measured ms an update, for the arm "compute"
    tuning: Tuning | None = None
    notes: tuple[str, ...] = field(default=())  # what this tier can and cannot show
    held_out: int = 0  # transitions collected beside each usual dataset, to measure bits with; 0: nothing is measured
    snapshots: int = 0  # models kept of each usual run in the least and the top cell, besides the last, for proxies
    fqe_steps: int = 0  # updates of fitted Q evaluation a model, one of the proxies; 0 leaves it out
    distance_episodes: int = 0  # a split, of each usual run in the top cell, watched for its distance to the data

    def __post_init__(self) -> None:
        for name in ("tasks", "sizes", "contexts", "coverages", "learners", "qualities", "arms"):
            levels = list(getattr(self, name))
            if not levels or any(levels.count(one) > 1 for one in levels):
                raise ValueError(f"{name} must name each level once and at least one, got {levels}")
        for name in ("draws", "seeds", "steps", "batch_size", "episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for task in self.tasks:
            if (least := task.episodes(min(self.sizes))) < max(self.contexts):
                raise ValueError(
                    f"{max(self.contexts)} contexts do not fit in {least} episodes of {task.suite}; "
                    "every dataset must show all its contexts, so that size and contexts stay separate factors"
                )
        if self.distance_episodes < 0:
            raise ValueError(f"distance_episodes must not be negative, got {self.distance_episodes}")
        if min(self.held_out, self.snapshots, self.fqe_steps) < 0 or (self.snapshots and not self.held_out):
            raise ValueError(
                f"held_out is {self.held_out}, snapshots {self.snapshots} and fqe_steps {self.fqe_steps}; expected "
                "none below 0, and no snapshots without held-out data to measure them on"
            )
        if self.tuning and len({len(self.tuning.grid.get(name, [])) for name in self.learners}) != 1:
            counts = {name: len(self.tuning.grid.get(name, [])) for name in self.learners}
            raise ValueError(f"tuning must try as many configurations of every learner, got {counts}")
        if self.tuning and self.tuning.suite in {task.suite for task in self.tasks}:
            raise ValueError(f"tuning is on {self.tuning.suite}, which is also tested on; tune on another task")

    @property
    def conditions(self) -> list[Condition]:
        """The usual one first, then each other level of quality and budget, one changed at a time."""
        quality, arm = self.qualities[0], self.arms[0]
        others = [Condition(q, arm) for q in self.qualities[1:]] + [Condition(quality, a) for a in self.arms[1:]]
        return [Condition(quality, arm), *others]

    def cells(self, condition: Condition) -> list[Cell]:
        """Size, contexts and coverage of the runs in one condition."""
        every: list[Cell] = list(product(self.sizes, self.contexts, self.coverages))
        top, bottom = (tuple(edge(f) for f in (self.sizes, self.contexts, self.coverages)) for edge in (max, min))
        if condition != self.conditions[0]:
            return [cell for cell in every if cell[1:] == top[1:]]
        if self.grid == "full":
            return every
        return [c for c in every if c == bottom or sum(a != b for a, b in zip(c, top, strict=True)) <= 1]

    def datasets(self) -> Iterator[Dataset]:
        """Every store to collect, draw by draw, so that a study that is stopped has whole draws."""
        sizes: dict[tuple[float, float, float], set[int]] = defaultdict(set)
        for condition in self.conditions:
            for size, contexts, coverage in self.cells(condition):
                sizes[contexts, coverage, condition.quality].add(int(size))
        for draw, task in product(range(self.draws), self.tasks):
            for (contexts, coverage, quality), found in sizes.items():
                yield Dataset(task, draw, int(contexts), coverage, quality, tuple(sorted(found)))

    def evaluate_every(self, condition: Condition, cell: Cell) -> int:
        """Steps between evaluations on the way, each with a snapshot; 0 where a run is evaluated at its end alone."""
        ends = [tuple(edge(f) for f in (self.sizes, self.contexts, self.coverages)) for edge in (min, max)]
        if not self.snapshots or condition != self.conditions[0] or cell not in ends:
            return 0
        return -(-self.steps // (self.snapshots + 1))

    def steps_of(self, learner: str, arm: Arm) -> int:
        """Gradient steps of a learner. At equal compute every learner gets the mean time of the equal updates."""
        if arm == "updates":
            return self.steps
        mean = sum(self.costs[name] for name in self.learners) / len(self.learners)
        return max(1, round(self.steps * mean / self.costs[learner]))

    @property
    def runs(self) -> int:
        """Training runs in all, tuning not counted."""
        cells = sum(len(self.cells(condition)) for condition in self.conditions)
        return cells * len(self.tasks) * len(self.learners) * self.draws * self.seeds

    def to_json(self) -> dict[str, Any]:
        """Plain JSON with the design's hash."""
        body = json.loads(json.dumps(asdict(self), allow_nan=False))
        return {**body, "hash": self.hash}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Design:
        """Inverse of `to_json`. Raises ValueError if a field is missing or unknown, or the hash is not the plan's."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in body.items() if k != "hash"}
        try:
            values["tasks"] = tuple(Task(**task) for task in values["tasks"])
            values["tuning"] = Tuning(**values["tuning"]) if values["tuning"] else None
            design = cls(**values)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a design ({error})") from None
        if design.hash != body.get("hash"):
            raise ValueError(f"the plan's hash is {design.hash}, but it says {body.get('hash')}: it was edited")
        return design

    @property
    def hash(self) -> str:
        """SHA-256 over everything in the plan, 16 hex digits; what plans once did not have counts where it is used."""
        later = ("held_out", "snapshots", "fqe_steps", "distance_episodes")
        plan = {name: value for name, value in asdict(self).items() if value or name not in later}
        return sha256(json.dumps(plan, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]

    def describe(self) -> str:
        """The plan in plain words."""
        usual, *others = self.conditions
        more = "".join(f"; again with {one} in {len(self.cells(one))} of them" for one in others)
        tasks = ", ".join(task.suite for task in self.tasks)
        return (
            f"design {self.name} ({self.hash}): {self.runs} runs of {len(self.learners)} learners in "
            f"{len(self.cells(usual))} cells of {list(self.sizes)} transitions x {list(self.contexts)} contexts x "
            f"{list(self.coverages)} coverage ({usual}){more}; x {self.draws} draws x {self.seeds} seeds, "
            f"{self.steps} gradient steps each, on {tasks}"
        )


def difference(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """'field: old -> new' for each field in which two designs differ."""
    names = sorted(set(saved) | set(now) - {"hash"})
    return [f"{n}: {saved.get(n)} -> {now.get(n)}" for n in names if n != "hash" and saved.get(n) != now.get(n)]
