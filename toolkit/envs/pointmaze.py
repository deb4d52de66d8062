"""Suite `pointmaze`: push a ball through the Medium maze of Gymnasium-Robotics, in MuJoCo, 300 steps of 0.01 s.

The reward is the one of PointMaze_MediumDense-v3 minus 1, exp(-distance to the goal) - 1, and the episode ends
at the goal. The sparse reward gives planners with a short horizon nothing to rank plans by; the dense one as it
stands is positive, so ending at the goal forfeits reward and the best policy waits beside it. Minus 1, every step
short of the goal costs almost 1, less when near it: the return is about minus the time needed.

The context fixes the start cell, the goal cell, the strength of the actuators and the damping. Inside its cell the
environment moves start and goal by up to 0.25 m in x and y, drawn from the reset's seed; the observation shows
where they are, while strength and damping stay hidden.

Held back: 6 of the 26 free cells are never training goals and are the only goals of "interpolated" contexts.
"extrapolated" contexts have training goals, but weaker actuators and more damping than training ever has.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from toolkit.core import Array, child_seed
from toolkit.envs import Behaviour, Reference, Split, Suite, Task, check_split, context_array
from toolkit.envs._measure import main, read_context
from toolkit.envs._pointmaze_rows import PointMazeRows, PointMazeStates
from toolkit.envs._render import need_opengl
from toolkit.envs._vector import VectorEnvironment

MAZE = (
    "########",
    "#..##..#",
    "#..#...#",
    "##...###",
    "#..#...#",
    "#.#..#.#",
    "#...#..#",
    "########",
)
"""MEDIUM_MAZE of Gymnasium-Robotics: cells of 1 m, the origin in the middle, x to the right and y upwards."""

Cell = tuple[int, int]
FREE: tuple[Cell, ...] = tuple((r, c) for r, row in enumerate(MAZE) for c, mark in enumerate(row) if mark == ".")
HELD_BACK: tuple[Cell, ...] = ((1, 2), (2, 6), (4, 1), (4, 5), (6, 3), (6, 6))
"""Goal cells that training never uses."""

SHORTEST = 3
"""Least number of cells from start to goal, along the corridors."""

TRAIN = ((0.8, 1.2), (0.5, 2.0))
"""Ranges, half open, of actuator gear and joint damping as multiples of the model's own; shared by "interpolated"."""

EXTRAPOLATED = ((0.6, 0.72), (3.0, 6.0))


REACHED = 0.45
"""Distance to the goal [m] that ends an episode."""


def centre(cell: Cell) -> Array:
    """x, y [m] (2,) of the middle of a cell."""
    row, column = cell
    return np.array([column + 0.5 - len(MAZE[0]) / 2, len(MAZE) / 2 - row - 0.5])


def reach(cell: Cell | None) -> Task:
    """The task of reaching the middle of `cell`, or the goal that the data show (None)."""

    def distance(then: Mapping[str, Array]) -> Array:
        return np.linalg.norm(then["observation"][:, :2].astype(np.float64) - then["desired_goal"], axis=1)

    about = "the goal of each episode, the recorded task" if cell is None else f"the middle of cell {cell}"
    return Task(
        f"reach {about}",
        lambda obs, action, then, info: np.exp(-distance(then)) - 1.0,
        lambda obs, action, then, info: distance(then) <= REACHED,
        None if cell is None else lambda obs: {"desired_goal": centre(cell)},
    )


