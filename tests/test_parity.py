"""Our losses and gradients against d3rlpy's, SciPy's and float64 NumPy, on the same batch and the same weights."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers import toy_batch, toy_spec
from scipy import stats
from torch import Tensor, nn

from algos._common import values
from algos.bc import BCConfig
from algos.cql import CQLConfig, conservative_gap, squashed_sample
from algos.d3rlpy import D3rlpyBCConfig, D3rlpyConfig, library
from algos.iql import IQLConfig, advantage_weight, expectile_loss
from toolkit import registry
from toolkit.core import Batch, Spec
from toolkit.nets import StackedMLP, generator

SPEC = toy_spec()
HIDDEN = (32, 32)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def batch_of(size: int = 64, seed: int = 0, spec: Spec = SPEC) -> Batch:
    return toy_batch(spec, size, 1, seed)


def linear_layers(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def pour(ours: nn.Module, theirs: list[nn.Linear], member: int = 0) -> None:
    """Copy one member's weights into d3rlpy's layers; a layer of ours may be split over their last ones."""
    parameters = [p.detach()[member] for p in ours.parameters() if p.dim() == 3]
    pairs = list(zip(parameters[::2], parameters[1::2], strict=True))
    last_weight, last_bias = pairs.pop()
    heads = theirs[len(pairs) :]
    pairs += zip(last_weight.chunk(len(heads), -1), last_bias.chunk(len(heads), -1), strict=True)
    with torch.no_grad():
        for layer, (weight, bias) in zip(theirs, pairs, strict=True):
            layer.weight.copy_(weight.T)
            layer.bias.copy_(bias.squeeze(0))


def first_moments(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Adam's first moments; after one step they are a tenth of the gradients."""
    return [optimizer.state[p]["exp_avg"] for group in optimizer.param_groups for p in group["params"]]


def assert_same_gradients(ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer) -> None:
    """Sums and sums of squares of all gradients agree; the layouts differ, these do not."""
    for reduce in (torch.sum, lambda g: g.square().sum()):
        a, b = (sum(reduce(g.double()) for g in first_moments(o)) for o in (ours, theirs))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


