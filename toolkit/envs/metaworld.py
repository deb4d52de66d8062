"""Suites `metaworld-...`: a Sawyer arm and the 50 tasks of Meta-World v3 in MuJoCo, one by one and in sets.

`metaworld-push` is one task; `metaworld-mt10`, `-mt25` and `-mt50` are sets whose tasks take turns; `metaworld-ml10`
and `-ml45` keep 5 tasks back for their "extrapolated" contexts. See arXiv:1910.10897.

**Episodes end at the first success** and after 300 steps otherwise: Meta-World counts an episode as solved if it was
successful at any moment, and its experts need 80 steps in the mean and seldom more than 200. Meta-World's own limit
of 500 steps mostly adds waiting, before or after.

**The reward is Meta-World's / 20 - 1.** Meta-World gives 0 to 10 for every step, which pays a policy for waiting
beside the goal as soon as episodes end there. Here every step costs between a half (next to success) and one (far
from it), so the return is minus the time to success, within a factor of two, and no failed episode beats one that
succeeds within 150 steps. Scores are of this return; the success rate stands beside them in every record. A set's
references are the means over its tasks, so a score over equally many episodes of each weighs the long ones more.

**A context** is the position of the object and of the goal [m], which Meta-World draws anew in every episode; nothing
else varies, not even with the reset's seed. In a set the number of the task comes first.

Held back: the widest of a task's ranges (or the one named in the table) is cut into 8 bands. Training never enters
bands 2 and 5, counted from 0, which are those of "interpolated" contexts. "extrapolated" contexts lie outside that
range, by 10 to 30 % of its width; the other numbers come from the ranges of training.
In the ml sets they are contexts of the tasks kept back. Tasks and references are in `_metaworld.py`.
"""

from __future__ import annotations

import sys
import warnings
from functools import cached_property
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from toolkit.core import Array, child_seed
from toolkit.envs import SPLITS, Behaviour, Reference, Split, Suite, check_split, context_array
from toolkit.envs._measure import measure, read_context
from toolkit.envs._metaworld import MEASURED, ML10, ML45, MT10, MT25, TASKS
from toolkit.envs._render import need_opengl

BANDS = 8
HELD_BACK = (2, 5)
"""Bands of a task's chosen range that training never enters."""

IDLE = 16
"""Simulators a process keeps for the next episode of their task: making one takes 0.1 s, keeping it 5 to 35 MB."""


