"""What goes wrong where: one part of a trained run at a time swapped for the ideal one, acting in the environment.

Every arm acts in the same contexts from the same seeds; `toolkit.swaps` says what each is. Records are kept an arm, so
that work which was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from toolkit import registry
from toolkit.bits import transitions
from toolkit.core import Array, Learner, child_seed
from toolkit.evaluate import again, evaluate_learner
from toolkit.records import EVALUATION_SPLITS, Record, RunConfig, read_object, read_records, replace_json, write_records
from toolkit.recovered import ARMS
from toolkit.rows_of_runs import place
from toolkit.runs import UNSEEN
from toolkit.store import Mixture, ReplayStore
from toolkit.swaps import Nearest, Scene, Swap, offered
from toolkit.tables import Row

DATA = 20_000  # transitions among which the nearest actions are looked for


@dataclass(frozen=True)
class Asked:
    """What every arm is evaluated on. Raises ValueError for a number or split that does not fit."""

    episodes: int = 10
    """On each split."""
    splits: tuple[str, ...] = (UNSEEN,)
    """Of seen, interpolated and extrapolated."""
    candidates: int = 8
    """Actions that the critic and the true value choose among."""
    seed: int | None = None
    """Of contexts and environments; the run's own by default."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {self.episodes}")
        if self.candidates < 2:
            raise ValueError(f"candidates must be at least 2, got {self.candidates}: with one there is no choice")
        if self.candidates > 1 << 12:
            raise ValueError(
                f"candidates must be at most {1 << 12}, got {self.candidates}: each is tried for its value"
            )
        if self.seed is not None and self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if not self.splits or len(set(self.splits)) < len(self.splits) or set(self.splits) - set(EVALUATION_SPLITS):
            raise ValueError(
                f"splits are {', '.join(self.splits) or 'none'}; expected some of {', '.join(EVALUATION_SPLITS)}, "
                "each once"
            )


def bottlenecks(
    folder: str | Path, asked: Asked | None = None, *, progress: Callable[[str, int, int], None] | None = None
) -> list[Row]:
    """Rows of `toolkit.tables.BOTTLENECKS` for one finished run: an arm and split each, n/a ones with the reason.

    Raw records lie in RUN/bottlenecks, an arm a file; arms that are there for the same `asked` are not acted again.
    `progress` is called with the arm, how many arms are done, and of how many. Raises ValueError as
    `toolkit.evaluate.evaluate` does.
    """
    folder, asked = Path(folder), asked or Asked()
    _, config, learner, store = again(folder, asked.episodes, asked.splits, asked.seed)
    suite = registry.suite(config.suite)
    data = _Data(store, config.seed)
    scene = Scene(learner, suite, store.schema, config.seed, asked.candidates, data.near)
    arms = offered(scene, learner.policy(seed=0))
    kept = _kept(folder / "bottlenecks", {**asdict(asked), "run": config.identity, "splits": list(asked.splits)})
    rows: list[Row] = []
    records: list[Record]
    errors: list[float | None]
    base = {**{k: v for k, v in place(folder).items() if k in ("learner", "dataset", "draw", "seed")}}
    for number, (name, swap) in enumerate(arms.items()):
        if progress is not None:
            progress(name, number, len(arms))
        if isinstance(swap, str):
            records, errors, why = [], [], swap
        else:
            records, errors = _acted(kept, name, partial(_act, swap, config, learner, store))
            why = ""
        rows += [{**base, **row} for row in _rows(config.suite, name, asked, records, errors, why)]
    if progress is not None:
        progress("", len(arms), len(arms))
    return rows


def _act(
    swap: Swap, config: RunConfig, learner: Learner, store: ReplayStore | Mixture
) -> tuple[list[Record], list[float | None]]:
    """One arm's records, and the mean action error of each episode where it was compared."""
    records = swap.settle(evaluate_learner(config, learner, store, stage=swap)[0])
    return records, [fmean(swap.errors[i]) if i in swap.errors else None for i in range(len(records))]


def _acted(
    kept: Path, name: str, act: Callable[[], tuple[list[Record], list[float | None]]]
) -> tuple[list[Record], list[float | None]]:
    """What an arm's file holds, or what `act` gives, which is kept."""
    path, beside = kept / f"{name}.jsonl", kept / f"{name}.json"
    if path.exists():  # written last
        return read_records(path), read_object(beside)["errors"]
    records, errors = act()
    replace_json(beside, {"errors": errors})
    write_records(kept, records, path.name)
    return records, errors


def _rows(suite: str, arm: str, asked: Asked, records: list[Record], errors: list[float | None], why: str) -> list[Row]:
    assert arm in ARMS
    found = []
    for split in asked.splits:
        scores = [record.score for record in records if record.split == split]
        off = [e for e, record in zip(errors, records, strict=True) if record.split == split and e is not None]
        shown = {"episodes": asked.episodes, "score": fmean(scores) if scores else None, "why": why or None}
        shown["error"] = fmean(off) if off else None
        found.append({"suite": suite, "split": split, "arm": arm, **shown})
    return found


def _kept(folder: Path, settings: dict[str, Any]) -> Path:
    """The folder of finished arms, emptied if it was for other settings."""
    path = folder / "settings.json"
    if not path.exists() or read_object(path) != settings:
        for old in folder.glob("*.jsonl"):
            old.unlink()
        replace_json(path, settings)
    return folder


class _Data:
    """The training data's actions by nearness, read when they are first asked for."""

    def __init__(self, store: ReplayStore | Mixture, seed: int) -> None:
        self.store, self.seed = store, seed
        self.nearest: Nearest | None = None

    def near(self, obs: Array, count: int) -> Array:
        if self.nearest is None:
            order = np.random.default_rng(child_seed(self.seed, "bottlenecks", "data")).permutation(len(self.store))
            rows = transitions(self.store, order, DATA)
            self.nearest = Nearest(rows.obs, rows.action)
        return self.nearest(obs, count)
