"""One self-contained HTML page: the question, the verdict, the figures with their numbers, and what to doubt.

Standard library only; no script, no network. Every string from outside is escaped. The same input gives
the same bytes (the only times on the page are those passed in `timings`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any

from toolkit import appendix
from toolkit.claim import words
from toolkit.claim.findings import CEILING, FLOOR, MARGIN, REGRET, SHARE, Analysis, Reading
from toolkit.page import PAGE, STYLE, contents, definitions, details, note, section, table, tag
from toolkit.pictures import find_figure, numbers, picture, rank
from toolkit.records import Record
from toolkit.runs import AXES, describe
from toolkit.threats import answers

QUESTION = (
    "Once you have a large, diverse dataset, almost any mix of learning techniques (supervised, unsupervised, "
    "offline RL, model-based) should all work."
)
SOURCE = "E. Jang, “How Can We Make Robotics More Like Generative Modeling?”, 2022"

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
REPEAT = (
    "It collects the data, trains and evaluates every run, and writes this page; interrupted, it continues when given "
    "again. Seeds are part of the design: on the same machine and versions only the times differ."
)
AWAY = (
    "Learners are scored by acting, on contexts that their data never showed too. Runs on the largest, most diverse "
    "data act again, watched: in the same contexts from the same seeds as in their evaluation, and extrapolated ones."
)
MEASURED = (
    "Measured without acting, on held-out episodes, which no learner was trained on: those of a study are collected as "
    "its training data are, from another seed."
)
ABBREVIATIONS = {
    "bc": "behaviour cloning",
    "cql": "conservative Q-learning",
    "iql": "implicit Q-learning",
    "mpc": "model-predictive control, planning with a learned model",
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
    asks: Mapping[str, Sequence[str]] | None = None,
    timings: Mapping[str, float] | None = None,
    command: str = "",
) -> Path:
    """Write folder/report.html, whole or not at all, and return its path.

    `figures` are names (NAME.svg or NAME.png in `folder` or `folder`/figures, NAME.csv beside it) or paths of
    pictures; `design["notes"]` (what the study can and cannot show) stand at the top and `design["threats"]` may
    replace any text of THREATS or add to them; `elsewhere` are analyses under other conditions by their names;
    `datasets` are dataset cards, `runs` the runs' configurations, `asks` what each learner takes from the data besides
    observations and actions, `timings` seconds a phase. Without an analysis the page is figures and tables. Raises
    FileNotFoundError naming a figure that was not saved.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plan = {k: v for k, v in (design or {}).items() if k not in ("notes", "threats")}
    caution = _caution((design or {}).get("notes", ()))
    paths = sorted((find_figure(folder, name) for name in figures), key=rank)
    pictures = {path.stem: picture(path, number) for number, path in enumerate(paths, start=1)}
    head, parts = [""], []
    if analysis:
        costs = next((numbers(path) for path in paths if path.stem == "pareto"), [])
        doubts = answers(analysis, records, design=design or {}, asks=asks or {}, costs=costs)
        head = [_verdict(analysis), caution, _reading(analysis)]
        parts += [_evidence(analysis, pictures, elsewhere or {}), appendix.evaluated(records)]
        parts += [section("What to doubt", definitions(doubts))]
    else:
        parts += [caution, appendix.evaluated(records)]
        parts += [section("Figures", "".join(pictures.values()))] if pictures else []
    parts += [appendix.datasets(datasets)] if datasets else []
    parts += [appendix.plan(plan)] if plan else []
    parts += [appendix.configurations(runs)] if runs else []
    parts += [appendix.time(timings)] if timings else []
    parts += (
        [section("To repeat", f"<pre>{escape(command)}</pre>{note(REPEAT) if analysis else ''}")] if command else []
    )
    body = [head[0], contents(parts), *head[1:], *parts]
    page = PAGE.substitute(title=escape(title), style=STYLE, body="\n".join(part for part in body if part))
    path = folder / "report.html"
    draft = folder / ".report.html.part"
    draft.write_text(page, encoding="utf-8")
    os.replace(draft, path)
    return path


