"""Suite `hopper`: one leg that hops forwards, Gymnasium's Hopper-v5, 1000 steps of 0.008 s, under varied dynamics.

See toolkit.envs._locomotion for the context and what is held back. The trained expert hops 18 m when all goes well,
but falls before the end in about a third of its episodes: returns spread by about 1000 around the reference.
"""

from __future__ import annotations

from typing import ClassVar

from toolkit.envs import Reference
from toolkit.envs._locomotion import Locomotion, Range
from toolkit.envs._measure import main
from toolkit.envs._trained import Recipe


class Hopper(Locomotion):
    """Hopper-v5; success is 4 m ahead of the start: what a good hopper covers in 2 s of 8, a random one never."""

    name = "hopper"
    gymnasium_id = "Hopper-v5"
    distance = 4.0
    shown = (0, 5)
    noise: ClassVar[Range] = (0.002, 0.01)
    recipe = Recipe(steps=800_000)
    references: ClassVar[dict[str, Reference]] = {  # means of 25 episodes each
        # success: random 0.000, expert 1.000
        "train": Reference(random=14.6550, expert=2598.1514),
        # success: random 0.000, expert 1.000
        "interpolated": Reference(random=14.6707, expert=2364.0493),
        # success: random 0.000, expert 1.000
        "extrapolated": Reference(random=13.5306, expert=2539.2300),
    }


SUITE = Hopper()

if __name__ == "__main__":
    main(SUITE)
