"""Suites `ogbench-cube-single`, `-cube-double`, `-scene` and `-puzzle-3x3`: OGBench's robot arm (arXiv:2410.20092).

A UR5e arm moves cubes to their goals; opens and closes a drawer and a window, which two buttons lock; or solves
Lights Out by pressing buttons that switch their neighbours too. The goal is an observation of its own, in OGBench's
"oracle representation": only what matters, not the arm. `achieved` says where the observation shows the same
numbers, for hindsight relabelling. The other ways to fill OGBench's tasks (more cubes, larger puzzles) are not here.

The reward is that of OGBench's single tasks divided by the number of parts: minus the share of parts that are not at
their goal, 0 once all are, where the episode ends. Time limits are OGBench's.

The context says where every part starts and where it should go. The pose of the arm, the turn of a cube and up to
1 cm of its place are drawn from the reset's seed. OGBench takes a few unseeded random steps in every reset; here they
are seeded, and goals are computed instead of being read off a scene that has just been shaken.

Held back, in the cube suites: the range of a goal's y is cut into 8 bands, of which training never uses bands 2 and 5,
and "interpolated" contexts no others; "extrapolated" goals lie farther out in y. In scene: 4 of the 16 goals that
buttons, drawer and window can have; extrapolated contexts change at least 4 of the 5 parts, training at most 3. In the
puzzle: sets of buttons to press, by their number; extrapolated ones take 5 to 7 presses, training at most 4.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import numpy as np

from toolkit.core import Array
from toolkit.envs import Behaviour, Reference, context_array
from toolkit.envs import _ogbench_oracle as oracle
from toolkit.envs._measure import main
from toolkit.envs._ogbench_arm import Arm, oracles
from toolkit.envs._ogbench_oracle import BUTTON, CENTRE, CUBE, NEAR, OBJECTS, SCALE, Expert, Info, Part

HELD_BACK = (2, 5)
"""Of 8 bands, or of every 8 sets of presses, those that training never uses."""

FLOOR = 0.02
"""m; height of a cube's middle when it lies on the table."""


class Cubes(Arm):
    """Cubes on a table, each to be put down within 4 cm of its goal."""

    count: ClassVar[int]

    WIDTH = 0.25  # m; training goals have y within plus or minus this
    BEYOND = (0.27, 0.32)  # m; and extrapolated ones this, on either side
    DEPTH = (0.3, 0.55)  # m; OGBench's range of x; starts have its range of y too, plus or minus 0.3 m
    APART = 0.09  # m; least distance of all starts and goals, so that no cube stands in the way of another

    def draw(self, split: str, rng: np.random.Generator) -> Array:
        """Starts anywhere, goals by the split, drawn again until all are apart."""
        while True:
            x = rng.uniform(*self.DEPTH, 2 * self.count)
            y = rng.uniform(-0.3, 0.3, 2 * self.count)
            y[self.count :] = [self._goal_y(split, rng) for _ in range(self.count)]
            places = np.column_stack([x, y])
            gaps = np.linalg.norm(places[:, None] - places, axis=-1)[np.triu_indices(2 * self.count, 1)]
            if gaps.min() >= self.APART:
                return places.ravel()

    def _goal_y(self, split: str, rng: np.random.Generator) -> float:
        if split == "extrapolated":
            return float(rng.choice([-1.0, 1.0]) * rng.uniform(*self.BEYOND))
        bands = [band for band in range(8) if (band in HELD_BACK) == (split == "interpolated")]
        return float(-self.WIDTH + (rng.choice(bands) + rng.random()) * self.WIDTH / 4)

    def band_of(self, y: Array) -> Array:
        """The band that a goal's y [m] lies in: 0 to 7 within the range of training."""
        return np.floor((np.asarray(y) + self.WIDTH) / self.WIDTH * 4).astype(int)

    def scene(self, context: Array) -> dict[str, Any]:
        """Cubes lie flat; places must be within the reach of the arm and not on top of each other."""
        starts, goals = self._places(context)
        for what, places in (("start", starts), ("goal", goals)):
            gaps = np.linalg.norm(places[:, None] - places, axis=-1)[np.triu_indices(self.count, 1)]
            if (np.abs(places - CENTRE[:2]) > (0.175, 0.35)).any() or (gaps < NEAR).any():
                raise ValueError(
                    f"{what} places {places.tolist()} do not fit suite {self.name!r}; expected x in 0.25..0.6 m, "
                    f"y in -0.35..0.35 m, and cubes at least {NEAR} m apart"
                )
        flat = [np.column_stack([places, np.full(self.count, FLOOR)]) for places in (starts, goals)]
        return {"task_name": self.name, "init_xyzs": flat[0], "goal_xyzs": flat[1]}

    def goal(self, context: Array) -> Array:
        """(3 n,): x, y, z of each cube, as observed."""
        return ((self.scene(context)["goal_xyzs"] - CENTRE) * SCALE).ravel()

    def expert(self, context: Array, *, rng: np.random.Generator) -> Behaviour:
        """OGBench's oracle carries the first cube that is not at its goal; it draws nothing."""
        goals = self.scene(context)["goal_xyzs"]

        def choose(info: Info) -> Part | None:
            for number, goal in enumerate(goals):
                if np.linalg.norm(info[f"privileged/block_{number}_pos"] - goal) > NEAR:
                    return oracle.place_cube(number, goal)
            return None

        def look(observation: Array) -> Info:
            info = oracle.arm(observation)
            for number in range(self.count):
                info |= oracle.cube(observation, number)
            return info

        return Expert(oracles(self.name), look, choose)

    def _places(self, context: Array) -> tuple[Array, Array]:
        places = context_array(context, self.context_names).reshape(2, self.count, 2)
        return places[0], places[1]


