"""A study's held-out episodes, and the tables of bits and proxies that are measured with them."""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from toolkit import plan, whole
from toolkit.core import child_seed
from toolkit.design import Dataset, Design
from toolkit.plots import to_csv
from toolkit.progress import ProgressLine
from toolkit.records import RunConfig, replace_text
from toolkit.tables import BITS, PROXIES, Row, Table

FOLDER = "held-out"  # of a study, beside its data


def held_out(design: Design, datasets: Sequence[Dataset]) -> list[Dataset]:
    """What is held out beside the usual datasets: as they were collected, from another seed."""
    usual = [dataset for dataset in datasets if dataset.quality == design.qualities[0]]
    return [replace(dataset, sizes=(design.held_out,)) for dataset in usual]


def make(design: Design, dataset: Dataset, folder: str) -> None:
    """Collect one of them."""
    plan.make(design, dataset, folder, child_seed(dataset.draw, "held-out"))


def measure(design: Design, configs: Sequence[RunConfig], out: Path, slots: int) -> tuple[int, int]:
    """Bring bits_of_runs.csv and proxies_of_runs.csv of a study up to date; how many models failed, and of how many.

    Bits are of the last model of every usual run, proxies of every model of those that kept some on the way.
    """
    from toolkit import measured  # asks learners, so it loads torch
    from toolkit.measure import Settings

    settings = Settings(fqe_steps=design.fqe_steps)
    failed = tried = 0
    kinds: list[tuple[str, Table, Callable, list[RunConfig]]] = [
        ("bits", BITS, measured.bits_rows, _usual(design, configs)),
        ("proxies", PROXIES, measured.proxy_rows, [config for config in configs if config.evaluate_every]),
    ]
    for what, table, rows_of, chosen in kinds:
        stores: dict[Path, list[Path]] = defaultdict(list)
        for config in chosen:
            beside = out / FOLDER / Path(config.store).relative_to(out / "data")
            stores[beside].append(out / "runs" / config.folder_name)
        asked = [
            model
            for store, folders in stores.items()
            for model in measured.models(folders, store, settings, every=what == "proxies")
        ]
        if not asked:
            continue
        line = ProgressLine(f"measure {what}", len(asked))
        wrong = measured.produce(table, rows_of, asked, out / table.file, slots=slots, progress=line.update)
        line.close()
        for name, why in wrong.items():
            print(f"failed: {name}: {why[-1500:]}", file=sys.stderr)
        failed, tried = failed + len(wrong), tried + len(asked)
    return failed, tried


def tables(design: Design, configs: Sequence[RunConfig], out: Path, *, partial: bool) -> list[Path]:
    """The tables that the report reads: those in the study's folder, and of these two the rows of the runs it tells of,
    copied beside the report.

    Raises ValueError if rows of such runs are missing, unless the report is `partial`; a table that does not say which
    runs it is of is read as it is.
    """
    found = []
    usual = _usual(design, configs)
    due = {BITS: {c.identity for c in usual}, PROXIES: {c.identity for c in configs if c.evaluate_every}}
    for table, runs in due.items():
        path = out / table.file
        rows = _rows(path)
        if rows and "run" not in rows[0]:
            found.append(path)
            continue
        kept = [row for row in rows if row["run"] in runs]
        if design.held_out and not partial:
            missing = sorted(runs - {row["run"] for row in kept})
            whole.complain(f"{path} lacks runs; the command that began the study continues it", missing)
        if kept:
            copy = out / "report" / table.file
            replace_text(copy, to_csv(kept))
            found.append(copy)
    return found + sorted(path for path in out.glob("*.csv") if path.name not in {table.file for table in due})


def _usual(design: Design, configs: Sequence[RunConfig]) -> list[RunConfig]:
    """Those under the usual condition."""
    due = design.conditions[0].tags
    return [c for c in configs if {k: v for k, v in c.tags.items() if k in ("quality", "arm")} == due]


def _rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
