"""Fitted Q evaluation finds the exact value of a policy on a Markov decision process that is solved exactly."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from toolkit import train
from toolkit.cli import main
from toolkit.collect import collect
from toolkit.configure import configure
from toolkit.core import Episode, Step
from toolkit.fqe import fitted_value, monte_carlo_value
from toolkit.store import ReplayStore, Schema

DISCOUNT = 0.7
RNG = np.random.default_rng(0)
REWARD, MOVE = RNG.uniform(0, 1, (3, 2)), RNG.dirichlet(np.full(3, 0.4), (3, 2))
BEHAVIOUR = np.array([[0.5, 0.5], [0.7, 0.3], [0.4, 0.6]])


class Tabular:
    """A policy that draws action a in state s with probability `table[s, a]`."""

    def __init__(self, table: np.ndarray, seed: int) -> None:
        self.table, self.rng = table, np.random.default_rng(seed)

    def act(self, step: Step) -> np.ndarray:
        chance = self.table[step.obs.argmax(1)]
        return (self.rng.random(len(chance))[:, None] > chance.cumsum(1)).sum(1).clip(max=1)


class Fixed:
    """What a learner is to fitted Q evaluation: something with a policy."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    def policy(self, *, seed: int) -> Tabular:
        return Tabular(self.table, seed)


def exact(table: np.ndarray) -> np.ndarray:
    """V of the policy (3,)."""
    reward, move = (table * REWARD).sum(1), np.einsum("sa,sat->st", table, MOVE)
    return np.linalg.solve(np.eye(3) - DISCOUNT * move, reward)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ReplayStore:
    """300 episodes of 20 steps of the behaviour, from state 0, truncated."""
    schema = Schema.from_spaces(observation=spaces.Box(0, 1, (3,)), action=spaces.Discrete(2))
    path, rng = tmp_path_factory.mktemp("fqe") / "t.zarr", np.random.default_rng(1)
    with ReplayStore.create(path, schema).writer() as writer:
        for _ in range(300):
            states, actions = [0], []
            for _ in range(20):
                actions.append(int(rng.random() < BEHAVIOUR[states[-1], 1]))
                states.append(int(rng.choice(3, p=MOVE[states[-1], actions[-1]])))
            reward = REWARD[states[:-1], actions].astype(np.float32)
            writer.append(Episode(np.eye(3, dtype=np.float32)[states], np.array(actions), reward, False))
    return ReplayStore.open(path)


SMALL = {"steps": 700, "hidden": (32,), "lr": 5e-3, "tau": 0.05, "discount": DISCOUNT}


@pytest.mark.parametrize(
    "table",
    [np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [0.2, 0.8], [0.5, 0.5]])],
    ids=["deterministic", "stochastic"],
)
def test_the_value_of_a_policy_that_is_not_the_datas_is_found(store, table):
    found = fitted_value(Fixed(table), store, **SMALL)
    np.testing.assert_allclose(found.policy, exact(table)[0], rtol=0.04)
    np.testing.assert_allclose(found.behaviour, exact(BEHAVIOUR)[0], rtol=0.04)
    assert abs(exact(table)[0] - exact(BEHAVIOUR)[0]) > 0.08 * exact(BEHAVIOUR)[0]  # the test can fail
    assert found.disagreement < 0.1


def test_truncated_ends_bootstrap_in_the_fit_and_are_cut_in_the_monte_carlo_value(store):
    long = exact(BEHAVIOUR)[0]
    assert monte_carlo_value(store, DISCOUNT) < long * (1 + 0.03)
    assert monte_carlo_value(store, 0.0) == pytest.approx(REWARD[0, :] @ BEHAVIOUR[0], rel=0.05)


def test_same_seed_same_value(store):
    one, other = (fitted_value(Fixed(BEHAVIOUR), store, **(SMALL | {"steps": 5})) for _ in range(2))
    assert one == other


def test_policies_that_remember_are_refused(store):
    with pytest.raises(ValueError, match="remembers or plans"):
        fitted_value(_Remembering(), store, **SMALL)
    with pytest.raises(ValueError, match=r"discount lie in \[0, 1\)"):
        fitted_value(Fixed(BEHAVIOUR), store, discount=1.0)


class _Remembering:
    def policy(self, *, seed: int) -> _Remembering:
        return self

    def act(self, step: Step) -> np.ndarray:
        return np.where(step.first, 0, 1)


@pytest.mark.parametrize(("learner", "code", "says"), [("fql", 0, "behaviour"), ("dt", 2, "remembers or plans")])
def test_a_run_is_judged_from_the_command_line_or_refused(tmp_path, capsys, learner, code, says):
    data = collect("pendulum", out=tmp_path / "p.zarr", episodes=3, contexts=2, coverage=0.5, seed=0)
    options = {"width": 8, "context": 3} if learner == "dt" else {"hidden": (8,)}
    config = configure(learner, store=data.path, steps=2, episodes=0, batch_size=8, options=options)
    assert main(["fqe", str(train.run(config, tmp_path)), "--steps", "5"]) == code
    assert says in "".join(capsys.readouterr())