class PointMaze(Suite):
    """PointMaze Medium with start, goal and dynamics set by a context; success is a ball within 0.45 m of the goal."""

    name = "pointmaze"
    context_names = ("start row", "start column", "goal row", "goal column", "gear scale", "damping scale")
    roles: ClassVar[dict[str, str]] = {"observation": "observation", "desired_goal": "goal"}
    max_steps = 300
    together = 16
    requires = ("gymnasium_robotics", "mujoco")
    references: ClassVar[dict[str, Reference]] = {  # means of 200 episodes each
        # success: random 0.020, expert 1.000
        "train": Reference(random=-283.0870, expert=-102.5944),
        # success: random 0.015, expert 1.000
        "interpolated": Reference(random=-286.5603, expert=-110.5163),
        # success: random 0.000, expert 1.000
        "extrapolated": Reference(random=-285.9918, expert=-121.5321),
    }

    coordinate_names = ("x [m]", "y [m]")
    extent = ((-4.0, 4.0), (-4.0, 4.0))
    walls = tuple(
        (c - 4.0, 3.0 - r, 1.0, 1.0) for r, row in enumerate(MAZE) for c, mark in enumerate(row) if mark == "#"
    )

    tasks: ClassVar[Mapping[str, Task]] = {"own": reach(None)} | {f"goal-{r}-{c}": reach((r, c)) for r, c in FREE}
    recorded = "own"

    def make(self, *, render: bool = False) -> gym.Env:
        """The maze; observation (4,) float32 is x, y [m] and their speeds [m/s], desired_goal (2,) is x, y [m].

        The action (2,) in -1..1 is the force in x and y, 100 N times the gear scale. Drawing needs OpenGL.
        """
        return PointMazeEnv(self, render=render)

    def batch(self, rows: int) -> VectorEnvironment:
        """`rows` mazes stepped in MuJoCo directly, bit for bit as single ones."""
        return PointMazeRows(self, rows)

    def simulator(self) -> PointMazeStates:
        """One maze for any number of states."""
        return PointMazeStates(self)

    def pose(self, env: gym.Env, obs: Mapping[str, Array]) -> None:
        """The ball at x, y, and the mark at the goal."""
        maze: Any = env.unwrapped
        maze.goal = np.asarray(obs["desired_goal"], np.float64)
        maze.update_target_site_pos()
        maze.point_env.set_state(*np.split(np.asarray(obs["observation"], np.float64), 2))

    def contexts(self, split: Split, n: int, *, seed: int) -> Array:
        """(n, 6) float64, one column for each of `context_names`. Train and interpolated are disjoint in the goal."""
        check_split(split)
        rng = np.random.default_rng(child_seed(seed, self.name, split))
        ranges = np.array(EXTRAPOLATED if split == "extrapolated" else TRAIN)
        routes = np.array(_routes(split == "interpolated"), np.float64)
        share = rng.random((n, 1 + len(ranges)))
        chosen = routes[(share[:, 0] * len(routes)).astype(int)]
        return np.column_stack([chosen, ranges[:, 0] + share[:, 1:] * (ranges[:, 1] - ranges[:, 0])])

    def expert(self, context: Array, *, rng: np.random.Generator) -> Behaviour:
        """Follow the shortest corridor, slowing down before corners; it knows the dynamics and draws nothing."""
        _, goal, gear, damping = _read(context_array(context, self.context_names))
        return Pathfinder(goal, gear, damping)

    def coordinates(self, obs: dict[str, Array]) -> Array:
        """(n, 2): x and y of the ball [m]."""
        return np.asarray(obs["observation"])[..., :2]


def steps_to(goal: Cell) -> dict[Cell, int]:
    """Cells along the corridors from each free cell to `goal`, breadth first."""
    distance = {goal: 0}
    queue = deque([goal])
    while queue:
        cell = queue.popleft()
        for near in _neighbours(cell):
            if near not in distance:
                distance[near] = distance[cell] + 1
                queue.append(near)
    return distance


def cell_at(xy: Array) -> Cell:
    """The free cell whose middle is nearest to x, y [m] (2,)."""
    column, row = int(np.floor(xy[0] + len(MAZE[0]) / 2)), int(np.floor(len(MAZE) / 2 - xy[1]))
    if (row, column) in FREE:
        return row, column
    return min(FREE, key=lambda cell: float(np.abs(centre(cell) - xy).sum()))


def _neighbours(cell: Cell) -> list[Cell]:
    row, column = cell
    around = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
    return [near for near in around if near in FREE]


def _routes(held_back: bool) -> list[tuple[int, int, int, int]]:
    """Start row, start column, goal row and goal column of every route a split may use, in a fixed order."""
    goals = [cell for cell in FREE if (cell in HELD_BACK) == held_back]
    return [(*start, *goal) for goal in goals for start, far in sorted(steps_to(goal).items()) if far >= SHORTEST]


def _read(context: Array) -> tuple[Cell, Cell, float, float]:
    """Start, goal, gear scale and damping scale. Raises ValueError for a wall or a scale that cannot be."""
    numbers = context.tolist()
    cells = []
    for what, row, column in (("start", *numbers[:2]), ("goal", *numbers[2:4])):
        if (row, column) not in FREE:
            raise ValueError(f"{what} cell ({row:g}, {column:g}) is not free; see toolkit.envs.pointmaze.MAZE")
        cells.append((int(row), int(column)))
    gear, damping = numbers[4:]
    if gear <= 0 or damping < 0:
        raise ValueError(f"gear scale {gear:g} and damping scale {damping:g} do not fit; expected > 0 and >= 0")
    return cells[0], cells[1], gear, damping