class Scene(Arm):
    """A cube, a drawer, a window and two buttons that lock drawer and window: put all five where they should be."""

    name = "ogbench-scene"
    source = ("scene_env", "SceneEnv", "scene")
    max_steps = 750
    achieved = (OBJECTS, OBJECTS + 1, OBJECTS + 2, 29, 33, 36, 38)
    context_names = (
        *("cube x [m]", "cube y [m]", "button 0 on", "button 1 on", "drawer open", "window open"),
        *("goal cube x [m]", "goal cube y [m]", "goal button 0", "goal button 1", "goal drawer", "goal window"),
    )
    references: ClassVar[dict[str, Reference]] = {  # means of 20 episodes each
        # success: random 0.000, expert 1.000
        "train": Reference(random=-372.8000, expert=-31.6600),
        # success: random 0.000, expert 1.000
        "interpolated": Reference(random=-384.2400, expert=-24.7600),
        # success: random 0.000, expert 1.000
        "extrapolated": Reference(random=-602.1800, expert=-72.9500),
    }

    LOW, HIGH = np.array([0.3, -0.07]), np.array([0.45, 0.18])  # m; OGBench's range of the cube
    FARTHEST = (-0.16, 0.2)  # m; how far drawer and window are moved when they are open
    TOPS = np.array([[0.58, -0.05, 0.1254], [0.58, 0.05, 0.1254]])  # m; the buttons
    KEPT = (2, 5, 10, 13)
    """Goals of buttons, drawer and window, read as a binary number, that training never has."""

    def draw(self, split: str, rng: np.random.Generator) -> Array:
        """Start and goal of the four things that are open or shut, then the cube, drawn again until they fit."""
        while True:
            start, goal = rng.integers(0, 2, 4), rng.integers(0, 2, 4)
            cubes, moves = rng.uniform(self.LOW, self.HIGH, (2, 2)), rng.random() < 0.5
            changes = int((start != goal).sum()) + moves
            few = changes >= 4 if split == "extrapolated" else 1 <= changes <= 3
            kept = self.number(goal) in self.KEPT
            if few and kept == (split == "interpolated") and np.linalg.norm(cubes[0] - cubes[1]) >= 0.09:
                return np.concatenate([cubes[0], start, cubes[int(moves)], goal])

    @staticmethod
    def number(goal: Array) -> int:
        """Button 0, button 1, drawer and window (4,) of 0 and 1, as a binary number."""
        return int(np.asarray(goal, int) @ (8, 4, 2, 1))

    def scene(self, context: Array) -> dict[str, Any]:
        """The cube must lie in front of the drawer, and the rest be 0 or 1."""
        halves = context_array(context, self.context_names).reshape(2, 6)
        if (
            not np.isin(halves[:, 2:], (0.0, 1.0)).all()
            or (halves[:, :2] < self.LOW).any()
            or (halves[:, :2] > self.HIGH).any()
        ):
            raise ValueError(
                f"context {np.asarray(context).tolist()} does not fit suite {self.name!r}; expected cubes in x "
                "0.3..0.45 m and y -0.07..0.18 m, and 0 or 1 for buttons, drawer and window"
            )
        start, goal = (
            {
                "block_xyzs": np.array([[*half[:2], FLOOR]]),
                "button_states": half[2:4].astype(int),
                "drawer_pos": half[4] * self.FARTHEST[0],
                "window_pos": half[5] * self.FARTHEST[1],
            }
            for half in halves
        )
        return {"task_name": self.name, "init": start, "goal": goal}

    def goal(self, context: Array) -> Array:
        """(7,): x, y, z of the cube, both buttons, drawer and window, as observed."""
        goal = self.scene(context)["goal"]
        cube = (goal["block_xyzs"][0] - CENTRE) * SCALE
        return np.concatenate([cube, goal["button_states"], [goal["drawer_pos"] * 18.0, goal["window_pos"] * 15.0]])

    def expert(self, context: Array, *, rng: np.random.Generator) -> Behaviour:
        """Cube, drawer, window, buttons; what is locked is unlocked first. It draws nothing."""
        goal = self.scene(context)["goal"]
        ends = self._handles(goal["drawer_pos"], goal["window_pos"])

        def look(observation: Array) -> Info:
            info = oracle.arm(observation) | oracle.cube(observation, 0)
            drawer, window = observation[36] / 18.0, observation[38] / 15.0
            handles = self._handles(drawer, window)
            return info | {
                "privileged/button_0_state": int(observation[29] > 0.5),
                "privileged/button_1_state": int(observation[33] > 0.5),
                "gaps": (abs(drawer - goal["drawer_pos"]), abs(window - goal["window_pos"])),
                "privileged/drawer_handle_pos": handles[0],
                "privileged/drawer_handle_yaw": np.array([3.14]),
                "privileged/window_handle_pos": handles[1],
                "privileged/window_handle_yaw": np.array([1.57]),
            }

        def choose(info: Info) -> Part | None:
            if np.linalg.norm(info["privileged/block_0_pos"] - goal["block_xyzs"][0]) > NEAR:
                return oracle.place_cube(0, goal["block_xyzs"][0])
            states = [info["privileged/button_0_state"], info["privileged/button_1_state"]]
            for number, kind in enumerate(("drawer", "window")):
                if info["gaps"][number] > NEAR:
                    if not states[number]:
                        return oracle.press(number, 1, self.TOPS[number])
                    up = np.array([0.0, 0.0, 0.32 - ends[number][2]])
                    return Part(kind, {f"privileged/target_{kind}_handle_pos": ends[number]}, ends[number] + up)
            for number, wanted in enumerate(goal["button_states"]):
                if states[number] != wanted:
                    return oracle.press(number, int(wanted), self.TOPS[number])
            return None

        return Expert(oracles(self.name), look, choose)

    @staticmethod
    def _handles(drawer: float, window: float) -> tuple[Array, Array]:
        """The handles (3,) [m] of drawer and window, moved by so much [m]."""
        return np.array([0.3304, -0.24 - drawer, 0.08]), np.array([0.286 + window, 0.225, 0.237])


