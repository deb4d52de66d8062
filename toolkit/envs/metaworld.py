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
from typing import ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from toolkit.core import Array, child_seed
from toolkit.envs import SPLITS, Behaviour, Reference, Split, Suite, check_split, context_array
from toolkit.envs._measure import measure
from toolkit.envs._metaworld import MEASURED, ML10, ML45, MT10, MT25, TASKS
from toolkit.envs._metaworld_env import MetaWorldEnv, load

BANDS = 8
HELD_BACK = (2, 5)
"""Bands of a task's chosen range that training never enters."""


class MetaWorld(Suite):
    """Meta-World v3: one task, or a set of tasks that take turns."""

    members: ClassVar[tuple[str, ...]]  # names in TASKS, by their number in a context
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
        """(n, C) float64, one column for each of `context_names`.

        In a set tasks take turns, beginning with one drawn by `seed`: all are equally frequent if n is a multiple of
        their number.
        """
        check_split(split)
        if not self.several:
            return _positions(self.members[0], split, n, seed)
        trained = len(self.members) - self.kept_back
        held = bool(self.kept_back) and split == "extrapolated"
        numbers = np.arange(trained, len(self.members)) if held else np.arange(trained)
        numbers = np.roll(numbers, child_seed(seed, self.name, split) % len(numbers))
        out = np.zeros((n, len(self.context_names)))
        for turn, number in enumerate(numbers):
            rows = out[turn :: len(numbers)]
            vectors = _positions(self.members[number], "train" if held else split, len(rows), seed)
            rows[:, 0], rows[:, 1 : 1 + vectors.shape[1]] = number, vectors
        return out

    def expert(self, context: Array, *, rng: np.random.Generator) -> Behaviour:
        """Meta-World's scripted policy for the context's task, clipped to the action limits; it draws nothing."""
        task, _ = self.place(context)
        _, policies = load(self.name)
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
        return len(self.members) > 1

    def place(self, context: Array) -> tuple[str, Array]:
        """The task, and its positions (3,) or (6,) float64. Raises ValueError if they do not fit the suite."""
        numbers = context_array(context, self.context_names)
        if not self.several:
            return self.members[0], numbers
        if numbers[0] not in range(len(self.members)):
            raise ValueError(
                f"task number {numbers[0]:g} is none of suite {self.name!r}; expected 0 to {len(self.members) - 1}"
            )
        task = self.members[int(numbers[0])]
        size = len(TASKS[task].low)
        if numbers[1 + size :].any():
            raise ValueError(f"task {task!r} has {size} numbers; expected zeros after them, got {numbers[1:].tolist()}")
        return task, numbers[1 : 1 + size]


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


AXES = ("object x [m]", "object y [m]", "object z [m]", "goal x [m]", "goal y [m]", "goal z [m]")


def _suite(name: str, tasks: tuple[str, ...], *, kept_back: tuple[str, ...] = (), numbered: bool = False) -> MetaWorld:
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
        "members": (*tasks, *kept_back),
        "kept_back": len(kept_back),
        "context_names": ("task", *AXES) if several else AXES[: len(TASKS[tasks[0]].low)],
        "roles": {"observation": "observation"} | ({"task": "observation"} if numbered else {}),
        "references": {split: _mean(references) for split, references in measured.items()},
    }
    made: MetaWorld = type("MetaWorldSuite", (MetaWorld,), facts)()
    return made


def _mean(references: list[Reference]) -> Reference:
    return Reference(
        random=float(np.mean([reference.random for reference in references])),
        expert=float(np.mean([reference.expert for reference in references])),
    )


SUITES: tuple[MetaWorld, ...] = (
    *(_suite(task, (task,)) for task in TASKS),
    _suite("mt10", MT10, numbered=True),
    _suite("mt25", MT25, numbered=True),
    _suite("mt50", tuple(TASKS), numbered=True),
    _suite("ml10", ML10[0], kept_back=ML10[1]),
    _suite("ml45", ML45[0], kept_back=ML45[1]),
)


def main(names: list[str]) -> None:
    """Print the lines of MEASURED in `_metaworld.py` for the suites named, of one task each; for all without a name."""
    single = {suite.name: suite for suite in SUITES if not suite.several}
    for name in names or single:
        columns = []
        for split in ("train", "interpolated", "extrapolated"):
            random, expert = (measure(single[name], split, policy) for policy in ("random", "expert"))
            means, success = (random.mean_return, expert.mean_return), (random.success, expert.success)
            columns.append(f"({means[0]:.2f}, {means[1]:.2f}, {success[0]:g}, {success[1]:g})")
        print(f'    "{single[name].members[0]}": ({", ".join(columns)}),', flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
