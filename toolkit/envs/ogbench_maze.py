"""Suites `ogbench-pointmaze-medium` and `-large`: the point mazes of OGBench (arXiv:2410.20092), in MuJoCo.

A point is moved by up to 0.2 m a step in x and y through corridors 4 m wide. The reward is OGBench's for single
tasks, -1 for every step and 0 for the one that arrives within 1 m of the goal, where the episode ends: the return is
minus the time needed. Episodes end after 450 (medium) or 800 steps (large), about twice what the longest route
takes, instead of OGBench's 1000 for both.

The context is the start cell and the goal cell. Inside its cell the environment moves start and goal by up to 1 m in x
and y, as OGBench does, but drawn from the reset's seed (OGBench draws from NumPy's global generator).

Held back: a share of the free cells are never training goals and are the only goals of "interpolated" contexts; both
have routes of the same lengths. "extrapolated" contexts have training goals, but routes longer than training ever has:
their parts are known, their whole is not.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections import deque
from collections.abc import Iterator
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any, ClassVar, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from toolkit.core import Array, child_seed
from toolkit.envs import Behaviour, Reference, Split, Suite, check_split, context_array
from toolkit.envs._measure import main, read_context
from toolkit.envs._render import need_opengl, renderer

Cell = tuple[int, int]

MEDIUM = ("########", "#..##..#", "#..#...#", "##...###", "#..#...#", "#.#..#.#", "#...#..#", "########")
LARGE = (
    "############",
    "#....#.....#",
    "#.##.#.#.#.#",
    "#......#...#",
    "#.####.###.#",
    "#..#.#.....#",
    "##.#.#.#.###",
    "#..#...#...#",
    "############",
)
"""OGBench's maps: cells of 4 m, row 1, column 1 around the origin, x along the columns and y along the rows."""

UNIT = 4.0  # m
STEP = 0.2  # m, at action 1
SHORTEST = 3
"""Least number of cells from start to goal, along the corridors."""


class OGMaze(Suite):
    """A point in a maze of OGBench; success is a point within 1 m of the goal."""

    family = "ogbench"
    maze: ClassVar[tuple[str, ...]]
    held_back: ClassVar[tuple[Cell, ...]]  # goal cells that training never uses
    longest: ClassVar[int]  # route of training, in cells; extrapolated ones are longer
    context_names = ("start row", "start column", "goal row", "goal column")
    roles: ClassVar[dict[str, str]] = {"observation": "observation", "desired_goal": "goal"}
    requires = ("ogbench", "mujoco")
    extra = "ogbench"

    def make(self, *, render: bool = False) -> gym.Env:
        """The maze; observation (2,) and desired_goal (2,) float32 are x, y [m]; the action (2,) in -1..1 is a move.

        Drawing needs OpenGL.
        """
        return OGMazeEnv(self, render=render)

    def contexts(self, split: Split, n: int, *, seed: int) -> Array:
        """(n, 4) float64, one column for each of `context_names`. Train and interpolated are disjoint in the goal."""
        check_split(split)
        rng = np.random.default_rng(child_seed(seed, self.name, split))
        routes = self._routes(split)
        return routes[(rng.random(n) * len(routes)).astype(int)]

    def expert(self, context: Array, *, rng: np.random.Generator) -> Behaviour:
        """Head for the middle of the next cell on the shortest route, at full speed; it draws nothing.

        The route is that of OGBench's `get_oracle_subgoal`.
        """
        _, goal = self.read(context)
        steps = steps_to(self.maze, goal)

        def behaviour(obs: dict[str, Array]) -> Array:
            place = obs["observation"].astype(np.float64)
            cell = cell_at(place)
            target = (
                obs["desired_goal"] if cell == goal else centre(min(_around(self.maze, cell), key=steps.__getitem__))
            )
            return np.clip((target - place) / STEP, -1.0, 1.0).astype(np.float32)

        return behaviour

    def coordinates(self, obs: dict[str, Array]) -> Array:
        """(n, 2): x and y of the point [m]."""
        return np.asarray(obs["observation"])

    def read(self, context: Array) -> tuple[Cell, Cell]:
        """Start and goal of a context. Raises ValueError if it does not fit, or one of them is in a wall."""
        numbers = context_array(context, self.context_names).tolist()
        cells = []
        for what, row, column in (("start", *numbers[:2]), ("goal", *numbers[2:])):
            if (row, column) not in free(self.maze):
                raise ValueError(f"{what} cell ({row:g}, {column:g}) of suite {self.name!r} is not free")
            cells.append((int(row), int(column)))
        return cells[0], cells[1]

    @cached_property
    def action_space(self) -> gym.Space:
        """No simulator is made to look at it."""
        return spaces.Box(-1.0, 1.0, (2,), np.float32)

    def _routes(self, split: str) -> Array:
        """(n, 4): start and goal of every route a split may use, in a fixed order."""
        least, most = (self.longest + 1, 10**6) if split == "extrapolated" else (SHORTEST, self.longest)
        goals = [cell for cell in free(self.maze) if (cell in self.held_back) == (split == "interpolated")]
        found = [
            (*start, *goal)
            for goal in goals
            for start, far in sorted(steps_to(self.maze, goal).items())
            if least <= far <= most
        ]
        return np.array(found, np.float64)