class Puzzle(Arm):
    """Lights Out on 3 x 3 buttons: pressing one switches it and its neighbours; all nine must be as the goal says."""

    name = "ogbench-puzzle-3x3"
    source = ("puzzle_env", "PuzzleEnv", "3x3")
    settings: ClassVar[dict[str, Any]] = {}
    max_steps = 500
    achieved = tuple(OBJECTS + BUTTON * number + 1 for number in range(9))
    context_names = (*(f"button {n} on" for n in range(9)), *(f"goal button {n}" for n in range(9)))
    references: ClassVar[dict[str, Reference]] = {  # means of 20 episodes each
        # success: random 0.000, expert 1.000
        "train": Reference(random=-250.5944, expert=-17.7444),
        # success: random 0.000, expert 1.000
        "interpolated": Reference(random=-270.9000, expert=-21.3444),
        # success: random 0.000, expert 1.000
        "extrapolated": Reference(random=-241.3111, expert=-33.5000),
    }

    SWITCHES = oracle.lights_out(3, 3)
    TOPS = np.array([[0.325 + 0.1 * row, -0.1 + 0.1 * column, 0.1254] for row in range(3) for column in range(3)])  # m

    def draw(self, split: str, rng: np.random.Generator) -> Array:
        """Any start, and the goal that one set of presses leads to."""
        least, most = (5, 7) if split == "extrapolated" else (1, 4)
        while True:
            start, pressed = rng.integers(0, 2, 9), rng.integers(0, 2, 9).astype(bool)
            held = self.number(pressed) % 8 in HELD_BACK
            if least <= pressed.sum() <= most and held == (split == "interpolated"):
                return np.concatenate([start, start ^ (self.SWITCHES @ pressed.astype(int) % 2)]).astype(np.float64)

    @staticmethod
    def number(pressed: Array) -> int:
        """Nine buttons, pressed or not, as a binary number."""
        return int("".join(str(int(one)) for one in pressed), 2)

    def scene(self, context: Array) -> dict[str, Any]:
        """Every button is 0 or 1; every goal can be reached."""
        numbers = context_array(context, self.context_names)
        if not np.isin(numbers, (0.0, 1.0)).all():
            raise ValueError(f"context {numbers.tolist()} does not fit suite {self.name!r}; expected zeros and ones")
        start, goal = numbers.astype(int).reshape(2, 9)
        return {"task_name": self.name, "init_button_states": start, "goal_button_states": goal}

    def goal(self, context: Array) -> Array:
        """(9,): 1 for every button that should be on."""
        return self.scene(context)["goal_button_states"].astype(np.float64)

    def expert(self, context: Array, *, rng: np.random.Generator) -> Behaviour:
        """Press the nearest button of those that solve the puzzle, by linear algebra modulo 2; it draws nothing."""
        goal = self.scene(context)["goal_button_states"]

        def look(observation: Array) -> Info:
            states = (observation[list(self.achieved)] > 0.5).astype(int)
            named = {f"privileged/button_{number}_state": int(state) for number, state in enumerate(states)}
            return oracle.arm(observation) | named | {"states": states}

        def choose(info: Info) -> Part | None:
            todo = np.flatnonzero(oracle.presses(self.SWITCHES, info["states"] != goal))
            if not len(todo):
                return None
            away = np.linalg.norm(self.TOPS[todo] - info["proprio/effector_pos"], axis=1)
            number = int(todo[away.argmin()])
            return oracle.press(number, 1 - int(info["states"][number]), self.TOPS[number])

        return Expert(oracles(self.name), look, choose)


