"""What hopper, halfcheetah and walker2d share: Gymnasium's v5 environments with dynamics and start set by a context.

A context scales the masses (and inertias) of all bodies, the gear of all actuators, all sliding friction and all
joint damping, and gives the half-width of the uniform noise on the start. None of it is observed. Rewards, healthy
ranges and the limit of 1000 steps are Gymnasium's.

Held back: the range of mass scales is cut into 8 bands. Training uses 6 of them, "interpolated" contexts only the
other 2; all other numbers come from the same ranges. "extrapolated" contexts have bodies heavier and actuators
stronger than training ever has. (Heavier and weaker was tried: there the trained experts of hopper and walker2d,
which know no more than a learner, fall too, and a reference that fails measures nothing.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, SupportsFloat, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from toolkit.core import Array, child_seed
from toolkit.envs import Split, check_split
from toolkit.envs._locomotion_rows import LocomotionRows, LocomotionStates
from toolkit.envs._measure import read_context
from toolkit.envs._mujoco import make_mujoco
from toolkit.envs._trained import TrainedSuite
from toolkit.envs._vector import VectorEnvironment

Range = tuple[float, float]  # half open

BANDS = 8
HELD_BACK = (2, 5)
"""Bands of the mass scale, counted from the lightest, that training never uses."""


class Locomotion(TrainedSuite):
    """Run forwards for 1000 steps. A step is a success if the body is at least `distance` metres ahead of its start.

    A fall ends the episode, but does not take back the metres.
    """

    context_names = ("mass scale", "gear scale", "friction scale", "damping scale", "start noise [m, rad]")
    roles: ClassVar[dict[str, str]] = {"observation": "observation"}
    max_steps = 1000
    together = 8
    requires = ("mujoco",)
    reference_episodes = 25

    gymnasium_id: ClassVar[str]
    distance: ClassVar[float]  # m, ahead of the start
    shown: ClassVar[tuple[int, int]]  # where an observation has the torso's height and its forward speed
    noise: ClassVar[Range]  # of the start
    mass: ClassVar[Range] = (0.8, 1.2)
    gear: ClassVar[Range] = (0.9, 1.1)
    friction: ClassVar[Range] = (0.8, 1.2)
    damping: ClassVar[Range] = (0.8, 1.2)
    heavy: ClassVar[Range] = (1.22, 1.3)
    strong: ClassVar[Range] = (1.12, 1.2)

    def make(self, *, render: bool = False) -> gym.Env:
        """Gymnasium's environment; observation (O,) float32 without the position x; action (A,) in -1..1.

        Drawing needs OpenGL.
        """
        return LocomotionEnv(self, render=render)

    def batch(self, rows: int) -> VectorEnvironment:
        """`rows` runners stepped in MuJoCo directly, bit for bit as single ones."""
        return LocomotionRows(self, LocomotionEnv(self), rows)

    def simulator(self) -> LocomotionStates:
        """One runner for any number of states."""
        return LocomotionStates(self, LocomotionEnv(self))

    def pose(self, env: gym.Env, obs: Mapping[str, Array]) -> None:
        """Limbs and joints as observed; x, which is not, stays as it was: the body runs on the spot."""
        runner: Any = env.unwrapped
        numbers, x = np.asarray(obs["observation"], np.float64), runner.data.qpos[:1]
        runner.set_state(*np.split(np.concatenate([x, numbers]), [runner.model.nq]))

    def contexts(self, split: Split, n: int, *, seed: int) -> Array:
        """(n, 5) float64, one column for each of `context_names`. Train and interpolated are disjoint in mass."""
        check_split(split)
        rng = np.random.default_rng(child_seed(seed, self.name, split))
        share = rng.random((n, 5))
        outside = split == "extrapolated"
        if outside:
            mass = self.heavy[0] + share[:, 0] * (self.heavy[1] - self.heavy[0])
        else:
            bands = np.array([band for band in range(BANDS) if (band in HELD_BACK) == (split == "interpolated")])
            place = share[:, 0] * len(bands)
            width = (self.mass[1] - self.mass[0]) / BANDS
            mass = self.mass[0] + (bands[place.astype(int)] + place % 1.0) * width
        ranges = np.array([self.strong if outside else self.gear, self.friction, self.damping, self.noise])
        return np.column_stack([mass, ranges[:, 0] + share[:, 1:] * (ranges[:, 1] - ranges[:, 0])])

    def coordinates(self, obs: dict[str, Array]) -> Array:
        """(n, 2): height of the torso as observed [m], and forward speed [m/s]."""
        return np.asarray(obs["observation"])[..., list(self.shown)]

    def band_of(self, mass: Array) -> Array:
        """The band, 0 to 7, that a mass scale lies in."""
        low, high = self.mass
        return np.floor((np.asarray(mass) - low) / (high - low) * BANDS).astype(int)


class LocomotionEnv(gym.Wrapper):
    """One of Gymnasium's runners whose resets take a context; see `Suite.make`."""

    def __init__(self, suite: Locomotion, *, render: bool = False) -> None:
        super().__init__(make_mujoco(suite.gymnasium_id, suite.name, render=render, camera="track"))
        self.suite = suite
        inner = self.env.observation_space
        self.observation_space = spaces.Dict({"observation": spaces.Box(-np.inf, np.inf, inner.shape, np.float32)})
        self.simulated = cast(Any, self.unwrapped)
        model = self.simulated.model
        self.own = {
            name: getattr(model, name).copy()
            for name in ("body_mass", "body_inertia", "actuator_gear", "geom_friction", "dof_damping")
        }
        self.start = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Start in options["context"], with noise drawn by `seed`; without it, in a training context."""
        context = read_context(self.suite, options, seed=seed, np_random=self.np_random)
        self._set_dynamics(context)
        obs, info = self.env.reset(seed=seed)
        self.start = float(self.simulated.data.qpos[0])
        return {"observation": obs.astype(np.float32)}, info | {"success": False}

    def step(self, action: Any) -> tuple[dict[str, Array], SupportsFloat, bool, bool, dict[str, Any]]:
        """Gymnasium's step; info["success"] tells whether the body is far enough ahead of its start."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        info["success"] = bool(self.simulated.data.qpos[0] - self.start >= self.suite.distance)
        return {"observation": obs.astype(np.float32)}, float(reward), bool(terminated), truncated, info

    def _set_dynamics(self, context: Array) -> None:
        mass, gear, friction, damping, noise = context.tolist()
        if min(mass, gear, friction) <= 0 or min(damping, noise) < 0:
            raise ValueError(
                f"context {context.tolist()} does not fit suite {self.suite.name!r}; expected mass, gear and friction "
                "above 0, damping and noise not below"
            )
        import mujoco

        model, own = self.simulated.model, self.own
        model.body_mass[:] = own["body_mass"] * mass
        model.body_inertia[:] = own["body_inertia"] * mass
        model.actuator_gear[:] = own["actuator_gear"] * gear
        model.geom_friction[:, 0] = own["geom_friction"][:, 0] * friction
        model.dof_damping[:] = own["dof_damping"] * damping
        mujoco.mj_setConst(model, self.simulated.data)  # what the solver derives from masses
        self.simulated._reset_noise_scale = noise
