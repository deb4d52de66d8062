"""Small problems that are solved exactly: every learner finds the value, the action or the entropy that it claims."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import expectile

from algos.awac import AWACConfig
from algos.bc import BCConfig
from algos.cql import CQLConfig
from algos.dt import DTConfig
from algos.fql import FQLConfig
from algos.iql import IQLConfig
from algos.rebrac import ReBRACConfig
from algos.td3bc import TD3BCConfig
from toolkit.core import Array, Batch, LearnerConfig, Moments, Spec, Step

DISCOUNT = 0.8
FAST = {"hidden": (32, 32), "tau": 0.05, "discount": DISCOUNT}


def spec_of(obs: Array, action: Array, *, discrete: bool = False) -> Spec:
    """A Spec for these observations (n, O) and actions (n, A), which lie in [-1, 1]."""
    ones, zero = np.ones(action.shape[1], np.float32), Moments.of(np.zeros((2, 1)))
    return Spec(
        obs_dim=obs.shape[1],
        action_dim=action.shape[1],
        discrete=discrete,
        goal_dim=0,
        action_low=0 * ones if discrete else -ones,
        action_high=ones,
        horizon=10,
        episodes=10,
        transitions=len(obs),
        obs=Moments.of(obs),
        delta=Moments.of(0 * obs),
        action=Moments.of(action),
        reward=zero,
        returns=zero,
        obs_resolution=np.ones(obs.shape[1], np.float32),
        action_resolution=ones,
    )


def batch_of(obs: Array, action: Array, reward: Array, next_obs: Array, terminated: Array, next_action=None) -> Batch:
    """Transitions (n, ...) as windows of one step."""

    def tensor(x: Array) -> torch.Tensor:
        return torch.from_numpy(np.asarray(x, np.float32))

    end = torch.from_numpy(np.asarray(terminated, bool))[:, None]
    extra = {}
    if next_action is not None:
        extra = {"next_action": tensor(next_action)[:, None], "next_valid": ~end}
    return Batch(
        obs=tensor(np.stack([obs, next_obs], 1)),
        action=tensor(action)[:, None],
        reward=tensor(reward)[:, None],
        terminated=end,
        valid=torch.ones_like(end),
        episode=torch.zeros(len(obs), dtype=torch.int64),
        **extra,
    )


class Table:
    """A random Markov decision process of 4 states and 3 actions; the data never hold the last action in state 0."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.reward = rng.uniform(0, 1, (4, 3))
        self.reward[0, 2] = 3.0  # tempting, and not in the data
        self.move = rng.dirichlet(np.full(4, 0.3), (4, 3))  # (S, A, S')
        self.behaviour = rng.dirichlet(np.full(3, 3.0), 4)
        self.behaviour[0] = [0.6, 0.4, 0.0]

    def solve(self, value_of) -> Array:
        """The fixed point Q = r + discount E V(s'), V(s) = value_of(s, Q[s]); (S, A)."""
        q = np.zeros((4, 3))
        for _ in range(300):
            q = self.reward + DISCOUNT * self.move @ np.array([value_of(s, q[s]) for s in range(4)])
        return q

    def batch(self, size: int, rng: np.random.Generator) -> Batch:
        """Transitions of the behaviour from uniform states; observations and actions are one-hot."""
        s = rng.integers(4, size=size)
        a = (rng.random(size)[:, None] > self.behaviour[s].cumsum(1)).sum(1)
        after = (rng.random(size)[:, None] > self.move[s, a].cumsum(1)).sum(1).clip(max=3)
        return batch_of(np.eye(4)[s], np.eye(3)[a], self.reward[s, a], np.eye(4)[after], np.zeros(size))


def trained(config: LearnerConfig, spec: Spec, draw, updates: int):
    learner = config.build(spec, seed=0, device="cpu")
    rng = np.random.default_rng(0)
    for _ in range(updates):
        learner.update(draw(256, rng))
    return learner


