"""Grids: learners x data x axes x seeds, typed and checked before anything starts, to complete runs."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Any, get_type_hints

import tyro

from toolkit import registry
from toolkit.configure import configure, open_data
from toolkit.core import LearnerConfig
from toolkit.records import RunConfig

Value = tuple[str, str | None]  # a store or mixture, and a view of it


@dataclass(frozen=True)
class Axis:
    """One factor of a grid: `learner.lr` (of every learner that has it), `iql.lr` (of one), or a setting like `steps`.

    Levels are text, as typed: each learner's own type decides what it means.
    """

    scope: str  # "learner", a learner's name, or "" for a setting
    option: str
    levels: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.scope}.{self.option}" if self.scope else self.option

    @classmethod
    def parse(cls, text: str) -> Axis:
        """`learner.lr=1e-3,3e-4`; a level of several numbers has spaces: `learner.hidden=64 64,128 128`.

        Raises ValueError if it has no name or no level, or repeats one.
        """
        name, equals, values = text.partition("=")
        scope, _, option = name.strip().rpartition(".")
        levels = tuple(value.strip() for value in values.split(","))
        if not (equals and option and all(levels)):
            raise ValueError(f"axis {text!r} must be NAME=VALUE,VALUE..., as in learner.lr=1e-3,3e-4")
        if len(set(levels)) != len(levels):
            raise ValueError(f"axis {name} names a level twice: {values}")
        return cls(scope, option.replace("-", "_"), levels)

    def touches(self, name: str, config: LearnerConfig) -> bool:
        """Whether this axis varies an option of learner `name`."""
        return self.scope in ("learner", name) and hasattr(config, self.option)


@dataclass(frozen=True)
class Grid:
    """What a sweep is to carry out. `settings` are those of `configure`, the same for all runs."""

    learners: Sequence[str]
    stores: Sequence[str]  # folders, URLs and mixtures; STORE@VIEW is a saved view
    seeds: Sequence[int]
    views: Sequence[str] = ()  # of every store that names none itself
    axes: Sequence[Axis] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("learners", "stores", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"a sweep needs at least one of --{name}")
        names = [str(axis) for axis in self.axes]
        for what, levels in {**vars(self), "axes": names}.items():
            if what != "settings" and len(set(levels)) != len(levels):
                raise ValueError(f"{what} must name each once, got {' '.join(map(str, levels))}")

    def runs(self) -> list[RunConfig]:
        """Every run once: for each seed, data and level of the axes, the learners take turns.

        Raises ValueError, before anything is written, for an unknown learner, an axis that matches no run, a level
        of a wrong type or out of range, and for data that are not there or do not serve a learner.
        """
        bases = {name: registry.learner(name) for name in self.learners}
        for axis in self.axes:
            _check_matches(axis, bases)
        made: dict[str, RunConfig] = {}
        for data, *settings in product(self._data(), *self._settings()):
            chosen = {**self.settings, **dict(settings)}
            opened = open_data(data[0], None, data[1], chosen.get("relabel"))
            for name, base in bases.items():
                for config in self._variants(name, base):
                    options = {item.name: getattr(config, item.name) for item in fields(config)}
                    first = configure(
                        name, options=options, store=data[0], view=data[1], seed=self.seeds[0], opened=opened, **chosen
                    )
                    for seed in self.seeds:
                        run = replace(first, seed=seed)
                        made.setdefault(run.identity, run)
        return sorted(made.values(), key=lambda run: self.seeds.index(run.seed))

    def _data(self) -> Iterator[Value]:
        for store in self.stores:
            path, at, view = store.rpartition("@")
            if at and "/" not in view:
                yield path, view
            elif self.views and not store.endswith(".json"):
                yield from ((store, name) for name in self.views)
            else:
                yield store, None

    def _settings(self) -> list[list[tuple[str, Any]]]:
        kinds = get_type_hints(configure)
        return [
            [(axis.option, typed(kinds[axis.option], level, str(axis))) for level in axis.levels]
            for axis in self.axes
            if not axis.scope
        ]

    def _variants(self, name: str, base: LearnerConfig) -> Iterator[LearnerConfig]:
        axes = [axis for axis in self.axes if axis.touches(name, base)]
        # options of one learner stand over those of all that have them
        axes = [a for a in axes if a.scope == name or not any(b.scope == name and b.option == a.option for b in axes)]
        kinds = get_type_hints(type(base))
        levels = [[typed(kinds[axis.option], level, f"{axis} ({name})") for level in axis.levels] for axis in axes]
        for values in product(*levels):
            try:
                yield replace(base, **{axis.option: value for axis, value in zip(axes, values, strict=True)})
            except ValueError as error:
                raise ValueError(f"axis {', '.join(map(str, axes))} ({name}): {error}") from None


SETTINGS = ("steps", "batch_size", "episodes", "tier", "threads")  # those that may be an axis


def _check_matches(axis: Axis, bases: Mapping[str, LearnerConfig]) -> None:
    """Raise ValueError with the nearest names if `axis` varies nothing."""
    if not axis.scope:
        known = [*SETTINGS, *(f"learner.{item.name}" for base in bases.values() for item in fields(base))]
        if axis.option not in SETTINGS:
            raise ValueError(f"axis {axis} matches no run{registry.suggestion(f'learner.{axis}', known)}")
        return
    if axis.scope != "learner":
        registry.pick("learner of the axis", axis.scope, dict(bases))
    if not any(axis.touches(name, base) for name, base in bases.items()):
        chosen = bases if axis.scope == "learner" else {axis.scope: bases[axis.scope]}
        known = sorted({item.name for base in chosen.values() for item in fields(base)})
        near = registry.suggestion(axis.option, known)
        raise ValueError(f"axis {axis} matches no run{near}; options of {', '.join(chosen)}: {', '.join(known)}")


def typed(kind: Any, text: str, what: str) -> Any:
    """`text` as the command line reads a flag of this type. Raises ValueError naming `what` it is for."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return tyro.cli(kind, args=text.split(), prog=what)
    except SystemExit:
        expected = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
        raise ValueError(f"axis {what}: {text!r} is not of type {expected}") from None