class Queue:
    """Gives d3rlpy the noise that our learner is about to draw, in the order d3rlpy asks for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.normal: list[Tensor] = []
        self.uniform: list[Tensor] = []
        monkeypatch.setattr("torch.distributions.normal._standard_normal", self.next_normal)
        monkeypatch.setattr(torch.Tensor, "uniform_", lambda tensor, low, high: tensor.copy_(self.uniform.pop(0)))

    def next_normal(self, shape, dtype, device):
        noise = self.normal.pop(0)
        assert noise.shape == shape
        return noise

    def fill(self, state: Tensor, size: int, samples: int, actions: int, next_action: bool) -> None:
        random = torch.Generator()
        random.set_state(state)
        noise = torch.randn(2, size, samples + 1, actions, generator=random)
        uniform = torch.rand(size, samples, actions, generator=random) * 2 - 1
        here, there = noise[:, :, :samples].transpose(1, 2)
        self.normal += [noise[1, :, samples]] if next_action else []
        self.normal += [here, there, noise[0, :, samples]]
        self.uniform += [uniform.flatten(0, 1)]


def cql_pair(monkeypatch: pytest.MonkeyPatch, *options: str, **ours: object):
    """Our CQL and d3rlpy's with our weights, and a function that updates both with the same noise."""
    learner = CQLConfig(hidden=HIDDEN, entropy_backup=True, **ours).build(SPEC, seed=3, device="cpu")
    fixed = ("soft_q_backup=true", "alpha_threshold=0", *options)
    other = D3rlpyConfig(algo="cql", hidden=HIDDEN, options=fixed).build(SPEC, seed=0, device="cpu")
    pour(learner.actor, linear_layers(other.modules["policy"]))
    for member in range(2):
        pour(learner.critics, linear_layers(other.modules["q_funcs"][member]), member)
        pour(learner.targets, linear_layers(other.modules["targ_q_funcs"][member]), member)
    queue = Queue(monkeypatch)

    def update(seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        batch = batch_of(seed=seed)
        queue.fill(learner.noise.get_state(), len(batch.obs), 10, SPEC.action_dim, next_action=True)
        return learner.update(batch), other.update(batch)

    return learner, other, update


def test_cql_losses_and_gradients_equal_d3rlpys(monkeypatch):
    """Same sampled actions. d3rlpy's conservative loss is summed over critics and holds the weight: 2 * 5 * our gap."""
    learner, other, update = cql_pair(monkeypatch, "alpha_learning_rate=0", "critic_learning_rate=0")
    learner.critic_optimizer.param_groups[0]["lr"] = 0.0  # both actors then see the same critics
    ours, theirs = update(0)
    np.testing.assert_allclose(2 * 5 * ours["gap"], theirs["conservative_loss"], **CLOSE)
    np.testing.assert_allclose(ours["critic_loss"], theirs["critic_loss"] - theirs["conservative_loss"], **CLOSE)
    np.testing.assert_allclose(ours["actor_loss"], theirs["actor_loss"], **CLOSE)
    np.testing.assert_allclose(ours["temperature"], theirs["temp"], **CLOSE)
    assert_same_gradients(learner.critic_optimizer, other.optimizers["critic_optim"].optim)
    assert_same_gradients(learner.actor_optimizer, other.optimizers["actor_optim"].optim)


def test_cql_follows_d3rlpy_over_several_updates(monkeypatch):
    """The order of the steps is the same too: critics, temperature, actor, targets."""
    _, _, update = cql_pair(monkeypatch, "alpha_learning_rate=0")
    for seed in range(5):
        ours, theirs = update(seed)
        np.testing.assert_allclose(10 * ours["gap"], theirs["conservative_loss"], rtol=1e-4)
        np.testing.assert_allclose(ours["actor_loss"], theirs["actor_loss"], rtol=1e-4)
        np.testing.assert_allclose(ours["critic_loss"], theirs["critic_loss"] - theirs["conservative_loss"], rtol=1e-4)


def test_cql_multiplier_moves_as_d3rlpys(monkeypatch):
    """With threshold 0 and one rate they agree; d3rlpy multiplies a threshold by the weight, and steps before use."""
    learner, other, update = cql_pair(monkeypatch, lagrange_threshold=0.0, critic_lr=1e-4)
    ours, theirs = update(0)
    np.testing.assert_allclose(
        learner.log_multiplier.detach(), other.modules["log_alpha"]._parameter.detach()[0, 0], **CLOSE
    )
    np.testing.assert_allclose(
        10 * ours["gap"] * learner.log_multiplier.exp().item(), theirs["conservative_loss"], **CLOSE
    )


def test_cql_without_entropy_backup_targets_a_sampled_action():
    """d3rlpy's default target takes the mean action instead; ours is the authors'."""
    learner = CQLConfig(hidden=HIDDEN).build(SPEC, seed=0, device="cpu")
    batch = batch_of()
    random = torch.Generator()
    random.set_state(learner.noise.get_state())
    noise = torch.randn(2, 64, 11, SPEC.action_dim, generator=random)[1, :, 10:]
    with torch.no_grad():
        s, next_s = learner.observe(batch.obs).unbind(1)
        action, _ = squashed_sample(learner.actor(next_s).unsqueeze(1), noise)
        next_q = learner.targets(torch.cat([next_s, action[:, 0]], -1)).amin(0).squeeze(-1)
        target = torch.where(batch.terminated[:, 0], batch.reward[:, 0], batch.reward[:, 0] + 0.99 * next_q)
        q = learner.critics(torch.cat([s, learner.scale(batch.action[:, 0])], -1)).squeeze(-1)
    np.testing.assert_allclose(learner.update(batch)["critic_loss"], ((q - target) ** 2).mean(1).sum(), **CLOSE)


def test_values_of_many_actions_equal_the_plain_network():
    """The shared first layer and the blocks are arithmetic only."""
    critics = StackedMLP(2, 5, (16, 24, 8), 1, generator=generator(0))
    obs, actions = torch.randn(300, 3, generator=generator(1)), torch.randn(300, 31, 2, generator=generator(2))
    plain = critics(torch.cat([obs.unsqueeze(1).expand(-1, 31, -1), actions], -1).flatten(0, 1)).view(2, 300, 31)
    np.testing.assert_allclose(values(critics, obs, actions).detach(), plain.detach(), **CLOSE)


def test_conservative_gap_estimates_the_integral_of_exp_q():
    """Importance sampling: for Q(a) = a over [-1, 1], the integral of exp Q is 2 sinh 1."""
    actions = 2 * torch.rand(1, 1, 400_000, generator=generator(0)) - 1
    gap = conservative_gap(actions, torch.full((1, 400_000), -math.log(2)), torch.zeros(1, 1))
    np.testing.assert_allclose(gap - math.log(400_000), math.log(2 * math.sinh(1)), atol=2e-3)


def test_squashed_density_equals_scipys_change_of_variables():
    head, noise = 0.5 * torch.randn(50, 4, generator=generator(0)), torch.randn(50, 2, generator=generator(1))
    action, log_prob = squashed_sample(head, noise)
    mean, log_std = head.double().numpy()[:, :2], head.double().numpy()[:, 2:]
    raw = mean + np.exp(log_std) * noise.numpy()
    due = (stats.norm.logpdf(raw, mean, np.exp(log_std)) - 2 * np.log(1 / np.cosh(raw))).sum(1)
    np.testing.assert_allclose(log_prob, due, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(action, np.tanh(raw), rtol=1e-5, atol=1e-6)


def test_iql_losses_and_gradients_equal_d3rlpys():
    """V is held still, for d3rlpy's Q regresses on V before its step and ours, like the authors', after it.

    d3rlpy's log standard deviation is -5 + 7 sigmoid(x): x = log(5 / 2) gives our initial 0, where its
    gradient is 10 / 7 of ours.
    """
    learner = IQLConfig(hidden=HIDDEN).build(SPEC, seed=3, device="cpu")
    config = D3rlpyConfig(algo="iql", hidden=HIDDEN, options=("critic_learning_rate=0",))
    other = config.build(SPEC, seed=0, device="cpu")
    pour(learner.value, linear_layers(other.modules["value_func"]))
    pour(learner.actor.mean, linear_layers(other.modules["policy"]))
    for member in range(2):
        pour(learner.critics, linear_layers(other.modules["q_funcs"][member]), member)
        pour(learner.targets, linear_layers(other.modules["targ_q_funcs"][member]), member)
    with torch.no_grad():
        other.modules["policy"]._logstd.fill_(math.log(5 / 2))
    learner.value_optimizer.param_groups[0]["lr"] = 0.0
    ours, theirs = learner.update(batch_of()), other.update(batch_of())
    np.testing.assert_allclose(ours["value_loss"], theirs["v_loss"], **CLOSE)
    np.testing.assert_allclose(ours["critic_loss"], theirs["q_loss"], **CLOSE)
    np.testing.assert_allclose(ours["actor_loss"], theirs["actor_loss"], **CLOSE)
    theirs_all = sum(g.double().square().sum() for g in first_moments(other.optimizers["critic_optim"].optim))
    ours_all = [*first_moments(learner.critic_optimizer), *first_moments(learner.value_optimizer)]
    np.testing.assert_allclose(sum(g.double().square().sum() for g in ours_all), theirs_all, rtol=1e-4)
    log_std = learner.actor_optimizer.state[learner.actor.log_std]["exp_avg"]
    their_log_std = other.optimizers["actor_optim"].optim.state[other.modules["policy"]._logstd]["exp_avg"]
    np.testing.assert_allclose(log_std * 10 / 7, their_log_std[0], rtol=1e-4)


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.7, 0.99])
def test_expectile_loss_equals_its_definition_in_float64(tau):
    error = np.random.default_rng(0).normal(size=1000)
    due = (np.abs(tau - (error < 0)) * error**2).mean()
    np.testing.assert_allclose(expectile_loss(torch.from_numpy(error), tau), due, rtol=1e-12)
    np.testing.assert_allclose(expectile_loss(torch.from_numpy(error).float(), tau), due, rtol=1e-5)


