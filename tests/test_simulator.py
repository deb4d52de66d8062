"""A simulator plays the suite's own episodes, from any state, as often as asked."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit import registry
from toolkit.envs import Suite
from toolkit.envs._simulator import Played

ROWS = 3


def simulated() -> list:
    """Suites whose dynamics can be asked."""
    return [
        pytest.param(s, id=name) for name, s in registry.suites().items() if type(s).simulator is not Suite.simulator
    ]


def actions_of(suite: Suite, rng: np.random.Generator, count: int) -> np.ndarray:
    return np.stack([np.asarray(suite.behaviour("random", np.zeros(0), rng=rng)({})) for _ in range(count)])


@pytest.mark.parametrize("suite", simulated())
def test_a_simulator_plays_the_episodes_of_the_environment(suite: Suite) -> None:
    """Observations and ends bit for bit, rewards up to rounding; rows start and end on their own."""
    contexts = np.concatenate([suite.contexts(split, ROWS, seed=1) for split in ("train", "extrapolated")])
    simulator = suite.simulator()
    assert simulator is not None
    both = suite.batch(ROWS), Played(simulator, ROWS)
    rng, episode, steps, names = np.random.default_rng(0), ROWS, 0, np.arange(ROWS)
    shown = [envs.reset(names, contexts[:ROWS], range(ROWS)) for envs in both]
    while steps < 3 * suite.max_steps:
        for key in suite.roles:
            np.testing.assert_array_equal(shown[0][key], shown[1][key])
        rows = np.sort(rng.permutation(ROWS)[: rng.integers(1, ROWS + 1)])
        actions = actions_of(suite, rng, len(rows))
        one, other = (envs.step(rows, actions) for envs in both)
        for key in suite.roles:
            np.testing.assert_array_equal(one.obs[key], other.obs[key])
        np.testing.assert_allclose(one.reward, other.reward, rtol=1e-6, atol=1e-6)
        for name in ("terminated", "truncated", "success"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        for row in rows[one.over].tolist():
            again = np.array([row])
            chosen = contexts[[episode % len(contexts)]]
            shown = [envs.reset(again, chosen, [episode]) for envs in both]
            episode += 1
        steps += len(rows)
    both[0].close()
    simulator.close()


@pytest.mark.parametrize("suite", simulated())
def test_what_was_tried_is_taken_back(suite: Suite) -> None:
    """One state and one action lead to one place, whatever was asked in between."""
    simulator = suite.simulator()
    assert simulator is not None
    states, _ = simulator.start(suite.contexts("train", 2, seed=3), [5, 6])
    rng = np.random.default_rng(1)
    for _ in range(10):
        states, _ = simulator.step(states, actions_of(suite, rng, 2))
    kept, action = states.copy(), actions_of(suite, rng, 2)
    one, moves = simulator.step(states, action)
    np.testing.assert_array_equal(states, kept)
    simulator.step(one[::-1], actions_of(suite, rng, 2))
    two, again = simulator.step(states, action)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(moves.reward, again.reward)
    simulator.close()
