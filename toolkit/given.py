"""What a run is given besides data: learners of runs before it, and the reward that its suite states.

A configuration's options say which runs, by folder name, which ends in their identity; `RunConfig.given` says where
they lay when it was configured. A run keeps copies in RUN/given, so it can be evaluated wherever it is and whatever
became of the others.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit import checkpoint, registry
from toolkit.core import Assisted, Given, Learner, LearnerConfig, Reward, Spec
from toolkit.records import RunConfig, read_config, verify_done
from toolkit.store.schema import Schema

KEPT = ("config.json", "spec.json", "checkpoint")  # of a run given to another; without DONE it is no run of a study


def named_runs(config: LearnerConfig) -> tuple[LearnerConfig, dict[str, Any]]:
    """The configuration with its runs named by folder name instead of path, and those paths by option.

    Raises ValueError if a path is not a finished run.
    """
    paths = {name: getattr(config, name) for name in config.runs if getattr(config, name) is not None}
    names = {}
    for name, path in paths.items():
        try:
            run = read_config(path)
        except ValueError as error:
            raise ValueError(f"{name}: {error}; give the folder of a trained run") from None
        if not (Path(path) / "DONE").exists():
            raise ValueError(f"{name}: {path} is not finished; give the command that began it again, and it continues")
        verify_done(Path(path), run)
        names[name] = run.folder_name
    return replace(config, **names), {name: str(path) for name, path in paths.items()}


def keep(config: RunConfig, folder: Path) -> None:
    """Copy the runs that `config` is given into `folder`, unless it has them. Raises ValueError if one is gone."""
    for name, path in config.given.items():
        target = folder / "given" / name
        if target.exists():
            continue
        _checked(name, Path(path), config.options[name])
        partial = target.with_name(f".{name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for part in KEPT:
            source = Path(path) / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, partial / part)
        partial.rename(target)


def equip(learner: Learner, config: RunConfig, spec: Spec, schema: Schema, folder: Path | None = None) -> None:
    """Hand a learner that takes it what it is given: from the copies in `folder`, or from where the runs lie.

    Raises ValueError if a run is gone, is another one, or was trained on data of another shape.
    """
    if not isinstance(learner, Assisted):
        return
    found = {}
    for name, path in config.given.items():
        where = Path(path) if folder is None else folder / "given" / name
        _checked(name, where, config.options[name])
        check_shape(where, spec, f"the data of this {config.learner}")
        from toolkit.configure import load_learner  # which itself equips what it loads

        found[name] = load_learner(where, device=config.device)[1]
    learner.receive(Given(found, None if config.relabel else known_reward(schema)))


def _checked(name: str, folder: Path, due: str) -> None:
    try:
        found = read_config(folder).folder_name
    except ValueError as error:
        raise ValueError(f"{name} {due} is gone: {error}; bring it back, or train without it") from None
    if found != due:
        raise ValueError(f"{name} was {due} when this run was configured, but {folder} is {found} now")


def check_shape(folder: str | Path, spec: Spec, whose: str) -> None:
    """Raises ValueError if the run in `folder` was trained on observations or actions of another shape than `spec`."""
    trained, _ = checkpoint.read_spec(folder)
    for name in ("obs_dim", "action_dim", "discrete"):
        if (theirs := getattr(trained, name)) != (mine := getattr(spec, name)):
            raise ValueError(
                f"{folder} was trained on data with {name} {theirs}, {whose} has {mine}: "
                "give a store of the same observations and actions"
            )


def known_reward(schema: Schema) -> Reward | None:
    """The reward of the data's suite as a function of packed observations, or None if the suite states none."""
    suite = registry.suites().get(schema.environment.get("suite", ""))
    if suite is None or suite.recorded is None:
        return None
    task = suite.tasks[suite.recorded]
    places = {key.name: list(schema.places(key.name)) for key in schema.observations if key.size}

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        before, taken, after = (part.cpu().numpy() for part in (obs, action, next_obs))
        keyed = ({name: each[:, at] for name, at in places.items()} for each in (before, after))
        now, then = keyed
        return torch.as_tensor(np.asarray(task.reward(now, taken, then, {})), dtype=obs.dtype, device=obs.device)

    return reward
