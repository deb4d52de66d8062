"""Suite `pendulum`: swing up and balance Gymnasium's Pendulum-v1, 200 steps of 0.05 s.

The torque limit is too weak to lift the pendulum directly, so it must be swung. Gravity, mass and length
belong to the context but not to the observation: a policy has to cope without being told.

Held back: the circle of start angles is cut into 16 bands of 22.5 degrees. Training starts in 12 of them,
"interpolated" contexts only in the other 4; all other numbers come from the same ranges. "extrapolated"
contexts have a start angle from the training bands, but more gravity and more mass than training ever has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from toolkit.core import Array, child_seed
from toolkit.envs import Behaviour, Reference, Split, Suite, Task, check_split, context_array
from toolkit.envs._measure import main, read_context
from toolkit.envs._render import need_pygame
from toolkit.envs._vector import Moves

BANDS = 16
HELD_BACK = (2, 6, 10, 14)
"""Bands of theta0, counted from -pi, that training never starts in."""

TRAIN = {"thetadot0": (-1.0, 1.0), "g": (9.0, 11.0), "m": (0.9, 1.1), "l": (0.9, 1.1)}
"""Ranges, half open, of every context number but theta0; "interpolated" shares them."""

EXTRAPOLATED = TRAIN | {"g": (11.2, 12.0), "m": (1.15, 1.4)}


def balance(angle: float) -> Callable[..., Array]:
    """The reward of Pendulum-v1 with `angle` [rad] in the place of the top, as a function of recorded steps."""

    def reward(obs: Mapping[str, Array], action: Array, then: Mapping[str, Array], info: Mapping[str, Array]) -> Array:
        cos, sin, speed = obs["observation"].astype(np.float64).T
        away = (np.arctan2(sin, cos) - angle + np.pi) % (2 * np.pi) - np.pi
        return -(away**2 + 0.1 * speed**2 + 0.001 * np.clip(action[:, 0], -2.0, 2.0) ** 2)

    return reward


class Pendulum(Suite):
    """Pendulum-v1 with the start and the dynamics set by a context; rewards are Gymnasium's.

    A step is a success if it ends upright and slow: |theta| < 0.2 rad and |thetadot| < 0.5 rad/s.
    """

    name = "pendulum"
    context_names = ("theta0 [rad]", "thetadot0 [rad/s]", "g [m/s^2]", "m [kg]", "l [m]")
    roles: ClassVar[dict[str, str]] = {"observation": "observation"}
    max_steps = 200
    requires = ("gymnasium",)
    references: ClassVar[dict[str, Reference]] = {  # means of 200 episodes each
        # success: random 0.010, expert 1.000
        "train": Reference(random=-1229.5268, expert=-141.2815),
        # success: random 0.005, expert 1.000
        "interpolated": Reference(random=-1250.7038, expert=-160.1769),
        # success: random 0.000, expert 1.000
        "extrapolated": Reference(random=-1248.9626, expert=-176.6018),
    }

    coordinate_names = ("theta [rad]", "thetadot [rad/s]")
    extent = ((-float(np.pi), float(np.pi)), (-8.0, 8.0))
    tasks: ClassVar[Mapping[str, Task]] = {
        "upright": Task("stand still on top, the recorded task", balance(0.0)),
        "hang": Task("hang still at the bottom", balance(np.pi)),
        "sideways": Task("hold still a quarter turn from the top, at theta = pi/2", balance(np.pi / 2)),
    }
    recorded = "upright"

    def make(self, *, render: bool = False) -> gym.Env:
        """Pendulum-v1; observation (3,) float32 is cos(theta), sin(theta), thetadot [rad/s]; action (1,) is N m.

        Drawing needs pygame.
        """
        return PendulumEnv(self, render=render)

    def simulator(self) -> PendulumStates:
        """Gymnasium's equations over many states at once."""
        return PendulumStates(self)

    def pose(self, env: gym.Env, obs: Mapping[str, Array]) -> None:
        """At its angle, without the arrow that shows the last torque."""
        pendulum: Any = env.unwrapped
        cos, sin, speed = np.asarray(obs["observation"], np.float64)
        pendulum.state, pendulum.last_u = np.array([np.arctan2(sin, cos), speed]), None

    def contexts(self, split: Split, n: int, *, seed: int) -> Array:
        """(n, 5) float64: theta0, thetadot0, g, m, l. Train and interpolated are disjoint in theta0's band."""
        check_split(split)
        rng = np.random.default_rng(child_seed(seed, self.name, split))
        ranges = np.array(list((EXTRAPOLATED if split == "extrapolated" else TRAIN).values()))
        held = split == "interpolated"
        bands = np.array([band for band in range(BANDS) if (band in HELD_BACK) == held])
        share = rng.random((n, 1 + len(ranges)))
        place = share[:, 0] * len(bands)
        band = bands[place.astype(int)]
        theta = -np.pi + (band + place % 1.0) * (2 * np.pi / BANDS)
        rest = ranges[:, 0] + share[:, 1:] * (ranges[:, 1] - ranges[:, 0])
        return np.column_stack([theta, rest])

    def expert(self, context: Array, *, rng: np.random.Generator) -> Behaviour:
        """Pump energy until the pendulum can reach the top, then balance; it knows g, m and l and draws nothing."""
        _, _, g, m, l = context_array(context, self.context_names).tolist()  # noqa: E741
        return SwingUp(g, m, l)

    def coordinates(self, obs: dict[str, Array]) -> Array:
        """(n, 2): theta [rad], 0 upright, in (-pi, pi], and thetadot [rad/s]."""
        cos, sin, speed = np.moveaxis(np.asarray(obs["observation"]), -1, 0)
        return np.stack([np.arctan2(sin, cos), speed], axis=-1)


