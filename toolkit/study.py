"""Carrying out a design: collect, train and evaluate, analyse, report. Stopped anywhere, it continues."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from toolkit import report
from toolkit.claim import analyse
from toolkit.claim.findings import Analysis
from toolkit.collect import collect
from toolkit.configure import configure
from toolkit.core import child_seed
from toolkit.design import TIERS, Dataset, Design, difference
from toolkit.engines.local import Local, TaskFailed, map_tasks
from toolkit.plots import plot
from toolkit.progress import ProgressLine, duration
from toolkit.records import RunConfig, load, read_object, replace_json
from toolkit.registry import suite as find_suite
from toolkit.store import ReplayStore
from toolkit.sweep import sweep

__all__ = ["TIERS", "Result", "RunsFailed", "claim"]


class RunsFailed(RuntimeError):
    """Some runs failed; the others are finished and kept. Each was shown, with its last lines, as it happened."""


@dataclass(frozen=True)
class Result:
    """What a study leaves behind."""

    analysis: Analysis
    report: Path  # the HTML page
    timings: dict[str, float]  # phase -> seconds, over all sittings


def claim(design: Design, *, out: str | Path, slots: int = 2, command: str = "packmule claim") -> Result:
    """Carry out `design` in folder `out` with `slots` processes, to a verdict and a report.

    The design is saved first. Calling again continues: finished datasets and runs are kept, unfinished ones
    resume. Raises ValueError if `out` holds another design, RunsFailed if runs failed (after all were tried).
    Scripts that call this need the usual `if __name__ == "__main__":` guard, since it starts processes.
    """
    out = Path(out)
    if slots < 1:
        raise ValueError(f"slots must be at least 1, got {slots}")
    find_suite(design.suite)
    _pin(out, design)
    print(design.describe(), file=sys.stderr)
    clock = _Clock(out / "timings.json")
    with clock.phase("collect"):
        _collect(design, out, slots)
    with clock.phase("train and evaluate"):
        configs = list(_runs(design, out))
        _train(configs, out, slots)
    with clock.phase("analyse and report"):
        records = load(*(out / "runs" / config.folder_name for config in configs))
        analysis = analyse(records, seed=0)
        replace_json(out / "analysis.json", analysis.to_json())
        figures = plot(records, [], out / "report" / "figures")
        page = report.write(
            out / "report",
            title=f"Does the choice of learner matter? The {design.name} study",
            records=records,
            analysis=analysis,
            figures=[path for path in figures if path.suffix == ".svg"],
            design=design.to_json(),
            datasets=_cards(design, out),
            runs=[config.to_json() for config in configs],
            timings=clock.seconds,
            command=command,
        )
    spent = ", ".join(f"{name} {duration(seconds)}" for name, seconds in clock.seconds.items())
    print(f"time: {spent}", file=sys.stderr)
    return Result(analysis, page, clock.seconds)


def _pin(out: Path, design: Design) -> None:
    path = out / "design.json"
    if path.exists():
        saved = read_object(path)
        if saved != design.to_json():
            changes = "; ".join(difference(saved, design.to_json())) or "its hash"
            raise ValueError(f"{out} holds another design ({changes}); choose another folder with --out, or delete it")
    elif out.exists() and any(path.suffix != ".partial" for path in out.iterdir()):  # a kill leaves those
        raise ValueError(f"{out} is not empty and holds no study; choose another folder with --out")
    else:
        replace_json(path, design.to_json())


def _collect(design: Design, out: Path, slots: int) -> None:
    everything = list(design.datasets())
    line = ProgressLine("collect", len(everything))
    datasets = [dataset for dataset in everything if not _collected(design, dataset, out)]
    line.update(len(everything) - len(datasets))
    tasks = [(_collect_one, (design, dataset, str(out))) for dataset in datasets]
    _drain(tasks, [dataset.name for dataset in datasets], slots, line)


def _collected(design: Design, dataset: Dataset, out: Path) -> bool:
    """Whether the store is whole: its views are saved last."""
    views = out / "data" / dataset.name / "views"
    return all((views / f"n{size}.json").exists() for size in design.sizes)


def _collect_one(design: Design, dataset: Dataset, out: str) -> None:
    """One store with its nested views, in a worker process."""
    store = collect(
        design.suite,
        out=Path(out) / "data" / dataset.name,
        episodes=max(design.sizes),
        contexts=dataset.contexts,
        coverage=dataset.coverage,
        noise=design.noise,
        seed=child_seed(dataset.draw, "draw") % 2**31,
    )
    for size in design.sizes:
        # Episodes are independent draws, so a prefix is a random subset and all sizes nest. Contexts take turns,
        # so a prefix of at least as many episodes as contexts shows every one of them.
        store.save_view(f"n{size}", store.view(np.arange(size)))


def _runs(design: Design, out: Path) -> Iterator[RunConfig]:
    """Every run's configuration; learners take turns, so that the time left is told fairly throughout."""
    horizon = find_suite(design.suite).max_steps
    for dataset, size, seed in product(design.datasets(), design.sizes, range(design.seeds)):
        tags = {
            "draw": dataset.draw,
            "size": size * horizon,
            "contexts": dataset.contexts,
            "coverage": dataset.coverage,
        }
        for learner, options in design.learners.items():
            yield configure(
                learner,
                options=options,
                store=out / "data" / dataset.name,
                view=f"n{size}",
                steps=design.steps,
                batch_size=design.batch_size,
                seed=dataset.draw * 1000 + seed,
                episodes=design.episodes,
                splits=design.splits,
                device="cpu",
                tags=tags,
            )


def _train(configs: list[RunConfig], out: Path, slots: int) -> None:
    line = ProgressLine("train and evaluate", len(configs))
    outcome = sweep(configs, out / "runs", engine=Local(slots), watch=line.update)
    line.close()
    _complain(len(outcome.failed), len(configs) - outcome.skipped)


def _drain(tasks: list, names: list[str], slots: int, line: ProgressLine) -> None:
    """Carry out tasks, show progress, and raise RunsFailed at the end if any failed."""
    done, failed = line.total - len(tasks), 0
    for index, result in map_tasks(tasks, slots=slots):
        done += 1
        if isinstance(result, TaskFailed):
            failed += 1
            print(f"\nfailed: {names[index]}: {str(result).strip()[-1500:]}", file=sys.stderr)
        line.update(done, names[index])
    line.close()
    _complain(failed, len(tasks))


def _complain(failed: int, tried: int) -> None:
    if failed:
        raise RunsFailed(f"{failed} of {tried} failed; the rest is kept, the same command tries again")


def _cards(design: Design, out: Path) -> list[dict]:
    """A card for each cell: what it holds, as measured."""
    cards = []
    for dataset in design.datasets():
        store = ReplayStore.open(out / "data" / dataset.name)
        for size in design.sizes:
            view = store.view(f"n{size}")
            success = view.episodes["success"]
            cards.append(
                {
                    "store": dataset.name,
                    "view": f"n{size}",
                    "draw": dataset.draw,
                    "episodes": len(view),
                    "transitions": view.transitions,
                    "contexts": len(np.unique(view.episodes["context"], axis=0)),
                    "coverage": dataset.coverage,
                    "mean return": round(float(view.episodes["return"].mean()), 2),
                    "success": round(float(success.mean()), 3),
                    "fingerprint": view.fingerprint,
                }
            )
    return cards


class _Clock:
    """Seconds spent in each phase, over all sittings, kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = read_object(path) if path.exists() else {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - began, 1)
            replace_json(self.path, self.seconds)