# --- the verdict and its tables ------------------------------------------------------------------------


def _verdict(a: Analysis) -> str:
    quote = f"<blockquote><p>{escape(QUESTION)}</p><footer>{escape(SOURCE)}</footer></blockquote>"
    boxes = []
    for reading, meaning in words.READINGS.items():
        v = a.verdict(reading)
        more = "".join(f"<li>{escape(detail)}</li>" for detail in v.details)
        boxes.append(
            f'<div class="verdict"><p><strong>{reading.capitalize()} reading: {meaning}.</strong> {tag(v.outcome)} '
            f"within this range. {escape(v.summary)} {escape(_margin(a, reading))}</p>"
            f"{f'<ul>{more}</ul>' if more else ''}</div>"
        )
    return "\n".join([quote, f"<p>{escape(words.context(a)[0])}</p>", *boxes])


def _margin(a: Analysis, reading: Reading) -> str:
    """The number a reading hangs on, with its interval."""
    if reading == "weak":
        margins = [(a.family_scores[n], n, "random") for n in a.families]
        margins += [(a.over_behaviour[n], n, "the behaviour") for n in a.families]
        least, name, rival = min(margins, key=lambda m: (m[0].low, m[0].value))
        return f"The least certain margin is that of {name} over {rival}, {least}; its lower end has to reach {MARGIN}."
    if not a.pairs:
        return "There are no two families to compare."
    widest = max(a.pairs, key=lambda p: (max(-p.difference.low, p.difference.high), abs(p.difference.value)))
    return (
        f"The widest difference: {widest.first} minus {widest.second} is {widest.difference} (90% interval); it has to "
        f"lie within {MARGIN} of zero."
    )


def _caution(notes: Sequence[str]) -> str:
    lines = "".join(f"<p>{escape(text)}</p>" for text in notes)
    return f'<div class="caution">{lines}</div>' if lines else ""


def _reading(a: Analysis) -> str:
    told = "".join(f"<p>{escape(text)}</p>" for text in [*words.context(a)[1:], words.width(a)])
    short = "; ".join(f"{n}: {ABBREVIATIONS[n]}" for n in a.learner_scores if n in ABBREVIATIONS)
    glossary = definitions({**GLOSSARY, **({"learners": short} if short else {})})
    return told + details("Words used here", glossary)


def _evidence(a: Analysis, pictures: Mapping[str, str], elsewhere: Mapping[str, Analysis]) -> str:
    """Every table with the figures that show the same; figures without a table stand at the end."""
    tables = {
        "From small and narrow to large and diverse": (_moves(a) if a.direction else "", ("scaling",)),
        "Families on the largest, most diverse data": (_families(a), ("comparison", "improvement", "profiles")),
        "Verdict along each axis": (_axes(a), ("convergence",)),
        "Cells: does the level count, and how far apart are the families": (_cells(a), ("heatmap",)),
        "Away from the data, and what goes wrong where": (
            note(AWAY) if {"distance", "bottlenecks"} & set(pictures) else "",
            ("distance", "bottlenecks"),
        ),
        "How many bits are modelled, and what tells a good model": (
            note(MEASURED) if {"bits", "proxies"} & set(pictures) else "",
            ("bits", "proxies", "selection"),
        ),
        "The same question under other conditions": (_elsewhere(elsewhere) if elsewhere else "", ()),
    }
    placed = {name for _, names in tables.values() for name in names}
    parts = [
        section(heading, body + "".join(pictures.get(name, "") for name in names), level=3)
        for heading, (body, names) in tables.items()
        if body
    ]
    rest = "".join(picture for name, picture in pictures.items() if name not in placed)
    parts += [section("More figures", rest, level=3)] if rest else []
    return section("Evidence", '<p class="narrow note">Wide tables and figures scroll sideways.</p>' + "".join(parts))


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
    return table(words.elsewhere(found), tags=(4, 5)) + legend


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
