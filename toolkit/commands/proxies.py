"""`packmule proxies`: what can be told of trained models without acting, beside what acting gave."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from toolkit.commands.types import Location

if TYPE_CHECKING:
    from toolkit.tables import Row


@dataclass
class Proxies:
    """Measure numbers that may stand in for return, on held-out data, for every model that runs kept.

    Of each run the snapshots of --evaluate-every and the last model: bits explained of actions and of transitions, TD
    error, the value by fitted Q evaluation, the error of the model's own rollouts. They go into proxies_of_runs.csv
    beside the runs, from which `packmule plot` and `report` draw how far each agrees with return. What is there already
    is not measured again; Ctrl-C keeps what was measured.
    """

    runs: Positional[list[Path]]
    """Folders of finished runs, or folders that hold them."""
    store: Location
    """Held-out data of the runs' suite; episodes that a run was trained on are left out."""
    view: str | None = None
    """A saved view of the store."""
    table: Path | None = None
    """The file, named proxies_of_runs.csv; by default in the folder that holds the runs."""
    rows: int = 20_000
    """Held-out transitions at most, of whole episodes."""
    horizon: int = 25
    """Steps a model of the dynamics is left alone."""
    fqe_steps: int = 2_000
    """Updates of fitted Q evaluation a model; 0 leaves it out."""
    seed: int = 0
    """Of the choice of episodes and windows, and of fitted Q."""
    slots: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Models at a time, one process of one thread each."""

    def run(self) -> int:
        from toolkit.tables import PROXIES

        if self.slots < 1:
            raise ValueError(f"slots must be at least 1, got {self.slots}")
        if self.table is not None and self.table.name != PROXIES.file:
            raise ValueError(f"--table {self.table}: the figure looks for a file named {PROXIES.file}; call it that")
        if self.slots > 1:
            from toolkit.engines.local import warm_up

            warm_up()  # while the rest is imported
        from toolkit.measure import Settings
        from toolkit.measured import models, produce, proxy_rows
        from toolkit.progress import ProgressLine
        from toolkit.records import run_folders
        from toolkit.rundir import check_folder

        if self.table is not None:
            check_folder(self.table.absolute().parent)
        settings = Settings(self.rows, self.horizon, self.fqe_steps, self.seed)
        folders = run_folders(*self.runs)
        if not folders:
            where = ", ".join(map(str, self.runs))
            raise ValueError(f"no finished runs under {where}; a finished run has the files DONE and episodes.jsonl")
        asked = models(folders, self.store, settings, view=self.view)
        path = self.table or Path(os.path.commonpath([folder.absolute().parent for folder in folders])) / PROXIES.file
        line = ProgressLine("proxies", len(asked))
        failed = produce(PROXIES, proxy_rows, asked, path, slots=self.slots, progress=line.update)
        line.close()
        for name, why in failed.items():
            print(f"failed: {name}: {why.splitlines()[-1]}", file=sys.stderr)
        print(table(PROXIES.read(path)))
        print(path)
        return 1 if failed else 0


def table(rows: Sequence[Row]) -> str:
    """One row a learner, dataset and proxy: how many models, how far its ranks agree with those of return."""
    from toolkit.proxies import agreement_of, places
    from toolkit.text import aligned

    told = [["learner", "dataset", "proxy", "models", "tau", "return lost by its choice"]]
    absent: dict[str, dict[str, None]] = {}
    for (learner, dataset, proxy), models in places(rows).items():
        if not models:
            absent.setdefault(learner, {})[proxy] = None
            continue
        said = ["n/a: one model has no rank; train with --evaluate-every, or more seeds", ""]
        if len(models) > 1:
            found = agreement_of(models)
            said = [str(found.tau) if found.ranked else "n/a: all alike", str(found.regret)]
        told.append([learner, dataset, proxy, str(len(models)), *said])
    return "\n".join([aligned(told), *(f"n/a for {learner}: {', '.join(names)}" for learner, names in absent.items())])