class MetaWorld(Suite):
    """Meta-World v3: one task, or a set of tasks that take turns."""

    tasks: ClassVar[tuple[str, ...]]  # names in TASKS, by their number in a context
    kept_back: ClassVar[int]  # how many at the end are for extrapolated contexts only
    family = "metaworld"
    max_steps = 300
    reference_episodes = 25
    requires = ("metaworld", "mujoco")

    def make(self, *, render: bool = False) -> gym.Env:
        """The arm; observation (39,) float32 is Meta-World's: hand, gripper and objects now, before, and the goal.

        In an mt set `task` (n,) float32 is the task's number, one-hot. An ml set has none: a number that was never
        trained on says nothing. The action (4,) in -1..1 moves the hand in x, y, z by up to 1 cm and closes the
        gripper. Drawing needs OpenGL.
        """
        return MetaWorldEnv(self, render=render)

    def contexts(self, split: Split, n: int, *, seed: int) -> Array:
        """(n, C) float64, one column for each of `context_names`. In a set, tasks take turns: n contexts hold all
        tasks equally often if n is a multiple of their number.
        """
        check_split(split)
        if not self.several:
            return _positions(self.tasks[0], split, n, seed)
        first, last = self._numbers(split)
        out = np.zeros((n, len(self.context_names)))
        part: Split = "train" if self.kept_back and split == "extrapolated" else split
        for number in range(first, last):
            rows = out[number - first :: last - first]
            vectors = _positions(self.tasks[number], part, len(rows), seed)
            rows[:, 0], rows[:, 1 : 1 + vectors.shape[1]] = number, vectors
        return out

    def expert(self, context: Array, *, rng: np.random.Generator) -> Behaviour:
        """Meta-World's scripted policy for the context's task, clipped to the action limits; it draws nothing."""
        task, _ = self.place(context)
        _, policies = _metaworld(self.name)
        act = policies[f"{task}-v3"]().get_action

        def behaviour(obs: dict[str, Array]) -> Array:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "Constant(s) may be too high", at most steps
                action = act(obs["observation"].astype(np.float64))
            return np.clip(action, -1.0, 1.0).astype(np.float32)

        return behaviour

    def coordinates(self, obs: dict[str, Array]) -> Array:
        """(n, 6): x, y, z of the hand and of the first object [m]."""
        seen = np.asarray(obs["observation"])
        return np.concatenate([seen[..., :3], seen[..., 4:7]], axis=-1)

    def task(self, context: Array) -> str:
        """The suite of the one task that `context` is about: "metaworld-push"."""
        return f"{self.family}-{self.place(context)[0]}"

    @cached_property
    def action_space(self) -> gym.Space:
        """The same for every task, so none is made to look at it."""
        return spaces.Box(-1.0, 1.0, (4,), np.float32)

    @property
    def several(self) -> bool:
        """Whether this is a set of tasks."""
        return len(self.tasks) > 1

    def place(self, context: Array) -> tuple[str, Array]:
        """The task, and its positions (3,) or (6,) float64. Raises ValueError if they do not fit the suite."""
        numbers = context_array(context, self.context_names)
        if not self.several:
            return self.tasks[0], numbers
        if numbers[0] not in range(len(self.tasks)):
            raise ValueError(
                f"task number {numbers[0]:g} is none of suite {self.name!r}; expected 0 to {len(self.tasks) - 1}"
            )
        task = self.tasks[int(numbers[0])]
        size = len(TASKS[task].low)
        if numbers[1 + size :].any():
            raise ValueError(f"task {task!r} has {size} numbers; expected zeros after them, got {numbers[1:].tolist()}")
        return task, numbers[1 : 1 + size]

    def _numbers(self, split: str) -> tuple[int, int]:
        """The first task of a split, and the one after its last."""
        trained = len(self.tasks) - self.kept_back
        return (trained, len(self.tasks)) if self.kept_back and split == "extrapolated" else (0, trained)


def _positions(task: str, split: str, n: int, seed: int) -> Array:
    """The first n positions (n, 3 or 6) float64 of one task; alone and in every set they are the same."""
    of = TASKS[task]
    low, high = np.array(of.low), np.array(of.high)
    rng = np.random.default_rng(child_seed(seed, f"metaworld-{task}", split))
    bands = np.array([band for band in range(BANDS) if (band in HELD_BACK) == (split == "interpolated")])
    sides = np.array(of.beyond)
    kept: list[Array] = []
    while len(kept) < n:
        share = rng.random(len(low))
        vector = low + share * (high - low)
        if split == "extrapolated":
            place = share[of.axis] * len(sides)
            start, end = sides[int(place)]
            vector[of.axis] = start + place % 1.0 * (end - start)
        else:
            place = share[of.axis] * len(bands)
            vector[of.axis] = low[of.axis] + (bands[int(place)] + place % 1.0) / BANDS * (high - low)[of.axis]
        if len(low) == 3 or np.linalg.norm(vector[:2] - vector[3:5]) >= of.apart:
            kept.append(vector)
    return np.array(kept).reshape(n, len(low))


def band_of(task: str, position: Array) -> Array:
    """The band (...) of positions (..., 3 or 6): 0 to 7 inside the range of training, others outside it."""
    of = TASKS[task]
    low, high = of.low[of.axis], of.high[of.axis]
    return np.floor((np.asarray(position)[..., of.axis] - low) / (high - low) * BANDS).astype(int)