class CubeSingle(Cubes):
    """One cube, to be put down within 4 cm of its goal."""

    name, count, max_steps = "ogbench-cube-single", 1, 200
    source = ("cube_env", "CubeEnv", "single")
    achieved = tuple(range(OBJECTS, OBJECTS + 3))
    context_names = ("cube x [m]", "cube y [m]", "goal x [m]", "goal y [m]")
    references: ClassVar[dict[str, Reference]] = {  # means of 20 episodes each
        # success: random 0.000, expert 1.000
        "train": Reference(random=-200.0000, expert=-45.9000),
        # success: random 0.000, expert 1.000
        "interpolated": Reference(random=-200.0000, expert=-44.2000),
        # success: random 0.000, expert 1.000
        "extrapolated": Reference(random=-200.0000, expert=-49.6500),
    }


class CubeDouble(Cubes):
    """Two cubes, each to be put down within 4 cm of its goal."""

    name, count, max_steps = "ogbench-cube-double", 2, 500
    source = ("cube_env", "CubeEnv", "double")
    achieved = tuple(at + axis for at in (OBJECTS, OBJECTS + CUBE) for axis in range(3))
    context_names = (
        *("cube 0 x [m]", "cube 0 y [m]", "cube 1 x [m]", "cube 1 y [m]"),
        *("goal 0 x [m]", "goal 0 y [m]", "goal 1 x [m]", "goal 1 y [m]"),
    )
    references: ClassVar[dict[str, Reference]] = {  # means of 20 episodes each
        # success: random 0.000, expert 1.000
        "train": Reference(random=-500.0000, expert=-73.8750),
        # success: random 0.000, expert 1.000
        "interpolated": Reference(random=-489.5250, expert=-76.2500),
        # success: random 0.000, expert 1.000
        "extrapolated": Reference(random=-500.0000, expert=-84.6500),
    }


SUITES: tuple[Arm, ...] = (CubeSingle(), CubeDouble(), Scene(), Puzzle())

if __name__ == "__main__":
    for each in SUITES:
        if not sys.argv[1:] or each.name in sys.argv[1:]:
            print(f"{each.name}:", flush=True)
            main(each)
