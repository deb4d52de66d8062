"""Suite `reacher`: move the tip of a two-joint arm to a target, Gymnasium's Reacher-v5 in MuJoCo, 50 steps of 0.02 s.

The context fixes the target, the start of both joints, the strength of the motors and the joint damping. The target
is observed, the dynamics are not; feedback copes with them easily, so do not expect much of this suite there.
The reward is Gymnasium's: minus the distance from tip to target, minus the squared actions.

Held back: the circle around the arm is cut into 16 sectors of 22.5 degrees. Training targets lie in 12 of them,
"interpolated" ones only in the other 4; all other numbers come from the same ranges. "extrapolated" contexts have
targets in the training sectors, but farther out, with weaker motors and more damping than training ever has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, SupportsFloat, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from toolkit.core import Array, child_seed
from toolkit.envs import Behaviour, Reference, Split, Suite, check_split, context_array
from toolkit.envs._measure import main, read_context
from toolkit.envs._mujoco import make_mujoco
from toolkit.envs._vector import Moves

UPPER, LOWER = 0.1, 0.11
"""Lengths of the arm's two links [m], the second to the middle of the tip."""

NEAR = 0.02
"""A tip within this of the target [m] is a success; tip and target are balls of about half that radius each."""

SECTORS = 16
HELD_BACK = (2, 6, 10, 14)
"""Sectors of the target's direction, counted from -pi, that training never uses."""

TRAIN = {
    "radius": (0.05, 0.16),
    "q1": (-np.pi, np.pi),
    "q2": (-2.0, 2.0),
    "gear": (0.8, 1.2),
    "damping": (0.5, 2.0),
}
"""Ranges, half open, of every context number but the target's direction; "interpolated" shares them."""

EXTRAPOLATED = TRAIN | {"radius": (0.17, 0.2), "gear": (0.4, 0.6), "damping": (4.0, 8.0)}


class Reacher(Suite):
    """Reacher-v5 with target, start and dynamics set by a context; success is a tip within 0.02 m of the target."""

    name = "reacher"
    context_names = (
        "target direction [rad]",
        "target radius [m]",
        "q1 [rad]",
        "q2 [rad]",
        "gear scale",
        "damping scale",
    )
    roles: ClassVar[dict[str, str]] = {"observation": "observation", "desired_goal": "goal"}
    max_steps = 50
    requires = ("mujoco",)
    references: ClassVar[dict[str, Reference]] = {  # means of 200 episodes each
        # success: random 0.005, expert 1.000
        "train": Reference(random=-41.2764, expert=-3.6953),
        # success: random 0.010, expert 1.000
        "interpolated": Reference(random=-41.5099, expert=-3.5679),
        # success: random 0.025, expert 1.000
        "extrapolated": Reference(random=-44.6932, expert=-6.5484),
    }

    def make(self, *, render: bool = False) -> gym.Env:
        """Reacher-v5; the numbers of Gymnasium's observation, in another order, so that the target stands apart.

        observation (8,) float32: cos and sin of both joints, their speeds [rad/s], the tip's x, y [m]; desired_goal
        (2,): the target's x, y [m]. The action (2,) in -1..1 is the joints' torque. Drawing needs OpenGL.
        """
        return ReacherEnv(self, render=render)

    def simulator(self) -> ReacherStates:
        """One arm for any number of states."""
        return ReacherStates(self)

    def pose(self, env: gym.Env, obs: Mapping[str, Array]) -> None:
        """Both joints at their angles and the target at the goal; the tip is where the joints put it."""
        arm: Any = env.unwrapped
        cos, sin, speed, _ = np.split(np.asarray(obs["observation"], np.float64), 4)
        target = np.asarray(obs["desired_goal"], np.float64)
        arm.set_state(np.concatenate([np.arctan2(sin, cos), target]), np.concatenate([speed, np.zeros(2)]))

    def contexts(self, split: Split, n: int, *, seed: int) -> Array:
        """(n, 6) float64, one column for each of `context_names`. Train and interpolated differ in the sector."""
        check_split(split)
        rng = np.random.default_rng(child_seed(seed, self.name, split))
        ranges = np.array(list((EXTRAPOLATED if split == "extrapolated" else TRAIN).values()))
        held = split == "interpolated"
        sectors = np.array([sector for sector in range(SECTORS) if (sector in HELD_BACK) == held])
        share = rng.random((n, 1 + len(ranges)))
        place = share[:, 0] * len(sectors)
        direction = -np.pi + (sectors[place.astype(int)] + place % 1.0) * (2 * np.pi / SECTORS)
        return np.column_stack([direction, ranges[:, 0] + share[:, 1:] * (ranges[:, 1] - ranges[:, 0])])

    def expert(self, context: Array, *, rng: np.random.Generator) -> Behaviour:
        """Steer the joints to where the tip is on the target; it knows the dynamics and draws nothing."""
        *_, gear, damping = context_array(context, self.context_names).tolist()
        return Reach(gear, damping)

    def coordinates(self, obs: dict[str, Array]) -> Array:
        """(n, 2): x and y of the tip [m]."""
        return np.asarray(obs["observation"])[..., 6:]


