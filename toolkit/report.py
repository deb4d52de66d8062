"""One self-contained HTML page: the question, the verdict, the figures with their numbers, and what to doubt.

Standard library only; no script, no network. Every string from outside is escaped. The same input gives
the same bytes (the only times on the page are those passed in `timings`).
"""

from __future__ import annotations

import base64
import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any

from toolkit.claim import words
from toolkit.claim.findings import CEILING, FLOOR, MARGIN, REGRET, SHARE, Analysis
from toolkit.page import PAGE, STYLE, definitions, details, flat, note, round_cell, section, table, tag, wide
from toolkit.records import Record
from toolkit.runs import AXES, describe

QUESTION = (
    "Once you have a large, diverse dataset, almost any mix of learning techniques (supervised, unsupervised, "
    "offline RL, model-based) should all work."
)
SOURCE = "E. Jang, “How Can We Make Robotics More Like Generative Modeling?”, 2022"

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
    "Ceiling and floor": "Support needs the best family between 0.5 and 0.95 in the top cell; the table of cells "
    "says where this holds. Agreement among learners that all fail, or all succeed, is not counted.",
    "Reference returns": "Scores are linear between a random policy (0) and the scripted expert (1), both measured "
    "with finite episodes, on each split of contexts. Another reference would stretch every difference by a constant.",
    "Plain BC against coverage": "Plain behaviour cloning converges to the average behaviour, so data made diverse by "
    "noise defeats it by definition. If it is the only supervised learner here, read the supervised row with that in "
    "mind: a goal-conditioned, filtered or return-conditioned form is the fair one.",
    "Independent units": "Intervals treat the dataset draw as the unit, with Student's correction. With two or three "
    "draws they are wide; that is the evidence there is, not a fault of the method.",
}

# Words of the page, in the order a reader meets them.
GLOSSARY = {
    "score": "mean return of an evaluation, put on a scale where 0 is a random policy and 1 the scripted expert",
    "family": "learners of one kind of technique; its score is the mean over its learners",
    "behaviour": "the policy that collected the data; its score is the data's own mean return",
    "size, contexts, coverage": "how large and diverse a dataset is: its transitions; how many starts, goals or "
    "dynamics it shows; the share of its steps taken at random instead of by the expert",
    "unseen contexts": "interpolated ones lie between those of the training data, extrapolated ones outside; scores "
    "are on interpolated contexts unless said otherwise",
    "draw": "the data collected anew, independently; learners of one draw share its data and its evaluation",
    "0.79 [0.70, 0.89]": "a value and its 95% interval",
}
ABBREVIATIONS = {
    "bc": "behaviour cloning",
    "cql": "conservative Q-learning",
    "iql": "implicit Q-learning",
    "mpc": "model-predictive control, planning with a learned model",
}
LEVELS = {
    "sizes": "sizes, in episodes",
    "contexts": "contexts",
    "coverages": "coverages, share of random steps",
    "noise": "action noise, share of half the action range",
    "draws": "independent draws of the data",
    "seeds": "training seeds on each draw",
    "steps": "gradient steps a run",
    "batch_size": "batch size",
    "episodes": "evaluation episodes a run and split",
    "splits": "contexts evaluated on",
    "hash": "hash of the design",
}