@cache
def free(maze: tuple[str, ...]) -> tuple[Cell, ...]:
    """The cells without a wall, row by row."""
    return tuple((r, c) for r, row in enumerate(maze) for c, mark in enumerate(row) if mark == ".")


@cache
def steps_to(maze: tuple[str, ...], goal: Cell) -> dict[Cell, int]:
    """Cells along the corridors from each free cell to `goal`, breadth first."""
    distance = {goal: 0}
    queue = deque([goal])
    while queue:
        cell = queue.popleft()
        for near in _around(maze, cell):
            if near not in distance:
                distance[near] = distance[cell] + 1
                queue.append(near)
    return distance


def _around(maze: tuple[str, ...], cell: Cell) -> list[Cell]:
    row, column = cell
    return [
        near
        for near in ((row - 1, column), (row, column - 1), (row + 1, column), (row, column + 1))
        if near in free(maze)
    ]


def centre(cell: Cell) -> Array:
    """x, y [m] (2,) of the middle of a cell."""
    return np.array([cell[1] - 1, cell[0] - 1]) * UNIT


def cell_at(xy: Array) -> Cell:
    """The cell that x, y [m] (2,) lies in."""
    return int(np.floor(xy[1] / UNIT + 1.5)), int(np.floor(xy[0] / UNIT + 1.5))