def sector_of(direction: Array) -> Array:
    """The sector, 0 to 15, that a direction [rad] lies in."""
    return np.floor((np.asarray(direction) + np.pi) / (2 * np.pi / SECTORS)).astype(int) % SECTORS


class Reach:
    """Inverse kinematics, and critically damped feedback on both joints towards the nearer of its two solutions.

    A joint has inertia 1 kg m^2 (the links hardly add to it), gear 200 N m and damping 1 N m s at scale 1. The
    stiffness asks for less torque than the motors have: actions cost their square.
    """

    INERTIA, GEAR, DAMPING = 1.0, 200.0, 1.0
    STIFFNESS = 50.0  # of the closed loop, 1/s^2

    def __init__(self, gear: float, damping: float) -> None:
        self.gear, self.damping = self.GEAR * gear, self.DAMPING * damping

    def __call__(self, obs: dict[str, Array]) -> Array:
        """obs["observation"] (8,), obs["desired_goal"] (2,) -> action (2,) float32 within plus or minus 1."""
        cos, sin, speed, _ = np.split(obs["observation"].astype(np.float64), 4)
        error = min(
            (_wrapped(wanted - np.arctan2(sin, cos)) for wanted in _solutions(obs["desired_goal"])),
            key=lambda gap: float(np.abs(gap).max()),
        )
        brake = 2 * np.sqrt(self.STIFFNESS)
        torque = self.INERTIA * (self.STIFFNESS * error - brake * speed) + self.damping * speed
        return np.clip(torque / self.gear, -1.0, 1.0).astype(np.float32)


def _solutions(target: Array) -> list[Array]:
    """Both pairs of joint angles (2,) [rad] that put the tip on `target`, or as near as it gets."""
    x, y = np.asarray(target, np.float64)
    bend = np.arccos(np.clip((x * x + y * y - UPPER**2 - LOWER**2) / (2 * UPPER * LOWER), -1.0, 1.0))
    direction = np.arctan2(y, x)
    return [
        np.array([direction - np.arctan2(LOWER * np.sin(q2), UPPER + LOWER * np.cos(q2)), q2]) for q2 in (bend, -bend)
    ]


def _wrapped(gap: Array) -> Array:
    """Joint errors (2,): the first joint turns freely and takes the short way round, the second has stops."""
    return np.array([(gap[0] + np.pi) % (2 * np.pi) - np.pi, gap[1]])


