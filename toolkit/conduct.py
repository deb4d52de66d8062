"""Carrying out a design: collect, tune, train and evaluate, then report. Stopped anywhere, it continues."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolkit import plan, study_distance, tuning, whole
from toolkit import study_measures as measures
from toolkit.design import Dataset, Design, difference
from toolkit.engines import TaskFailed
from toolkit.engines.local import Local, map_tasks
from toolkit.hours import reference_costs
from toolkit.progress import ProgressLine
from toolkit.records import RunConfig, read_object, replace_json
from toolkit.registry import suite as find_suite
from toolkit.rundir import check_folder
from toolkit.sweep import sweep


class RunsFailed(RuntimeError):
    """Some runs failed; the others are finished and kept. Each was shown, with its last lines, as it happened."""


def carry_out(
    design: Design, out: Path, *, slots: int = 2, only: Sequence[str] = (), amend: str | None = None
) -> Design:
    """Do what `design` asks for in folder `out` with `slots` processes, of the tasks in `only` if any are named.

    The design is saved first, with the measured costs that an arm of equal compute needs. Calling again continues:
    finished datasets and runs are kept, unfinished ones resume. Returns the design as saved. Raises ValueError if
    `out` holds another design and `amend` does not say why it changed, RunsFailed if runs failed after all were tried.
    It starts processes, which do not run the calling script again: a script needs no `__main__` guard.
    """
    if slots < 1:
        raise ValueError(f"slots must be at least 1, got {slots}")
    datasets = plan.chosen(design, only)
    for task in design.tasks:
        find_suite(task.suite)
    design = _pin(out, design, amend)
    print(design.describe(), file=sys.stderr)
    clock = Clock(out / "timings.json")
    with clock.phase("collect"):
        _collect(design, datasets, out / "data", slots)
        if design.held_out:
            beside = measures.held_out(design, datasets)
            _collect(design, beside, out / measures.FOLDER, slots, "collect what is held out", measures.make)
    if design.tuning:
        with clock.phase("tune"):
            _tune(design, out / "tuning", slots)
            replace_json(out / "tuning" / "choice.json", tuned(design, out))
    with clock.phase("train and evaluate"):
        configs = list(plan.runs(design, datasets, out / "data", chosen_options(design, out)))
        _train("train and evaluate", configs, out / "runs", slots)
        whole.finished(configs, out / "runs")  # a run that was changed since it ended is named before it is measured
    if design.held_out:
        with clock.phase("measure"):
            _complain(*measures.measure(design, configs, out, slots))
    if design.distance_episodes:
        with clock.phase("distance to the data"):
            _watch(design, configs, out / "runs", slots)
    return design


def saved(out: Path) -> tuple[Design, list[dict[str, Any]]]:
    """The design in a study's folder and its amendments. Raises ValueError naming the file if it was edited."""
    path = out / "design.json"
    if not path.exists():
        raise ValueError(f"{out} holds no study: it has no design.json")
    body = read_object(path)
    amendments = body.pop("amendments", [])
    due = {"from", "to", "changes", "why"}
    try:
        if not isinstance(amendments, list) or not all(isinstance(a, dict) and a.keys() == due for a in amendments):
            raise ValueError("its amendments are not those that --amend writes: it was edited")
        return Design.from_json(body), amendments
    except ValueError as error:
        raise ValueError(
            f"{path}: {error}; bring the file back as it was, or begin another folder with --out"
        ) from None


def chosen_options(design: Design, out: Path) -> plan.Choice:
    """Learner -> the options that tuning chose; none without tuning. Its runs must be done."""
    return {name: found["chosen"] for name, found in tuned(design, out).items()}


def tuned(design: Design, out: Path) -> dict[str, Any]:
    """What was tried, scored and chosen for each learner, from the tuning runs; empty without tuning."""
    if not design.tuning:
        return {}
    folder = out / "tuning"
    if not plan.whole(tuning.dataset(design, design.tuning), folder):
        raise ValueError(f"{folder}: the data for tuning are missing; the command that began the study continues it")
    configs = tuning.runs(design, design.tuning, folder)
    done = whole.finished(configs, folder / "runs")
    missing = [config.folder_name for config in configs if config not in done]
    whole.complain("tuning runs are missing; the command that began the study continues it", missing)
    return tuning.choose(design, design.tuning, configs, folder / "runs")


