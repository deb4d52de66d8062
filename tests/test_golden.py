"""Five updates of every learner in float64 give the numbers in golden.json: what changes them is meant, or a mistake.

    python tests/test_golden.py        writes golden.json anew; its diff shows which learners changed

A learner that is not in the file is skipped, so that adding one stays one file. d3rlpy's own are left to d3rlpy.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers import leaves, toy_batch, toy_spec

from toolkit import registry
from toolkit.core import Batch, LearnerConfig

FILE = Path(__file__).with_name("golden.json")
GOLDEN: dict[str, dict[str, float]] = json.loads(FILE.read_text()) if FILE.exists() else {}
LEARNERS = {name: config for name, config in registry.learners().items() if not name.startswith("d3rlpy")}


@contextmanager
def float64() -> Iterator[None]:
    """New parameters and noise are float64, and so is what they meet."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def wide(batch: Batch) -> Batch:
    """The batch with its float32 numbers in float64."""
    given = {field.name: getattr(batch, field.name) for field in dataclasses.fields(Batch)}
    return Batch(**{k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in given.items()})


def five_updates(config: LearnerConfig, discrete: bool = False) -> dict[str, float]:
    """The last metrics, and the sums of the sizes of all parameters, after five updates of a narrow network."""
    narrow = {"hidden": (16, 16), "actor_hidden": (16, 16), "achieved": (0, 1), "width": 16, "context": 5}
    names = {field.name for field in dataclasses.fields(config)}
    config = dataclasses.replace(config, **{k: v for k, v in narrow.items() if k in names})
    spec = toy_spec(discrete, goal=True, action_dim=3)
    found: dict[str, float] = {}
    batches = [wide(toy_batch(spec, seed=seed, needs=config.needs)) for seed in range(5)]
    with float64():
        learner = config.build(spec, seed=0, device="cpu")
        for batch in batches:
            found |= {name: float(value) for name, value in learner.update(batch).items()}
    state = leaves(learner.state_dict())
    numbers = [v for k, v in sorted(state.items()) if torch.is_tensor(v) and v.dtype == torch.float64]
    sums = [v[v.isfinite()].abs().sum() for v in numbers]  # a record not yet set, or no limit, is infinite
    return found | {"parameters": float(sum(sums))}


def cases() -> list[tuple[str, LearnerConfig, bool]]:
    return [
        (f"{name}{' discrete' if kind == 'discrete' else ''}", config, kind == "discrete")
        for name, config in LEARNERS.items()
        for kind in config.actions
    ]


@pytest.mark.parametrize(("name", "config", "discrete"), cases(), ids=lambda value: value if type(value) is str else "")
def test_five_updates_give_the_golden_numbers(name, config, discrete):
    if name not in GOLDEN:
        pytest.skip("not in golden.json")
    assert five_updates(config, discrete) == pytest.approx(GOLDEN[name], rel=1e-7, abs=1e-9)


def test_every_learner_of_the_file_still_exists():
    assert set(GOLDEN) <= {name for name, _, _ in cases()}


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: five_updates(config, kind) for name, config, kind in cases()}, indent=1) + "\n")
