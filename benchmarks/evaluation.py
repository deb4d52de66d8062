"""Microseconds for one environment step: our rows beside Gymnasium's SyncVectorEnv, and one at a time.

    python benchmarks/evaluation.py [--suite pointmaze | halfcheetah] [--rows 64] [--steps 150] [--rounds 7]

Processor time of one thread; a round times each in turn, and the median of the rounds is shown with the least and
greatest. Resets are not timed.

Equal: environment, context, seeds, actions and episodes; it is checked that observations, rewards and ends have the
same bits in every step. Not equal: SyncVectorEnv goes through the wrappers of Gymnasium and of our suite and its
autoreset is off; ours leaves ended rows to the caller by design. Both return arrays over all rows. The episodes are
walks of a random policy that none of them ends early, so that all rows are stepped to the end.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from toolkit import registry
from toolkit.core import Array
from toolkit.envs._vector import Singles, VectorEnvironment

CORNERS = np.array([1.0, 1.0, 6.0, 5.0, 1.0, 1.0])  # across the maze: no random walk arrives
Shown = tuple[Array, ...]


def main() -> None:
    """Time the three in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=("pointmaze", "halfcheetah"), default="pointmaze")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=7)
    flags = parser.parse_args()

    suite = registry.suite(flags.suite)
    context = CORNERS if flags.suite == "pointmaze" else suite.contexts("train", 1, seed=0)[0]
    seeds = list(range(flags.rows))
    actions = (
        np.random.default_rng(0).uniform(-1, 1, (flags.steps, flags.rows, *suite.action_space.shape)).astype(np.float32)
    )
    own, singles = suite.batch(flags.rows), Singles([suite.make() for _ in seeds])
    theirs = SyncVectorEnv([suite.make for _ in seeds], autoreset_mode=AutoresetMode.DISABLED)
    sides: dict[str, Callable[[], Iterator[Shown]]] = {
        "ours": lambda: rows(own, context, seeds, actions),
        "SyncVectorEnv": lambda: sync(theirs, context, seeds, actions),
        "one at a time": lambda: rows(singles, context, seeds, actions),
    }

    for moment in zip(*(side() for side in sides.values()), strict=True):
        first, *others = ([array.tobytes() for array in shown] for shown in moment)
        assert all(first == other for other in others), "the sides do not show the same"
    print(f"{flags.rows} rows, {flags.steps} steps: every observation, reward and end has the same bits on all sides")

    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(flags.rounds):
        for name, side in sides.items():
            played = side()
            next(played)  # the reset
            began = time.thread_time()
            for _ in played:
                pass
            seconds[name].append(time.thread_time() - began)
    each = 1e6 / (flags.rows * flags.steps)
    for name, times in seconds.items():
        ratios = [other / mine for other, mine in zip(times, seconds["ours"], strict=True)]
        absolute = (
            f"{each * statistics.median(times):6.1f} us a step ({each * min(times):.1f} to {each * max(times):.1f})"
        )
        relative = f"{statistics.median(ratios):.1f} times ours ({min(ratios):.1f} to {max(ratios):.1f})"
        print(f"{name:>14}: {absolute}; {relative}")


def rows(envs: VectorEnvironment, context: Array, seeds: list[int], actions: Array) -> Iterator[Shown]:
    """What our rows show: the reset, then every step."""
    every = np.arange(envs.rows)
    obs = envs.reset(every, np.tile(context, (envs.rows, 1)), seeds)
    yield in_order(obs)
    for chosen in actions:
        moves = envs.step(every, chosen)
        yield *in_order(moves.obs), moves.reward, moves.terminated, moves.truncated


def sync(envs: SyncVectorEnv, context: Array, seeds: list[int], actions: Array) -> Iterator[Shown]:
    """The same of Gymnasium's vector environment."""
    obs, _ = envs.reset(seed=seeds, options={"context": context})
    yield tuple(values.copy() for values in in_order(obs))
    for chosen in actions:
        obs, reward, terminated, truncated, _ = envs.step(chosen)
        yield *in_order(obs), reward, terminated, truncated


def in_order(obs: dict[str, Array]) -> Shown:
    """Observations by name of their key."""
    return tuple(obs[key] for key in sorted(obs))


if __name__ == "__main__":
    main()
