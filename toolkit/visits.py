"""How far from its training data a trained run goes when it acts, episode by episode."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from toolkit import registry
from toolkit.configure import open_data
from toolkit.core import Array, Learner, Policy, child_seed
from toolkit.distance import NEIGHBOURS, SPLITS, Known
from toolkit.envs import Suite
from toolkit.envs._vector import VectorEnvironment
from toolkit.evaluate import again, evaluate_learner
from toolkit.records import RunConfig, read_object, replace_json
from toolkit.rows_of_runs import place
from toolkit.stage import Watched
from toolkit.store import Mixture, ReplayStore
from toolkit.tables import Row

STATES = 100_000  # of the training data, at most


def distances(
    folder: str | Path,
    *,
    episodes: int | None = None,
    splits: Sequence[str] = SPLITS,
    seed: int | None = None,
    neighbours: int = NEIGHBOURS,
    store: str | Path | None = None,
) -> list[Row]:
    """Rows of `toolkit.tables.DISTANCES`, one an evaluation episode of a finished run.

    The policy acts as in `toolkit.evaluate.evaluate`, by default as many episodes a split as the run was evaluated on.
    Distances are to the run's training data, or to those in `store`; see `toolkit.distance`. What was measured is
    kept in RUN/distances and not acted again. Raises ValueError as `evaluate` does, for a suite whose states have
    no coordinates, and for a store of another suite.
    """
    folder = Path(folder)
    saved, asked, learner, data, source = ready(folder, episodes=episodes, splits=splits, seed=seed, store=store)
    suite = registry.suite(asked.suite)
    kept = folder / "distances" / _name(asked, neighbours, source.fingerprint)
    if kept.exists():
        return read_object(kept)["rows"]
    known = Known(training_points(source, suite, saved.seed), suite.extent, neighbours=neighbours)
    visits = _Visits(suite)
    records, _ = evaluate_learner(asked, learner, data, stage=visits)
    base = {k: v for k, v in place(folder).items() if k in ("learner", "dataset", "draw", "seed")}
    rows = []
    for record, points in zip(records, visits.points(), strict=True):
        away = known.distance(points)
        rows.append(
            {
                **base, "suite": record.suite, "split": record.split, "episode": record.episode,
                "distance": float(away.mean()), "farthest": float(away.max()), "return": record.episode_return,
                "score": record.score, "neighbours": neighbours,
            }
        )  # fmt: skip
    replace_json(kept, {"rows": rows})
    return rows


def ready(
    folder: Path, *, episodes: int | None, splits: Sequence[str], seed: int | None, store: str | Path | None
) -> tuple[RunConfig, RunConfig, Learner, ReplayStore | Mixture, ReplayStore | Mixture]:
    """As `toolkit.evaluate.again`, and the data to be near. Raises as `distances` does, before anything acts."""
    saved, asked, learner, data = again(folder, episodes, splits, seed)
    source = data if store is None else open_data(store, None, None)
    if (found := source.schema.environment.get("suite")) != asked.suite:
        raise ValueError(f"{source.path} is of suite {found!r}, {folder} of {asked.suite!r}; states cannot be compared")
    return saved, asked, learner, data, source


def measured(
    folder: Path, config: RunConfig, *, episodes: int, splits: Sequence[str] = SPLITS, neighbours: int = NEIGHBOURS
) -> list[Row] | None:
    """What `distances` kept of the run `config` for these settings and its own data; None if it was not asked."""
    asked = replace(config, episodes=episodes, splits=tuple(splits))
    kept = folder / "distances" / _name(asked, neighbours, config.fingerprint)
    return read_object(kept)["rows"] if kept.exists() else None


def _name(asked: RunConfig, neighbours: int, fingerprint: str) -> str:
    """The file of what was measured: another question has another name."""
    text = json.dumps([asked.identity, neighbours, fingerprint])
    return f"{sha256(text.encode()).hexdigest()[:12]}.json"


def training_points(data: ReplayStore | Mixture, suite: Suite, seed: int, most: int = STATES) -> Array:
    """Task coordinates (n, D) of the states in whole episodes, in seeded random order, until there are `most`."""
    order = np.random.default_rng(child_seed(seed, "distance", "states")).permutation(len(data))
    parts, total = [], 0
    for number in order.tolist():
        parts.append(np.asarray(suite.coordinates(data.episode(number).observations()), np.float64))
        total += len(parts[-1])
        if total >= most:
            break
    return np.concatenate(parts)


class _Visits:
    """A `toolkit.evaluate.Stage` that changes nothing, and remembers the coordinates of every state."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.seen: list[tuple[Array, Array]] = []  # episodes (k,), coordinates (k, D)

    def __call__(self, policy: Policy, rows: int) -> tuple[Policy, VectorEnvironment]:
        return policy, Watched(self.suite.batch(rows), seen=self._see)

    def _see(self, rows: Array, episodes: Array, shown: dict[str, Any]) -> None:
        self.seen.append((episodes, np.asarray(self.suite.coordinates(shown), np.float64)))

    def points(self) -> list[Array]:
        """Coordinates (T+1, D) of each episode, in order."""
        episode = np.concatenate([numbers for numbers, _ in self.seen])
        points = np.concatenate([points for _, points in self.seen])
        order = np.argsort(episode, kind="stable")
        return np.split(points[order], np.flatnonzero(np.diff(episode[order])) + 1)
