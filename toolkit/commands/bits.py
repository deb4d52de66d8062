"""`packmule bits`: how many bits trained runs model, and how well."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from toolkit.commands.runs import finite
from toolkit.commands.types import Location, local_runs

if TYPE_CHECKING:
    from toolkit.bits import CodeLength


@dataclass
class Bits:
    """How many bits do trained runs model, and how well? Code lengths on held-out episodes.

    Numbers are put into bins of the store's resolution. Bits explained are those saved against coding every number by
    its frequency in the training data; the resolution cancels, so they compare across learners and data.
    """

    runs: Positional[list[Location]]
    """Trained runs, or what holds them at a URL."""
    store: Path
    """Held-out data; episodes that a run was trained on are left out."""
    view: str | None = None
    """A saved view of the store."""
    rows: int = 20_000
    """Transitions at most, of whole episodes."""
    seed: int = 0
    """Of the choice of episodes."""
    json: bool = False
    """Print one JSON object a run and table."""
    table: Path | None = None
    """Also write this file, named bits_of_runs.csv, from which `packmule plot --figure bits` is drawn."""

    def run(self) -> int:
        from toolkit.bits import run_bits
        from toolkit.measured import bits_row
        from toolkit.plots import to_csv
        from toolkit.records import read_config, replace_text
        from toolkit.rows_of_runs import place, returns
        from toolkit.rundir import check_folder
        from toolkit.tables import BITS

        if self.table is not None and self.table.name != BITS.file:
            raise ValueError(f"--table {self.table}: the figure looks for a file named {BITS.file}; call it that")
        if self.table is not None:
            check_folder(self.table.absolute().parent)
        if self.rows < 1 or self.seed < 0:
            raise ValueError(f"rows must be at least 1 and seed at least 0, got {self.rows} and {self.seed}")
        found, rows = [], []
        for folder in local_runs(self.runs, whole=True):
            lengths = run_bits(folder, self.store, view=self.view, rows=self.rows, seed=self.seed)
            config = read_config(folder)
            found += [(config.learner, config.identity, one) for one in lengths]
            if self.table is not None:
                reached, score = returns(folder)[config.steps]
                base = place(folder) | {"return": reached, "score": score}
                rows += [bits_row(base, one) for one in lengths]
        if self.table is not None:
            replace_text(self.table, to_csv(rows))
        if self.json:
            for learner, run, one in found:
                print(json.dumps({"run": run, "learner": learner, **finite(one.to_json())}))
            return 0
        print("\n\n".join(table([each for each in found if each[2].what == what]) for what in WHAT))
        return 0


WHAT: dict[Literal["action", "transition"], str] = {
    "action": "actions, given the observation",
    "transition": "next observation, reward and end, given observation and action",
}


def table(found: list[tuple[str, str, CodeLength]]) -> str:
    """One row a run, in bits a transition, the most explained first; learners without probabilities last."""
    from toolkit.text import aligned

    what = found[0][2].what
    found = sorted(found, key=lambda each: -each[2].explained.value if each[2].explained else float("inf"))
    rows = [["run", "learner", "explained", "marginal", "persistence", "model", "of marginal", "which is"]]
    for learner, run, one in found:
        told = [str(one.explained), f"{one.marginal.value:.2f}", "n/a", "n/a", "n/a", "n/a: no probabilities"]
        if one.persistence is not None:
            told[2] = f"{one.persistence.value:.2f}"
        if one.model is None:
            told[0] = "n/a"
        else:
            told[3:] = [f"{one.model.value:.2f}", f"{one.fraction:.0%}", one.exactness]
        rows.append([run, learner, *told])
    if what == "action":
        rows = [row[:4] + row[5:] for row in rows]
    one = found[0][2]
    return (
        f"{WHAT[what]}: bits a transition, {one.transitions:,} held-out transitions of {one.episodes} episodes\n"
        + aligned(rows)
    )
