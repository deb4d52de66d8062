"""Equal tuning budgets: as many configurations of every learner, compared on a task that is not tested on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolkit import plan
from toolkit.configure import configure
from toolkit.core import child_seed
from toolkit.design import Dataset, Design, Task, Tuning
from toolkit.records import RunConfig, load
from toolkit.runs import UNSEEN


def dataset(design: Design, tuning: Tuning) -> Dataset:
    """The data all are tuned on: the design's largest and most diverse, drawn apart from every draw of the study."""
    task = Task(tuning.suite, reward_scale=tuning.reward_scale)
    sizes = (max(design.sizes),)
    return Dataset(task, 0, max(design.contexts), max(design.coverages), design.qualities[0], sizes)


def collect(design: Design, tuning: Tuning, folder: str) -> None:
    """Make the store, in a worker process."""
    plan.make(design, dataset(design, tuning), folder, root=child_seed(0, "tuning"))


def runs(design: Design, tuning: Tuning, folder: Path) -> list[RunConfig]:
    """A run for each learner, configuration and seed; the store must be there."""
    data = dataset(design, tuning)
    return [
        configure(
            learner,
            options=plan.options(design, learner, tuning.grid[learner][index], tuning.reward_scale),
            store=folder / data.name,
            view=plan.view(data.task, data.sizes[0]),
            steps=design.steps,
            batch_size=design.batch_size,
            seed=seed,
            episodes=design.episodes,
            splits=(UNSEEN,),
            device="cpu",
            tags={"configuration": index},
        )
        for seed in range(tuning.seeds)
        for index in range(len(next(iter(tuning.grid.values()))))
        for learner in design.learners
    ]


def choose(design: Design, tuning: Tuning, configs: Sequence[RunConfig], folder: Path) -> dict[str, Any]:
    """Learner -> what was tried, its mean scores on unseen contexts, and the best of them (the first, if equal)."""
    scores: dict[tuple[str, int], list[float]] = {}
    for record in load(*(folder / config.folder_name for config in configs)):
        scores.setdefault((record.learner, record.tags["configuration"]), []).append(record.score)
    found = {}
    for learner in design.learners:
        tried = tuning.grid[learner]
        means = [round(float(np.mean(scores[learner, index])), 4) for index in range(len(tried))]
        found[learner] = {"tried": tried, "scores": means, "chosen": tried[int(np.argmax(means))]}
    return found
