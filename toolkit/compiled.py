"""Updates compiled: forward, backward, optimiser and targets in one program, without an interpreter between."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from toolkit.core import Learner, LearnerConfig, Staged

Compile = Literal["off", "on", "auto"]
Update = Callable[..., dict[str, torch.Tensor]]

PAYS_FROM = 100_000  # steps; compiling takes up to a minute, and a step of 256 x 256 networks then saves 0.3 to 2 ms
# The wrapper in C++ too, and no pool of compilers that could outlive a run.
OPTIONS: dict[str, Any] = {"cpp_wrapper": True, "compile_threads": 1}


def decide(choice: Compile, config: LearnerConfig, steps: int, device: str) -> bool:
    """Whether a run is to be compiled; "auto" is yes where it can be and pays for itself.

    By the configuration and the machine's compiler alone, so a run decides once. Raises ValueError if it was asked
    for and cannot be.
    """
    if choice not in ("off", "on", "auto"):
        raise ValueError(f"compile must be off, on or auto, got {choice!r}")
    if choice == "off" or (choice == "auto" and steps < PAYS_FROM):
        return False
    problem = obstacle(config, device)
    if problem and choice == "on":
        raise ValueError(f"compile is on, but {problem}; run it with compile off")
    return not problem


def obstacle(config: LearnerConfig, device: str) -> str:
    """Why an update cannot be compiled here, or ""."""
    if not config.compiles:
        return f"{config.name} with these options has no update that can be compiled whole"
    if device != "cpu":
        return ""  # brings its own compiler, or torch will say
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler ({compiler}) on this machine"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return f"Python's headers (Python.h in {sysconfig.get_path('include')}) are not installed"
    return ""


def compiled(learner: Learner, *, backend: str = "inductor") -> Update:
    """The learner's update as one program, or the `fit` of a `Staged` one, compiled at its first call.

    Raises RuntimeError there if torch cannot.
    """
    return around(learner, lambda part: _one_program(part, backend))


def around(learner: Learner, wrap: Callable[[Update], Update]) -> Update:
    """The learner's update with `wrap` round what can be compiled of it: all, or the `fit` of a `Staged` one."""
    if isinstance(learner, Staged):
        return partial(learner.update_with, _open(wrap(learner.fit)))
    return wrap(learner.update)


def _one_program(update: Update, backend: str) -> Update:
    dynamo: Any = torch._dynamo
    dynamo.config.trace_autograd_ops = True
    quick = torch.compile(update, backend=backend, options=OPTIONS if backend == "inductor" else None)

    def step(*batch: Any) -> dict[str, torch.Tensor]:
        try:
            try:
                return quick(*batch)
            except dynamo.exc.TorchDynamoException:  # a compiler that was stopped leaves half a file in torch's cache
                from torch._inductor.utils import fresh_cache

                with fresh_cache():
                    return quick(*batch)
        except dynamo.exc.TorchDynamoException as error:
            raise RuntimeError(
                f"the update could not be compiled ({str(error).strip().splitlines()[0]}); run it with compile off"
            ) from error

    return step


def _open(fit: Update) -> Update:
    """`fit` compiled once for any number of rows: a run that resumes then rounds as one that never stopped."""

    def step(*rows: Any) -> dict[str, torch.Tensor]:
        for tensor in torch.utils._pytree.tree_leaves(rows):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return fit(*rows)

    return step