class ReacherEnv(gym.Wrapper):
    """Reacher-v5 whose resets take a context; see `Suite.make`."""

    def __init__(self, suite: Reacher, *, render: bool = False) -> None:
        super().__init__(make_mujoco("Reacher-v5", suite.name, render=render))
        self.suite = suite
        self.observation_space = spaces.Dict(
            {
                "observation": spaces.Box(-np.inf, np.inf, (8,), np.float32),
                "desired_goal": spaces.Box(-np.inf, np.inf, (2,), np.float32),
            }
        )
        self.arm = cast(Any, self.unwrapped)
        self.gear, self.damping = self.arm.model.actuator_gear.copy(), self.arm.model.dof_damping.copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Start at rest in options["context"], exactly; without it, in a training context drawn by `seed`."""
        context = read_context(self.suite, options, seed=seed, np_random=self.np_random)
        direction, radius, *joints, gear, damping = context.tolist()
        if not 0 <= radius <= UPPER + LOWER or gear <= 0 or damping < 0:
            raise ValueError(
                f"target radius {radius:g} m, gear scale {gear:g} and damping scale {damping:g} do not fit; expected "
                f"0 to {UPPER + LOWER:g}, above 0, and not below 0"
            )
        _, info = self.env.reset(seed=seed)
        arm = self.arm
        arm.model.actuator_gear[:] = self.gear * gear
        arm.model.dof_damping[:] = self.damping * damping
        arm.goal = radius * np.array([np.cos(direction), np.sin(direction)])
        arm.set_state(np.array([*joints, *arm.goal]), np.zeros(4))
        obs = arm._get_obs()
        return self.split(obs), info | {"success": _near(obs)}

    def step(self, action: Any) -> tuple[dict[str, Array], SupportsFloat, bool, bool, dict[str, Any]]:
        """Gymnasium's step; info["success"] tells whether the tip is on the target."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self.split(obs), float(reward), terminated, truncated, info | {"success": _near(obs)}

    def split(self, obs: Array) -> dict[str, Array]:
        """Gymnasium's (10,): cos, sin, target, speeds, tip minus target, to ours."""
        target = obs[4:6]
        own = np.concatenate([obs[:4], obs[6:8], obs[8:] + target])
        return {"observation": own.astype(np.float32), "desired_goal": target.astype(np.float32)}


class ReacherStates:
    """`toolkit.envs._simulator.Simulator`; a state is gear and damping scale, steps done, and MuJoCo's own state."""

    def __init__(self, suite: Reacher) -> None:
        import mujoco

        self._mujoco, self._everything = mujoco, mujoco.mjtState.mjSTATE_INTEGRATION
        self.suite, self.env = suite, ReacherEnv(suite)
        self.env.reset(seed=0)

    def start(self, contexts: Array, seeds: Sequence[int]) -> tuple[Array, dict[str, Array]]:
        """Every start goes through the environment's own reset."""
        states, shown = [], []
        for context, seed in zip(contexts, seeds, strict=True):
            shown.append(self.env.reset(seed=int(seed), options={"context": context})[0])
            states.append(np.concatenate([context[-2:], [0.0], self._read()]))
        return np.array(states), {key: np.stack([obs[key] for obs in shown]) for key in self.suite.roles}

    def step(self, states: Array, actions: Array) -> tuple[Array, Moves]:
        """Torques (k, 2)."""
        arm, after, shown, reward, near = self.env.arm, states.copy(), [], [], []
        for i, (gear, damping, *_) in enumerate(states.tolist()):
            arm.model.actuator_gear[:], arm.model.dof_damping[:] = self.env.gear * gear, self.env.damping * damping
            self._mujoco.mj_setState(arm.model, arm.data, states[i, 3:], self._everything)
            obs, paid, *_ = arm.step(actions[i])
            after[i, 2:] = [states[i, 2] + 1, *self._read()]
            shown.append(self.env.split(obs))
            reward.append(float(paid))
            near.append(_near(obs))
        never = np.zeros(len(states), bool)
        seen = {key: np.stack([obs[key] for obs in shown]) for key in self.suite.roles}
        late = after[:, 2] >= self.suite.max_steps
        return after, Moves(seen, np.array(reward), never, late, np.array(near))

    def close(self) -> None:
        """Close the arm."""
        self.env.close()

    def _read(self) -> Array:
        model, data = self.env.arm.model, self.env.arm.data
        state = np.zeros(self._mujoco.mj_stateSize(model, self._everything))
        self._mujoco.mj_getState(model, data, state, self._everything)
        return state


def _near(obs: Array) -> bool:
    return bool(np.hypot(*obs[8:]) < NEAR)


SUITE = Reacher()

if __name__ == "__main__":
    main(SUITE)
