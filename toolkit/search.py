"""Searching a learner's options by Optuna, with the same budget for each learner. Needs the extra `search`.

Trials are ordinary runs in ordinary folders. What is asked for depends on the seed and on earlier scores only, never on
timing or slots, so the same command finds its finished trials done and goes on: no database holds a state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from toolkit import registry
from toolkit.grid import Axis, Grid, typed
from toolkit.records import RunConfig
from toolkit.status import run_state

if TYPE_CHECKING:
    import optuna

ROUND = 5  # trials of TPE that are asked for together; fixed, so that the number of slots changes no result
SHRINK = 3  # halving: a third of the trials goes on, with three times the steps

Carry = Callable[[Sequence[RunConfig]], object]  # carries out runs; what fails is missing afterwards


@dataclass(frozen=True)
class Trial:
    """One choice of options of one learner, and how it did."""

    learner: str
    axes: tuple[Axis, ...]  # of one level each
    runs: tuple[RunConfig, ...]  # over data and seeds
    score: float | None  # mean over the runs; None if one failed

    @property
    def flags(self) -> dict[str, str]:
        """Axis -> level, as a preset has them."""
        return {str(axis): axis.levels[0] for axis in self.axes}


@dataclass(frozen=True)
class Search:
    """How to look: `random`, `tpe`, or `halving` (random trials with few steps, the best third with three times as
    many, and so on to all the steps)."""

    kind: Literal["random", "tpe", "halving"]
    trials: int  # of each learner
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError(f"trials must be at least 1, got {self.trials}")
        try:
            import optuna  # noqa: F401
        except ImportError:
            raise ImportError("--search needs Optuna: pip install 'packmule[search]'") from None

    def best(self, grid: Grid, out: Path, carry: Carry) -> dict[str, Trial]:
        """Learner -> its best trial, each learner having had the same number of trials and gradient steps.

        Levels of axes are ranges, `1e-5:1e-2:log` or `2:8`, or choices. Raises ValueError, before anything is
        carried out, for a learner that no axis touches, and RuntimeError if every trial of a learner failed.
        """
        axes = {name: self._axes(grid, name) for name in grid.learners}
        studies = {name: self._study(position) for position, name in enumerate(grid.learners)}
        for name in grid.learners:  # a wrong range or level shows before anything runs
            self._ask(grid, name, axes[name], self._study(0).ask(), grid.settings["steps"])
        rounds = self._halving if self.kind == "halving" else self._rounds
        found = rounds(grid, axes, studies, out, carry)
        best = {}
        for name, trials in found.items():
            good = [trial for trial in trials if trial.score is not None]
            if not good:
                raise RuntimeError(f"every trial of {name} failed; see the logs in {out}")
            best[name] = max(good, key=lambda trial: trial.score or 0.0)
        return best

    def _axes(self, grid: Grid, name: str) -> list[Axis]:
        base = registry.learner(name)
        found = [axis for axis in grid.axes if axis.touches(name, base)]
        if not found:
            raise ValueError(f"no axis touches {name}: equal budgets need something to search for each learner")
        return [replace(axis, scope=name) for axis in found]

    def _study(self, position: int) -> optuna.Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        seed = self.seed + position
        sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
        if self.kind == "tpe":
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=ROUND, constant_liar=True)
        return optuna.create_study(direction="maximize", sampler=sampler)

    def _ask(self, grid: Grid, name: str, axes: Sequence[Axis], trial: optuna.Trial, steps: int) -> Trial:
        chosen = tuple(replace(axis, levels=(_suggest(trial, name, axis),)) for axis in axes)
        runs = replace(grid, learners=(name,), axes=chosen, settings={**grid.settings, "steps": steps}).runs()
        return Trial(name, chosen, tuple(runs), None)

    def _rounds(
        self, grid: Grid, axes: Mapping[str, Sequence[Axis]], studies: Mapping[str, Any], out: Path, carry: Carry
    ) -> dict[str, list[Trial]]:
        import optuna

        found: dict[str, list[Trial]] = {name: [] for name in studies}
        steps, each = grid.settings["steps"], self.trials if self.kind == "random" else ROUND
        for first in range(0, self.trials, each):
            count = min(each, self.trials - first)
            asked = [(name, studies[name].ask()) for _ in range(count) for name in studies]
            trials = [self._ask(grid, name, axes[name], trial, steps) for name, trial in asked]
            for (name, asked_for), trial in zip(asked, self._carried(trials, out, carry), strict=True):
                state = optuna.trial.TrialState
                failed = trial.score is None
                studies[name].tell(asked_for, trial.score, state=state.FAIL if failed else state.COMPLETE)
                found[name].append(trial)
        return found

    def _halving(
        self, grid: Grid, axes: Mapping[str, Sequence[Axis]], studies: Mapping[str, Any], out: Path, carry: Carry
    ) -> dict[str, list[Trial]]:
        rungs = list(rung_steps(self.trials, grid.settings["steps"]))
        trials = [
            self._ask(grid, name, axes[name], studies[name].ask(), rungs[0])
            for _ in range(self.trials)
            for name in studies
        ]
        for place, steps in enumerate(rungs):
            found: dict[str, list[Trial]] = {name: [] for name in studies}
            for trial in self._carried(trials, out, carry):
                found[trial.learner].append(trial)
            if steps == rungs[-1]:
                break
            trials = []
            for ranked in found.values():
                ranked.sort(key=lambda trial: float("-inf") if trial.score is None else trial.score, reverse=True)
                for trial in ranked[: max(1, len(ranked) // SHRINK)]:
                    more = tuple(replace(run, steps=rungs[place + 1]) for run in trial.runs)
                    trials.append(replace(trial, runs=more, score=None))
        return found

    def _carried(self, trials: Sequence[Trial], out: Path, carry: Carry) -> Iterator[Trial]:
        """The trials with their scores. Two that chose the same share their runs."""
        carry(list({run.identity: run for trial in trials for run in trial.runs}.values()))
        for trial in trials:
            scores = [_score(out / run.folder_name) for run in trial.runs]
            good = [score for score in scores if score is not None]
            yield replace(trial, score=sum(good) / len(good) if len(good) == len(scores) else None)


def rung_steps(trials: int, steps: int) -> Iterator[int]:
    """Gradient steps of each round of halving: the last has `steps`, and one trial of `trials` or two reach it."""
    rungs = 0
    while trials >= SHRINK:
        trials, rungs = trials // SHRINK, rungs + 1
    yield from (max(1, steps // SHRINK**left) for left in range(rungs, -1, -1))


def _score(folder: Path) -> float | None:
    one = run_state(folder) if (folder / "DONE").exists() else None
    return one.score if one is not None else None


def _suggest(trial: optuna.Trial, name: str, axis: Axis) -> str:
    """A level of the axis as text: from a range LOW:HIGH or LOW:HIGH:log, or one of its choices."""
    if len(axis.levels) > 1 or ":" not in axis.levels[0]:
        return trial.suggest_categorical(axis.option, axis.levels)
    low, high, *log = axis.levels[0].split(":")
    kind = get_type_hints(type(registry.learner(name)))[axis.option]
    if kind not in (int, float) or log not in ([], ["log"]):
        raise ValueError(f"axis {axis}: {axis.levels[0]!r} must be LOW:HIGH or LOW:HIGH:log of a number")
    ends = [typed(kind, end, f"{axis} ({name})") for end in (low, high)]
    if not (ends[0] < ends[1] and (not log or ends[0] > 0)):
        raise ValueError(f"axis {axis}: {axis.levels[0]!r} must rise, and from above 0 for log")
    suggest = trial.suggest_int if kind is int else trial.suggest_float
    return repr(suggest(axis.option, *ends, log=bool(log)))