def test_least_expectile_loss_is_at_the_expectile():
    sample = np.random.default_rng(1).normal(size=500)
    due = stats.expectile(sample, 0.9)
    losses = [expectile_loss(torch.from_numpy(sample) - due - shift, 0.9).item() for shift in (-0.01, 0, 0.01)]
    assert losses[1] < min(losses[0], losses[2])


def test_advantage_weight_is_clipped_and_rises():
    weight = advantage_weight(torch.tensor([-1.0, 0.0, 1.0, 50.0]), 3.0, 100.0)
    np.testing.assert_allclose(weight, [math.exp(-3), 1, math.exp(3), 100], rtol=1e-6)


def test_iql_cosine_schedule_ends_at_zero():
    learner = IQLConfig(hidden=HIDDEN, cosine_steps=4).build(SPEC, seed=0, device="cpu")
    rates = []
    for index in range(6):
        learner.update(batch_of(8, index))
        rates.append(learner.actor_optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, 3e-4 * 0.5 * (1 + np.cos(np.pi * np.array([0, 1, 2, 3, 4, 4]) / 4)), atol=1e-12)


def float64_head(learner, obs: np.ndarray) -> np.ndarray:
    """The cloner's network in NumPy."""
    x = (obs.astype(float) - SPEC.obs.mean) / SPEC.obs.std
    parameters = [p.detach().double().numpy()[0] for p in learner.net.parameters()]
    for index in range(0, len(parameters), 2):
        x = x @ parameters[index] + parameters[index + 1]
        x = np.maximum(x, 0) if index + 2 < len(parameters) else x
    return x


