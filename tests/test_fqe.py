"""Fitted Q evaluation against exact values, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import toy_spec
from test_known_answers import DISCOUNT, Table, batch_of, spec_of

from toolkit.cli import main
from toolkit.collect import collect
from toolkit.core import Episode, Moments, Spec
from toolkit.fqe import FittedQ, FQEConfig, bootstrapped, evaluate, evaluate_run, fit, monte_carlo
from toolkit.store import ReplayStore, Schema
from toolkit.train import train

FAST = FQEConfig(discount=DISCOUNT, steps=1000, samples=8, hidden=(64,), lr=1e-2, tau=0.03)


class TablePolicy:
    """A policy of the table's four states given by its probabilities (S, A); deterministic if each row is one-hot."""

    def __init__(self, chances: np.ndarray, *, batches: int | None = None) -> None:
        self.chances = torch.from_numpy(chances).float()
        self.deterministic = bool((self.chances.max(1).values == 1).all())
        self.device = "cpu"
        self.random = torch.Generator().manual_seed(0)
        self.asked = 0

    def choose(self, obs: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        rows = self.chances[obs.argmax(-1)]
        return rows.argmax(-1) if self.deterministic else torch.multinomial(rows, 1, generator=self.random)[:, 0]


def exact(table: Table, chances: np.ndarray) -> np.ndarray:
    """V of a policy, by solving the linear system V = sum_a pi(a|s) (r + discount P V)."""
    reward = (chances * table.reward).sum(1)
    move = np.einsum("sa,sat->st", chances, table.move)
    return np.linalg.solve(np.eye(4) - DISCOUNT * move, reward)


def rewarded(reward: np.ndarray) -> Spec:
    """The table's spec with the extremes of these rewards."""
    spec = spec_of(np.eye(4), np.eye(3), discrete=True)
    return dataclasses.replace(spec, reward=Moments.of(reward.reshape(-1, 1)))


def fitted(policy: TablePolicy, config: FQEConfig = FAST):
    table, rng = Table(), np.random.default_rng(1)
    table.behaviour[:] = 1 / 3  # every action is in the data, so every policy's value is known to them
    spec = dataclasses.replace(
        spec_of(np.eye(4), np.eye(3), discrete=True), reward=Moments.of(table.reward.reshape(-1, 1))
    )
    return fit(policy, lambda: table.batch(256, rng), spec, config, seed=0)


@pytest.mark.parametrize("kind", ["deterministic", "stochastic"])
def test_value_of_a_tabular_policy_is_the_solution_of_its_linear_system(kind):
    chances = np.eye(3)[[0, 1, 1, 2]] if kind == "deterministic" else np.random.default_rng(5).dirichlet(np.ones(3), 4)
    policy = TablePolicy(chances)
    assert policy.deterministic == (kind == "deterministic")
    due = exact(Table(), chances)
    values = fitted(policy).values(torch.eye(4).repeat(500, 1))  # many draws of the policy's actions in each state
    found = values.mean(0).view(500, 4).mean(0).numpy()
    np.testing.assert_allclose(found, due, rtol=0.03)
    other = exact(Table(), np.full((4, 3), 1 / 3))
    assert np.abs(found - due).max() < 0.3 * np.abs(other - due).max()  # it is this policy's and not the behaviour's


class Proportional:
    """a = -0.2 s + sigma * noise, one number each."""

    device = "cpu"

    def __init__(self, sigma: float) -> None:
        self.sigma, self.deterministic, self.random = sigma, sigma == 0, torch.Generator().manual_seed(0)

    def choose(self, obs: torch.Tensor) -> torch.Tensor:
        return -0.2 * obs + self.sigma * torch.randn(obs.shape, generator=self.random)


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_value_in_a_linear_quadratic_problem_is_the_riccati_ones(sigma):
    """s' = s / 2 + a and r = -s^2 - a^2: V(s) = -p s^2 - c, with p and c in closed form for a linear policy."""
    rng = np.random.default_rng(2)

    def draw(size: int = 256):
        s, a = rng.uniform(-1.5, 1.5, (size, 1)), rng.uniform(-0.75, 0.75, (size, 1))
        return batch_of(s, a, (-(s**2) - a**2)[:, 0], s / 2 + a, np.zeros(size))

    seen = draw(4096)
    spec = spec_of(seen.obs[:, 0].numpy(), seen.action[:, 0].numpy())
    spec = dataclasses.replace(spec, reward=Moments.of(seen.reward.numpy()), horizon=50)
    p = (1 + 0.2**2) / (1 - DISCOUNT * 0.3**2)
    c = sigma**2 * (1 + DISCOUNT * p) / (1 - DISCOUNT)
    model = fit(Proportional(sigma), draw, spec, dataclasses.replace(FAST, hidden=(64, 64), lr=3e-3), seed=0)
    states = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
    found = model.values(states.repeat(300)[:, None]).mean(0).view(300, 5).mean(0)
    np.testing.assert_allclose(found, -p * states.square() - c, atol=0.1)


def test_a_policy_that_draws_is_asked_for_several_actions_and_a_deterministic_one_once():
    for chances, times in ((np.full((4, 3), 1 / 3), FAST.samples), (np.eye(3)[[0, 1, 1, 2]], 1)):
        policy = TablePolicy(chances)
        fitted(policy, dataclasses.replace(FAST, steps=1))
        assert policy.asked == times


def test_a_truncated_step_bootstraps_and_a_terminated_one_does_not():
    spec, policy = (
        dataclasses.replace(spec_of(np.eye(4), np.eye(3), discrete=True), reward=Moments.of(np.ones((2, 1)))),
        None,
    )
    table, rng = Table(), np.random.default_rng(1)
    policy = TablePolicy(np.full((4, 3), 1 / 3))
    for terminated, due in ((False, 1 / (1 - DISCOUNT)), (True, 1.0)):

        def draw(terminated=terminated):
            batch = table.batch(256, rng)
            return dataclasses.replace(
                batch, reward=torch.ones_like(batch.reward), terminated=torch.full_like(batch.terminated, terminated)
            )

        value = fit(policy, draw, spec, dataclasses.replace(FAST, steps=400, tau=0.05, samples=1), seed=0).values(
            torch.eye(4)
        )
        np.testing.assert_allclose(value.numpy(), due, rtol=0.1)


def test_values_never_leave_what_the_rewards_allow():
    spec = dataclasses.replace(toy_spec(discrete=True, action_dim=3), reward=Moments.of(np.array([[-1.0], [2.0]])))
    policy = TablePolicy(np.full((4, 3), 1 / 3))
    model = FittedQ(policy, spec, FAST, seed=0)
    with torch.no_grad():
        for parameter in model.target.parameters():
            parameter.mul_(1e4)
    values = model.values(torch.randn(64, spec.obs_dim))
    assert values.min() >= -1 / (1 - DISCOUNT) - 1e-4
    assert values.max() <= 2 / (1 - DISCOUNT) + 1e-4


def test_a_policys_value_on_a_store_is_not_the_datas_and_both_are_exact(tmp_path):
    """300 episodes of 20 steps of the table, cut there; the behaviour is uniform, the policy is not."""
    table, rng = Table(), np.random.default_rng(1)
    chances = np.random.default_rng(5).dirichlet(np.ones(3), 4)
    schema = Schema.from_spaces(observation=spaces.Box(0, 1, (4,)), action=spaces.Discrete(3))
    with ReplayStore.create(tmp_path / "t.zarr", schema).writer() as writer:
        for _ in range(300):
            states, actions = [int(rng.integers(4))], []
            for _ in range(20):
                actions.append(int(rng.integers(3)))
                states.append(int(rng.choice(4, p=table.move[states[-1], actions[-1]])))
            reward = table.reward[states[:-1], actions].astype(np.float32)
            writer.append(Episode(np.eye(4, dtype=np.float32)[states], np.array(actions), reward, False))
    store = ReplayStore.open(tmp_path / "t.zarr")
    found = evaluate(TablePolicy(chances), store, FAST, seed=0)
    first = np.mean([store.episode(i).observations()["observation"][0] for i in range(300)], 0)
    due, other = first @ exact(table, chances), first @ exact(table, np.full((4, 3), 1 / 3))
    np.testing.assert_allclose(found.value.value, due, rtol=0.04)
    np.testing.assert_allclose(found.behaviour.value, other, rtol=0.06)
    assert abs(due - other) > 0.04 * due  # the test can fail
    assert found.behaviour.low < other < found.behaviour.high
    assert found.truncated == 1
    assert found.disagreement < 0.1


def test_values_are_as_far_from_zero_as_the_steps_allow():
    """Reward 1 forever: the fit stands where `settled` says it can, for few steps and for enough."""
    table, rng, due = Table(), np.random.default_rng(1), 1 / (1 - DISCOUNT)
    policy = TablePolicy(np.eye(3)[[0, 1, 1, 2]])
    for steps in (100, 600):
        config = dataclasses.replace(FAST, steps=steps, tau=0.05)

        def draw():
            batch = table.batch(64, rng)
            return dataclasses.replace(batch, reward=torch.ones_like(batch.reward))

        value = fit(policy, draw, rewarded(np.ones(2)), config, seed=0).values(torch.eye(4)).mean()
        np.testing.assert_allclose(value / due, config.settled, atol=0.12)
    assert config.settled > 0.99


def test_monte_carlo_value_is_the_discounted_sum():
    assert monte_carlo(np.array([1.0, 2.0, 4.0]), 0.5) == 1 + 1 + 1


def test_the_interval_covers_the_mean_of_the_population_it_was_drawn_from():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        found = bootstrapped(rng.exponential(size=100), rng)
        hits += found.low <= 1.0 <= found.high
    assert hits >= 51  # 95% of 60 is 57; a percentile interval of skewed numbers falls a little short
    assert not bootstrapped(np.ones(1), rng).bounded


@pytest.mark.parametrize("wrong", [{"discount": 1.0}, {"steps": 0}, {"samples": 0}, {"hidden": ()}, {"lr": 0.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        FQEConfig(**wrong)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("fqe")
    store = collect("pendulum", out=folder / "p.zarr", episodes=4, contexts=2, coverage=0.5, noise=0.0, seed=0)
    small = {"hidden": (8, 8)}
    made = {}
    for name, options in (("bc", small), ("fql", {}), ("return-bc", small), ("dt", {"context": 3, "width": 8})):
        made[name] = train(
            name, store=store.path, steps=2, episodes=0, out=folder / "runs", batch_size=16, options=options
        )
    return made | {"store": store.path, "folder": folder}


QUICK = FQEConfig(steps=3, batch_size=16, hidden=(8,), samples=2)


def test_a_run_is_valued_beside_the_behaviour_and_the_same_seed_repeats_it(runs):
    one, other = (evaluate_run(runs["bc"], config=QUICK, seed=1) for _ in range(2))
    assert one == other
    assert one.deterministic
    assert not evaluate_run(runs["fql"], config=QUICK).deterministic
    opened = ReplayStore.open(runs["store"])
    due = [monte_carlo(opened.episode(i).reward, QUICK.discount) for i in range(len(opened))]
    np.testing.assert_allclose(one.behaviour.value, np.mean(due))
    assert one.behaviour.low <= one.behaviour.value <= one.behaviour.high
    assert one.truncated == 1  # a pendulum never terminates


@pytest.mark.parametrize("name", ["return-bc", "dt"])
def test_policies_of_more_than_the_observation_are_refused_by_name(runs, name):
    with pytest.raises(ValueError, match=f"{name} has no value that can be fitted"):
        evaluate_run(runs[name], config=QUICK)


def test_data_of_another_shape_are_refused(runs, make_store):
    with pytest.raises(ValueError, match=r"action_dim 1, .* has 2"):
        evaluate_run(runs["bc"], store=make_store([4, 5]).path, config=QUICK)


def test_the_command_prints_the_best_first_and_json_for_programs(runs, capsys):
    flags = ["--steps", "3", "--hidden", "8", "--samples", "2", "--batch-size", "16"]
    chosen = [str(runs[name]) for name in ("bc", "fql")]
    assert main(["fqe", *chosen, *flags, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["learner"] for line in lines} == {"bc", "fql"}
    assert lines[0]["value"]["value"] >= lines[1]["value"]["value"]
    assert main(["fqe", chosen[0], *flags]) == 0
    out = capsys.readouterr().out
    assert "behaviour" in out
    assert "100% of the episodes were truncated" in out
    assert "too few steps" in out
    assert main(["fqe", chosen[0], "--view", "half"]) == 2
    assert main(["fqe", chosen[0], "--discount", "1"]) == 2
