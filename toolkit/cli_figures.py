"""`packmule plot`, `report` and `mirror`: pictures, a page and copies of any runs, also while they go on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional


@dataclass
class Plot:
    """Draw figures of runs, those of them that are finished: PNG, SVG and the numbers as CSV.

    Runs of one learner that differ in more than their seed are told apart by their options.
    """

    runs: Positional[list[Path]]
    figure: list[str] = field(default_factory=list)
    """comparison, scaling, seen_unseen, ...; all that apply by default."""
    out: Path = Path("figures")

    def run(self) -> int:
        from toolkit.plots import plot
        from toolkit.records import naming

        records = finished_records(self.runs)
        with naming(self.out):
            paths = plot(records, self.figure, self.out)
        print("\n".join(map(str, paths)))
        return 0


@dataclass
class Report:
    """Write one self-contained HTML page about runs, those of them that are finished."""

    runs: Positional[list[Path]]
    out: Path = Path("report")

    def run(self) -> int:
        from toolkit.plots import plot
        from toolkit.records import naming, read_config, run_folders
        from toolkit.report import write

        records = finished_records(self.runs)
        with naming(self.out):
            page = write(
                self.out,
                title="Runs",
                records=records,
                figures=[path for path in plot(records, [], self.out / "figures") if path.suffix == ".svg"],
                runs=[read_config(folder).to_json() for folder in run_folders(*self.runs)],
                command=f"packmule report {' '.join(map(str, self.runs))}",
            )
        print(page)
        return 0


@dataclass
class Mirror:
    """Copy the metrics and scores of runs to TensorBoard or Weights & Biases; nothing is sent unless you ask for it."""

    runs: Positional[list[Path]]
    to: Literal["tensorboard", "wandb"] = "tensorboard"
    """tensorboard writes event files; wandb keeps its runs here too, unless WANDB_MODE=online is set."""
    out: Path = Path("mirror")
    project: str = "packmule"
    """Of Weights & Biases."""

    def run(self) -> int:
        from toolkit.mirror import mirror

        print(f"{mirror(self.runs, self.to, self.out, project=self.project)} runs: {self.out}")
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
