"""Rows stepped together play exactly the episodes that single environments play."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit import registry
from toolkit.core import Array
from toolkit.envs import Suite
from toolkit.envs._vector import Moves, Singles, VectorEnvironment

ROWS = 4


def native() -> list:
    """Suites that step their simulator themselves; for the others a batch is single environments by definition."""
    return [pytest.param(s, id=name) for name, s in registry.suites().items() if type(s).batch is not Suite.batch]


def bits(value: object) -> list[tuple[str, bytes]]:
    """Every array in a nest of dicts, lists and moves, as dtype and bytes."""
    if isinstance(value, Moves):
        value = list(vars(value).values())
    if isinstance(value, dict):
        return [pair for key in sorted(value) for pair in bits(value[key])]
    if isinstance(value, list):
        return [pair for part in value for pair in bits(part)]
    assert isinstance(value, np.ndarray)
    return [(value.dtype.str, value.tobytes())]


def play(suite: Suite, envs: VectorEnvironment, *, seed: int, episodes: int) -> list:
    """All that the rows show while a random choice of them is stepped and ended rows start again, `episodes` in all.

    Where nothing else ends episodes early, in the maze, even rows follow the expert; actions lie half outside the
    limits.
    """
    follow = suite.name == "pointmaze"
    rng = np.random.default_rng(seed)
    contexts = np.concatenate([suite.contexts(split, 60, seed=seed) for split in ("train", "extrapolated")])
    rng.shuffle(contexts)
    low, high = suite.action_space.low, suite.action_space.high
    experts: dict[int, object] = {}
    obs: dict[str, Array] = {}
    shown: list = []
    episode = 0

    def start(rows: Array) -> None:
        nonlocal episode
        chosen = contexts[np.arange(episode, episode + len(rows)) % len(contexts)]
        first = envs.reset(rows, chosen, range(episode, episode + len(rows)))
        episode += len(rows)
        shown.append(first)
        for i, row in enumerate(rows.tolist()):
            if follow:
                experts[row] = suite.expert(chosen[i], rng=np.random.default_rng(row))
            for key, values in first.items():
                obs.setdefault(key, np.zeros((envs.rows, *values.shape[1:]), values.dtype))[row] = values[i]

    start(np.arange(envs.rows))
    while episode < episodes:
        rows = rng.permutation(envs.rows)[: rng.integers(1, envs.rows + 1)]
        actions = rng.uniform(2 * low, 2 * high, (len(rows), *low.shape)).astype(np.float32)
        for i, row in enumerate(rows.tolist()):
            if follow and row % 2 == 0:
                actions[i] = experts[row]({key: values[row] for key, values in obs.items()})  # type: ignore[operator]
        moves = envs.step(rows, actions)
        shown.append(moves)
        for key, values in moves.obs.items():
            obs[key][rows] = values
        if moves.over.any():
            start(rows[moves.over])
    envs.close()
    return shown


@pytest.mark.parametrize("suite", native())
def test_rows_show_the_bits_of_single_environments_through_whole_episodes_and_resets(suite):
    for module in suite.requires:
        pytest.importorskip(module)
    alone = play(suite, Singles([suite.make() for _ in range(ROWS)]), seed=1, episodes=3 * ROWS)
    together = play(suite, suite.batch(ROWS), seed=1, episodes=3 * ROWS)
    assert len(alone) == len(together)
    for moment, (one, other) in enumerate(zip(alone, together, strict=True)):
        assert bits(one) == bits(other), moment


def test_single_environments_as_rows_are_left_alone_until_named():
    suite = registry.suite("pendulum")
    contexts = suite.contexts("train", 3, seed=0)
    envs, alone = suite.batch(3), suite.make()
    assert isinstance(envs, Singles)
    envs.reset(np.arange(3), contexts, [0, 1, 2])
    action = np.array([1.5], np.float32)
    for _ in range(5):
        envs.step(np.array([0, 2]), np.stack([-action, action]))
    moves = envs.step(np.array([1]), action[None])
    alone.reset(seed=1, options={"context": contexts[1]})
    obs, reward, *_ = alone.step(action)
    np.testing.assert_array_equal(moves.obs["observation"], [obs["observation"]])
    assert moves.reward.tolist() == [reward]
    assert not moves.over.any()
