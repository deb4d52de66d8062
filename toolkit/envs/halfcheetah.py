"""Suite `halfcheetah`: a planar cheetah that runs, Gymnasium's HalfCheetah-v5, 1000 steps of 0.05 s, varied dynamics.

It never falls over for good, so every episode lasts 1000 steps. See toolkit.envs._locomotion for the context and
what is held back.
"""

from __future__ import annotations

from typing import ClassVar

from toolkit.envs import Reference
from toolkit.envs._locomotion import Locomotion, Range
from toolkit.envs._measure import main
from toolkit.envs._trained import Recipe


class HalfCheetah(Locomotion):
    """HalfCheetah-v5; a step is a success at least 100 m from the start (2 m/s over the episode)."""

    name = "halfcheetah"
    gymnasium_id = "HalfCheetah-v5"
    distance = 100.0
    shown = (0, 8)
    noise: ClassVar[Range] = (0.05, 0.15)
    recipe = Recipe(steps=1_000_000)
    references: ClassVar[dict[str, Reference]] = {}


SUITE = HalfCheetah()

if __name__ == "__main__":
    main(SUITE)
