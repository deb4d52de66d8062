"""Suite `walker2d`: two legs that walk forwards, Gymnasium's Walker2d-v5, 1000 steps of 0.008 s, varied dynamics.

See toolkit.envs._locomotion for the context and what is held back.
"""

from __future__ import annotations

from typing import ClassVar

from toolkit.envs import Reference
from toolkit.envs._locomotion import Locomotion, Range
from toolkit.envs._measure import main
from toolkit.envs._trained import Recipe


class Walker2d(Locomotion):
    """Walker2d-v5; a step is a success if the walker is up and at least 8 m from its start (1 m/s over the episode)."""

    name = "walker2d"
    gymnasium_id = "Walker2d-v5"
    distance = 8.0
    shown = (0, 8)
    noise: ClassVar[Range] = (0.002, 0.01)
    recipe = Recipe(steps=1_500_000)
    references: ClassVar[dict[str, Reference]] = {}


SUITE = Walker2d()

if __name__ == "__main__":
    main(SUITE)
