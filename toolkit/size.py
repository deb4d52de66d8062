"""How large a learner is on given data, and how much work one of its updates is."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from toolkit import feed
from toolkit.configure import learner_config, open_data
from toolkit.core import Episode, Learner, LearnerConfig
from toolkit.records import RunConfig, read_object, replace_json
from toolkit.store import Mixture, ReplayStore, Schema

UPDATES = 4  # averaged, for learners whose actor rests at some
BATCH = 256
FEW = 8  # work grows with the batch: the reference's is counted on few windows, and multiplied
REFERENCE = "data of Hopper's size (11 observations, 3 actions)"


@dataclass(frozen=True)
class Size:
    """Trained numbers, targets not counted, and floating-point operations of the multiplications of an update."""

    parameters: int
    flops: float

    def __str__(self) -> str:
        return f"{self.parameters:,} trained parameters, {self.flops / 1e6:,.1f} MFLOP an update"


def size(config: LearnerConfig, data: ReplayStore | Mixture, *, batch_size: int = BATCH) -> Size:
    """Built for `data` and counted over a few updates by torch. Raises ValueError if the data cannot serve the learner.

    Elementwise work is not counted: at 256 units and more it is a small share.
    """
    chosen = feed.training_data(data, config.needs)
    learner = config.build(chosen.spec, seed=0, device="cpu")
    sampler = feed.sampler(chosen, config.needs, batch_size=batch_size, seed=0)
    feed.survey(learner, chosen)
    with FlopCounterMode(display=False) as counter:
        for _ in range(UPDATES):
            learner.update(sampler.next())
    return Size(trained_parameters(learner), counter.get_total_flops() / UPDATES)


def reference_size(config: LearnerConfig) -> Size:
    """The size on REFERENCE and batches of BATCH, without a store of one's own. Raises ValueError as `size` does."""
    discrete = "continuous" not in config.actions
    schema = Schema.from_spaces(
        observation=spaces.Box(-np.inf, np.inf, (11,)),
        action=spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (3,)),
    )
    rng, steps = np.random.default_rng(0), 40
    action = rng.integers(3, size=steps) if discrete else rng.uniform(-1, 1, (steps, 3)).astype(np.float32)
    obs, reward = (rng.normal(size=shape).astype(np.float32) for shape in ((steps + 1, 11), steps))
    with tempfile.TemporaryDirectory() as folder:
        with ReplayStore.create(Path(folder) / "reference.zarr", schema).writer() as writer:
            writer.append(Episode(obs, action, reward, False))
        few = size(config, ReplayStore.open(Path(folder) / "reference.zarr"), batch_size=FEW)
    return replace(few, flops=few.flops * BATCH / FEW)


def size_of_run(config: RunConfig, folder: Path) -> Size:
    """The size of a run's learner on its data and batches, counted once and kept in its folder as size.json."""
    path = folder / "size.json"
    if path.exists():
        try:
            return Size(**read_object(path))
        except TypeError as error:
            raise ValueError(f"{path}: not a size ({error}); remove it, and it is counted again") from None
    data = open_data(config.store, config.commit, config.view, config.relabel)
    found = size(learner_config(config.learner, config.options), data, batch_size=config.batch_size)
    replace_json(path, asdict(found))
    return found


def trained_parameters(learner: Learner) -> int:
    """Numbers that the learner's optimisers move; without any, those of its modules that take gradients."""
    parts = list(_parts(vars(learner)))
    groups = [group for part in parts if isinstance(part, torch.optim.Optimizer) for group in part.param_groups]
    optimised = [parameter for group in groups for parameter in group["params"]]
    modules = [p for part in parts if isinstance(part, nn.Module) for p in part.parameters() if p.requires_grad]
    return sum({id(p): p.numel() for p in optimised or modules}.values())


def _parts(found: dict[str, Any]) -> list[Any]:
    """The values, and those of dicts among them; d3rlpy wraps its optimisers."""
    deeper = [part for value in found.values() if isinstance(value, dict) for part in value.values()]
    return [getattr(part, "optim", part) for part in [*found.values(), *deeper]]
