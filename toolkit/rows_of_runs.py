"""From a finished run to what its rows say in the tables that figures read: its cell, draw and return."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from toolkit.records import RunConfig, check_finished, final_records, read_config, read_saved_spec
from toolkit.runs import AXES, UNSEEN
from toolkit.tables import Row

DIALS = ("contexts", "coverage")  # of a collection, beside its size; they name a cell where no study did
PLAIN: dict[str, Any] = {"context_range": 1.0, "noise": 0.0, "exploration": "white", "quality": 1.0, "weaker": None}


def place(folder: Path) -> Row:
    """learner, dataset, draw, seed and size of a run, its id ("run") and its options over the learner's defaults.

    A dataset is the study's cell. Outside of studies stores that were collected alike but for their seeds, as many
    transitions each, are draws of one dataset; other data are datasets by fingerprint.
    """
    config = read_config(folder)
    saved = read_saved_spec(folder)
    size = config.tags.get("size", saved["spec"]["transitions"])
    made = saved["schema"].get("environment", {}).get("collect")
    dataset, draw = _tagged(config) or _collected(config, size, made) or (config.fingerprint, 0)
    return {
        "learner": config.learner, "dataset": dataset, "draw": draw, "seed": config.seed, "size": size,
        "run": config.identity, "options": json.dumps(_given(config), sort_keys=True),
    }  # fmt: skip


def returns(folder: Path) -> dict[int, tuple[float, float]]:
    """Step -> mean return and score there, on unseen contexts if it was evaluated on them.

    Raises ValueError if the run is not finished or was not evaluated.
    """
    check_finished(folder)
    found = final_records(folder)
    if not found:
        raise ValueError(f"{folder} was trained without evaluation, so its return is not known; train with --episodes")
    steps = defaultdict(list)
    for record in [r for r in found if r.split == UNSEEN] or found:
        steps[record.step].append(record)
    return {
        step: (fmean(r.episode_return for r in own), fmean(r.score for r in own)) for step, own in sorted(steps.items())
    }


def _tagged(config: RunConfig) -> tuple[str, int] | None:
    cell = [f"{config.tags[axis]:,g}" for axis in AXES if axis in config.tags]
    if not cell:
        return None
    others = [f"{name} {config.tags[name]}" for name in ("quality", "arm") if name in config.tags]
    return " / ".join([config.suite, *cell, *others]), int(config.tags.get("draw", 0))


def _collected(config: RunConfig, size: int, made: dict[str, Any] | None) -> tuple[str, int] | None:
    if made is None or not {*DIALS, "seed"} <= set(made):
        return None
    others = [f"{name} {made[name]}" for name, plain in PLAIN.items() if made.get(name, plain) != plain]
    others += [text for text in (config.view and f"@{config.view}", config.relabel) if text]
    return " / ".join([config.suite, f"{size:,}", *(f"{made[name]:,g}" for name in DIALS), *others]), int(made["seed"])


def _given(config: RunConfig) -> dict[str, Any]:
    from toolkit import registry

    base = json.loads(json.dumps(asdict(registry.learner(config.learner))))
    return {name: value for name, value in config.options.items() if base.get(name) != value}
