"""Suite `cartpole`: keep the pole of Gymnasium's CartPole-v1 up, 500 steps of 0.02 s, with two discrete actions.

The context fixes the start and the dynamics: half the pole's length, its mass, gravity, and the force of a push. Only
the start is observed: a policy has to cope with the rest without being told. The reward is 1 a step.

Held back: the range of start angles is cut into 8 bands. Training starts in 6 of them, "interpolated" contexts only
in the other 2; all other numbers come from the same ranges. "extrapolated" contexts start in the training bands,
but with shorter and heavier poles, more gravity and weaker pushes than training ever has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from toolkit.core import Array, child_seed
from toolkit.envs import Behaviour, Reference, Split, Suite, check_split, context_array
from toolkit.envs._measure import main, read_context
from toolkit.envs._render import need_pygame
from toolkit.envs._vector import Moves

LEAN = 0.08
"""Start angles lie within plus or minus this [rad]; the episode ends beyond 0.209."""

BANDS = 8
HELD_BACK = (1, 5)
"""Bands of theta0, counted from -LEAN, that training never starts in."""

TRAIN = {
    "x0": (-0.5, 0.5),
    "xdot0": (-0.2, 0.2),
    "thetadot0": (-0.2, 0.2),
    "half length": (0.4, 0.6),
    "m": (0.08, 0.12),
    "g": (9.0, 11.0),
    "force": (9.0, 11.0),
}
"""Ranges, half open, of every context number but theta0; "interpolated" shares them."""

EXTRAPOLATED = TRAIN | {"half length": (0.25, 0.35), "m": (0.15, 0.25), "g": (11.5, 13.0), "force": (7.5, 8.5)}


class CartPole(Suite):
    """CartPole-v1 with the start and the dynamics set by a context; rewards are Gymnasium's.

    A step is a success if the pole is within 12 degrees and the cart within 2.4 m: an episode succeeds by lasting.
    """

    name = "cartpole"
    context_names = (
        "x0 [m]",
        "xdot0 [m/s]",
        "theta0 [rad]",
        "thetadot0 [rad/s]",
        "half length [m]",
        "m [kg]",
        "g [m/s^2]",
        "force [N]",
    )
    roles: ClassVar[dict[str, str]] = {"observation": "observation"}
    max_steps = 500
    requires = ("gymnasium",)
    references: ClassVar[dict[str, Reference]] = {  # means of 200 episodes each
        # success: random 0.000, expert 1.000
        "train": Reference(random=21.0500, expert=500.0000),
        # success: random 0.000, expert 1.000
        "interpolated": Reference(random=20.2350, expert=500.0000),
        # success: random 0.000, expert 1.000
        "extrapolated": Reference(random=16.9500, expert=500.0000),
    }

    def make(self, *, render: bool = False) -> gym.Env:
        """CartPole-v1; observation (4,) float32 is x [m], its speed, theta [rad], its speed; action 0 left, 1 right.

        Drawing needs pygame.
        """
        return CartPoleEnv(self, render=render)

    def simulator(self) -> CartPoleStates:
        """Gymnasium's equations over many states at once."""
        return CartPoleStates(self)

    def pose(self, env: gym.Env, obs: Mapping[str, Array]) -> None:
        """The cart at x and the pole at theta."""
        cart: Any = env.unwrapped
        cart.state = np.asarray(obs["observation"], np.float64)

    def contexts(self, split: Split, n: int, *, seed: int) -> Array:
        """(n, 8) float64, one column for each of `context_names`. Train and interpolated are disjoint in theta0."""
        check_split(split)
        rng = np.random.default_rng(child_seed(seed, self.name, split))
        ranges = np.array(list((EXTRAPOLATED if split == "extrapolated" else TRAIN).values()))
        bands = np.array([band for band in range(BANDS) if (band in HELD_BACK) == (split == "interpolated")])
        share = rng.random((n, 1 + len(ranges)))
        place = share[:, 0] * len(bands)
        theta = -LEAN + (bands[place.astype(int)] + place % 1.0) * (2 * LEAN / BANDS)
        rest = ranges[:, 0] + share[:, 1:] * (ranges[:, 1] - ranges[:, 0])
        return np.column_stack([rest[:, :2], theta, rest[:, 2:]])

    def expert(self, context: Array, *, rng: np.random.Generator) -> Behaviour:
        """Push towards where a linear law points; it knows the dynamics and draws nothing."""
        return Balance(*context_array(context, self.context_names)[4:].tolist())

    def coordinates(self, obs: dict[str, Array]) -> Array:
        """(n, 2): x of the cart [m] and theta of the pole [rad], 0 upright."""
        return np.asarray(obs["observation"])[..., [0, 2]]


def band_of(theta: Array) -> Array:
    """The band, 0 to 7, that a start angle [rad] lies in."""
    return np.floor((np.asarray(theta) + LEAN) / (2 * LEAN / BANDS)).astype(int)


