"""`packmule distance`: how far from their data trained runs go, and what it costs them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from toolkit.commands.runs import finite
from toolkit.commands.types import Location

if TYPE_CHECKING:
    from toolkit.tables import Row


@dataclass
class Distance:
    """Do trained runs score lower the farther from their data they go? They act again, and are watched.

    A state's distance is that to the third nearest training state, in task coordinates, each in shares of its range.
    What was measured is kept in each run; Ctrl-C stops, the same command continues.
    """

    runs: Positional[list[Path]]
    """Folders of finished runs, or folders that hold them."""
    episodes: int | None = None
    """On each split; as many as each run was evaluated on by default."""
    contexts: tuple[Literal["seen", "interpolated", "extrapolated"], ...] = ("seen", "interpolated", "extrapolated")
    """Splits to act on."""
    neighbours: int = 3
    """The distance is that to the nearest training state of this number."""
    store: Location | None = None
    """Measure the distance to these data instead of each run's own."""
    seed: int | None = None
    """Of contexts and environments; each run's own by default, which repeats its evaluation."""
    out: Path | None = None
    """Folder for distances_of_runs.csv and the figure."""
    json: bool = False
    """Print one JSON object an episode."""

    def run(self) -> int:
        from toolkit.distance import ranked, sentence
        from toolkit.plots import plot, to_csv
        from toolkit.progress import ProgressLine
        from toolkit.records import replace_text, run_folders
        from toolkit.rundir import check_folder
        from toolkit.tables import DISTANCES
        from toolkit.visits import distances, ready

        if self.out is not None:
            check_folder(self.out)
        if self.neighbours < 1:
            raise ValueError(f"--neighbours must be at least 1, got {self.neighbours}")
        folders = run_folders(*self.runs)
        if not folders:
            raise ValueError(
                f"no finished runs under {', '.join(map(str, self.runs))}; a finished run has the file DONE"
            )
        asked: dict[str, Any] = {
            "episodes": self.episodes, "splits": self.contexts, "seed": self.seed, "store": self.store
        }  # fmt: skip
        for folder in folders:  # every run, before the first acts
            ready(folder, **asked)
        line, rows = ProgressLine("distance", len(folders)), []
        for number, folder in enumerate(folders):
            line.update(number, folder.name)
            rows += distances(folder, neighbours=self.neighbours, **asked)
        line.update(len(folders))
        line.close()
        found = ranked(rows)
        print(
            "\n".join(map(json.dumps, map(finite, rows))) if self.json else f"{table(rows, found)}\n{sentence(found)}"
        )
        if self.out is not None:
            path = self.out / DISTANCES.file
            replace_text(path, to_csv(rows))
            drawn = plot([path], ["distance"], self.out)
            print("\n".join(map(str, [path, *drawn])), file=sys.stderr if self.json else sys.stdout)
        return 0


def table(rows: Sequence[Row], found: Sequence[Row]) -> str:
    """A line a learner, suite and split with mean distance and score; and the rank correlations."""
    from statistics import fmean

    from toolkit.text import aligned

    lines = [["learner", "suite", "contexts", "distance", "farthest", "score", "episodes"]]
    for learner, suite, split in sorted({(r["learner"], r["suite"], r["split"]) for r in rows}):
        own = [r for r in rows if (r["learner"], r["suite"], r["split"]) == (learner, suite, split)]
        means = [f"{fmean(r[key] for r in own):.3g}" for key in ("distance", "farthest")]
        lines.append([learner, suite, split, *means, f"{fmean(r['score'] for r in own):z.2f}", f"{len(own)}"])
    ranks = [["learner", "suite", "tau", "tau within a split", "runs"]]
    for row in found:
        told = ["n/a" if row[name] is None else _span(row, name) for name in ("tau", "within")]
        ranks.append([row["learner"], row["suite"], *told, f"{row['runs']}"])
    return f"{aligned(lines)}\n\n{aligned(ranks)}"


def _span(row: Row, name: str) -> str:
    from toolkit.stats import Estimate

    return str(Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"], 0.95, row["runs"]))