def _pin(out: Path, design: Design, amend: str | None) -> Design:
    path = out / "design.json"
    check_folder(out)
    if not path.exists():
        if out.exists() and any(path.suffix != ".partial" for path in out.iterdir()):  # a kill leaves those
            raise ValueError(f"{out} is not empty and holds no study; choose another folder with --out")
        design = _priced(design, {})
        replace_json(path, design.to_json() | {"amendments": []})
        return design
    old, amendments = saved(out)
    design = _priced(design, old.costs)
    if design.hash == old.hash:
        return design
    changes = difference(old.to_json(), design.to_json())
    if amend is None:
        raise ValueError(
            f"{out} holds another design ({'; '.join(changes)}); choose another folder with --out, or say why it is "
            'changed with --amend "why": the report will tell'
        )
    amendments.append({"from": old.hash, "to": design.hash, "changes": changes, "why": amend})
    replace_json(path, design.to_json() | {"amendments": amendments})
    return design


def _priced(design: Design, known: dict[str, float]) -> Design:
    """With the costs that equal compute rests on: those saved before, or measured now."""
    if "compute" not in design.arms or design.costs:
        return design
    return replace(design, costs=known if set(known) == set(design.learners) else reference_costs(design))


def _collect(
    design: Design,
    datasets: Sequence[Dataset],
    data: Path,
    slots: int,
    what: str = "collect",
    make: Callable[[Design, Dataset, str], None] = plan.make,
) -> None:
    line = ProgressLine(what, len(datasets))
    todo = [dataset for dataset in datasets if not plan.whole(dataset, data)]
    line.update(len(datasets) - len(todo))
    tasks = [(make, (design, dataset, str(data))) for dataset in todo]
    _drain(tasks, [dataset.name for dataset in todo], slots, line)


def _tune(design: Design, folder: Path, slots: int) -> None:
    assert design.tuning is not None
    if not plan.whole(tuning.dataset(design, design.tuning), folder):
        tasks = [(tuning.collect, (design, design.tuning, str(folder)))]
        _drain(tasks, ["data for tuning"], slots, ProgressLine("collect for tuning", 1))
    configs = tuning.runs(design, design.tuning, folder)
    _train("tune", configs, folder / "runs", slots)


def _train(what: str, configs: list[RunConfig], out: Path, slots: int) -> None:
    line = ProgressLine(what, len(configs))
    outcome = sweep(configs, out, engine=Local(slots), watch=line.update)
    line.close()
    _complain(len(outcome.failed), len(configs) - outcome.skipped)


def _watch(design: Design, configs: Sequence[RunConfig], runs: Path, slots: int) -> None:
    """Let the runs in the top cell act once more, watched; what is kept already costs little."""
    names = [config.folder_name for config in study_distance.watched(design, configs)]
    tasks = [(study_distance.watch, (str(runs / name), design.distance_episodes)) for name in names]
    _drain(tasks, names, slots, ProgressLine("distance to the data", len(names)))


def _drain(tasks: list, names: list[str], slots: int, line: ProgressLine) -> None:
    """Carry out tasks, show progress, and raise RunsFailed at the end if any failed."""
    done, failed = line.total - len(tasks), 0
    for index, result in map_tasks(tasks, slots=slots):
        done += 1
        if isinstance(result, TaskFailed):
            failed += 1
            print(f"\nfailed: {names[index]}: {str(result).strip().splitlines()[-1]}", file=sys.stderr)
        line.update(done, names[index])
    line.close()
    _complain(failed, len(tasks))


def _complain(failed: int, tried: int) -> None:
    if failed:
        raise RunsFailed(f"{failed} of {tried} failed; the rest is kept, the same command tries again")


class Clock:
    """Seconds spent in each phase, over all sittings, kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = read_object(path) if path.exists() else {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what is done inside; not what was refused."""
        began, refused = time.monotonic(), False
        try:
            yield
        except ValueError:
            refused = True
            raise
        finally:
            if not refused:
                self._add(name, time.monotonic() - began)

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 1)
        replace_json(self.path, self.seconds)
