"""Networks for learners, how their parameters move, and what a checkpoint keeps of them."""

from toolkit.nets.intervals import interval_log_mass
from toolkit.nets.kept import Checkpointed, load_optimizer_state, optimizer_state
from toolkit.nets.residual import Net, StackedResidual, single, stack
from toolkit.nets.stacked import Member, Single, Stack, StackedLinear, StackedMLP, StackedNorm
from toolkit.nets.steps import adam, adamw, descend, generator, polyak

__all__ = [
    "Checkpointed",
    "Member",
    "Net",
    "Single",
    "Stack",
    "StackedLinear",
    "StackedMLP",
    "StackedNorm",
    "StackedResidual",
    "adam",
    "adamw",
    "descend",
    "generator",
    "interval_log_mass",
    "load_optimizer_state",
    "optimizer_state",
    "polyak",
    "single",
    "stack",
]
