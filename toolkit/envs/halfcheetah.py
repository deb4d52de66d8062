"""Suite `halfcheetah`: a planar cheetah that runs, Gymnasium's HalfCheetah-v5, 1000 steps of 0.05 s, varied dynamics.

It never falls over for good, so every episode lasts 1000 steps. See toolkit.envs._locomotion for the context and
what is held back. The training of its expert stopped at a third of the recipe.
"""

from __future__ import annotations

from typing import ClassVar

from toolkit.envs import Reference
from toolkit.envs._locomotion import Locomotion, Range
from toolkit.envs._measure import main
from toolkit.envs._trained import Recipe


class HalfCheetah(Locomotion):
    """HalfCheetah-v5; success is 100 m ahead of the start, 2 m/s over the 50 s of an episode."""

    name = "halfcheetah"
    gymnasium_id = "HalfCheetah-v5"
    distance = 100.0
    shown = (0, 8)
    noise: ClassVar[Range] = (0.05, 0.15)
    recipe = Recipe(steps=1_000_000)
    references: ClassVar[dict[str, Reference]] = {  # means of 25 episodes each
        # success: random 0.000, expert 0.960
        "train": Reference(random=-267.2511, expert=4219.2281),
        # success: random 0.000, expert 1.000
        "interpolated": Reference(random=-271.5424, expert=4506.8231),
        # success: random 0.000, expert 0.960
        "extrapolated": Reference(random=-230.3675, expert=3892.7501),
    }


SUITE = HalfCheetah()

if __name__ == "__main__":
    main(SUITE)