class OGMazeEnv(gym.Env):
    """OGBench's maze whose resets take a context; see `Suite.make`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  # Gymnasium declares it so

    def __init__(self, suite: OGMaze, *, render: bool = False) -> None:
        self.suite = suite
        self.render_mode = "rgb_array" if render else None
        if render:
            need_opengl(suite.name)
        self.simulator = _simulator(suite)
        above = {"lookat": self.simulator.custom_camera.lookat, "elevation": -90.0}
        above["distance"] = self.simulator.custom_camera.distance
        self._renderer = (
            renderer(self.simulator.model, self.simulator.data, default_cam_config=above) if render else None
        )
        self.action_space = suite.action_space
        place = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = spaces.Dict({"observation": place, "desired_goal": place})
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Start in options["context"], moved inside its cells by `seed`; without it, in a training context."""
        super().reset(seed=seed)
        context = read_context(self.suite, options, seed=seed, np_random=self.np_random)
        start, goal = self.suite.read(context)
        moved = self.np_random.uniform(-UNIT / 4, UNIT / 4, (2, 2))
        simulator = self.simulator
        point: Any = type(simulator).__mro__[1]
        point.reset(simulator, seed=int(self.np_random.integers(2**31)))  # the maze's own draws a task, unseeded
        simulator.set_goal(goal_xy=centre(goal) + moved[1])
        simulator.set_xy(centre(start) + moved[0])
        self._steps = 0
        return self._seen(), {"success": False}

    def step(self, action: Any) -> tuple[dict[str, Array], SupportsFloat, bool, bool, dict[str, Any]]:
        """OGBench's step; -1, or 0 and terminated with info["success"] at the goal; truncated at the limit."""
        clipped = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        _, _, arrived, _, _ = self.simulator.step(clipped)
        self._steps += 1
        truncated = self._steps >= self.suite.max_steps and not arrived
        return self._seen(), 0.0 if arrived else -1.0, bool(arrived), truncated, {"success": bool(arrived)}

    def render(self) -> Any:
        """The maze from above, (400, 400, 3) uint8."""
        return None if self._renderer is None else self._renderer.render("rgb_array")

    def close(self) -> None:
        """Free what drawing holds."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _seen(self) -> dict[str, Array]:
        return {
            "observation": self.simulator.get_xy().astype(np.float32),
            "desired_goal": self.simulator.cur_goal_xy.astype(np.float32),
        }


@contextlib.contextmanager
def _no_file_left(module: Any) -> Iterator[None]:
    """OGBench writes its maze to a temporary file, which it neither closes nor deletes: both are done here."""
    made: list[tuple[int, str]] = []

    def mkstemp(**given: Any) -> tuple[int, str]:
        made.append(tempfile.mkstemp(**given))
        return made[-1]

    module.tempfile = SimpleNamespace(mkstemp=mkstemp)
    try:
        yield
    finally:
        module.tempfile = tempfile
        for handle, path in made:
            os.close(handle)
            os.unlink(path)


def _simulator(suite: OGMaze) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mujoco  # noqa: F401
            from ogbench.locomaze import maze
    except ImportError as error:
        raise ImportError(
            f"suite {suite.name!r} cannot import {error.name or error}; pip install 'packmule[ogbench]'"
        ) from error
    with _no_file_left(maze):
        return maze.make_maze_env("point", "maze", maze_type=suite.name.rsplit("-", 1)[1])


class Medium(OGMaze):
    """OGBench's medium maze: 26 cells, routes of up to 11."""

    name = "ogbench-pointmaze-medium"
    maze = MEDIUM
    held_back = ((1, 2), (2, 6), (4, 1), (4, 5), (6, 3), (6, 6))
    longest = 7
    max_steps = 450
    references: ClassVar[dict[str, Reference]] = {  # means of 200 episodes each
        # success: random 0.000, expert 1.000
        "train": Reference(random=-450.0000, expert=-67.5600),
        # success: random 0.000, expert 1.000
        "interpolated": Reference(random=-450.0000, expert=-75.7800),
        # success: random 0.000, expert 1.000
        "extrapolated": Reference(random=-450.0000, expert=-119.5700),
    }


class Large(OGMaze):
    """OGBench's large maze: 46 cells, routes of up to 19."""

    name = "ogbench-pointmaze-large"
    maze = LARGE
    held_back = ((1, 3), (1, 8), (2, 10), (3, 2), (3, 6), (5, 4), (5, 9), (6, 6), (7, 2), (7, 10))
    longest = 11
    max_steps = 800
    references: ClassVar[dict[str, Reference]] = {  # means of 200 episodes each
        # success: random 0.000, expert 1.000
        "train": Reference(random=-800.0000, expert=-115.7050),
        # success: random 0.000, expert 1.000
        "interpolated": Reference(random=-800.0000, expert=-117.6300),
        # success: random 0.000, expert 1.000
        "extrapolated": Reference(random=-800.0000, expert=-226.2750),
    }


SUITES: tuple[OGMaze, ...] = (Medium(), Large())

if __name__ == "__main__":
    for each in SUITES:
        print(f"{each.name}:")
        main(each)