def _reference(task: str, split: str) -> Reference:
    random, expert, _, _ = MEASURED[task][SPLITS.index(split)]
    return Reference(random=random, expert=expert)


class MetaWorldEnv(gym.Env):
    """Meta-World's tasks behind one environment; see `Suite.make`. A task's simulator is made when first needed."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012  # Gymnasium declares it so

    def __init__(self, suite: MetaWorld, *, render: bool = False) -> None:
        _metaworld(suite.name)
        if render:
            need_opengl(suite.name)
        self.suite = suite
        self.render_mode = "rgb_array" if render else None
        self.action_space = suite.action_space
        parts: dict[str, gym.Space] = {"observation": spaces.Box(-np.inf, np.inf, (39,), np.float32)}
        if "task" in suite.roles:
            parts["task"] = spaces.Box(0.0, 1.0, (len(suite.tasks),), np.float32)
        self.observation_space = spaces.Dict(parts)
        self._simulator: Any = None
        self._task = ""
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Start in options["context"]; without it, in a training context drawn by `seed`.

        Raises ValueError for a context that does not fit, or whose object and goal are too near for Meta-World.
        """
        super().reset(seed=seed)
        context = read_context(self.suite, options, seed=seed, np_random=self.np_random)
        task, positions = self.suite.place(context)
        if task != self._task:
            self.close()
            self._simulator, self._task = _borrowed(self.suite.name, task, self.render_mode), task
        self._simulator._get_state_rand_vec = _given(task, positions)
        obs, _ = self._simulator.reset()
        self._steps = 0
        return self._seen(obs), {"success": False}

    def step(self, action: Any) -> tuple[dict[str, Array], float, bool, bool, dict[str, Any]]:
        """One step of 12.5 ms; terminated with info["success"] at the first success, truncated at the limit."""
        if self._simulator is None:
            raise gym.error.ResetNeeded("step before the first reset")
        obs, reward, _, _, info = self._simulator.step(np.asarray(action, np.float32))
        self._steps += 1
        success = bool(info["success"])
        truncated = self._steps >= self.suite.max_steps and not success
        return self._seen(obs), float(reward) / 20 - 1, success, truncated, {"success": success}

    def render(self) -> Any:
        """The scene from the corner, (480, 480, 3) uint8, turned round: Meta-World's camera hangs upside down."""
        return None if self._simulator is None else np.ascontiguousarray(self._simulator.render()[::-1, ::-1])

    def close(self) -> None:
        """Leave the simulator to the next environment that plays its task."""
        if self._simulator is not None:
            _give_back(self._task, self._simulator)
        self._simulator, self._task = None, ""

    def _seen(self, obs: Array) -> dict[str, Array]:
        seen = {"observation": obs.astype(np.float32)}
        if "task" in self.suite.roles:
            seen["task"] = np.eye(len(self.suite.tasks), dtype=np.float32)[self.suite.tasks.index(self._task)]
        return seen


_idle: list[tuple[str, Any]] = []  # task and simulator that nobody plays, the longest idle first


def _borrowed(suite: str, task: str, render_mode: str | None) -> Any:
    """An idle simulator of `task`, or a new one. A reset leaves nothing of what it was used for before."""
    for index in reversed(range(len(_idle))):
        if _idle[index][0] == task and render_mode is None:
            return _idle.pop(index)[1]
    simulators, _ = _metaworld(suite)
    made = simulators[f"{task}-v3"](render_mode=render_mode, camera_name="corner2" if render_mode else None)
    made._partially_observable = False  # it shows its goal, also one outside the box it would clip observations to
    made.goal_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    made.__dict__.pop("sawyer_observation_space", None)
    made._set_task_called = True
    made.max_path_length = sys.maxsize
    return made


def _give_back(task: str, simulator: Any) -> None:
    """Keep a simulator for later, but not one that draws: what it holds of OpenGL is freed at once."""
    if simulator.render_mode is not None:
        simulator.close()
        return
    _idle.append((task, simulator))
    while len(_idle) > IDLE:
        _idle.pop(0)[1].close()


