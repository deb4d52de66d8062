"""How often the harness is wrong: studies with known truth, analysed as any study is.

    python benchmarks/calibration.py [--trials 1000] [--draws 5 10 20] [--slots 1] [--only equal worse] [--out docs]

Every trial makes the evaluation records of a whole study (three families, one learner each, two sizes of data, one seed
on each draw), analyses them and compares verdicts and intervals with the truth. A run scores truth + what its draw does
to all + its own noise (standard deviations 0.05 and 0.1 of the scale from 0, random, to 1, expert).

wrong       share of trials in which any verdict (weak or strong, overall or along size) says what is not so
decided     share in which the one verdict that is to be found is found; `predicted` is its power by prediction, and one
            line stands at the number of draws that is predicted to decide with a chance of 80%
coverage    share of intervals that hold the truth: 95% each, but 90% for pairs, whose interval serves the equivalence
            test; regret takes all families at once

Writes calibration.csv and calibration.md into the folder. What the CSV holds for the same number of trials is kept, so
that a stopped run continues; delete the file to begin again.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations
from math import nan, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from fake_records import FAMILIES, fake_records

from toolkit import stats
from toolkit.claim import analyse, needed
from toolkit.claim.analysis import slope_along
from toolkit.claim.balance import balanced
from toolkit.claim.findings import Analysis, Outcome, Reading
from toolkit.records import Record
from toolkit.stats import Bar, Estimate

LEARNERS = ("bc", "iql", "mpc")
SMALL, LARGE = 2_000.0, 20_000.0
CELLS = [(size, 16, 0.5) for size in (SMALL, LARGE)]
DRAW_SD, SEED_SD = 0.05, 0.1
MOST = 50  # draws a study of which is still simulated
MANY = 1000  # draws of the study that stands for the truth when power is predicted

Verdict = tuple[Reading, Outcome]


@dataclass(frozen=True)
class Truth:
    """One kind of world, and what may be said of it."""

    about: str
    score: Callable[[str, float], float]  # learner, size -> true mean score
    wrong: tuple[Verdict, ...]  # verdicts that are not so, overall or along size
    right: Verdict | None = None  # the one to be found with enough draws
    behaviour: float = 0.2
    collapse: float = 0.0
    suites: tuple[str, ...] = ("pointmaze",)

    def records(self, draws: int, seed: int) -> list[Record]:
        """One study of this world."""
        return fake_records(
            lambda learner, cell: self.score(learner, cell[0]),
            learners=LEARNERS, cells=CELLS, draws=draws, seeds=1, episodes=1, splits=["interpolated"],
            draw_sd=DRAW_SD, seed_sd=SEED_SD, behaviour=self.behaviour, collapse=self.collapse, suites=self.suites,
            seed=seed,
        )  # fmt: skip


def mpc_less(gap: float, best: float = 0.7) -> Callable[[str, float], float]:
    """mpc scores `gap` less than the others at every size."""
    return lambda learner, size: best - gap * (learner == "mpc")


STRONG: Verdict = ("strong", "supported")
WEAK: Verdict = ("weak", "supported")
NOT_STRONG: Verdict = ("strong", "refuted")
NOT_WEAK: Verdict = ("weak", "refuted")
ANY = (STRONG, WEAK, NOT_STRONG, NOT_WEAK)

TRUTHS = {
    "equal": Truth("all equal, at 0.7", mpc_less(0), (NOT_STRONG, NOT_WEAK), STRONG),
    "equal, 4 tasks": Truth(
        "all equal, at 0.7, on four tasks", mpc_less(0), (NOT_STRONG, NOT_WEAK), STRONG, suites=("a", "b", "c", "d")
    ),
    "margin": Truth("one worse by 0.1, the margin of equivalence", mpc_less(0.1), (STRONG, NOT_STRONG, NOT_WEAK)),
    "worse": Truth("one worse by 0.2", mpc_less(0.2), (STRONG, NOT_STRONG, NOT_WEAK), WEAK),
    "much worse": Truth(
        "one worse by 0.5, and not above the behaviour", mpc_less(0.5, 0.8), (STRONG, WEAK), NOT_STRONG, 0.3
    ),
    "converging": Truth(
        "one worse by 0.6 on small data and by 0.3 on large: the spread shrinks",
        lambda learner, size: 0.8 - (0.6 if size == SMALL else 0.3) * (learner == "mpc"),
        (STRONG, NOT_STRONG, NOT_WEAK),
    ),
    "failing": Truth("all fail together, at 0.25", mpc_less(0, 0.25), ANY, None, 0.05),
    "near the floor": Truth("all equal just below the floor, at 0.48", mpc_less(0, 0.48), ANY, None, 0.05),
    "ceiling": Truth("all at the ceiling, at 0.97", mpc_less(0, 0.97), ANY),
    "near the ceiling": Truth("all equal at the ceiling's edge, at 0.95", mpc_less(0, 0.95), ANY),
    "collapsing runs": Truth(
        "all equal, at 0.7 in the mean; a fifth of the runs collapses by 0.5", mpc_less(0), (NOT_STRONG, NOT_WEAK),
        STRONG, collapse=0.2,
    ),
}  # fmt: skip
MEASURES = ("score", "IQM", "pair", "regret", "improvement", "profile", "slope", "ahead")


def trial(truth: Truth, draws: int, seed: int) -> dict[str, Any]:
    """One study: whether a verdict was wrong, which were given, and the share of intervals that held the truth."""
    found = analyse(truth.records(draws, seed), seed=seed)
    given = {(v.reading, v.outcome) for v in found.verdicts if v.axis in ("overall", "size")}
    body: dict[str, Any] = {"wrong": any(v in given for v in truth.wrong)}
    body["decided"] = truth.right is not None and found.verdict(truth.right[0]).outcome == truth.right[1]
    return body | {name: float(np.mean(hits)) for name, hits in coverage(truth, found, seed).items()}


def coverage(truth: Truth, a: Analysis, seed: int) -> dict[str, list[bool]]:
    """Measure -> whether each of its intervals holds the truth."""
    score = {name: truth.score(name, LARGE) for name in LEARNERS}
    family = {FAMILIES[name]: value for name, value in score.items()}
    best = max(score.values())
    found = {
        "score": [holds(a.family_scores[f], value) for f, value in family.items()],
        "pair": [holds(p.difference, family[p.first] - family[p.second]) for p in a.pairs],
        "regret": [all(holds(a.regret[f], best - value) for f, value in family.items())],
    }
    if not truth.collapse:  # else the middle half's mean and the order of two runs have no simple truth
        deviation = sqrt(DRAW_SD**2 + SEED_SD**2)
        found["IQM"] = [holds(a.learner_iqm[n], score[n]) for n in LEARNERS]
        found["improvement"] = [
            holds(a.improvement[f"{x} > {y}"], float(norm.cdf((score[x] - score[y]) / (sqrt(2) * deviation))))
            for x, y in combinations(LEARNERS, 2)
        ]
        thresholds = np.linspace(best - 0.1, best + 0.1, 3)
        bands = stats.performance_profile(
            balanced(truth.records(a.draws, seed)).array("bc", a.top, "interpolated"), thresholds
        )
        found["profile"] = [
            holds(band, float(norm.sf((t - score["bc"]) / deviation)))
            for band, t in zip(bands, thresholds, strict=True)
        ]
    slope = next(s for s in a.slopes if s.axis == "size")
    if slope.slope and slope.ahead:
        small, large = (float(np.std([truth.score(n, size) for n in LEARNERS], ddof=1)) for size in (SMALL, LARGE))
        found["slope"] = [holds(slope.slope, large - small)]
        found["ahead"] = [holds(slope.ahead, 2 * large - small)]
    return found


def holds(estimate: Estimate, value: float) -> bool:
    """Whether the interval holds the value; to a rounding error."""
    return estimate.low - 1e-9 <= value <= estimate.high + 1e-9


@cache
def routes(name: str) -> list[list[Bar]]:
    """The tests of the right verdict, from a study so large that it is the truth."""
    truth = TRUTHS[name]
    if truth.right is None:
        return []
    study = balanced(truth.records(MANY, seed=0))
    top = CELLS[-1]
    scores = study.all_families(top, "interpolated")
    behaviour = study.array(LEARNERS[0], top, "interpolated", behaviour=True)
    reading, outcome = truth.right
    if outcome == "supported":
        return [needed.to_support(reading, scores, behaviour)]
    return needed.to_refute(reading, scores, behaviour, [slope_along(study, "size", top)])


def row(name: str, draws: int, trials: int, pool: ProcessPoolExecutor | None) -> dict[str, Any]:
    """One line of the table."""
    start = 1_000_000 * (1 + list(TRUTHS).index(name)) + 10_000 * draws
    job, seeds = partial(_trial, name, draws), range(start, start + trials)
    found = list(pool.map(job, seeds, chunksize=25) if pool else map(job, seeds))
    predicted = max((stats.power(bars, draws) for bars in routes(name)), default=nan)
    body = {"truth": name, "draws": draws, "trials": trials, "wrong": np.mean([t["wrong"] for t in found])}
    body |= {"decided": np.mean([t["decided"] for t in found]) if TRUTHS[name].right else nan, "predicted": predicted}
    body |= {"needed": needed.draws(routes(name))}
    for measure in MEASURES:
        values = [t[measure] for t in found if measure in t]
        body[measure] = np.mean(values) if len(values) > trials / 20 else nan
    return {k: round(float(v), 4) if isinstance(v, float) else v for k, v in body.items()}


def _trial(name: str, draws: int, seed: int) -> dict[str, Any]:
    return trial(TRUTHS[name], draws, seed)


def page(rows: list[dict[str, str]], command: str) -> str:
    """The table as Markdown, with what was simulated and the command."""
    columns = ("wrong", "decided", "predicted", *MEASURES)
    lines = ["| truth | draws | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * (len(columns) + 1)]
    for r in rows:
        shown = ["" if r[c] == "nan" else f"{float(r[c]):.1%}" for c in columns]
        mark = " (80% promised)" if float(r["draws"]) == float(r["needed"]) else ""
        lines.append(f"| {r['truth']} | {r['draws']}{mark} | " + " | ".join(shown) + " |")
    worlds = [
        f"- **{name}**: {truth.about}" + (f"; to be found: {' '.join(truth.right)}" if truth.right else "")
        for name, truth in TRUTHS.items()
    ]
    head = (__doc__ or "").split("\n\n")
    told = "\n\n".join(["# Calibration of the harness", head[0], head[2], "```text\n" + head[3] + "\n```", "Worlds:"])
    trials = rows[0]["trials"]
    return "\n".join(
        [
            told,
            "",
            *worlds,
            "",
            f"{trials} trials a line, each a study of its own:",
            "",
            *lines,
            "",
            f"    {command}",
            "",
        ]
    )


def main() -> None:
    """Fill in the lines that are missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--draws", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(TRUTHS), default=list(TRUTHS))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    flags = parser.parse_args()
    path = flags.out / "calibration.csv"
    kept = list(csv.DictReader(path.open())) if path.exists() else []
    rows = {(r["truth"], int(r["draws"])): r for r in kept if r["trials"] == str(flags.trials)}
    with ProcessPoolExecutor(flags.slots) as pool:
        for name in flags.only:
            promised = needed.draws(routes(name))
            extra = [int(promised)] if promised <= MOST else []
            for draws in sorted({*flags.draws, *extra} - {d for n, d in rows if n == name}):
                found = row(name, draws, flags.trials, pool)
                rows[name, draws] = {k: str(v) for k, v in found.items()}
                print(", ".join(f"{k} {v}" for k, v in found.items()), flush=True)
                order = sorted(rows, key=lambda place: (list(TRUTHS).index(place[0]), place[1]))
                with path.open("w", newline="") as file:
                    writer = csv.DictWriter(file, list(found))
                    writer.writeheader()
                    writer.writerows(rows[place] for place in order)
    command = f"python benchmarks/calibration.py --trials {flags.trials}"
    (flags.out / "calibration.md").write_text(page([rows[place] for place in order], command))


if __name__ == "__main__":
    main()
