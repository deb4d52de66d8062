"""OGBench's robot arm behind one environment whose resets take a context; see `ogbench_arm.py`."""

from __future__ import annotations

import copy
import importlib
import warnings
from abc import abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from toolkit.core import Array, child_seed
from toolkit.envs import Split, Suite, check_split
from toolkit.envs._measure import read_context
from toolkit.envs._ogbench_oracle import CENTRE, SCALE
from toolkit.envs._render import need_opengl, renderer


class Arm(Suite):
    """One of OGBench's tables; see the subclasses for what is on it."""

    family = "ogbench"
    source: ClassVar[tuple[str, str, str]]  # OGBench's module, class and variant
    settings: ClassVar[dict[str, Any]] = {"permute_blocks": False}  # of that class
    achieved: ClassVar[tuple[int, ...]]  # goal number i is observation number achieved[i]
    roles: ClassVar[dict[str, str]] = {"observation": "observation", "desired_goal": "goal"}
    reference_episodes = 20
    requires = ("ogbench", "mujoco", "dm_control")
    extra = "ogbench"

    def make(self, *, render: bool = False) -> gym.Env:
        """The arm; observation and desired_goal are OGBench's, float32.

        The action (5,) in -1..1 moves the hand in x, y, z by up to 5 cm, turns it by up to 0.3 rad and opens or
        closes the gripper. Drawing needs OpenGL.
        """
        return ArmEnv(self, render=render)

    def contexts(self, split: Split, n: int, *, seed: int) -> Array:
        """(n, C) float64, one column for each of `context_names`; see the module for what is held back."""
        check_split(split)
        rng = np.random.default_rng(child_seed(seed, self.name, split))
        return np.array([self.draw(split, rng) for _ in range(n)]).reshape(n, len(self.context_names))

    def coordinates(self, obs: dict[str, Array]) -> Array:
        """(n, 3): x, y, z of the hand [m]."""
        return np.asarray(obs["observation"])[..., 12:15] / SCALE + CENTRE

    @cached_property
    def action_space(self) -> gym.Space:
        """The same for all, so none is made to look at it."""
        return spaces.Box(-1.0, 1.0, (5,), np.float32)

    @abstractmethod
    def draw(self, split: str, rng: np.random.Generator) -> Array:
        """The next context (C,) of a split."""

    @abstractmethod
    def scene(self, context: Array) -> dict[str, Any]:
        """OGBench's `task_info`. Raises ValueError if the context does not fit."""

    @abstractmethod
    def goal(self, context: Array) -> Array:
        """The goal (G,) in OGBench's oracle representation."""


def oracles(suite: str) -> dict[str, Any]:
    """OGBench's oracles by the kind of part they handle. Raises ImportError saying what to install."""
    _import(suite, "envs.cube_env")
    from ogbench.manipspace.oracles.markov import button_markov, cube_markov, drawer_markov, window_markov

    return {
        "cube": cube_markov.CubeMarkovOracle(env=None),
        "button": button_markov.ButtonMarkovOracle(env=None, gripper_always_closed=suite.startswith("ogbench-puzzle")),
        "drawer": drawer_markov.DrawerMarkovOracle(env=None),
        "window": window_markov.WindowMarkovOracle(env=None),
    }


class ArmEnv(gym.Env):
    """OGBench's arm whose resets take a context; see `Suite.make`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012  # Gymnasium declares it so

    def __init__(self, suite: Arm, *, render: bool = False) -> None:
        self.suite = suite
        self.render_mode = "rgb_array" if render else None
        if render:
            need_opengl(suite.name)
        self.simulator = _simulator(suite)
        self._renderer = renderer(self.simulator._model, self.simulator._data, camera_name="front") if render else None
        self.simulator._visualize_info = render
        self.action_space = suite.action_space
        size = len(self.simulator.compute_observation())
        self.observation_space = spaces.Dict(
            {
                "observation": spaces.Box(-np.inf, np.inf, (size,), np.float32),
                "desired_goal": spaces.Box(-np.inf, np.inf, (len(suite.achieved),), np.float32),
            }
        )
        self._goal = np.zeros(len(suite.achieved), np.float32)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Start in options["context"], with an arm posed by `seed`; without it, in a training context."""
        super().reset(seed=seed)
        context = read_context(self.suite, options, seed=seed, np_random=self.np_random)
        scene = self.suite.scene(context)
        self._goal = self.suite.goal(context).astype(np.float32)
        own = int(self.np_random.integers(2**31))
        self.simulator.action_space.seed(own)
        obs, _ = self.simulator.reset(seed=own, options={"task_info": scene})
        self._steps = 0
        return self._seen(obs), {"success": False}

    def step(self, action: Any) -> tuple[dict[str, Array], float, bool, bool, dict[str, Any]]:
        """One step of 50 ms; terminated with info["success"] when all parts are at their goals."""
        clipped = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        obs, _, success, _, _ = self.simulator.step(clipped)
        self._steps += 1
        parts = np.hstack(self.simulator._compute_successes())
        truncated = self._steps >= self.suite.max_steps and not success
        return self._seen(obs), float(parts.mean()) - 1.0, bool(success), truncated, {"success": bool(success)}

    def render(self) -> Any:
        """The table from the front, (400, 400, 3) uint8."""
        return None if self._renderer is None else self._renderer.render("rgb_array")

    def close(self) -> None:
        """Free what drawing holds."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _seen(self, obs: Array) -> dict[str, Array]:
        return {"observation": obs.astype(np.float32), "desired_goal": self._goal.copy()}


_prototypes: dict[tuple[str, str, str], Any] = {}  # compiling one takes 2 s, copying it 0.2 s


def _simulator(suite: Arm) -> Any:
    """OGBench's own environment, a copy of one that was made once and reset."""
    module, name, variant = suite.source
    base = getattr(_import(suite.name, f"envs.{module}"), name)
    if suite.source not in _prototypes:
        kind = type(name, (base,), {"action_space": None, "get_step_info": _nothing, "get_reset_info": _nothing})
        made = kind(variant, mode="task", use_oracle_rep=True, width=400, height=400, **suite.settings)
        made.action_space = spaces.Box(-1.0, 1.0, (5,), np.float32)  # its own is a new, unseeded one at every look
        made.action_space.seed(0)
        made.reset(seed=0, options={"task_id": 1})
        _prototypes[suite.source] = made
    prototype = _prototypes[suite.source]
    shared = [prototype._mjcf_model, *prototype._arm_jnts, *prototype._arm_acts]
    shared += [*prototype._gripper_jnts, *prototype._gripper_acts]
    shared += [value for name, value in vars(prototype).items() if name.endswith("_geoms_list")]
    return copy.deepcopy(prototype, {id(one): one for one in shared})  # all but the XML it was made from


def _nothing(simulator: Any) -> dict[str, Any]:
    """Nothing: OGBench works out all it observes a second time for `info`, which nobody reads here."""
    return {}


def _import(suite: str, module: str) -> Any:
    """A module of `ogbench.manipspace`. Raises ImportError saying what to install."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import dm_control  # noqa: F401
            import mujoco  # noqa: F401
            import ogbench  # noqa: F401

            return importlib.import_module(f"ogbench.manipspace.{module}")
    except ImportError as error:
        raise ImportError(
            f"suite {suite!r} cannot import {error.name or error}; pip install 'packmule[ogbench]'"
        ) from error
