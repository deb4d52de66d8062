"""From a study's folder to its verdict and report, if its runs are those of its design."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolkit import plan, report, study_distance, whole
from toolkit import study_measures as measures
from toolkit.cards import cards
from toolkit.claim import analyse
from toolkit.claim.findings import Analysis
from toolkit.conduct import Clock, RunsFailed, carry_out, chosen_options, saved, tuned
from toolkit.configure import learner_config
from toolkit.design import Condition, Design
from toolkit.plots import plot
from toolkit.progress import duration
from toolkit.records import Record, RunConfig, load, replace_json
from toolkit.runs import describe
from toolkit.store import ReplayStore
from toolkit.text import asks
from toolkit.tiers import TIERS

__all__ = ["TIERS", "Result", "RunsFailed", "claim", "conclude"]


@dataclass(frozen=True)
class Result:
    """What a study leaves behind."""

    analysis: Analysis
    elsewhere: dict[str, Analysis]  # the same question under another condition, or on one task
    report: Path  # the HTML page
    timings: dict[str, float]  # phase -> seconds, over all sittings


def claim(
    design: Design,
    *,
    out: str | Path,
    slots: int = 2,
    only: Sequence[str] = (),
    amend: str | None = None,
    partial: bool = False,
    command: str = "packmule claim",
) -> Result | None:
    """Carry out `design` in folder `out` to a verdict and a report; see `carry_out`.

    None if `only` some tasks were asked for, others are not done, and no `partial` report is wanted.
    Raises as `carry_out` and `conclude` do.
    """
    out = Path(out)
    design = carry_out(design, out, slots=slots, only=only, amend=amend)
    if only and not partial:
        data = list(design.datasets())
        ready = [dataset for dataset in data if plan.whole(dataset, out / "data")]
        configs = list(plan.runs(design, ready, out / "data", chosen_options(design, out)))
        done = len(whole.finished(configs, out / "runs"))
        if done < design.runs:
            print(f"{done:,} of {design.runs:,} runs are done; the report waits for the rest", file=sys.stderr)
            return None
    return conclude(out, partial=partial, command=command)


def conclude(out: str | Path, *, partial: bool = False, command: str = "") -> Result:
    """Test the claim on a study's runs and write its report.

    Raises ValueError naming what is missing, foreign or changed: datasets, runs, configurations, evaluations, the plan.
    With `partial`, missing ones are no error: the largest balanced set of whole draws and tasks is reported, and told.
    """
    out = Path(out)
    design, amendments = saved(out)
    clock = Clock(out / "timings.json")
    with clock.phase("analyse and report"):
        configs, notes = _verified(design, out, partial=partial, amended=bool(amendments))
        records = [r for config in configs for r in load(out / "runs" / config.folder_name)]  # names order by chance
        usual, elsewhere = _analyses(design, records)
        replace_json(out / "analysis.json", usual.to_json())
        replace_json(out / "elsewhere.json", {name: analysis.to_json() for name, analysis in elsewhere.items()})
        main = [record for record in records if _condition(record) == design.conditions[0]]
        folders = [
            out / "runs" / config.folder_name for config in configs if _condition(config) == design.conditions[0]
        ]
        tables = measures.tables(design, configs, out, partial=partial)
        tables += study_distance.tables(design, configs, out, partial=partial)
        figures = plot([*folders, *tables], [], out / "report" / "figures", records=main)
        notes += [
            f"The plan was changed after it was saved: {a['why']} ({'; '.join(a['changes'])})." for a in amendments
        ]
        body = design.to_json() | {"notes": [*notes, *design.notes]}
        page = report.write(
            out / "report",
            title=f"Does the choice of learner matter? The {design.name} study",
            records=main,
            analysis=usual,
            elsewhere=elsewhere,
            figures=[path for path in figures if path.suffix == ".svg"],
            design=body | ({"tuning": tuned(design, out)} if design.tuning else {}),
            datasets=_cards(design, configs, out / "data"),
            runs=[_told(config, out) for config in configs],
            asks={c.learner: asks(learner_config(c.learner, c.options).needs) for c in configs},
            timings=clock.seconds,
            command=command or f"packmule claim --suite {design.name}{' --partial' * partial}",
        )
    spent = ", ".join(f"{name} {duration(seconds)}" for name, seconds in clock.seconds.items())
    print(f"time: {spent}", file=sys.stderr)
    return Result(usual, elsewhere, page, clock.seconds)


def _verified(design: Design, out: Path, *, partial: bool, amended: bool) -> tuple[list[RunConfig], list[str]]:
    """The runs to analyse, and what the report must say of those that are not there."""
    present = [dataset for dataset in design.datasets() if plan.whole(dataset, out / "data")]
    if not partial:
        absent = [dataset.name for dataset in design.datasets() if dataset not in present]
        whole.complain("datasets are missing (--partial reports on the rest)", absent)
    configs = list(plan.runs(design, present, out / "data", chosen_options(design, out)))
    done = whole.finished(configs, out / "runs")
    if not amended:  # else runs of the former plan may be there
        whole.complain("runs are not of this design", whole.foreign(configs, out / "runs"))
    if len(done) == design.runs:
        return configs, []
    if not partial:
        missing = [place(config) for config in configs if config not in done]
        whole.complain(f"{len(missing)} of {design.runs} runs are missing (--partial reports on the rest)", missing)
    kept = whole.balanced_part(design, configs, done)
    if not kept:
        raise ValueError(f"{out}: no task has a whole draw yet; the same command continues")
    tasks = sorted({config.suite for config in kept})
    draws = sorted({config.tags["draw"] for config in kept})
    parts = (("tasks", len(tasks), len(design.tasks)), ("draws", len(draws), design.draws))
    left = " and ".join(f"{whole - some} of {whole} {name}" for name, some, whole in parts if some < whole)
    return kept, [
        f"PARTIAL: {len(kept):,} of the {design.runs:,} runs of the design: draws {', '.join(map(str, draws))} on "
        f"{', '.join(tasks)}. {left} are left out because runs of theirs are missing."
    ]


def place(config: RunConfig) -> str:
    """'iql on 2,000 transitions, 2 contexts, coverage 0.1, pendulum, draw 1, seed 1000 (folder)'."""
    tags = config.tags
    more = "".join(f", {name} {tags[name]}" for name in ("quality", "arm") if name in tags)
    cell = describe((tags["size"], tags["contexts"], tags["coverage"]))
    return f"{config.learner} on {cell}{more}, {config.suite}, draw {tags['draw']}, seed {config.seed}"


def _condition(record: Record | RunConfig) -> Condition:
    return Condition(record.tags.get("quality", 1.0), record.tags.get("arm", "updates"))


def _analyses(design: Design, records: Sequence[Record]) -> tuple[Analysis, dict[str, Analysis]]:
    """The usual condition on all tasks; then each other condition, and each task alone."""
    usual, *others = design.conditions
    main = [record for record in records if _condition(record) == usual]
    found = {str(one): [record for record in records if _condition(record) == one] for one in others}
    suites = sorted({record.suite for record in main})
    if len(suites) > 1:
        found |= {f"{suite} alone": [record for record in main if record.suite == suite] for suite in suites}
    return analyse(main, seed=0), {name: analyse(chosen, seed=0) for name, chosen in found.items()}


def _told(config: RunConfig, out: Path) -> dict[str, Any]:
    """A run's configuration as the report shows it. Where the study lies, and what data collected again are called
    inside the store, are not of the study: the same design gives the same page."""
    body = replace(config, store=str(Path(config.store).relative_to(out))).to_json()
    return {name: value for name, value in body.items() if name != "fingerprint"}


def _cards(design: Design, configs: Sequence[RunConfig], data: Path) -> list[dict]:
    """A card for each dataset that was trained on: what it holds, as measured."""
    used = {(config.suite, config.tags["draw"]) for config in configs}
    chosen = [dataset for dataset in design.datasets() if (dataset.task.suite, dataset.draw) in used]
    asked: list[dict[str, Any]] = []
    views = []
    for dataset in chosen:
        store = ReplayStore.open(data / dataset.name)
        for size in dataset.sizes:
            name = plan.view(dataset.task, size)
            cell = describe((size, dataset.contexts, dataset.coverage))
            quality = {} if dataset.quality == 1 else {"quality": dataset.quality}
            asked.append({"cell": cell, **quality, "store": dataset.name, "view": name, "draw": dataset.draw})
            views.append(store.view(name))
    return cards(asked, views)