class Balance:
    """Bang-bang along a linear feedback whose four poles are placed at -RATE (Ackermann), on the model at the top.

    There theta'' = a theta - b F and x'' = c F - d theta, with half length l, masses m and M = m + 1 kg,
    D = l (4/3 - m/M), a = g/D, b = 1/(M D), c = (1 + m l b)/M and d = m l a/M (Barto, Sutton and Anderson, 1983).
    """

    CART = 1.0  # kg
    RATE = 2.0  # 1/s

    def __init__(self, l: float, m: float, g: float, force: float) -> None:  # noqa: E741
        total = self.CART + m
        lever = l * (4 / 3 - m / total)
        a, b = g / lever, 1 / (total * lever)
        c, d = (1 + m * l * b) / total, m * l * a / total
        dynamics = np.array([[0, 1, 0, 0], [0, 0, -d, 0], [0, 0, 0, 1], [0, 0, a, 0]], np.float64)
        push = np.array([0, c, 0, -b])
        reach = np.column_stack([np.linalg.matrix_power(dynamics, power) @ push for power in range(4)])
        wanted = np.linalg.matrix_power(dynamics + self.RATE * np.eye(4), 4)
        self.gain = np.linalg.solve(reach.T, np.eye(4)[3]) @ wanted  # force = -gain @ state

    def __call__(self, obs: dict[str, Array]) -> Array:
        """obs["observation"] (4,) -> 0 or 1, an integer array ()."""
        return np.asarray(int(self.gain @ obs["observation"] < 0))


class CartPoleEnv(gym.Wrapper):
    """CartPole-v1 whose resets take a context; see `Suite.make`."""

    def __init__(self, suite: CartPole, *, render: bool = False) -> None:
        if render:
            need_pygame(suite.name)
        mode = "rgb_array" if render else None
        super().__init__(gym.make("CartPole-v1", render_mode=mode, disable_env_checker=True))
        self.suite = suite
        self.observation_space = spaces.Dict({"observation": self.env.observation_space})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Start in options["context"], exactly; without it, in a training context drawn by `seed`."""
        context = read_context(self.suite, options, seed=seed, np_random=self.np_random)
        state, (l, m, g, force) = context[:4].copy(), context[4:].tolist()  # noqa: E741
        if min(l, m, force) <= 0:
            raise ValueError(f"half length {l:g}, m {m:g} and force {force:g} do not fit; expected numbers above 0")
        cart: Any = self.unwrapped
        if abs(state[0]) > cart.x_threshold or abs(state[2]) > cart.theta_threshold_radians:
            raise ValueError(
                f"start at x {state[0]:g} m, theta {state[2]:g} rad is over already; expected at most "
                f"{cart.x_threshold:g} and {cart.theta_threshold_radians:.4g}"
            )
        _, info = self.env.reset(seed=seed)
        cart.length, cart.masspole, cart.gravity, cart.force_mag = l, m, g, force
        cart.total_mass, cart.polemass_length = m + cart.masscart, m * l
        cart.state = state
        return {"observation": state.astype(np.float32)}, info | {"success": True}

    def step(self, action: Any) -> tuple[dict[str, Array], SupportsFloat, bool, bool, dict[str, Any]]:
        """Gymnasium's step; info["success"] tells whether the pole is still up."""
        obs, reward, terminated, truncated, info = self.env.step(int(action))
        return {"observation": obs}, reward, terminated, truncated, info | {"success": not terminated}


class CartPoleStates:
    """`toolkit.envs._simulator.Simulator`; a state is x, its speed, theta, its speed, l, m, g, force, steps done."""

    STEP, CART, EDGE, FALLEN = 0.02, 1.0, 2.4, 12 * 2 * np.pi / 360  # s, kg, m, rad

    def __init__(self, suite: CartPole) -> None:
        self.suite = suite

    def start(self, contexts: Array, seeds: Sequence[int]) -> tuple[Array, dict[str, Array]]:
        """A cart's start is its context alone."""
        read = np.array([context_array(context, self.suite.context_names) for context in contexts])
        states = np.column_stack([read, np.zeros(len(read))])
        return states, {"observation": states[:, :4].astype(np.float32)}

    def step(self, states: Array, actions: Array) -> tuple[Array, Moves]:
        """Pushes (k,): 0 left, 1 right."""
        x, speed, theta, turn, l, m, g, size, done = states.T  # noqa: E741
        force, total = np.where(actions == 1, size, -size), m + self.CART
        cos, sin = np.cos(theta), np.sin(theta)
        push = (force + m * l * np.square(turn) * sin) / total
        turning = (g * sin - cos * push) / (l * (4.0 / 3.0 - m * np.square(cos) / total))
        pushing = push - m * l * turning * cos / total
        moved = [x + self.STEP * speed, speed + self.STEP * pushing, theta + self.STEP * turn]
        after = np.column_stack([*moved, turn + self.STEP * turning, states[:, 4:8], done + 1])
        over = (np.abs(after[:, 0]) > self.EDGE) | (np.abs(after[:, 2]) > self.FALLEN)
        shown = {"observation": after[:, :4].astype(np.float32)}
        return after, Moves(shown, np.ones(len(after)), over, done + 1 >= self.suite.max_steps, ~over)

    def close(self) -> None:
        """Nothing is held."""


SUITE = CartPole()

if __name__ == "__main__":
    main(SUITE)
