"""Names to learners, suites, formats and figures. A file in the right folder is registered by being there."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from toolkit.core import LearnerConfig

if TYPE_CHECKING:
    from toolkit.envs import Suite
    from toolkit.formats import Format
    from toolkit.plots import Figure


T = TypeVar("T")


def _modules(package: str) -> list[ModuleType]:
    """Every module directly inside `package`, imported, in order of name."""
    paths = importlib.import_module(package).__path__
    names = sorted(info.name for info in pkgutil.iter_modules(paths) if not info.name.startswith("_"))
    return [importlib.import_module(f"{package}.{name}") for name in names]


@cache
def learners() -> dict[str, LearnerConfig]:
    """Name -> default configuration of every learner in `algos` and `worldmodel`.

    A module may also define PRESETS, a dict from further names to configurations. Imports torch.
    """
    found: dict[str, LearnerConfig] = {}
    for module in [*_modules("algos"), *_modules("worldmodel")]:
        for value in vars(module).values():
            if (
                isinstance(value, type)
                and issubclass(value, LearnerConfig)
                and value is not LearnerConfig
                and value.__module__ == module.__name__
            ):
                _add(found, value.name, value(), module)
        for name, preset in getattr(module, "PRESETS", {}).items():
            _add(found, name, preset, module)
    return dict(sorted(found.items()))


def _add(found: dict[str, LearnerConfig], name: str, config: LearnerConfig, module: ModuleType) -> None:
    if name in found:
        raise ValueError(f"two learners are called {name!r}; rename the one in {module.__name__}")
    found[name] = config


def learner(name: str) -> LearnerConfig:
    """The default configuration of one learner. Raises ValueError naming the nearest names."""
    return pick("learner", name, learners())


@cache
def suites() -> dict[str, Suite]:
    """Name -> suite, in order of module and there in the module's own. Imports no simulator.

    A module in `toolkit.envs` defines SUITE, or SUITES where it provides a family of them.
    Raises ValueError if two have one name.
    """
    found: dict[str, Suite] = {}
    for module in _modules("toolkit.envs"):
        one = [module.SUITE] if hasattr(module, "SUITE") else []
        for suite in [*one, *getattr(module, "SUITES", ())]:
            if suite.name in found:
                raise ValueError(f"two suites are called {suite.name!r}; rename the one in {module.__name__}")
            found[suite.name] = suite
    return found


def families() -> dict[str, list[Suite]]:
    """Family -> its suites. A suite that stands for itself is a family of one, under its own name."""
    grouped: dict[str, list[Suite]] = {}
    for suite in suites().values():
        grouped.setdefault(suite.family or suite.name, []).append(suite)
    return grouped


def suite(name: str) -> Suite:
    """One suite by name. Raises ValueError naming the nearest names, and large families by their number only."""
    if name in suites():
        return suites()[name]
    listed = [
        family if len(members) == 1 else f"{family}-... ({len(members)} of them)"
        for family, members in families().items()
    ]
    hint = suggestion(name, suites())
    raise ValueError(f"unknown suite {name!r}{hint}; known: {', '.join(listed)}; packmule suites lists them all")


@cache
def formats() -> dict[str, Format]:
    """Name -> foreign format, one for each module in `toolkit.formats` that defines FORMAT."""
    found = [module.FORMAT for module in _modules("toolkit.formats") if hasattr(module, "FORMAT")]
    return {one.name: one for one in found}


def format(name: str) -> Format:
    """One foreign format by name. Raises ValueError naming the nearest names."""
    return pick("format", name, formats())


@cache
def figures() -> dict[str, Figure]:
    """Name -> figure of runs, one for each module in `toolkit.plots`. Imports matplotlib."""
    return {module.FIGURE.name: module.FIGURE for module in _modules("toolkit.plots") if hasattr(module, "FIGURE")}


@cache
def data_figures() -> dict[str, Figure]:
    """Name -> figure of data, one for each module in `toolkit.plots` that draws descriptors instead of runs."""
    found = [module.DATA_FIGURE for module in _modules("toolkit.plots") if hasattr(module, "DATA_FIGURE")]
    return {figure.name: figure for figure in found}


@cache
def model_figures() -> dict[str, Figure]:
    """Name -> figure of a model's diagnosis, one for each module in `toolkit.plots` that draws one."""
    found = [module.MODEL_FIGURE for module in _modules("toolkit.plots") if hasattr(module, "MODEL_FIGURE")]
    return {figure.name: figure for figure in found}


def pick(kind: str, name: str, known: dict[str, T]) -> T:
    """known[name], or a ValueError that lists what there is and what was perhaps meant."""
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}{suggestion(name, known)}; known: {', '.join(known)}")
    return known[name]


def suggestion(name: str, known: Iterable[str]) -> str:
    """' (did you mean X?)', or nothing when no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
