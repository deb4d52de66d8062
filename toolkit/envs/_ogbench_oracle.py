"""Experts for OGBench's arm: OGBench's own oracles, told what they need from the observation alone.

An oracle handles one part at a time (a cube, a button, the drawer, the window) until it is done and out of the way.
What comes next is chosen here, by looking at which parts are not yet at their goal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from toolkit.core import Array

CENTRE, SCALE = np.array([0.425, 0.0, 0.0]), 10.0
"""A position [m] is observed as (position - CENTRE) * SCALE."""

OBJECTS = 19
"""Numbers of the arm in an observation: joints and their speeds, hand, its yaw, gripper and its contact."""

CUBE, BUTTON = 9, 4
"""Numbers of one cube (position, orientation, yaw) and of one button (state, height, speed) in an observation."""

NEAR = 0.04
"""m; OGBench's own tolerance for cubes, drawer and window."""

Info = dict[str, Any]


class Part(NamedTuple):
    """What to do next: which oracle, what it must be told, and where to go when it is done."""

    kind: str  # "cube", "button", "drawer" or "window"
    told: Info
    leave: Array  # (3,) m


def arm(observation: Array) -> Info:
    """What the oracles read about the arm, from an observation (O,) float64."""
    return {
        "proprio/effector_pos": observation[12:15] / SCALE + CENTRE,
        "proprio/effector_yaw": np.arctan2(observation[16:17], observation[15:16]),
        "proprio/gripper_opening": observation[17:18] / 3.0,
        "proprio/gripper_contact": observation[18:19],
    }


def cube(observation: Array, number: int) -> Info:
    """Where a cube is."""
    at = OBJECTS + CUBE * number
    return {
        f"privileged/block_{number}_pos": observation[at : at + 3] / SCALE + CENTRE,
        f"privileged/block_{number}_yaw": np.arctan2(observation[at + 8 : at + 9], observation[at + 7 : at + 8]),
    }


def place_cube(number: int, goal: Array) -> Part:
    """Carry a cube to `goal` (3,) [m]."""
    told = {
        "privileged/target_block": number,
        "privileged/target_block_pos": goal,
        "privileged/target_block_yaw": np.zeros(1),
    }
    return Part("cube", told, np.array([goal[0], goal[1], 0.25]))


def press(number: int, state: int, top: Array) -> Part:
    """Press the button whose top is at `top` (3,) [m] until it is in `state`."""
    told = {
        "privileged/target_button": number,
        "privileged/target_button_state": state,
        "privileged/target_button_top_pos": top,
    }
    return Part("button", told, np.array([top[0], top[1], 0.25]))


class Expert:
    """OGBench's Markov oracles, one part after the other, as a behaviour.

    `look` turns an observation (O,) into what the oracles read; `choose` names the part to do next, given that.
    """

    def __init__(
        self, oracles: dict[str, Any], look: Callable[[Array], Info], choose: Callable[[Info], Part | None]
    ) -> None:
        self.oracles, self.look, self.choose = oracles, look, choose
        self.part: Part | None = None

    def __call__(self, obs: dict[str, Array]) -> Array:
        """obs["observation"] (O,) -> action (5,) float32 within plus or minus 1."""
        info = self.look(obs["observation"].astype(np.float64))
        if self.part is None or self.oracles[self.part.kind].done:
            self.part = self.choose(info)
            if self.part is None:
                return np.zeros(5, np.float32)
            oracle = self.oracles[self.part.kind]  # its own reset draws from NumPy's global generator
            oracle._done, oracle._step = False, 0
            oracle._final_pos, oracle._final_yaw = self.part.leave, float(info["proprio/effector_yaw"][0])
        action = self.oracles[self.part.kind].select_action(None, info | self.part.told)
        return np.asarray(action, np.float32)


def lights_out(rows: int, columns: int) -> Array:
    """(n, n) bool: [i, j] tells whether pressing button j of a rows x columns puzzle switches button i."""
    n = rows * columns
    row, column = np.divmod(np.arange(n), columns)
    return np.abs(row[:, None] - row) + np.abs(column[:, None] - column) <= 1


def presses(switches: Array, wrong: Array) -> Array:
    """(n,) bool: which buttons to press so that exactly the `wrong` ones (n,) switch. `switches` must be invertible."""
    left = np.concatenate([switches, np.asarray(wrong, bool)[:, None]], axis=1)
    for column in range(len(switches)):  # Gauss-Jordan elimination modulo 2
        pivot = column + int(np.argmax(left[column:, column]))
        left[[column, pivot]] = left[[pivot, column]]
        others = left[:, column].copy()
        others[column] = False
        left[others] ^= left[column]
    return left[:, -1]
