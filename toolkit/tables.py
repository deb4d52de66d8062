"""Tables that other parts leave for figures: CSV files with known columns, found beside or below the runs.

They are not called as the figures are: a figure writes the numbers it draws as NAME.csv.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A CSV file by name and columns, each of text (str), whole numbers (int) or finite numbers (float)."""

    file: str
    columns: tuple[tuple[str, type], ...]
    optional: tuple[str, ...] = ()  # columns whose cells may be empty: None

    def find(self, *paths: str | Path) -> list[Path]:
        """The files of this name among `paths` and below them, sorted."""
        found: set[Path] = set()
        for path in map(Path, paths):
            found.update([path] if path.is_file() and path.name == self.file else path.rglob(self.file))
        return sorted(found)

    def read(self, *paths: str | Path) -> list[Row]:
        """Rows of every such file, one after another; further columns are left out.

        Raises ValueError naming file, line and column if a column is missing or a cell is not of its kind.
        """
        files = {
            file.read_bytes(): file for file in reversed(self.find(*paths))
        }  # a copy, as in a report, is read once
        return [row for file in sorted(files.values()) for row in self._read(file)]

    def _read(self, path: Path) -> list[Row]:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.DictReader(file)
            missing = [name for name, _ in self.columns if name not in (lines.fieldnames or ())]
            if missing:
                due = ", ".join(name for name, _ in self.columns)
                raise ValueError(f"{path} has no column {', '.join(missing)}; expected {due}")
            return [self._row(line, f"{path}:{lines.line_num}") for line in lines]

    def _row(self, line: dict[str, str | None], where: str) -> Row:
        found: Row = {}
        for name, kind in self.columns:
            text = line[name] or ""
            if not text and name in self.optional:
                found[name] = None
                continue
            try:
                found[name] = kind(text)
                if text == "" or (kind is float and not isfinite(found[name])):
                    raise ValueError("nothing to draw")
            except ValueError:
                due = {str: "text", int: "a whole number", float: "a finite number"}[kind]
                raise ValueError(f"{where}: {name} is {text!r}; expected {due}") from None
        return found


RUN: tuple[tuple[str, type], ...] = (
    ("learner", str),
    ("dataset", str),  # a cell of the design, the same text for all draws of it
    ("draw", int),  # which independent draw of it
    ("seed", int),
)

PROXIES = Table(
    "proxies_of_runs.csv",
    (
        *RUN,
        ("checkpoint", str),  # what else tells models of a cell apart: the step, a hyperparameter
        ("proxy", str),  # its name: action bits, TD error, FQE, ...
        ("value", float),  # more should be better; empty where the learner has nothing of the kind
        ("return", float),  # of the same checkpoint, mean over evaluation episodes
        ("score", float),  # the same between a random policy, 0, and the expert, 1
    ),
    optional=("value",),
)

BITS = Table(
    "bits_of_runs.csv",
    (
        *RUN,
        ("size", float),  # transitions in the data
        ("what", str),  # is modelled: "action", or "transition" (next state, reward and end)
        ("exactness", str),  # of `explained`: "exact", "bound" (it may be more) or "none", undefined
        ("marginal", float),  # code length without a model, bits a transition: what there is to explain
        ("explained", float),  # `marginal` minus the code length given the model
        ("return", float),
    ),
    optional=("marginal", "explained"),
)


BOTTLENECKS = Table(
    "bottlenecks_of_runs.csv",
    (
        *RUN,
        ("suite", str),
        ("split", str),  # contexts acted in
        ("arm", str),  # what was swapped; `toolkit.recovered.ARMS`
        ("episodes", int),
        ("score", float),  # mean over episodes; empty where the arm is n/a
        ("why", str),  # it is n/a
        ("error", float),  # the learner's actions less the expert's at the states of the arm; empty where not compared
    ),
    optional=("score", "why", "error"),
)


DISTANCES = Table(
    "distances_of_runs.csv",
    (
        *RUN,
        ("suite", str),
        ("split", str),  # contexts acted in
        ("episode", int),
        ("distance", float),  # of the visited states to the training data, mean over the episode; `toolkit.distance`
        ("farthest", float),  # the greatest
        ("return", float),
        ("score", float),
        ("neighbours", int),  # it is the distance to the neighbour of this number
    ),
)


def distinct(rows: Sequence[Row], key: str) -> list[Any]:
    """Values of a column, sorted."""
    return sorted({row[key] for row in rows})
