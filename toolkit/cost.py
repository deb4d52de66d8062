"""What runs will cost: from finished runs beside them, or from a few updates made here."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from toolkit import feed
from toolkit.configure import build, learner_config, open_data
from toolkit.core import child_seed
from toolkit.evaluate import evaluate_learner
from toolkit.records import RunConfig
from toolkit.status import RunState, begun, run_state

WARM_UP, UPDATES, CALIBRATION_SECONDS = 3, 20, 2.0


@dataclass(frozen=True)
class Cost:
    """Of one run from its beginning, on one slot of this machine."""

    step: float  # seconds an update
    evaluation: float  # seconds
    source: str  # "measured" on finished runs, "calibrated" here

    def seconds(self, config: RunConfig, taken: int = 0) -> float:
        """What is left of a run after `taken` steps."""
        return self.step * (config.steps - taken) + self.evaluation


def plans(configs: Sequence[RunConfig], out: Path) -> list[RunState | None]:
    """How far each run is; None if it has not begun."""
    folders = [out / config.folder_name for config in configs]
    return [run_state(folder) if (folder / "config.json").exists() else None for folder in folders]


def costs(configs: Sequence[RunConfig], out: Path, *, calibrate: bool = True) -> list[Cost | None]:
    """The cost of each run: as the finished runs in `out` like it took (the median), else by `calibration`.

    Like it are those of equal learner, options, batch size and evaluation; failing that, of equal learner.
    """
    finished = [run_state(path) for path in begun(out) if (path / "DONE").exists()] if out.exists() else []
    alike = _measured((_key(one.config), one) for one in finished)
    same = _measured((str(one.config["learner"]), one) for one in finished)
    found: dict[str, Cost | None] = {}
    for config in configs:
        key = _key(config.to_json())
        if key not in found:
            known = alike.get(key) or same.get(config.learner)
            found[key] = known or (calibration(config) if calibrate else None)
            if known is None:
                same.setdefault(config.learner, found[key])  # type: ignore[arg-type]
    return [found[_key(config.to_json())] for config in configs]


def shorter_tail(configs: Sequence[RunConfig], out: Path, slots: int) -> list[RunConfig]:
    """The runs, the last 2 x `slots` of those that are not done longest first: else one may end alone, long after.

    The others keep their places, and so do all unless finished runs in `out` say what each of these costs.
    """
    try:
        found, prices = plans(configs, out), costs(configs, out, calibrate=False)
    except (ValueError, OSError):  # a damaged run beside them is for others to report
        return list(configs)
    left = {
        at: price.seconds(configs[at], one.step if one else 0) if price else None
        for at, (one, price) in enumerate(zip(found, prices, strict=True))
        if one is None or one.state != "done"
    }
    tail = dict(list(left.items())[-2 * slots :])
    known = {at: seconds for at, seconds in tail.items() if seconds is not None}
    if len(known) < len(tail):
        return list(configs)
    first = [at for at in range(len(configs)) if at not in tail]
    return [configs[at] for at in [*first, *sorted(known, key=known.__getitem__, reverse=True)]]


def _key(config: dict) -> str:
    return json.dumps([config[name] for name in ("learner", "options", "batch_size", "episodes", "splits", "suite")])


def _measured(found: Iterable[tuple[str, RunState]]) -> dict[str, Cost]:
    grouped: dict[str, list[RunState]] = {}
    for key, one in found:
        if one.seconds is not None and one.evaluation_seconds is not None:
            grouped.setdefault(key, []).append(one)
    return {
        key: Cost(
            median(one.seconds / one.steps for one in group if one.seconds is not None),
            median(one.evaluation_seconds for one in group if one.evaluation_seconds is not None),
            "measured",
        )
        for key, group in grouped.items()
    }


def calibration(config: RunConfig) -> Cost:
    """Some updates, and an evaluation of one episode a split, made here: episodes are stepped together."""
    store = open_data(config.store, config.commit, config.view, config.relabel)
    needs = learner_config(config.learner, config.options).needs
    data = feed.training_data(store, needs)
    learner = build(config, data.spec)
    seed = child_seed(config.seed, "batches", config.learner)
    sampler = feed.sampler(data, needs, batch_size=config.batch_size, seed=seed, device=config.device, tier=config.tier)
    feed.survey(learner, data)
    for _ in range(WARM_UP):
        learner.update(sampler.next())
    began, updates = time.perf_counter(), 0
    while updates < UPDATES and time.perf_counter() - began < CALIBRATION_SECONDS:
        learner.update(sampler.next())
        updates += 1
    step = (time.perf_counter() - began) / updates
    began = time.perf_counter()
    evaluate_learner(replace(config, episodes=min(1, config.episodes)), learner, store)
    return Cost(step, time.perf_counter() - began, "calibrated")
