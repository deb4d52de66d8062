"""`packmule bottlenecks`: what goes wrong where in trained runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from toolkit.commands.runs import finite

if TYPE_CHECKING:
    from toolkit.tables import Row


@dataclass
class Bottlenecks:
    """What goes wrong where? Swap one part of trained runs at a time for the ideal one, and act again.

    Planners get the true dynamics, learners with a critic the true values of a few candidate actions, and all the
    scripted expert's actions: on some steps, and at all states. Finished arms are kept in the run; Ctrl-C stops, the
    same command continues.
    """

    runs: Positional[list[Path]]
    """Folders of finished runs, or folders that hold them."""
    episodes: int = 10
    """On each split."""
    contexts: tuple[Literal["seen", "interpolated", "extrapolated"], ...] = ("interpolated",)
    """Splits to act on."""
    candidates: int = 8
    """Actions that the critic, or the true value, chooses among."""
    seed: int | None = None
    """Of contexts and environments; each run's own by default, which repeats its evaluation."""
    out: Path | None = None
    """Folder for bottlenecks_of_runs.csv and the figure."""
    json: bool = False
    """Print one JSON object an arm."""

    def run(self) -> int:
        from toolkit.bottlenecks import Asked, bottlenecks
        from toolkit.evaluate import again
        from toolkit.plots import plot, to_csv
        from toolkit.progress import ProgressLine
        from toolkit.records import replace_text, run_folders
        from toolkit.recovered import ARMS, recovered
        from toolkit.rundir import check_folder
        from toolkit.tables import BOTTLENECKS

        if self.out is not None:
            check_folder(self.out)
        asked = Asked(self.episodes, self.contexts, self.candidates, self.seed)
        folders = run_folders(*self.runs)
        if not folders:
            raise ValueError(
                f"no finished runs under {', '.join(map(str, self.runs))}; a finished run has the file DONE"
            )
        for folder in folders:  # every run, before the first acts
            again(folder, asked.episodes, asked.splits, asked.seed)
        line = ProgressLine("bottlenecks", len(folders) * len(ARMS))
        rows: list[Row] = []
        for number, folder in enumerate(folders):

            def show(arm: str, done: int, total: int, number: int = number, name: str = folder.name) -> None:
                line.update((number + done / total) * len(ARMS), f"{name} {arm}")

            rows += bottlenecks(folder, asked, progress=show)
        line.close()
        found = recovered(rows)
        print("\n".join(json.dumps(finite(row)) for row in found) if self.json else table(found))
        if self.out is not None:
            path = self.out / BOTTLENECKS.file
            replace_text(path, to_csv(rows))
            drawn = plot([path], ["bottlenecks"], self.out)
            print("\n".join(map(str, [path, *drawn])), file=sys.stderr if self.json else sys.stdout)
        return 0


def table(found: Sequence[Row]) -> str:
    """A line an arm under each learner and dataset; action errors in half ranges, of choices the share that differ."""
    from toolkit.recovered import ARMS, BASES
    from toolkit.text import aligned

    parts = []
    for learner, dataset, split in dict.fromkeys((r["learner"], r["dataset"], r["split"]) for r in found):
        own = [r for r in found if (r["learner"], r["dataset"], r["split"]) == (learner, dataset, split)]
        lines = [[f"{learner} on {dataset}, {split}", "score", "recovers", "action error", ""]]
        for row in own:
            more = BASES.get(row["arm"], "")
            told = f"{_span(row, 'more')} over {ARMS[more]}" if row["more"] is not None else ""
            score, gain = (
                ("n/a", f"n/a: {row['why']}")
                if row["score"] is None
                else (f"{row['score']:z.2f}", "" if row["arm"] == "own" else _span(row, "recovered"))
            )
            error = "" if row["error"] is None else f"{row['error']:.2f}"
            lines.append([ARMS[row["arm"]], score, gain, error, told])
        size = f"n = {own[0]['runs']} runs of {own[0]['draws']} draws, {own[0]['episodes']} episodes each"
        parts.append(aligned(lines) + "\n" + size)
    return "\n\n".join(parts)


def _span(row: Row, name: str) -> str:
    from toolkit.stats import Estimate

    return str(Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"], 0.95, row["runs"]))
