"""bits_of_runs.csv and proxies_of_runs.csv, made from finished runs: what is there already is not measured again.

A model is a run at a step. Its rows are kept as long as they were measured on the same held-out data with the same
settings; rows of runs that are not asked about stay. The file is replaced whole, every few seconds and at the end, and
is in order whatever order models were measured in.
"""

from __future__ import annotations

import csv
import json
import re
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit import bits, fqe, measure
from toolkit.bits import CodeLength
from toolkit.configure import open_data, snapshot
from toolkit.engines import TaskFailed
from toolkit.engines.local import map_tasks, only_one
from toolkit.measure import Settings
from toolkit.plots import to_csv
from toolkit.records import read_config, replace_text, verify_done
from toolkit.rows_of_runs import place, returns
from toolkit.tables import Row, Table

SAVE_SECONDS = 10.0
ORDER = ("dataset", "learner", "draw", "seed", "options", "step")


@dataclass(frozen=True)
class Model:
    """A run at a step, and what it is measured on."""

    run: str  # its id
    folder: str
    step: int
    store: str  # of held-out episodes
    view: str | None
    held_out: str  # their fingerprint
    settings: Settings

    @property
    def base(self) -> Row:
        """What all its rows begin with."""
        value, score = returns(Path(self.folder))[self.step]
        known = {"step": self.step, "held_out": self.held_out, "settings": str(self.settings)}
        return place(Path(self.folder)) | known | {"return": value, "score": score}


def models(
    folders: Sequence[Path], store: str | Path, settings: Settings, *, view: str | None = None, every: bool = True
) -> list[Model]:
    """The models of finished runs: `every` one that was evaluated and kept on the way, or the last ones alone.

    Raises ValueError, naming the run, if one is not finished or was not evaluated, a snapshot is gone, or the held-out
    data are empty, of another suite or shape, or hold nothing that the run was not trained on.
    """
    given = open_data(store, None, view)
    found, fit = [], set()
    for folder in folders:
        run = read_config(folder)
        verify_done(folder, run)
        steps = [step for step in returns(folder) if every or step == run.steps]
        if gone := [at for step in steps if step != run.steps and not (at := snapshot(folder, step)).exists()]:
            raise ValueError(
                f"{gone[0]} is not there, though the run was evaluated at that step; bring it back, or train the run "
                "again with --evaluate-every"
            )
        if run.fingerprint not in fit:
            bits.fresh(folder, run, fqe.opened(run, None, None, None), given)
            fit.add(run.fingerprint)
        found += [
            Model(run.identity, str(folder), step, str(store), view, given.fingerprint, settings) for step in steps
        ]
    return found


def bits_rows(model: Model) -> list[Row]:
    """Rows of bits_of_runs.csv: of actions and of transitions."""
    data = measure.held(model.folder, model.store, model.view, model.settings)
    return [bits_row(model.base, one) for one in measure.code_lengths(measure.loaded(model.folder, model.step), data)]


def bits_row(base: Row, one: CodeLength) -> Row:
    """One row of bits_of_runs.csv."""
    return {
        **base, "what": one.what, "exactness": one.exactness, "marginal": one.marginal.value,
        "explained": measure.explained(one),
    }  # fmt: skip


def proxy_rows(model: Model) -> list[Row]:
    """Rows of proxies_of_runs.csv: one a proxy, without a value where the learner has nothing of the kind."""
    data = measure.held(model.folder, model.store, model.view, model.settings)
    learner = measure.loaded(model.folder, model.step)
    found = measure.proxies(read_config(model.folder), learner, data, model.settings)
    return [{**model.base, "proxy": name, "value": value} for name, value in found.items()]


