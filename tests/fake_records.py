"""Evaluation records with known truth, for the tests of statistics, claim, figures and report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import product

import numpy as np

from toolkit.records import Record
from toolkit.runs import Cell

FAMILIES = {"bc": "supervised", "cql": "offline_rl", "iql": "offline_rl", "mpc": "model_based"}
SIZES, CONTEXTS, COVERAGES = (2_000, 20_000), (2, 16), (0.1, 0.5)
GRID: list[Cell] = list(product(SIZES, CONTEXTS, COVERAGES))
TOP: Cell = GRID[-1]
Truth = Callable[[str, Cell], float]


def fake_records(
    truth: Truth = lambda learner, cell: 0.7,
    *,
    learners: Sequence[str] = tuple(FAMILIES),
    cells: Sequence[Cell] = tuple(GRID),
    draws: int = 3,
    seeds: int = 2,
    episodes: int = 3,
    splits: Sequence[str] = ("seen", "interpolated"),
    draw_sd: float = 0.03,
    seed_sd: float = 0.05,
    behaviour: float = 0.3,
    tagged: bool = True,
    suites: Sequence[str] = ("pointmaze",),
    collapse: float = 0.0,
    seed: int = 0,
) -> list[Record]:
    """Records whose runs score truth(learner, cell) + a draw's effect on all + a run's own noise.

    Seen contexts score 0.1 more than interpolated, extrapolated 0.2 less. Raw returns lie on another scale. A share
    `collapse` of the runs falls 0.5 short of the others, around the same mean.
    """
    rng = np.random.default_rng(seed)
    gain = {"seen": 0.1, "interpolated": 0.0, "extrapolated": -0.2}
    random, expert = -50.0, 150.0
    records = []
    for suite, cell, draw in product(suites, cells, range(draws)):
        shared = rng.normal(0, draw_sd)
        for learner, run_seed in product(learners, range(1000 * draw, 1000 * draw + seeds)):
            level = truth(learner, cell) + shared + rng.normal(0, seed_sd)
            if collapse:
                level += 0.5 * (collapse - float(rng.random() < collapse))
            name = sha256(repr((learner, suite, cell, draw, run_seed)).encode()).hexdigest()[:12]
            tags = dict(draw=draw, size=cell[0], contexts=cell[1], coverage=cell[2]) if tagged else {}
            wobble = np.linspace(-0.1, 0.1, episodes) if episodes > 1 else np.zeros(1)
            records += [
                Record(
                    run=name, learner=learner, family=FAMILIES.get(learner, "supervised"), suite=suite,
                    seed=run_seed, step=1000, split=split, episode=i, context=[0.5], env_seed=i,
                    episode_return=random + (expert - random) * float(level + gain[split] + wobble[i]),
                    length=100, success=bool(level > 0.5), random=random, expert=expert,
                    behaviour=random + (expert - random) * behaviour, tags=tags,
                )
                for split in splits
                for i in range(episodes)
            ]  # fmt: skip
    return records