def _given(task: str, positions: Array) -> Any:
    """What Meta-World draws in a reset: `positions`, once for each of the two times it places everything.

    It would draw for ever while an object is too near its goal; the third time is therefore an error.
    """
    left = [positions.copy(), positions.copy()]

    def draw() -> Array:
        if not left:
            raise ValueError(
                f"object and goal at {positions.tolist()} are nearer than task {task!r} allows; "
                f"expected at least {TASKS[task].apart} m apart in x and y"
            )
        return left.pop()

    return draw


def _metaworld(suite: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Meta-World's environments and its policies, by name. Raises ImportError saying what to install."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mujoco  # noqa: F401
            from metaworld.env_dict import ALL_V3_ENVIRONMENTS
            from metaworld.policies import ENV_POLICY_MAP
    except ImportError as error:
        raise ImportError(
            f"suite {suite!r} cannot import {error.name or error}; pip install 'metaworld==3.1.1' 'mujoco==3.3.0' (pip "
            "then says that d3rlpy wants gymnasium 1.0.0, and it works all the same), or make setup, which has both"
        ) from error
    return ALL_V3_ENVIRONMENTS, ENV_POLICY_MAP


AXES = ("object x [m]", "object y [m]", "object z [m]", "goal x [m]", "goal y [m]", "goal z [m]")


def _suite(name: str, tasks: tuple[str, ...], *, kept_back: tuple[str, ...] = (), numbered: bool = False) -> Suite:
    """One suite. Each has a class of its own, because what is known of a suite stands on its class."""
    several = len(tasks) > 1
    measured: dict[str, list[Reference]] = {split: [_reference(task, split) for task in tasks] for split in SPLITS}
    if kept_back:
        measured["extrapolated"] = [_reference(task, "train") for task in kept_back]
    what = f"{len(tasks)} tasks" + (f" and {len(kept_back)} kept back" if kept_back else "") if several else tasks[0]
    facts = {
        "__module__": __name__,
        "__doc__": f"Meta-World v3: {what}.",
        "name": f"metaworld-{name}",
        "tasks": (*tasks, *kept_back),
        "kept_back": len(kept_back),
        "context_names": ("task", *AXES) if several else AXES[: len(TASKS[tasks[0]].low)],
        "roles": {"observation": "observation"} | ({"task": "observation"} if numbered else {}),
        "references": {split: _mean(references) for split, references in measured.items()},
    }
    return type("MetaWorldSuite", (MetaWorld,), facts)()


def _mean(references: list[Reference]) -> Reference:
    return Reference(
        random=float(np.mean([reference.random for reference in references])),
        expert=float(np.mean([reference.expert for reference in references])),
    )


SUITES: tuple[Suite, ...] = (
    *(_suite(task, (task,)) for task in TASKS),
    _suite("mt10", MT10, numbered=True),
    _suite("mt25", MT25, numbered=True),
    _suite("mt50", tuple(TASKS), numbered=True),
    _suite("ml10", ML10[0], kept_back=ML10[1]),
    _suite("ml45", ML45[0], kept_back=ML45[1]),
)


def main(names: list[str]) -> None:
    """Print the lines of MEASURED in `_metaworld.py` for single tasks, by suite name; all without a name."""
    single = {suite.name: suite for suite in SUITES if isinstance(suite, MetaWorld) and not suite.several}
    for name in names or single:
        suite = single[name]
        columns = []
        for split in ("train", "interpolated", "extrapolated"):
            random, expert = (measure(suite, split, policy) for policy in ("random", "expert"))
            columns.append(
                f"({random.mean_return:.4f}, {expert.mean_return:.4f}, {random.success:g}, {expert.success:g})"
            )
        print(
            f'    "{suite.tasks[0]}": (\n' + "".join(f"        {column},\n" for column in columns) + "    ),",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