def tabular(config: LearnerConfig, updates: int = 1000):
    return trained(config, spec_of(np.eye(4), np.eye(3), discrete=True), Table().batch, updates)


STATES = torch.eye(4)


def in_support(table: Table) -> Array:
    return table.behaviour > 0


@functools.cache
def iql_of(tau: float):
    return tabular(IQLConfig(**FAST, lr=3e-3, expectile=tau, beta=3.0))


@pytest.mark.parametrize("tau", [0.5, 0.9])
def test_iql_finds_the_expectile_of_its_fixed_point(tau):
    """V is the expectile over the behaviour's actions, Q its one-step backup; both solved exactly."""
    table = Table()
    q = table.solve(lambda s, row: expectile(row, tau, weights=table.behaviour[s]))
    value = [expectile(q[s], tau, weights=table.behaviour[s]) for s in range(4)]
    learner = iql_of(tau)
    with torch.no_grad():
        found = learner.value(learner.observe(STATES)).squeeze(-1)
    np.testing.assert_allclose(found, value, atol=0.12)


def test_iqls_expectile_approaches_the_best_action_of_the_data():
    """Never the tempting one the data do not hold; and the policy's mode is the best action that they do."""
    table = Table()
    best = table.solve(lambda s, row: row[in_support(table)[s]].max())
    due = np.where(in_support(table), best, -np.inf).max(1)
    with torch.no_grad():
        gaps = [np.abs(due - iql_of(t).value(iql_of(t).observe(STATES)).squeeze(-1).numpy()).max() for t in (0.5, 0.9)]
    assert gaps[1] < 0.6 * gaps[0]
    assert (iql_of(0.9).choose(STATES)[0] != 2).item()


def test_cql_without_its_penalty_finds_the_optimal_values():
    """Where the data hold every action, weight 0 is double Q-learning."""
    table = Table()
    table.behaviour[:] = 1 / 3
    q = table.solve(lambda s, row: row.max())
    spec = spec_of(np.eye(4), np.eye(3), discrete=True)
    learner = trained(CQLConfig(**FAST, critic_lr=3e-3, weight=0.0), spec, table.batch, 1000)
    with torch.no_grad():
        found = learner.critics(learner.observe(STATES))
    np.testing.assert_allclose(found, np.stack([q, q]), rtol=0.04)
    assert (learner.choose(STATES).numpy() == q.argmax(1)).all()


def test_cqls_value_is_a_lower_bound_of_its_policys():
    """arXiv:2006.04779, theorem 3.2, for the policy softmax Q; its rewards are scaled so that it nears the max."""
    table, scale = Table(), 10.0
    learner = tabular(CQLConfig(**FAST, critic_lr=1e-2, weight=2.0, reward_scale=scale), 800)
    with torch.no_grad():
        q = learner.critics(learner.observe(STATES)).mean(0)
    policy = q.softmax(-1).numpy()
    true = table.solve(lambda s, row: policy[s] @ row)
    estimate, due = (policy * q.numpy() / scale).sum(1), (policy * true).sum(1)
    assert (estimate < due - 0.05).all()
    assert (estimate > 0.8 * due).all()  # a bound that says something


class Line:
    """State 0 leads to state 1 for nothing; there, action a in [-1, 1] earns 1 - (a - 0.5)**2 and it ends.

    The data's actions are uniform in [-0.6, 0.2]: the best, 0.5, lies outside, and so does its value.
    """

    centre = -0.2

    def batch(self, size: int, rng: np.random.Generator) -> Batch:
        s = rng.integers(2, size=size)
        a, next_a = rng.uniform(-0.6, 0.2, (2, size, 1))
        reward = np.where(s == 1, self.reward(a[:, 0]), 0)
        return batch_of(np.eye(2)[s], a, reward, np.eye(2)[np.ones(size, int)], s == 1, next_a)

    @staticmethod
    def reward(a):
        return 1 - (a - 0.5) ** 2

    @property
    def spec(self) -> Spec:
        return spec_of(np.eye(2), np.random.default_rng(0).uniform(-0.6, 0.2, (500, 1)))


