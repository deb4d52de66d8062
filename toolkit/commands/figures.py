"""`packmule plot`, `report` and `mirror`: pictures, a page and copies of any runs, also while they go on."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from toolkit.commands.types import Location, local_runs


@dataclass
class Plot:
    """Draw figures of runs, those of them that are finished: PNG, SVG and the numbers as CSV.

    Runs of one learner that differ in more than their seed are told apart by their options.
    """

    runs: Positional[list[Location]]
    """Runs, folders or URLs that hold them, or tables of commands (bits_of_runs.csv and others) beside or below them
    in folders."""
    figure: list[str] = field(default_factory=list)
    """bits, bottlenecks, comparison, convergence, curves, distance, heatmap, improvement, pareto, profiles, proxies,
    scaling, seen_unseen, selection; all that apply by default."""
    out: Path = Path("figures")

    def run(self) -> int:
        from toolkit.plots import plot
        from toolkit.records import naming, run_folders
        from toolkit.rundir import check_folder

        check_folder(self.out)
        runs = local_runs(self.runs)
        records = finished_records(runs) if run_folders(*runs) else None
        with naming(self.out):
            paths = plot(runs, self.figure, self.out, records=records)
        print("\n".join(map(str, paths)))
        return 0


@dataclass
class Report:
    """Write one self-contained HTML page about runs, those of them that are finished, or a study's report again.

    The folder of a study (`claim --out`) holds its plan: its runs must be those of the plan, none missing or changed.
    """

    runs: Positional[list[Location]]
    """Runs, folders or URLs that hold them, or the folder of one study, whose report is written inside it."""
    out: Path = Path("report")
    """For runs that are no study."""
    partial: bool = False
    """Of a study: report on the draws and tasks that are whole, and say so, though others are missing."""

    def run(self) -> int:

        runs = local_runs(self.runs)
        if len(runs) == 1 and (runs[0] / "design.json").exists():
            from toolkit.study import conclude

            tell(conclude(runs[0], partial=self.partial))
            return 0
        if self.partial:
            raise ValueError("--partial is for the folder of a study, which holds design.json; leave it out for runs")
        from toolkit.plots import plot
        from toolkit.records import naming, read_config, run_folders, verify_done
        from toolkit.report import write
        from toolkit.rundir import check_folder

        check_folder(self.out)
        records = finished_records(runs)
        folders = run_folders(*runs)
        for folder in folders:
            verify_done(folder, read_config(folder))
        with naming(self.out):
            figures = plot(runs, [], self.out / "figures", records=records)
            page = write(
                self.out,
                title="Runs",
                records=records,
                figures=[path for path in figures if path.suffix == ".svg"],
                runs=[read_config(folder).to_json() for folder in folders],
                command=f"packmule report {' '.join(map(str, self.runs))}",
            )
        print(page)
        return 0


@dataclass
class Mirror:
    """Copy the metrics and scores of runs to TensorBoard or Weights & Biases; nothing is sent unless you ask for it."""

    runs: Positional[list[Location]]
    """Runs, or what holds them: folders or URLs."""
    to: Literal["tensorboard", "wandb"] = "tensorboard"
    """tensorboard writes event files; wandb keeps its runs here too, unless WANDB_MODE=online is set."""
    out: Path = Path("mirror")
    project: str = "packmule"
    """Of Weights & Biases."""

    def run(self) -> int:
        from toolkit.mirror import mirror
        from toolkit.rundir import check_folder

        check_folder(self.out)
        count = mirror(local_runs(self.runs), self.to, self.out, project=self.project)
        kept = self.to == "wandb" and os.environ.get("WANDB_MODE") != "online"
        send = f"; to send them: wandb sync {shlex.quote(str(self.out))}/wandb/offline-run-*" if kept else ""
        print(f"{count} runs: {self.out}{send}")
        return 0


def finished_records(paths: Sequence[Path]) -> list[Any]:
    """Records of the finished runs, told apart; on standard error, how many others there are."""
    from toolkit.records import run_folders
    from toolkit.status import begun
    from toolkit.variants import load_variants

    others = len(begun(*paths)) - len(run_folders(*paths))
    if others > 0:
        print(f"without {others} runs that are not finished yet: packmule status", file=sys.stderr)
    return load_variants(*paths)


def tell(result: Any) -> None:
    """A study's verdict and where its report is."""
    from toolkit.claim import verdict_table, words
    from toolkit.text import aligned

    print("\n" + verdict_table(result.analysis))
    if result.elsewhere:
        print("\nThe same question under other conditions:\n\n" + aligned(words.elsewhere(result.elsewhere)))
    print(f"\nReport: {result.report}")