def test_bc_likelihood_equals_scipys_in_raw_units():
    """d3rlpy's continuous `bc` minimises a squared error and has no likelihood to compare with."""
    learner = BCConfig(hidden=HIDDEN).build(SPEC, seed=0, device="cpu")
    for index in range(20):
        learner.update(batch_of(seed=index))
    batch = batch_of(seed=99)
    mean, free = np.split(float64_head(learner, batch.obs[:, 0].numpy()), 2, axis=1)
    std = np.exp(-5 + 7 / (1 + np.exp(-(free + np.log(5 / 2)))))
    raw_mean, raw_std = mean * SPEC.action.std + SPEC.action.mean, std * SPEC.action.std
    due = stats.norm.logpdf(batch.action[:, 0].numpy(), raw_mean, raw_std).sum(1)
    np.testing.assert_allclose(learner.action_log_prob(batch.obs[:, 0], batch.action[:, 0]).detach(), due, rtol=1e-5)
    np.testing.assert_allclose(learner.update(batch)["nll"], -due.mean(), rtol=1e-5)


def test_constant_action_dimensions_count_no_nats():
    moments = SPEC.action
    constant = dataclasses.replace(moments, std=np.array([moments.std[0], 0], np.float32))
    for config in (BCConfig(hidden=HIDDEN), IQLConfig(hidden=HIDDEN)):
        learner = config.build(dataclasses.replace(SPEC, action=constant), seed=0, device="cpu")
        batch = batch_of()
        learner.update(batch)
        other = torch.stack([batch.action[:, 0, 0], torch.full((64,), float(moments.mean[1]))], -1)
        one, two = (learner.action_log_prob(batch.obs[:, 0], a).detach() for a in (batch.action[:, 0], other))
        np.testing.assert_array_equal(one, two)


def test_discrete_bc_likelihood_equals_d3rlpys_imitation_loss():
    """d3rlpy adds beta times the mean squared logit; its imitation loss alone is ours."""
    spec = toy_spec(discrete=True, action_dim=3)
    learner = BCConfig(hidden=HIDDEN).build(spec, seed=0, device="cpu")
    batch = batch_of(spec=spec)
    algo = (
        library()
        .algos.DiscreteBCConfig(encoder_factory=library().models.VectorEncoderFactory(list(HIDDEN)), beta=0.5)
        .create(device="cpu")
    )
    algo.create_impl((spec.obs_dim,), spec.action_dim)
    pour(learner.net, linear_layers(algo.impl.modules.imitator))
    loss = algo.impl.compute_loss(learner.observe(batch.obs[:, 0]), batch.action[:, 0].argmax(-1))
    np.testing.assert_allclose(learner.update(batch)["nll"], loss.imitation_loss.detach(), **CLOSE)


def test_adapter_update_equals_d3rlpys_own():
    """Nothing is lost on the way: the same algorithm on a d3rlpy batch of the same numbers gives the same losses."""
    learner = D3rlpyBCConfig(hidden=HIDDEN).build(SPEC, seed=0, device="cpu")
    batch = batch_of()
    obs, action = learner.observe(batch.obs[:, 0]), learner.scale(batch.action[:, 0])
    due = (learner.modules["imitator"](obs).squashed_mu - action).square().mean()
    np.testing.assert_allclose(learner.update(batch)["loss"], due.detach(), **CLOSE)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("gama=0.9",), "did you mean 'gamma'"),
        (("gamma",), "key=value"),
        (("gamma=high",), "expected a float"),
        (("n_critics=2.5",), "expected a int"),
        (("batch_size=3",), "no option 'batch_size'"),
    ],
)
def test_wrong_d3rlpy_options_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        D3rlpyConfig(algo="cql", options=options)


def test_d3rlpy_algorithm_must_be_the_learners_own():
    with pytest.raises(ValueError, match="expected one of cql"):
        type(registry.learner("d3rlpy-cql"))(algo="iql")
    with pytest.raises(ValueError, match="supervised"):
        D3rlpyConfig(algo="bc")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: BCConfig(log_std_low=1.0),
        lambda: BCConfig(hidden=()),
        lambda: CQLConfig(samples=0),
        lambda: CQLConfig(discount=1.5),
        lambda: IQLConfig(expectile=1.0),
        lambda: IQLConfig(lr=-1.0),
    ],
)
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        wrong()