def produce(
    table: Table,
    measured: Callable[[Model], list[Row]],
    asked: Sequence[Model],
    path: Path,
    *,
    slots: int = 1,
    progress: Callable[[int, str], None] | None = None,
) -> dict[str, str]:
    """Bring the table at `path` up to date with the `asked` models; what failed, by folder and step, and why.

    Interrupted, it keeps what was measured. Raises ValueError if the file is damaged, BlockingIOError if another
    process is at work on a table in that folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with only_one(path.parent):
        return _produce(table, measured, asked, path, slots, progress or (lambda done, note: None))


def _produce(
    table: Table,
    measured: Callable[[Model], list[Row]],
    asked: Sequence[Model],
    path: Path,
    slots: int,
    progress: Callable[[int, str], None],
) -> dict[str, str]:
    known = {_key(row) for row in _read(path, table)}
    todo = [model for model in asked if (model.run, model.step, model.held_out, str(model.settings)) not in known]
    rows: list[Row] = []
    failed: dict[str, str] = {}
    saved = time.monotonic()
    try:
        for done, (model, result) in enumerate(_results(measured, todo, slots), len(asked) - len(todo) + 1):
            if isinstance(result, TaskFailed):
                failed[f"{model.folder}, step {model.step}"] = str(result).strip()
            else:
                rows += result
            progress(done, Path(model.folder).name)
            if time.monotonic() - saved > SAVE_SECONDS:
                _save(path, table, asked, rows)
                saved = time.monotonic()
    finally:
        _save(path, table, asked, rows)
    return failed


def _results(
    measured: Callable[[Model], list[Row]], todo: Sequence[Model], slots: int
) -> Iterator[tuple[Model, list[Row] | TaskFailed]]:
    """Each model with its rows, or why there are none; in this process if one slot is enough."""
    if min(slots, len(todo)) > 1:
        for index, result in map_tasks([(measured, (model,)) for model in todo], slots=slots):
            yield todo[index], result
        return
    for model in todo:
        try:
            yield model, measured(model)
        except Exception:
            yield model, TaskFailed(traceback.format_exc())


def _save(path: Path, table: Table, asked: Sequence[Model], rows: list[Row]) -> None:
    """Replace the file: its rows, without those of asked models that were measured otherwise, and the new ones."""
    due = {(model.run, model.step): (model.held_out, str(model.settings)) for model in asked}
    new = {_key(row) for row in rows}
    kept = []
    for row in _read(path, table):
        run, step, *how = key = _key(row)
        if key not in new and due.get((run, step), tuple(how)) == tuple(how):
            kept.append(row)
    if kept or rows:
        replace_text(path, to_csv(_ordered([*kept, *rows])))


def _ordered(rows: list[Row]) -> list[Row]:
    """In order, each with a `checkpoint`: its step, and what else tells models of one learner apart."""
    options = {text: json.loads(text) for text in {str(row["options"]) for row in rows}}
    apart: dict[str, set[str]] = {}
    for learner in {row["learner"] for row in rows}:
        own = [options[row["options"]] for row in rows if row["learner"] == learner]
        names = {name for one in own for name in one}
        apart[learner] = {name for name in names if any(one.get(name) != own[0].get(name) for one in own)}
    for row in rows:
        chosen = options[row["options"]]
        told = [f"{name}={chosen.get(name, 'default')}" for name in sorted(apart[row["learner"]])]
        row["checkpoint"] = " ".join([str(row["step"]), *told])
    return sorted(rows, key=lambda row: [_natural(row[name]) for name in ORDER])  # of a model: as they were measured


def _natural(value: Any) -> list[tuple[int, float, str]]:
    """For sorting: numbers in a text by their size."""
    parts = re.split(r"(\d[\d,]*(?:\.\d+)?)", str(value))
    return [(1, float(p.replace(",", "")), "") if i % 2 else (0, 0.0, p) for i, p in enumerate(parts)]


def _read(path: Path, table: Table) -> list[Row]:
    """The file's rows as they are written, all columns; none without a file. Raises ValueError if it is damaged."""
    if not path.exists():
        return []
    table.read(path)
    with path.open(newline="", encoding="utf-8") as file:
        rows: list[Row] = list(csv.DictReader(file))
    if missing := [name for name in ("run", "step", "held_out", "settings", "options") if rows and name not in rows[0]]:
        raise ValueError(f"{path} has no column {missing[0]}, so it was not made here; move it away, or name another")
    return rows


def _key(row: Row) -> tuple[str, int, str, str]:
    return str(row["run"]), int(row["step"]), str(row["held_out"]), str(row["settings"])