class Pathfinder:
    """Breadth-first waypoints and velocity feedback: head for the next corner, as fast as it can still stop there.

    Rounding a corner begins at the edge of its cell, half a metre early, so braking may count on all the force.
    """

    MASS = 4 / 3 * np.pi * 0.1**3 * 1000  # kg, a ball of 0.1 m and 1000 kg/m^3
    FORCE = 100.0  # N, of the model's own gear at action 1
    FASTEST = 4.8  # m/s; the environment cuts speeds at 5
    RESPONSE = 0.04  # s in which the feedback removes an error of velocity

    def __init__(self, goal: Cell, gear: float, damping: float) -> None:
        self.goal = goal
        self.steps = steps_to(goal)
        self.force = self.FORCE * gear  # N
        self.damping = damping  # N s/m

    def __call__(self, obs: dict[str, Array]) -> Array:
        """obs["observation"] (4,), obs["desired_goal"] (2,) -> action (2,) float32 within plus or minus 1."""
        position, velocity = np.split(obs["observation"].astype(np.float64), 2)
        gap = self._corner(cell_at(position), obs["desired_goal"]) - position
        distance = float(np.hypot(*gap))
        braking = self.force / self.MASS
        speed = min(self.FASTEST, float(np.sqrt(2 * braking * distance)), distance / self.RESPONSE)
        wanted = gap / max(distance, 1e-9) * speed
        push = self.MASS * (wanted - velocity) / self.RESPONSE + self.damping * velocity
        return np.clip(push / self.force, -1.0, 1.0).astype(np.float32)

    def _corner(self, cell: Cell, target: Array) -> Array:
        """Where the straight part of the way from `cell` ends: x, y [m] (2,); `target` once it is straight ahead."""
        heading = None
        while cell != self.goal:
            ahead = min(_neighbours(cell), key=self.steps.__getitem__)
            turn = (ahead[0] - cell[0], ahead[1] - cell[1])
            if heading is not None and turn != heading:
                return centre(cell)
            cell, heading = ahead, turn
        return np.asarray(target, np.float64)


class PointMazeEnv(gym.Wrapper):
    """PointMaze_MediumDense-v3 whose resets take a context; see `Suite.make`."""

    def __init__(self, suite: PointMaze, *, render: bool = False) -> None:
        super().__init__(_simulator(suite.max_steps, render))
        self.suite = suite
        self.observation_space = spaces.Dict(
            {
                "observation": spaces.Box(-np.inf, np.inf, (4,), np.float32),
                "desired_goal": spaces.Box(-np.inf, np.inf, (2,), np.float32),
            }
        )
        model = self.get_wrapper_attr("point_env").model
        self.gear, self.damping = model.actuator_gear.copy(), model.dof_damping.copy()
        if render:
            need_opengl(suite.name)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Start in options["context"], moved inside its cells by `seed`; without it, in a training context."""
        context = read_context(self.suite, options, seed=seed, np_random=self.np_random)
        start, goal, gear, damping = _read(context)
        model = self.get_wrapper_attr("point_env").model
        model.actuator_gear[:] = self.gear * gear
        model.dof_damping[:] = self.damping * damping
        cells = {"reset_cell": np.array(start), "goal_cell": np.array(goal)}
        obs, info = self.env.reset(seed=seed, options=cells)
        return _kept(obs), info

    def step(self, action: Any) -> tuple[dict[str, Array], SupportsFloat, bool, bool, dict[str, Any]]:
        """The maze's step, its reward minus 1; terminated with info["success"] at the goal."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return _kept(obs), float(reward) - 1.0, terminated, truncated, info


def _kept(obs: dict[str, Array]) -> dict[str, Array]:
    """Float32 observations, without achieved_goal: it repeats the position."""
    return {key: obs[key].astype(np.float32) for key in PointMaze.roles}


def _simulator(max_steps: int, render: bool) -> gym.Env:
    """The environment as Gymnasium-Robotics makes it, imported without its notices about other environments."""
    level = gym.logger.min_level
    gym.logger.min_level = gym.logger.ERROR
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            import gymnasium_robotics
            import mujoco  # noqa: F401

            gym.register_envs(gymnasium_robotics)
            env = gym.make(
                "PointMaze_MediumDense-v3",
                continuing_task=False,
                max_episode_steps=max_steps,
                render_mode="rgb_array" if render else None,
                disable_env_checker=True,
            )
    except ImportError as error:
        raise ImportError(
            f"suite 'pointmaze' cannot import {error.name or error}; "
            "pip install 'gymnasium-robotics>=1.3.1' 'mujoco>=3.1,<3.4'"
        ) from error
    finally:
        gym.logger.min_level = level
    os.unlink(env.get_wrapper_attr("tmp_xml_file_path"))  # loaded already, and otherwise left behind
    return env


SUITE = PointMaze()

if __name__ == "__main__":
    main(SUITE)