HERE = torch.tensor([[0.0, 1.0]])  # state 1
LINE = Line()


def balance(pull: float) -> float:
    """The action where pull * Q'(a) / |Q(a)| meets the squared error's 2 (a - centre)."""
    return brentq(lambda a: pull * -2 * (a - 0.5) / LINE.reward(a) - 2 * (a - LINE.centre), LINE.centre, 0.5)


def test_td3bc_balances_value_and_imitation():
    """Its actor minimises (pi - a)**2 - alpha Q / |Q|, its critic is the discounted value of the actor."""
    config = TD3BCConfig(**FAST, lr=2e-3, alpha=0.4, noise=0.0)
    learner = trained(config, LINE.spec, LINE.batch, 1200)
    found = learner.choose(HERE).item()
    np.testing.assert_allclose(found, balance(0.4), atol=0.05)
    with torch.no_grad():
        q = learner.critics(torch.cat([learner.observe(torch.eye(2)), torch.full((2, 1), found)], 1))[..., 0]
    np.testing.assert_allclose(q.mean(0), [DISCOUNT * LINE.reward(found), LINE.reward(found)], atol=0.05)


def test_rebracs_penalty_reaches_the_critic():
    """The first state's value is short of the second's by the critic's penalty times the expected squared distance."""
    config = ReBRACConfig(**FAST, lr=2e-3, critic_lr=2e-3, actor_penalty=2.0, critic_penalty=1.0, noise=0.0)
    learner = trained(config, LINE.spec, LINE.batch, 1200)
    found = learner.choose(HERE).item()
    np.testing.assert_allclose(found, balance(1 / 2.0), atol=0.05)
    distance = (found - LINE.centre) ** 2 + 0.8**2 / 12
    with torch.no_grad():
        start = torch.cat([learner.observe(torch.eye(2))[:1], torch.full((1, 1), LINE.centre)], 1)
        q = learner.critics(start).mean().item()
    np.testing.assert_allclose(q, DISCOUNT * (LINE.reward(found) - distance), atol=0.06)


@pytest.mark.parametrize(
    "config",
    [
        AWACConfig(**FAST, actor_hidden=(32, 32), lr=2e-3, temperature=0.2, weight_decay=0.0),
        IQLConfig(**FAST, lr=2e-3, beta=5.0),
    ],
    ids=["awac", "iql"],
)
def test_weighted_regression_fits_the_exponentially_weighted_data(config):
    """The mean of its Gaussian is the data's mean under weights exp(Q / temperature), or exp(beta Q)."""
    learner = trained(config, LINE.spec, LINE.batch, 1200)
    grid = np.linspace(-0.6, 0.2, 1001)
    weight = np.exp(LINE.reward(grid) / 0.2)
    np.testing.assert_allclose(learner.choose(HERE).item(), (weight * grid).sum() / weight.sum(), atol=0.04)


def test_fqls_critic_is_the_discounted_value_of_what_its_actor_does():
    """Held to the data it acts about their mean; the first state's value is the mean reward of that, one step on."""
    config = FQLConfig(**FAST, lr=2e-3, alpha=1000.0, flow_steps=5)
    learner = trained(config, LINE.spec, LINE.batch, 800)
    step = Step(np.tile([[0, 1]], (2000, 1)).astype(np.float32), np.zeros(2000, np.float32), np.ones(2000, bool))
    acted = learner.policy(seed=0).act(step)[:, 0]
    np.testing.assert_allclose(acted.mean(), LINE.centre, atol=0.08)
    with torch.no_grad():
        start = torch.cat([learner.observe(torch.eye(2))[:1], torch.full((1, 1), LINE.centre)], 1)
        q = learner.critics(start).mean().item()
    np.testing.assert_allclose(q, DISCOUNT * LINE.reward(acted).mean(), atol=0.05)


