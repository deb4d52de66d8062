"""What the suites share: reading a context, and measuring references.

`python -m toolkit.envs.<module>` calls `main`, which prints the lines to paste into the suite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import gymnasium as gym
import numpy as np

from toolkit.core import Array, child_seed
from toolkit.envs import Behaviour, Split, Suite, context_array


@dataclass(frozen=True)
class Measurement:
    """Means over the episodes one behaviour played on one split."""

    mean_return: float
    success: float  # share of episodes whose last step was a success


def read_context(
    suite: Suite, options: dict[str, Any] | None, *, seed: int | None, np_random: np.random.Generator
) -> Array:
    """The context (C,) float64 that a reset asks for; without one, a training context drawn by `seed`.

    With neither, the seed comes from the environment's own generator. Raises ValueError for other options
    or a context that does not fit.
    """
    given = dict(options or {})
    context = given.pop("context", None)
    if given:
        raise ValueError(f"unknown reset options {sorted(given)} for suite {suite.name!r}; expected only 'context'")
    if context is not None:
        return context_array(context, suite.context_names)
    if seed is None:
        seed = int(np_random.integers(2**31))
    return suite.contexts("train", 1, seed=seed)[0]


def measure(suite: Suite, split: Split, policy: str, *, episodes: int | None = None, seed: int = 0) -> Measurement:
    """Mean return and success of one of the suite's behaviours, one episode in each of the split's first contexts.

    Without `episodes` it plays as many as stand behind the suite's references.
    A pure function of its arguments on one machine; no behaviour's numbers depend on another's.
    Raises ValueError for a `policy` that is not one of `suite.behaviours`.
    """
    env = suite.make()
    played = []
    for index, context in enumerate(suite.contexts(split, episodes or suite.reference_episodes, seed=seed)):
        rng = np.random.default_rng(child_seed(seed, "measure", policy, split, index))
        act = suite.behaviour(policy, context, rng=rng)
        played.append(play(env, act, context, seed=child_seed(seed, "measure", split, index)))
    env.close()
    returns, successes = zip(*played, strict=True)
    return Measurement(float(np.mean(returns)), float(np.mean(successes)))


def play(env: gym.Env, act: Behaviour, context: Array, *, seed: int) -> tuple[float, bool]:
    """Return and success (of the last step) of one episode."""
    obs, _ = env.reset(seed=seed, options={"context": context})
    total, over, success = 0.0, False, False
    while not over:
        obs, reward, terminated, truncated, info = env.step(act(obs))
        total += float(reward)
        over, success = terminated or truncated, bool(info["success"])
    return total, success


def main(suite: Suite) -> None:
    """Print `references` as it should stand in the suite, with success rates as comments."""
    print(f"    references: ClassVar[dict[str, Reference]] = {{  # means of {suite.reference_episodes} episodes each")
    for split in get_args(Split):
        random, expert = (measure(suite, split, policy) for policy in ("random", "expert"))
        print(f"        # success: random {random.success:.3f}, expert {expert.success:.3f}")
        print(f'        "{split}": Reference(random={random.mean_return:.4f}, expert={expert.mean_return:.4f}),')
    print("    }")
