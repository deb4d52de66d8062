"""Runs told apart by what differs between them: a sweep's runs of one learner are not one learner's runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from toolkit.records import Record, done_run, load, read_config, run_folders

SETTINGS = ("steps", "batch_size", "relabel")  # of a run; they make variants as a learner's options do


def load_variants(*paths: str | Path) -> list[Record]:
    """As `records.load`, but runs that differ in more than their seed have names that say in what.

    A learner's runs are called `iql lr=0.001` where its options or settings differ. Data that differ and whose runs
    carry no tags of a study stand behind the suite's name: `pendulum narrow.zarr@half`.
    """
    records = load(*paths)
    configs = {}
    for folder in run_folders(*paths):
        configs[done_run(folder)] = vars(read_config(folder))
    return named(records, configs)


def named(records: Sequence[Record], configs: Mapping[str, Mapping[str, Any]]) -> list[Record]:
    """`records` with names of learners and suites made longer where their runs' `configs` (by run id) differ."""
    chosen = {r.run: configs[r.run] for r in records if r.run in configs}
    labels = _learners(chosen)
    suites = _suites({run: config for run, config in chosen.items() if not config.get("tags")})
    return [
        Record(**{**vars(r), "learner": labels.get(r.run, r.learner), "suite": suites.get(r.run, r.suite)})
        if r.run in labels or r.run in suites
        else r
        for r in records
    ]


def _learners(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Run -> 'LEARNER OPTION=VALUE ...', for runs of learners that have several values of some option."""
    grouped: dict[str, dict[str, dict[str, str]]] = {}
    for run, config in configs.items():
        facts = {**config["options"], **{name: config.get(name) for name in SETTINGS}}
        spelled = {name: _short(value) for name, value in facts.items()}
        grouped.setdefault(config["learner"], {})[run] = spelled
    labels = {}
    for learner, facts_of in grouped.items():
        apart = _differing(facts_of.values())
        if apart:
            for run, facts in facts_of.items():
                labels[run] = " ".join([learner, *(f"{name}={facts.get(name, '-')}" for name in apart)])
    return labels


def _suites(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Run -> 'SUITE STORE@VIEW', for runs of suites with several data."""
    data: dict[str, dict[str, tuple[str, str | None]]] = {}  # suite -> fingerprint -> where it lies
    for config in configs.values():
        data.setdefault(config["suite"], {}).setdefault(config["fingerprint"], (config["store"], config["view"]))
    names = {}
    for suite, places in data.items():
        short = [PurePosixPath(store).name for store, _ in places.values()]
        for (fingerprint, (store, view)), name in zip(places.items(), short, strict=True):
            same = len({s for s, _ in places.values() if PurePosixPath(s).name == name}) > 1
            names[fingerprint] = f"{suite} {store if same else name}" + (f"@{view}" if view else "")
    several = {suite for suite, places in data.items() if len(places) > 1}
    return {run: names[config["fingerprint"]] for run, config in configs.items() if config["suite"] in several}


def _differing(facts: Iterable[Mapping[str, str]]) -> list[str]:
    values: dict[str, set[str]] = {}
    for one in facts:
        for name, value in one.items():
            values.setdefault(name, set()).add(value)
    return [name for name, found in values.items() if len(found) > 1]


def _short(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")).replace('"', "")