def test_continuous_cql_stays_below_the_truth_where_there_is_no_data():
    config = CQLConfig(**FAST, actor_lr=1e-3, critic_lr=1e-3, weight=1.0, samples=4)
    learner = trained(config, LINE.spec, LINE.batch, 500)
    action = torch.tensor([[-1.0], [0.7], [1.0], learner.choose(HERE)[0].tolist()])
    with torch.no_grad():
        q = learner.critics(torch.cat([learner.observe(HERE).expand(4, -1), action], 1))[..., 0].amin(0)
    above = q.numpy() - LINE.reward(action[:, 0].numpy())
    assert (above[:3] < -0.5).all()
    assert above[3] < 0.05  # its policy's own value, where there are data


def conditional(size: int, rng: np.random.Generator, *, modes: bool) -> tuple[Batch, float]:
    """a ~ N(sin 2s / 2, (0.1 + 0.1 s)**2), or half of them 0.8 higher; the conditional entropy in nats, or a bound."""
    s = rng.uniform(0, 1, (size, 1))
    std = 0.1 + 0.1 * s
    entropy = float(np.mean(0.5 * np.log(2 * np.pi * np.e * std**2)))
    action = np.sin(2 * s) / 2 - 0.4 + std * rng.normal(size=(size, 1))
    if modes:
        action = action + 0.8 * rng.integers(2, size=(size, 1))
    return batch_of(s, action, np.zeros(size), s, np.ones(size)), entropy


@pytest.mark.parametrize("head", ["gaussian", "mixture"])
@pytest.mark.parametrize("modes", [False, True])
def test_cloning_reaches_the_entropy_of_the_data(head, modes):
    """Held out. Two modes 0.8 apart and at most 0.2 wide cost log 2 more, to 0.03; one Gaussian can't have them."""
    rng = np.random.default_rng(1)
    test, entropy = conditional(20_000, rng, modes=modes)
    truth = entropy + modes * np.log(2)
    config = BCConfig(hidden=(32, 32), lr=3e-3, head=head)
    spec = spec_of(test.obs[:, 0].numpy(), test.action[:, 0].numpy())
    learner = trained(config, spec, lambda size, draw: conditional(size, draw, modes=modes)[0], 700)
    with torch.no_grad():
        nll = -learner.action_log_prob(test.obs[:, 0], test.action[:, 0]).mean().item()
    if head == "gaussian" and modes:
        assert nll > truth + 0.2
    else:
        np.testing.assert_allclose(nll, truth, atol=0.05)


def test_categorical_cloning_reaches_the_entropy_of_the_behaviour():
    table = Table()
    learner = tabular(BCConfig(hidden=(32,), lr=3e-3), 500)
    with torch.no_grad():
        found = torch.stack([learner.action_log_prob(STATES, torch.eye(3)[a].expand(4, 3)) for a in range(3)], 1).exp()
    np.testing.assert_allclose(found, table.behaviour, atol=0.04)


def remembered(size: int, rng: np.random.Generator) -> Batch:
    """Windows of 3: the action is 0.8 times the observation before, and noise of 0.1; at first, noise alone."""
    seen = rng.uniform(-1, 1, (size, 4, 1))
    before = np.concatenate([np.zeros((size, 1, 1)), seen[:, :2]], 1)
    action = 0.8 * before + 0.1 * rng.normal(size=(size, 3, 1))
    ones = torch.ones(size, 3, dtype=torch.bool)
    obs, action = (torch.from_numpy(x.astype(np.float32)) for x in (seen, action))
    return Batch(obs, action, torch.zeros(size, 3), ~ones, ones, torch.zeros(size, dtype=torch.int64))