def write(
    folder: str | Path,
    *,
    title: str,
    records: Sequence[Record],
    analysis: Analysis | None = None,
    elsewhere: Mapping[str, Analysis] | None = None,
    figures: Sequence[str | Path] = (),
    design: Mapping[str, Any] | None = None,
    datasets: Sequence[Mapping[str, Any]] = (),
    runs: Sequence[Mapping[str, Any]] = (),
    timings: Mapping[str, float] | None = None,
    command: str = "",
) -> Path:
    """Write folder/report.html, whole or not at all, and return its path.

    `figures` are names (NAME.svg or NAME.png in `folder` or `folder`/figures, NAME.csv beside it) or paths of
    pictures; `design["notes"]` (what the study can and cannot show) stand at the top and `design["threats"]` may
    replace any text of THREATS or add to them; `datasets` are dataset cards, `runs` the runs' configurations,
    `timings` seconds a phase, `elsewhere` analyses under other conditions by their names. Without an analysis the page
    is figures and tables. Raises FileNotFoundError naming a figure that was not saved.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    design = dict(design or {})
    threats = {**THREATS, **design.pop("threats", {})}
    caution = _caution(design.pop("notes", ()))
    pictures = [_picture(find_figure(folder, name)) for name in figures]
    if analysis:
        parts = [_verdict(analysis), caution, _reading(analysis), *_tables(analysis)]
        parts += [_elsewhere(elsewhere)] if elsewhere else []
        parts += [*pictures, _summary(records)]
    else:
        parts = [caution, _summary(records), *pictures]
    if design:
        parts.append(section("Design", _design(design)))
    if datasets:
        parts.append(section("Datasets", _datasets(datasets)))
    if analysis:
        parts.append(section("What to doubt", definitions(threats)))
    if timings:
        seconds = [(name, f"{value:,.1f} s") for name, value in timings.items()]
        total = ("all phases", f"{sum(timings.values()):,.1f} s")
        parts.append(section("Time", table([("phase", "wall clock"), *seconds, total])))
    if runs:
        parts.append(section("Run configurations", _configurations(runs)))
    if command:
        parts.append(section("To repeat", f"<pre>{escape(command)}</pre>"))
    page = PAGE.substitute(title=escape(title), style=STYLE, body="\n".join(part for part in parts if part))
    path = folder / "report.html"
    draft = folder / ".report.html.part"
    draft.write_text(page, encoding="utf-8")
    os.replace(draft, path)
    return path


def find_figure(folder: Path, name: str | Path) -> Path:
    """The picture meant by a name or path; SVG before PNG. Raises FileNotFoundError saying where it was looked for."""
    given = Path(name)
    if given.suffix in (".svg", ".png"):
        tried = [given, folder / given]
    else:
        tried = [base / f"{given}{end}" for base in (folder, folder / "figures") for end in (".svg", ".png")]
    for path in tried:
        if path.is_file():
            return path
    raise FileNotFoundError(f"figure {str(name)!r} is not there; looked for {', '.join(map(str, tried))}")


# --- the verdict and its tables ------------------------------------------------------------------------


def _verdict(a: Analysis) -> str:
    quote = f"<blockquote><p>{escape(QUESTION)}</p><footer>{escape(SOURCE)}</footer></blockquote>"
    boxes = []
    for reading, meaning in words.READINGS.items():
        v = a.verdict(reading)
        more = "".join(f"<li>{escape(detail)}</li>" for detail in v.details)
        boxes.append(
            f'<div class="verdict"><p><strong>{reading.capitalize()} reading: {meaning}.</strong> {tag(v.outcome)} '
            f"within this range. {escape(v.summary)}</p>{f'<ul>{more}</ul>' if more else ''}</div>"
        )
    return "\n".join([quote, *boxes])


def _caution(notes: Sequence[str]) -> str:
    lines = "".join(f"<p>{escape(text)}</p>" for text in notes)
    return f'<div class="caution">{lines}</div>' if lines else ""


def _reading(a: Analysis) -> str:
    told = "".join(f"<p>{escape(text)}</p>" for text in [*words.context(a), words.width(a)])
    short = "; ".join(f"{n}: {ABBREVIATIONS[n]}" for n in a.learner_scores if n in ABBREVIATIONS)
    return told + section("Words used here", definitions({**GLOSSARY, **({"learners": short} if short else {})}))


def _tables(a: Analysis) -> list[str]:
    return [
        section("From small and narrow to large and diverse", _moves(a)) if a.direction else "",
        section("Families on the largest, most diverse data", _families(a)),
        section("Verdict along each axis", _axes(a)),
        section("Cells: does the level count, and how far apart are the families", _cells(a)),
    ]


def _moves(a: Analysis) -> str:
    rows = [("learner", "small and narrow", "large and diverse", "difference", "runs that rise")]
    rows += [(d.learner, str(d.start), str(d.end), str(d.difference), f"{d.up} of {d.pairs}") for d in a.direction]
    return (
        f"<p>{escape(words.moved(a))}</p>"
        + table(rows)
        + note(
            f"Small and narrow: {describe(a.bottom)}. Large and diverse: {describe(a.top)}. Runs are paired on draw "
            "and seed."
        )
    )


def _families(a: Analysis) -> str:
    head = ("family", "learners", "score", "over behaviour", "regret", "works, weak", "works, strong")
    rows: list[tuple[str, ...]] = [head]
    for f, names in a.families.items():
        works = ("yes" if a.works_weak[f] else "not shown", "yes" if a.works_strong[f] else "not shown")
        rows.append((f, " + ".join(names), str(a.family_scores[f]), str(a.over_behaviour[f]), str(a.regret[f]), *works))
    legend = note(
        f"{describe(a.top)}; contexts unseen in training; the behaviour scores {a.behaviour}. Over behaviour: the "
        "family's score minus the behaviour's. Regret: how far below the best family, 0 for the best; its interval "
        f"takes in every rival. Works, weak: the lower ends of score and over behaviour are {MARGIN} or more. Works, "
        f"strong: the lower end of the score is {SHARE:.0%} of the best family's or more. A regret whose lower end "
        f"exceeds {REGRET} counts against the claim."
    )
    columns: list[tuple[str, Any]] = [
        ("learner", lambda n: n + (" (apart)" if n in a.apart else "")),
        ("mean score", a.learner_scores.get),
    ]
    columns.append(("interquartile mean", a.learner_iqm.get))
    columns += [("seen minus unseen", a.seen_gap.get)] if a.seen_gap else []
    columns += [("extrapolated", a.extrapolated.get)] if a.extrapolated else []
    learners = [tuple(h for h, _ in columns)]
    learners += [tuple(str(cell(name)) for _, cell in columns) for name in a.learner_scores]
    pairs = [("families", "difference, 90% interval", "p", f"equivalent within {MARGIN}")]
    pairs += [
        (f"{p.first} - {p.second}", str(p.difference), f"{p.p:.3f}", "yes" if p.equivalent else "not shown")
        for p in a.pairs
    ]
    wins = [("probability that a run of", "scores above a run of", "")]
    wins += [(*key.split(" > "), str(e)) for key, e in a.improvement.items()]  # type: ignore[misc]
    more = [details("Equivalence of families (two one-sided tests)", table(pairs))] if a.pairs else []
    more += [details("Probability of improvement", table(wins))] if a.improvement else []
    return table(rows) + legend + table(learners) + "".join(more)


def _axes(a: Analysis) -> str:
    slopes = {s.axis: s for s in a.slopes}
    rows: list[tuple[str, ...]] = [("axis", "weak reading", "strong reading", "slope of the spread", "spread ahead")]
    reasons: dict[tuple[str, str], list[str]] = {}
    for axis in ("overall", *AXES):
        weak, strong, s = a.verdict("weak", axis), a.verdict("strong", axis), slopes.get(axis)
        steep = s.reason if s and not s.slope else words.steep(s)
        rows.append((axis, weak.outcome, strong.outcome, steep, words.ahead(s)))
        for v in (weak, strong):
            reasons.setdefault((v.reading, v.reason), []).append(axis)
    named = {f"{reading} reading: {', '.join(axes)}": reason for (reading, reason), axes in reasons.items()}
    legend = note(
        "The spread is the standard deviation between families' scores, less what noise alone would cause. Below zero, "
        "the families lie closer together than noise would put equal ones: there is no difference to be seen. Its "
        "slope is taken with the other two factors at their top; below zero, the families converge. Spread ahead is "
        "where the line stands at ten times the top level (coverage ends at 1), an extrapolation; refutation needs "
        f"its lower end above {MARGIN}."
    )
    return table(rows, tags=(1, 2)) + legend + details("Reasons", definitions(named))


def _elsewhere(found: Mapping[str, Analysis]) -> str:
    legend = note(
        "Each line is an analysis of its own runs, read as the verdicts above; what varied less there can decide less."
    )
    return section("The same question under other conditions", table(words.elsewhere(found), tags=(4, 5)) + legend)


def _cells(a: Analysis) -> str:
    rows = [("transitions", "contexts", "coverage", "best family's score", "counts", "spread between families")]
    for s in a.spreads:
        spread = f"{s.spread:z.2f}" if isfinite(s.spread) else "n/a"
        low = "no, floor" if s.best < FLOOR else "no, ceiling"
        size, contexts, coverage = s.cell
        counts = "yes" if s.counts else low
        rows.append((f"{size:,.0f}", f"{contexts:,.0f}", f"{coverage:g}", f"{s.best:z.2f}", counts, spread))
    return table(rows) + note(
        f"A cell is one level of each factor. It counts if its best family scores at least {FLOOR} and below "
        f"{CEILING}: families that all fail, or all succeed, agree without converging. A spread below zero is no "
        "mistake: the noise taken off exceeds the differences seen."
    )


# --- records, figures, plan ----------------------------------------------------------------------------


def _summary(records: Sequence[Record]) -> str:
    """How much was evaluated, a line for each learner and suite."""
    rows = [("learner", "family", "suite", "runs", "evaluation episodes", "success", "score")]
    for key in sorted({(r.learner, r.family, r.suite) for r in records}):
        group = [r for r in records if (r.learner, r.family, r.suite) == key]
        wins = sum(r.success for r in group) / len(group)
        score = sum(r.score for r in group) / len(group)
        runs = len({r.run for r in group})
        rows.append((*key, str(runs), f"{len(group):,}", f"{wins:.0%}", f"{score:z.2f}"))
    return section(
        "Everything evaluated",
        table(rows)
        + note("Means over all data, splits and evaluated steps. Success is judged by the suite's own rule."),
    )


def _picture(path: Path) -> str:
    from toolkit import registry

    kind = {".svg": "image/svg+xml", ".png": "image/png"}[path.suffix]
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    known = registry.figures().get(path.stem)
    caption = known.caption if known else ""
    alt = escape(f"Figure {path.stem}. {caption}", quote=True)
    numbers = path.with_suffix(".csv")
    drawn = ""
    if numbers.is_file():
        rows = list(csv.reader(io.StringIO(numbers.read_text(encoding="utf-8"))))
        drawn = details("The numbers drawn", table([rows[0], *([round_cell(x) for x in row] for row in rows[1:])]))
    name = escape(path.stem.replace("_", " and ") if path.stem == "seen_unseen" else path.stem.replace("_", " "))
    return (
        f'<section><h2>Figure: {name}</h2><figure><div class="picture"><img src="data:{kind};base64,{data}" '
        f'alt="{alt}"></div><figcaption>{escape(caption)}</figcaption></figure>{drawn}</section>'
    )


def _design(design: Mapping[str, Any]) -> str:
    """The plan's levels as a table, then what each learner was given over its defaults."""
    learners = design.get("learners")
    rest = {LEVELS.get(k, k): v for k, v in design.items() if k != "learners" or not isinstance(learners, Mapping)}
    found = wide([{"setting": k, "value": v} for k, v in rest.items()])
    if not isinstance(learners, Mapping):
        return found
    given = [
        {
            "learner": name,
            "set over its defaults": ", ".join(f"{k} = {v}" for k, v in flat(options).items()) or "nothing",
        }
        for name, options in learners.items()
    ]
    return found + wide(given)


def _datasets(datasets: Sequence[Mapping[str, Any]]) -> str:
    short = [{k: str(v)[:8] if k == "fingerprint" else v for k, v in flat(d).items()} for d in datasets]
    words = "Counted and measured on the data themselves; draw and coverage are what the design asked for."
    return note(words) + wide(short)


def _configurations(runs: Sequence[Mapping[str, Any]]) -> str:
    """What all runs share once, then a table of what differs."""
    every = [flat(run) for run in runs]
    keys = list(dict.fromkeys(k for run in every for k in run))
    shared = {k: every[0][k] for k in keys if all(k in run and run[k] == every[0][k] for run in every)}
    text = json.dumps(shared, indent=1, ensure_ascii=False)
    found = details(f"Shared by all {len(runs)} runs ({len(shared)} settings)", f"<pre>{escape(text)}</pre>")
    differing = [{k: run.get(k, "") for k in keys if k not in shared} for run in every]
    return found + (details("What differs", wide(differing)) if any(differing) else "")
