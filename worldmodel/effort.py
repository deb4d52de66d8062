"""What planning an action takes, told from the options: sizes that no machine has, and times that nobody waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.core import Spec
from worldmodel.score import block_size

if TYPE_CHECKING:
    from worldmodel.mpc import MPCConfig

MEMORY = 1 << 30  # bytes of one environment's plan, at most; several are planned together
OPERATIONS = 10**13  # floating-point operations of one environment's action, at most
SPEED = 10**10  # of them a second, on a core
CALL = 10**6  # of them that asking the model costs, however few sequences it is asked about
HELD = 6  # tensors of all sequences at once: noise, coloured, perturbed, settled, and what a guide or a sort makes


def check_effort(config: MPCConfig, spec: Spec, weights: int) -> None:
    """Raises ValueError if a plan takes more than MEMORY or OPERATIONS, for a model of `weights` numbers a member."""
    asked = config.samples * config.particles
    block = min(block_size(config, config.elites), config.samples) * config.particles
    numbers = HELD * config.samples * spec.action_dim + block * (spec.obs_dim + spec.action_dim + 4)  # of each step
    memory = 4 * numbers * config.horizon + 8 * HELD * config.horizon**2 * config.coloured
    operations = config.iterations * config.horizon * max(CALL, 2 * weights * asked)
    options = ", ".join(f"{name} {getattr(config, name)}" for name in ("samples", "iterations", "horizon", "particles"))
    if memory > MEMORY:
        raise ValueError(
            f"a plan of {options} takes {memory / 2**30:,.1f} GiB of memory for each environment; expected at most "
            f"{MEMORY >> 30}: choose a shorter horizon or fewer samples"
        )
    if operations > OPERATIONS:
        raise ValueError(
            f"a plan of {options} takes {operations / SPEED:,.0f} seconds of a core for each action of each "
            f"environment ({operations:.1e} floating-point operations); expected at most {OPERATIONS // SPEED}: choose "
            "fewer iterations or samples, or a shorter horizon"
        )
