"""What to doubt in a study: each threat to its claim, answered with what the study itself shows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.claim.findings import CEILING, FLOOR, Analysis
from toolkit.page import text
from toolkit.records import Record

# What the page says of each threat unless `design["threats"]` says otherwise.
THREATS = {
    "Equal tuning budgets": "Nothing was tuned inside this study: every learner ran with one configuration on every "
    "dataset. Where the design sets it over the learner's defaults, it was chosen beforehand, and not shown to be "
    "chosen with equal effort for each. A learner that depends on tuning may do better than it does here.",
    "What each learner sees": "All learners of a draw were given the same transitions. Plain imitation ignores the "
    "reward (filtered and return-conditioned forms use it); offline RL uses reward and termination; model-based "
    "learners also fit the dynamics. A difference between families is a difference in what they use as much as in how "
    "they use it.",
    "Environment determinism": "Simulated dynamics are deterministic given context and seed unless a suite says "
    "otherwise, which favours model-based planning and return-conditioned imitation. Nothing here speaks for noisy "
    "or partially observed systems.",
    "Privileged expert": "The scripted expert behind the data and the score of 1 may read the context directly, "
    "and its actions need not be a function of what a learner observes. Imitating it perfectly can be impossible.",
    "Inference compute": "Learners are compared at equal gradient steps, not at equal compute when acting. Planning "
    "spends far more per action than a policy network; that cost is not charged to the score.",
    "Ceiling and floor": f"Support needs the best family between {FLOOR} and {CEILING} in the top cell; the table of "
    "cells says where this holds. Agreement among learners that all fail, or all succeed, is not counted.",
    "Reference returns": "Scores are linear between a random policy (0) and the scripted expert (1), both measured "
    "with finite episodes, on each split of contexts. Another reference would stretch every difference by a constant.",
    "Plain BC against coverage": "Plain behaviour cloning converges to the average behaviour, so data made diverse by "
    "noise defeats it by definition. If it is the only supervised learner here, read the supervised row with that in "
    "mind: a goal-conditioned, filtered or return-conditioned form is the fair one.",
    "Independent units": "Intervals treat the dataset draw as the unit, with Student's correction. With two or three "
    "draws they are wide; that is the evidence there is, not a fault of the method.",
}

TUNED = (
    "Every learner was tuned with as many configurations, on one task that is not tested on, and ran with the best of "
    "them on every other task and dataset. A learner whose best configuration changes from task to task may do better "
    "than it does here."
)


def answers(
    a: Analysis,
    records: Sequence[Record],
    *,
    design: Mapping[str, Any],
    asks: Mapping[str, Sequence[str]],
    costs: Sequence[Mapping[str, str]],
) -> dict[str, str]:
    """Threat -> answer. `asks` names what each learner takes from the data, `costs` are the rows of pareto.csv.

    `design["threats"]` replaces any text of THREATS or adds to them; what this study shows of a threat follows it.
    """
    shown = {
        "Equal tuning budgets": _options(design),
        "What each learner sees": _seen(asks),
        "Inference compute": _acting(costs, design),
        "Ceiling and floor": _level(a),
        "Reference returns": _references(records),
        "Plain BC against coverage": _stand_ins(a),
        "Independent units": f"Here: {a.draws} draw{'s' * (a.draws != 1)}, {a.seeds} seed{'s' * (a.seeds != 1)} each.",
    }
    tuned = {"Equal tuning budgets": TUNED} if design.get("tuning") else {}
    told = {**THREATS, **tuned, **design.get("threats", {})}
    return {name: f"{words} {shown.get(name, '')}".strip() for name, words in told.items()}


def _options(design: Mapping[str, Any]) -> str:
    learners, tuned = design.get("learners"), design.get("tuning")
    if tuned:
        each = "; ".join(
            f"{name} {', '.join(f'{k} = {text(v)}' for k, v in found['chosen'].items())} of {len(found['tried'])}"
            for name, found in tuned.items()
        )
        return f"Chosen here: {each}."
    if not isinstance(learners, Mapping):
        return ""
    counted = ", ".join(f"{name} {len(options)}" for name, options in learners.items())
    return f"Options set over the defaults here: {counted}."


def _seen(asks: Mapping[str, Sequence[str]]) -> str:
    if not asks:
        return ""
    each = "; ".join(f"{name}: {', '.join(found) or 'nothing more'}" for name, found in asks.items())
    return f"Besides observations, actions and ends, here: {each}."


def _acting(costs: Sequence[Mapping[str, str]], design: Mapping[str, Any]) -> str:
    arm = "The table of other conditions has the same at equal time of training." if "compute" in _arms(design) else ""
    times = {row["learner"]: float(row["cost"]) for row in costs if row["panel"] == "acting"}
    if not times:
        return arm
    each = ", ".join(f"{name} {text(time)} ms" for name, time in sorted(times.items(), key=lambda item: item[1]))
    return f"{arm} Here an action took: {each} (the figure of costs shows scores against them).".strip()


def _arms(design: Mapping[str, Any]) -> Sequence[str]:
    return design.get("arms") or ()


def _level(a: Analysis) -> str:
    best = max(e.value for e in a.family_scores.values())
    where = "in" if FLOOR <= best < CEILING else "outside"
    count = sum(s.counts for s in a.spreads)
    return (
        f"Here the best family scores {best:z.2f} in the top cell, {where} that range, and {count} of "
        f"{len(a.spreads)} cells count."
    )


def _references(records: Sequence[Record]) -> str:
    found = sorted({(r.suite, r.split, r.random, r.expert) for r in records})
    each = "; ".join(f"{suite}, {split}: {text(low)} and {text(high)}" for suite, split, low, high in found)
    return f"Here they return: {each}."


def _stand_ins(a: Analysis) -> str:
    own = a.families.get("supervised")
    if not own:
        return "Here no supervised learner was run."
    apart = [name for name in a.apart if name == "bc"]
    return f"Here {' and '.join(own)} stand{'s' * (len(own) == 1)} for the supervised family" + (
        f", and {apart[0]} is reported apart." if apart else "."
    )
