"""The back of the report: everything evaluated, the plan, a card for each dataset, every run's configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from toolkit.page import card, details, flat, note, section, table, text, wide
from toolkit.records import Record

LEVELS = {
    "tasks": "tasks",
    "sizes": "sizes, in transitions",
    "contexts": "contexts",
    "coverages": "coverages, share of random steps",
    "noise": "action noise, share of half the action range",
    "draws": "independent draws of the data",
    "seeds": "training seeds on each draw",
    "steps": "gradient steps a run",
    "batch_size": "batch size",
    "episodes": "evaluation episodes a run and split",
    "splits": "contexts evaluated on",
    "grid": "cells of the grid",
    "qualities": "share of episodes played by the expert; the first is the usual one",
    "arms": "what budgets are equal in; the first is the usual one",
    "costs": "measured milliseconds of an update",
    "held_out": "transitions held out beside each usual dataset",
    "snapshots": "models kept of a usual run in the least and the top cell, besides the last",
    "fqe_steps": "updates of fitted Q evaluation a model",
    "distance_episodes": "episodes a split, watched for their distance to the data, of each usual run in the top cell",
    "hash": "hash of the design",
}


def evaluated(records: Sequence[Record]) -> str:
    """How much was evaluated, a line for each learner and suite."""
    rows = [("learner", "family", "suite", "runs", "evaluation episodes", "success", "score")]
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for r in records:
        groups.setdefault((r.learner, r.family, r.suite), []).append(r)
    for key, group in sorted(groups.items()):
        wins = sum(r.success for r in group) / len(group)
        score = sum(r.score for r in group) / len(group)
        runs = len({r.run for r in group})
        rows.append((*key, str(runs), f"{len(group):,}", f"{wins:.0%}", f"{score:z.2f}"))
    return section(
        "Everything evaluated",
        table(rows)
        + note("Means over all data, splits and evaluated steps. Success is judged by the suite's own rule."),
    )


def plan(design: Mapping[str, Any]) -> str:
    """The plan's levels as a table, then what each learner was given over its defaults."""
    learners = design.get("learners")
    levels = {k: v for k, v in design.items() if v and (k != "learners" or not isinstance(learners, Mapping))}
    if "tasks" in levels:
        levels["tasks"] = [task["suite"] for task in levels["tasks"]]
    tuning = levels.pop("tuning", {})
    found = wide([{"setting": LEVELS.get(k, k), "value": v} for k, v in levels.items()])
    if isinstance(learners, Mapping):
        given = [
            {
                "learner": name,
                "set over its defaults": ", ".join(f"{k} = {v}" for k, v in flat(options).items()) or "nothing",
            }
            for name, options in learners.items()
        ]
        found += wide(given)
    if tuning:
        tried = [{"learner": name, **{k: json.dumps(v) for k, v in one.items()}} for name, one in tuning.items()]
        found += details("Tuning: what was tried, and its scores", wide(tried))
    return section("Design", found)


def datasets(given: Sequence[Mapping[str, Any]]) -> str:
    """A card for each dataset, the draws after the first folded away; what all share stands once, above."""
    cards = [flat(d) for d in given]
    shared = {k: v for k, v in cards[0].items() if len(cards) > 1 and all(c.get(k) == v for c in cards)}
    said = f" All: {'; '.join(f'{k} {text(v)}' for k, v in shared.items())}." if shared else ""
    lead = note(
        "Counted and measured on the data themselves, but for what the design asked for; in brackets 95% intervals "
        "over episodes. SACo: share of state-action bins reached. TQ: mean return, 0 random, 1 expert. H: entropy "
        "in bits, of states, of actions given the state, of the same within one episode (noise alone), and of contexts."
        f"{said}"
    )
    draws = list(dict.fromkeys(c.get("draw") for c in cards))
    parts = []
    for draw in draws:
        own = [c for c in cards if c.get("draw") == draw]
        body = '<div class="cards">' + "".join(_card(c, [*shared, "draw"]) for c in own) + "</div>"
        title = f"Draw {draw}: {len(own)} card{'s' * (len(own) != 1)}"
        parts.append(body if len(draws) == 1 else details(title, body))
    return section("Datasets", lead + "".join(parts))


def _card(found: Mapping[str, Any], hidden: Sequence[str]) -> str:
    first = next(iter(found))
    title = text(found[first]).removesuffix(".zarr")
    return card(title, {k: v for k, v in found.items() if k not in hidden and k != first})


def configurations(runs: Sequence[Mapping[str, Any]]) -> str:
    """What all runs share once, then a table of what differs."""
    every = [flat(run) for run in runs]
    keys = list(dict.fromkeys(k for run in every for k in run))
    shared = {k: every[0][k] for k in keys if all(k in run and run[k] == every[0][k] for run in every)}
    body = json.dumps(shared, indent=1, ensure_ascii=False)
    found = details(f"Shared by all {len(runs)} runs ({len(shared)} settings)", f"<pre>{escape(body)}</pre>")
    differing = [{k: run.get(k, "") for k in keys if k not in shared} for run in every]
    more = details("What differs, a line a run", wide(differing)) if any(differing) else ""
    return section("Run configurations", found + more)


def time(timings: Mapping[str, float]) -> str:
    """Seconds of each phase and of all."""
    seconds = [(name, f"{value:,.1f} s") for name, value in timings.items()]
    total = ("all phases", f"{sum(timings.values()):,.1f} s")
    return section("Time", table([("phase", "wall clock"), *seconds, total]))