def band_of(theta: Array) -> Array:
    """The band, 0 to 15, that an angle [rad] lies in."""
    return np.floor((np.asarray(theta) + np.pi) / (2 * np.pi / BANDS)).astype(int) % BANDS


class SwingUp:
    """Energy swing-up (Astrom and Furuta, 2000) and linear feedback around the top.

    With the uniform rod of Gymnasium, theta'' = 3g/(2l) sin(theta) + 3/(m l^2) u, and the energy
    E = theta'^2/2 + 3g/(2l) (cos(theta) - 1) is 0 at rest on top; it changes by 3/(m l^2) u theta'.
    """

    LIMIT = 2.0  # N m
    CATCH = 3.0  # limits; near the top feedback takes over once it asks for less torque than this, clipped to one
    NEAR = 0.6  # rad
    STIFFNESS, DAMPING = 10.0, 7.0  # of the closed loop, 1/s^2 and 1/s
    PUMP = 5.0  # N m for each 1/s^2 of missing energy

    def __init__(self, g: float, m: float, l: float) -> None:  # noqa: E741
        self.pull = 3 * g / (2 * l)
        self.push = 3 / (m * l * l)

    def __call__(self, obs: dict[str, Array]) -> Array:
        """obs["observation"] (3,) -> torque (1,) float32 within plus or minus 2 N m."""
        cos, sin, speed = obs["observation"].tolist()
        theta = float(np.arctan2(sin, cos))
        feedback = -(self.pull * sin + self.STIFFNESS * theta + self.DAMPING * speed) / self.push
        if abs(theta) < self.NEAR and abs(feedback) < self.CATCH * self.LIMIT:
            torque = feedback
        else:
            energy = speed * speed / 2 + self.pull * (cos - 1)
            torque = -self.PUMP * energy * (1.0 if speed >= 0 else -1.0)
        return np.array([min(max(torque, -self.LIMIT), self.LIMIT)], np.float32)


class PendulumEnv(gym.Wrapper):
    """Pendulum-v1 whose resets take a context; see `Suite.make`."""

    def __init__(self, suite: Pendulum, *, render: bool = False) -> None:
        if render:
            need_pygame(suite.name)
        mode = "rgb_array" if render else None
        super().__init__(gym.make("Pendulum-v1", render_mode=mode, disable_env_checker=True))
        self.suite = suite
        self.observation_space = spaces.Dict({"observation": self.env.observation_space})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Start in options["context"], exactly; without it, in a training context drawn by `seed`."""
        context = read_context(self.suite, options, seed=seed, np_random=self.np_random)
        _, info = self.env.reset(seed=seed)
        theta, speed, g, m, l = context.tolist()  # noqa: E741
        pendulum: Any = self.unwrapped
        pendulum.g, pendulum.m, pendulum.l = g, m, l
        pendulum.state = np.array([theta, speed])
        first = np.array([np.cos(theta), np.sin(theta), speed], np.float32)
        return {"observation": first}, info | {"success": _upright(first)}

    def step(self, action: Any) -> tuple[dict[str, Array], SupportsFloat, bool, bool, dict[str, Any]]:
        """Gymnasium's step; info["success"] tells whether it ended upright and slow."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return {"observation": obs}, reward, terminated, truncated, info | {"success": _upright(obs)}


class PendulumStates:
    """`toolkit.envs._simulator.Simulator`; a state is theta, its speed, 3 g / (2 l), 3 / (m l^2) and the steps done."""

    STEP, FASTEST, TORQUE = 0.05, 8.0, 2.0  # s, rad/s, N m

    def __init__(self, suite: Pendulum) -> None:
        self.suite = suite

    def start(self, contexts: Array, seeds: Sequence[int]) -> tuple[Array, dict[str, Array]]:
        """A pendulum's start is its context alone."""
        read = [context_array(context, self.suite.context_names).tolist() for context in contexts]
        states = np.array([[th, speed, 3 * g / (2 * l), 3.0 / (m * l**2), 0] for th, speed, g, m, l in read])  # noqa: E741
        return states, {"observation": self._observed(states)}

    def step(self, states: Array, actions: Array) -> tuple[Array, Moves]:
        """Torques (k, 1) [N m], clipped as the environment does."""
        theta, speed, pull, push, done = states.T
        torque = np.clip(actions[:, 0], -self.TORQUE, self.TORQUE).astype(np.float32)  # as Gymnasium rounds
        away = (theta + np.pi) % (2 * np.pi) - np.pi
        reward = -(away**2 + 0.1 * speed**2 + 0.001 * torque**2)
        speed = speed + (pull * np.sin(theta) + push.astype(np.float32) * torque) * self.STEP
        speed = np.clip(speed, -self.FASTEST, self.FASTEST)
        after = np.column_stack([theta + speed * self.STEP, speed, pull, push, done + 1])
        shown, never = self._observed(after), np.zeros(len(after), bool)
        top = np.abs(np.arctan2(shown[:, 1], shown[:, 0])) < 0.2
        still = np.abs(shown[:, 2]) < 0.5
        return after, Moves({"observation": shown}, reward, never, done + 1 >= self.suite.max_steps, top & still)

    def close(self) -> None:
        """Nothing is held."""

    @staticmethod
    def _observed(states: Array) -> Array:
        return np.column_stack([np.cos(states[:, 0]), np.sin(states[:, 0]), states[:, 1]]).astype(np.float32)


def _upright(observation: Array) -> bool:
    cos, sin, speed = observation.tolist()
    return bool(abs(np.arctan2(sin, cos)) < 0.2 and abs(speed) < 0.5)


SUITE = Pendulum()

if __name__ == "__main__":
    main(SUITE)
