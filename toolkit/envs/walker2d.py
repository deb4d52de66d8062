"""Suite `walker2d`: two legs that walk forwards, Gymnasium's Walker2d-v5, 1000 steps of 0.008 s, varied dynamics.

See toolkit.envs._locomotion for the context and what is held back. The trained expert walks more than 20 m when all
goes well, but falls before the end in about half of its episodes: returns spread by about 1300 around the reference.
It is a decent gait, not the best known (about 4500 to 6000), and its training stopped before the recipe's end.
"""

from __future__ import annotations

from typing import ClassVar

from toolkit.envs import Reference
from toolkit.envs._locomotion import Locomotion, Range
from toolkit.envs._measure import main
from toolkit.envs._trained import Recipe


class Walker2d(Locomotion):
    """Walker2d-v5; success is 4 m ahead of the start: what a good walker covers in 2 s of 8, a random one never."""

    name = "walker2d"
    gymnasium_id = "Walker2d-v5"
    distance = 4.0
    shown = (0, 8)
    noise: ClassVar[Range] = (0.002, 0.01)
    recipe = Recipe(steps=1_500_000)
    references: ClassVar[dict[str, Reference]] = {  # means of 25 episodes each
        # success: random 0.000, expert 0.920
        "train": Reference(random=0.5187, expert=2681.6044),
        # success: random 0.000, expert 1.000
        "interpolated": Reference(random=0.1146, expert=3152.7987),
        # success: random 0.000, expert 1.000
        "extrapolated": Reference(random=2.8530, expert=3029.1500),
    }


SUITE = Walker2d()

if __name__ == "__main__":
    main(SUITE)
