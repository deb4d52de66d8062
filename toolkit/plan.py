"""From a design to what has to be done: stores to collect and runs to train, in order, each with its identity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from toolkit import registry
from toolkit.collect import collect
from toolkit.configure import configure
from toolkit.core import child_seed
from toolkit.design import Dataset, Design, Task
from toolkit.records import RunConfig

Choice = Mapping[str, Mapping[str, Any]]  # learner -> options over the design's, found by tuning


def whole(dataset: Dataset, data: Path) -> bool:
    """Whether the store is finished: its views are saved last."""
    views = data / dataset.name / "views"
    return all((views / f"{view(dataset.task, size)}.json").exists() for size in dataset.sizes)


def make(design: Design, dataset: Dataset, data: str, root: int | None = None) -> None:
    """One store with its nested views; `root` is the seed, by default that of the dataset's draw."""
    counts = [dataset.task.episodes(size) for size in dataset.sizes]
    store = collect(
        dataset.task.suite,
        out=Path(data) / dataset.name,
        episodes=max(counts),
        contexts=dataset.contexts,
        coverage=dataset.coverage,
        noise=design.noise,
        quality=dataset.quality,
        weaker=dataset.task.weaker if dataset.quality < 1 else None,
        seed=(child_seed(dataset.draw, "draw") if root is None else root) % 2**31,
    )
    for size, count in zip(dataset.sizes, counts, strict=True):
        # Episodes are independent draws, so a prefix is a random subset and all sizes nest. Contexts take turns,
        # so a prefix of at least as many episodes as contexts shows every one of them.
        store.save_view(view(dataset.task, size), store.view(np.arange(count)))


def view(task: Task, size: int) -> str:
    """Name of the view that holds `size` transitions."""
    return f"n{task.episodes(size)}"


def runs(design: Design, datasets: Iterable[Dataset], data: Path, choice: Choice) -> Iterator[RunConfig]:
    """The configuration of every run on `datasets`, which must be there.

    Learners take turns, so that the time left is told fairly throughout.
    """
    for dataset in datasets:
        for condition in design.conditions:
            if condition.quality != dataset.quality:
                continue
            cells = [(s, dataset.contexts, dataset.coverage) for s in dataset.sizes]
            for cell in (cell for cell in cells if cell in design.cells(condition)):
                tags = dict(zip(("draw", "size", "contexts", "coverage"), (dataset.draw, *cell), strict=True))
                for seed in range(design.seeds):
                    for name in design.learners:
                        yield configure(
                            name,
                            options=options(design, name, choice.get(name, {}), dataset.task.reward_scale),
                            store=data / dataset.name,
                            view=view(dataset.task, cell[0]),
                            steps=design.steps_of(name, condition.arm),
                            batch_size=design.batch_size,
                            seed=dataset.draw * 1000 + seed,
                            episodes=design.episodes,
                            evaluate_every=design.evaluate_every(condition, cell),
                            splits=design.splits,
                            device="cpu",
                            tags=tags | condition.tags,
                        )


def chosen(design: Design, only: Iterable[str]) -> list[Dataset]:
    """The datasets of the tasks in `only`, or all. Raises ValueError for a task that the design does not have."""
    names = [task.suite for task in design.tasks]
    for name in only:
        if name not in names:
            hint = registry.suggestion(name, names)
            raise ValueError(f"design {design.name} has no task {name!r}{hint}; it has {', '.join(names)}")
    return [dataset for dataset in design.datasets() if not only or dataset.task.suite in only]


def options(design: Design, learner: str, tuned: Mapping[str, Any], reward_scale: float) -> dict[str, Any]:
    """A learner's options on one task: the design's, then those found by tuning, then the task's reward scale."""
    given = {**design.learners[learner], **tuned}
    known = {field.name for field in fields(registry.learner(learner))}
    return given if "reward_scale" not in known else {"reward_scale": reward_scale, **given}
