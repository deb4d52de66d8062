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
from string import Template
from typing import Any

from toolkit import claim
from toolkit.claim import AXES, SYMBOLS, Analysis
from toolkit.records import Record

QUESTION = (
    "Once you have a large, diverse dataset, almost any mix of learning techniques (supervised, unsupervised, "
    "offline RL, model-based) should all work."
)
SOURCE = "E. Jang, “How Can We Make Robotics More Like Generative Modeling?”, 2022"

# What the page says of each threat unless `design["threats"]` says otherwise.
THREATS = {
    "Equal tuning budgets": "None was spent: every learner ran with one configuration, its defaults below, on every "
    "dataset. Equal budgets of zero are equal, but a learner that depends on tuning may do better than it does here.",
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

STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --paper: #fff; --soft: #f3f5f7; --line: #d5dae0; --mark: #0b5c96; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --paper: #15181b; --soft: #20252a; --line: #3b434b; --mark: #79bdee; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem 1.1rem 4rem; color: var(--ink); background: var(--paper);
  font: 16px/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
blockquote { margin: .8rem 0; padding: .2rem 1rem; border-left: 4px solid var(--mark); }
blockquote footer, .note { font-size: .9rem; opacity: .85; }
.verdict { background: var(--soft); border-radius: .5rem; padding: .7rem 1rem; margin: .8rem 0; }
.tag { display: inline-block; padding: 0 .5rem; border: 1.5px solid currentColor; border-radius: 1rem; font-weight: 600;
  font-size: .85rem; white-space: nowrap; }
.supported { color: #00734f; } .refuted { color: #b34700; } .inconclusive { color: #4d5a66; }
@media (prefers-color-scheme: dark) {
  .supported { color: #3ecf9b; } .refuted { color: #ff9a57; } .inconclusive { color: #b6c0c9; }
}
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td.n { white-space: nowrap; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; background: #fff; border-radius: .3rem; }
figcaption { font-size: .95rem; margin-top: .3rem; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--mark); }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; font-size: .82rem; border-radius: .3rem; }
dt { font-weight: 600; margin-top: .7rem; } dd { margin: 0 0 0 1rem; }
@media print {
  :root { --ink: #000; --paper: #fff; --soft: #f3f5f7; --line: #bbb; }
  body { max-width: none; font-size: 10.5pt; padding: 0; } .scroll { overflow: visible; } table { font-size: 8.5pt; }
  figure, tr, .verdict { break-inside: avoid; } h2 { break-after: avoid; } pre { white-space: pre-wrap; }
}
"""

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")


def write(
    folder: str | Path,
    *,
    title: str,
    records: Sequence[Record],
    analysis: Analysis | None = None,
    figures: Sequence[str | Path] = (),
    design: Mapping[str, Any] | None = None,
    datasets: Sequence[Mapping[str, Any]] = (),
    runs: Sequence[Mapping[str, Any]] = (),
    timings: Mapping[str, float] | None = None,
    command: str = "",
) -> Path:
    """Write folder/report.html, whole or not at all, and return its path.

    `figures` are names (NAME.svg or NAME.png in `folder` or `folder`/figures, NAME.csv beside it) or paths of
    pictures; `design["threats"]` may replace any text of THREATS or add to them; `datasets` are dataset cards,
    `runs` the runs' configurations, `timings` seconds a phase. Without an analysis the page is figures and tables.
    Raises FileNotFoundError naming a figure that was not saved.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    design = dict(design or {})
    threats = {**THREATS, **design.pop("threats", {})}
    parts = [_question(analysis)] if analysis else []
    parts.append(_summary(records))
    parts += [_picture(find_figure(folder, name)) for name in figures]
    if design:
        parts.append(_section("Design", _definitions(design)))
    if datasets:
        note = (
            '<p class="note">Measured on the data themselves, at a fixed subsample where coverage grows with size.</p>'
        )
        parts.append(_section("Datasets", note + _wide([_flat(d) for d in datasets])))
    if analysis:
        parts.append(_section("What to doubt", _definitions(threats)))
    if timings:
        seconds = [(name, f"{value:,.1f} s") for name, value in timings.items()]
        total = ("all phases", f"{sum(timings.values()):,.1f} s")
        parts.append(_section("Time", _table([("phase", "wall clock"), *seconds, total])))
    if runs:
        parts.append(_section("Run configurations", _configurations(runs)))
    if command:
        parts.append(_section("To repeat", f"<pre>{escape(command)}</pre>"))
    page = PAGE.substitute(title=escape(title), style=STYLE, body="\n".join(parts))
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


# --- sections ------------------------------------------------------------------------------------------


def _question(a: Analysis) -> str:
    quote = f"<blockquote><p>{escape(QUESTION)}</p><footer>{escape(SOURCE)}</footer></blockquote>"
    boxes = []
    meaning = {"weak": "Weak reading: every family works", "strong": "Strong reading: the choice does not matter"}
    for v in (a.verdict("weak"), a.verdict("strong")):
        boxes.append(
            f'<div class="verdict"><strong>{meaning[v.reading]}.</strong> {_tag(v.outcome)} within this range.<br>'
            f"{escape(v.reason)}</div>"
        )
    notes = "".join(f"<p>{escape(text)}</p>" for text in claim.sentences(a)[2:])
    return "\n".join(
        [
            quote,
            *boxes,
            notes,
            _section("Verdict by axis", _axes(a)),
            _section(f"Families in the top cell ({claim.describe(a.top)})", _families(a)),
            _section("From small and narrow to large and diverse", _moves(a)) if a.direction else "",
            _section("Cells and the level condition", _cells(a)),
        ]
    )


def _axes(a: Analysis) -> str:
    slopes = {s.axis: s for s in a.slopes}
    rows: list[tuple[str, ...]] = [("axis", "weak reading", "strong reading", "slope of the spread", "spread ahead")]
    reasons: dict[tuple[str, str], list[str]] = {}
    for axis in ("overall", *AXES):
        weak, strong, s = a.verdict("weak", axis), a.verdict("strong", axis), slopes.get(axis)
        steep = f"{s.slope} per {s.per}" if s and s.slope else (s.reason if s else "")
        ahead = f"{s.ahead} at {SYMBOLS[axis]} {s.at:,g}" if s and s.ahead else ""
        rows.append((axis, weak.outcome, strong.outcome, steep, ahead))
        for v in (weak, strong):
            reasons.setdefault((v.reading, v.reason), []).append(axis)
    named = {f"{reading} reading: {', '.join(axes)}": reason for (reading, reason), axes in reasons.items()}
    words = (
        '<p class="note">The spread is the standard deviation between families, corrected for noise; ahead is where '
        "its line stands at ten times the top level (coverage ends at 1). Intervals are 95%.</p>"
    )
    return _table(rows, tags=(1, 2)) + words + _details("Reasons", _definitions(named))


def _families(a: Analysis) -> str:
    head = ("family", "learners", "score", "over behaviour", "regret", "works, weak", "works, strong")
    rows: list[tuple[str, ...]] = [head]
    for f, names in a.families.items():
        works = ("yes" if a.works_weak[f] else "not shown", "yes" if a.works_strong[f] else "not shown")
        rows.append((f, " + ".join(names), str(a.family_scores[f]), str(a.over_behaviour[f]), str(a.regret[f]), *works))
    learners: list[tuple[str, ...]] = [("learner", "mean", "interquartile mean", "seen minus unseen", "extrapolated")]
    for name, e in a.learner_scores.items():
        gap, far = a.seen_gap.get(name), a.extrapolated.get(name)
        learners.append(
            (
                name + (" (apart)" if name in a.apart else ""),
                str(e),
                str(a.learner_iqm[name]),
                str(gap or ""),
                str(far or ""),
            )
        )
    pairs = [("families", "difference, 90% interval", "p", "equivalent within 0.1")]
    pairs += [
        (f"{p.first} - {p.second}", str(p.difference), f"{p.p:.3f}", "yes" if p.equivalent else "not shown")
        for p in a.pairs
    ]
    wins = [("probability that a run of", "scores above a run of", "")]
    wins += [(*key.split(" > "), str(e)) for key, e in a.improvement.items()]  # type: ignore[misc]
    note = f'<p class="note">Scores on contexts unseen in training; the behaviour scores {a.behaviour}.</p>'
    more = [_details("Equivalence of families", _table(pairs))] if a.pairs else []
    more += [_details("Probability of improvement", _table(wins))] if a.improvement else []
    return _table(rows) + note + _table(learners) + "".join(more)


def _moves(a: Analysis) -> str:
    rows = [("learner", claim.describe(a.bottom), claim.describe(a.top), "difference", "runs that rise")]
    rows += [(d.learner, str(d.start), str(d.end), str(d.difference), f"{d.up} of {d.pairs}") for d in a.direction]
    return _table(rows)


def _cells(a: Analysis) -> str:
    rows = [("N", "C", "A", "best family", "counts", "spread")]
    for s in a.spreads:
        spread = f"{s.spread:z.2f}" if isfinite(s.spread) else "n/a"
        low = "no, floor" if s.best < claim.FLOOR else "no, ceiling"
        size, contexts, coverage = s.cell
        counts = "yes" if s.counts else low
        rows.append((f"{size:,g}", f"{contexts:,g}", f"{coverage:g}", f"{s.best:z.3f}", counts, spread))
    note = '<p class="note">N is transitions, C contexts, A coverage. A cell counts if its best family scores '
    return _table(rows) + note + f"at least {claim.FLOOR} and below {claim.CEILING}.</p>"


def _summary(records: Sequence[Record]) -> str:
    """How much was evaluated, a line for each learner and suite."""
    rows = [("learner", "family", "suite", "runs", "evaluation episodes", "success", "score")]
    for key in sorted({(r.learner, r.family, r.suite) for r in records}):
        group = [r for r in records if (r.learner, r.family, r.suite) == key]
        wins = sum(r.success for r in group) / len(group)
        score = sum(r.score for r in group) / len(group)
        runs = len({r.run for r in group})
        rows.append((*key, str(runs), f"{len(group):,}", f"{wins:.0%}", f"{score:z.2f}"))
    body = _table(rows) + '<p class="note">Over all data, splits and evaluated steps.</p>'
    return _section("Evaluated", body)


def _picture(path: Path) -> str:
    from toolkit import registry

    kind = {".svg": "image/svg+xml", ".png": "image/png"}[path.suffix]
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    known = registry.figures().get(path.stem)
    caption = known.caption if known else ""
    alt = escape(f"Figure {path.stem}. {caption}", quote=True)
    numbers = path.with_suffix(".csv")
    table = ""
    if numbers.is_file():
        rows = list(csv.reader(io.StringIO(numbers.read_text(encoding="utf-8"))))
        table = _details("The numbers drawn", _table([rows[0], *([_round(x) for x in row] for row in rows[1:])]))
    name = escape(path.stem.replace("_", " and ") if path.stem == "seen_unseen" else path.stem.replace("_", " "))
    return (
        f'<section><h2>Figure: {name}</h2><figure><img src="data:{kind};base64,{data}" alt="{alt}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>{table}</section>"
    )


def _configurations(runs: Sequence[Mapping[str, Any]]) -> str:
    """What all runs share once, then a table of what differs."""
    flat = [_flat(run) for run in runs]
    keys = list(dict.fromkeys(k for run in flat for k in run))
    shared = {k: flat[0][k] for k in keys if all(k in run and run[k] == flat[0][k] for run in flat)}
    text = json.dumps(shared, indent=1, ensure_ascii=False)
    found = _details(f"Shared by all {len(runs)} runs ({len(shared)} settings)", f"<pre>{escape(text)}</pre>")
    differing = [{k: run.get(k, "") for k in keys if k not in shared} for run in flat]
    return found + (_details("What differs", _wide(differing)) if any(differing) else "")


# --- parts ---------------------------------------------------------------------------------------------


def _section(heading: str, body: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>\n{body}</section>"


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _definitions(items: Mapping[str, Any]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(_text(v))}</dd>" for k, v in items.items()) + "</dl>"


def _tag(outcome: str) -> str:
    return f'<span class="tag {escape(outcome, quote=True)}">{escape(outcome)}</span>'


def _table(rows: Sequence[Sequence[str]], *, tags: Sequence[int] = ()) -> str:
    """The first row is the heading; columns in `tags` hold outcomes."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in rows[0])
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{"n" if len(c) < 34 else ""}">{_tag(c) if i in tags else escape(c)}</td>'
            for i, c in enumerate(row)
        )
        + "</tr>\n"
        for row in rows[1:]
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _wide(items: Sequence[Mapping[str, Any]]) -> str:
    """Dicts as a table, one row each, with every key that occurs."""
    keys = list(dict.fromkeys(k for item in items for k in item))
    return _table([keys, *([_text(item.get(k, "")) for k in keys] for item in items)])


def _flat(item: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested dicts with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in item.items():
        name = f"{before}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return found


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, list | tuple) and not any(isinstance(v, Mapping | list | tuple) for v in value):
        return ", ".join(_text(v) for v in value)
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _round(text: str) -> str:
    """Numbers of a CSV with four digits, for reading; the file keeps them all."""
    try:
        number = float(text)
    except ValueError:
        return text
    if not isfinite(number):
        return "n/a"
    return text if number.is_integer() and abs(number) < 1e15 and "e" not in text else f"{number:.4g}"