def test_cloning_over_a_window_reaches_the_entropy_that_needs_a_memory():
    """An observation alone says nothing of the action: its entropy is then that of the sum, 0.9 nats more."""
    test = remembered(5000, np.random.default_rng(1))
    config = BCConfig(net="transformer", window=3, hidden=(32, 32), lr=3e-3)
    spec = spec_of(test.obs[:, 0].numpy(), test.action.flatten(0, 1).numpy())
    learner = trained(config, spec, remembered, 500)
    with torch.no_grad():
        nll = -learner.action_log_prob(test.obs[:, :-1], test.action).mean().item()
    np.testing.assert_allclose(nll, 0.5 * np.log(2 * np.pi * np.e * 0.01), atol=0.08)
    policy = learner.policy(seed=0)
    for index, obs in enumerate([0.9, -0.5, 0.1, 0.7]):
        step = Step(np.full((1, 1), obs, np.float32), np.zeros(1, np.float32), np.array([index == 0]))
        found = policy.act(step).item()
        np.testing.assert_allclose(found, 0.8 * [0, 0.9, -0.5, 0.1][index], atol=0.1)


def two_modes(size: int, rng: np.random.Generator) -> Batch:
    """One state; actions near -0.5 or 0.5, equally often; the reward is the action, and it ends."""
    a = rng.choice([-0.5, 0.5], (size, 1)) + 0.05 * rng.normal(size=(size, 1))
    s = np.ones((size, 1)) * np.linspace(-1, 1, size)[:, None]
    return batch_of(s, a, a[:, 0], s, np.ones(size))


@pytest.mark.parametrize(("alpha", "best_only"), [(0.3, True), (1000.0, False)])
def test_fqls_actor_keeps_both_modes_or_takes_the_better(alpha, best_only):
    """Held to the flow it clones a density that no Gaussian could; let go, it climbs the critic, inside the data."""
    config = FQLConfig(hidden=(32, 32), tau=0.05, lr=3e-3, alpha=alpha, flow_steps=5)
    data = two_modes(500, np.random.default_rng(0))
    learner = trained(config, spec_of(data.obs[:, 0].numpy(), data.action[:, 0].numpy()), two_modes, 600)
    rng = np.random.default_rng(1)
    step = Step(rng.uniform(-1, 1, (400, 1)).astype(np.float32), np.zeros(400, np.float32), np.ones(400, bool))
    acted = learner.policy(seed=0).act(step)[:, 0]
    upper, lower = (np.abs(acted - 0.5) < 0.2).mean(), (np.abs(acted + 0.5) < 0.2).mean()
    if best_only:
        assert (acted > 0.2).mean() > 0.95
    else:
        assert 0.3 < upper < 0.65
        assert 0.3 < lower < 0.65


@pytest.mark.parametrize("asked", [-0.6, 0.2, 0.9])
@pytest.mark.parametrize("learner", ["return-bc", "dt"])
def test_return_conditioned_learners_give_the_return_they_are_asked_for(learner, asked):
    """Where the return of an episode of one step is its action, asking for a return names the action."""
    trained_one = conditioned(learner)
    trained_one.returns.target.fill_(asked)
    step = Step(np.linspace(-1, 1, 5, dtype=np.float32)[:, None], np.zeros(5, np.float32), np.ones(5, bool))
    np.testing.assert_allclose(trained_one.policy(seed=0).act(step)[:, 0], asked, atol=0.1)


@functools.cache
def conditioned(name: str):
    configs = {
        "return-bc": BCConfig(hidden=(32, 32), lr=3e-3, return_conditioned=True),
        "dt": DTConfig(context=1, width=16, layers=1, dropout=0.0, lr=3e-3, warmup=10),
    }

    def draw(size: int, rng: np.random.Generator) -> Batch:
        s, a = rng.uniform(-1, 1, (2, size, 1))
        batch = batch_of(s, a, a[:, 0], s, np.ones(size))
        return dataclasses.replace(batch, return_to_go=batch.reward)

    rng = np.random.default_rng(0)
    s, a = rng.uniform(-1, 1, (2, 500, 1))
    spec = dataclasses.replace(spec_of(s, a), returns=Moments.of(a))
    return trained(configs[name], spec, draw, 500)
