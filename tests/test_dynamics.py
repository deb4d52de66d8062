"""Laws of a model's distributions: heads, their likelihood where the truth is known, calibration, and training."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import equal_states, through_files, toy_batch, toy_spec
from known_dynamics import ENTROPY, GAUSSIAN, end_probability, known_system, part
from scipy.special import log_softmax, logsumexp
from scipy.stats import norm
from torch import Tensor

from toolkit.baselines import Transitions
from toolkit.core import Batch, Spec
from toolkit.diagnosis import coverage, pit
from toolkit.nets import generator
from worldmodel.calibration import calibrate, fit_logit, fit_scale
from worldmodel.heads import GaussianLogProb, Head
from worldmodel.mixture import LOG_STD, AutoregressiveHead
from worldmodel.model import EnsembleModel, Imagination
from worldmodel.mpc import HEADS, MPC, MPCConfig
from worldmodel.selection import Rows

SMALL = MPCConfig(hidden=(32, 32), members=3, elites=2, compare_every=100, samples=20, best=4, horizon=5)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(spec: Spec, batch: Batch, config: MPCConfig, updates: int) -> MPC:
    learner, rng = config.build(spec, seed=0, device="cpu"), np.random.default_rng(0)
    for _ in range(updates):
        learner.update(part(batch, rng.integers(0, len(batch.episode), 128)))
    return learner


def transition(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """obs (B, O), action (B, A), next_obs (B, O), reward (B,)."""
    return batch.obs[:, 0], batch.action[:, 0], batch.obs[:, 1], batch.reward[:, 0]


def rows_of(batch: Batch) -> Rows:
    return Rows.of(batch, torch.arange(len(batch.episode)))


def wild(name: str, *, members: int = 2, dims: int = 3, rows: int = 1) -> tuple[Head, Tensor]:
    """A head with large random parameters and numbers, so that nothing cancels."""
    head = HEADS[name](members, dims, generator=generator(0))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.7 * torch.randn(parameter.shape, generator=generator(1))
    return head, torch.randn(members, 1, head.outputs, generator=generator(2)).expand(-1, rows, -1)


# Heads


def test_the_written_gradient_of_a_gaussian_is_that_of_finite_differences() -> None:
    def wide(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator(sum(shape))).requires_grad_()

    low, high = wide(2, 1, 3) - 3, wide(2, 1, 3) + 1
    for value in (wide(4, 3), wide(2, 4, 3)):
        assert torch.autograd.gradcheck(GaussianLogProb.apply, (wide(2, 4, 6), value, low, high, wide(3).exp()))


@pytest.mark.parametrize("name", HEADS)
def test_a_density_integrates_to_one(name: str) -> None:
    head, numbers = wild(name)
    head.scale.copy_(torch.tensor([0.7, 1.0, 1.6]))
    axis = torch.linspace(-400, 400, 80_001)
    for d in range(3):  # each dimension, whatever those before it are
        value = torch.tensor([0.3, -1.2, 0.8]).repeat(len(axis), 1)
        value[:, d] = axis
        with torch.no_grad():
            density = head.log_prob(numbers.expand(-1, len(axis), -1), value)[..., d].exp()
        np.testing.assert_allclose(torch.trapezoid(density.double(), axis.double(), dim=1), 1, atol=1e-3)


@pytest.mark.parametrize("name", HEADS)
def test_draws_have_the_density_s_entropy_and_scale(name: str) -> None:
    head, numbers = wild(name, rows=100_000)
    draws = head.sample(numbers, generator=generator(3))
    wider = copy.deepcopy(head)
    wider.scale.fill_(2)
    with torch.no_grad():
        own, other = (one.log_prob(numbers, draws).mean(1) for one in (head, wider))
        twice = wider.log_prob(numbers, wider.sample(numbers, generator=generator(3))).mean(1)
    assert (own > other).all()  # no density scores draws better than their own
    assert (twice < own).all()


def test_an_autoregressive_mixture_equals_numpy() -> None:
    head, _ = wild("autoregressive", members=1)
    assert isinstance(head, AutoregressiveHead)
    head.scale.copy_(torch.tensor([0.5, 1.0, 2.0]))
    numbers = torch.randn(1, 4, head.outputs, generator=generator(4))
    value = torch.randn(4, 3, generator=generator(5))
    with torch.no_grad():
        ours = head.log_prob(numbers, value)[0]
        std = (0.5 * head.bounds(numbers[..., 3:6]))[0].exp().double().numpy()
    mean, features = numbers[0, :, :3].double().numpy(), numbers[0, :, 6:].double().numpy().reshape(4, 3, head.width)
    p = {k: v.detach()[0].double().numpy() for k, v in head.named_parameters()}
    for row in range(4):
        z = (value[row].double().numpy() - mean[row]) / std[row]
        for d in range(3):
            hidden, shift = features[row, d].copy(), 0.0
            for i in range(d):
                hidden += np.clip(z[i], -8, 8) * p["before"][i, d]
                shift += np.clip(z[i], -8, 8) * p["shift"][i, d]
            logit, place, spread = np.split(
                (hidden / (1 + np.exp(-hidden))) @ p["weight"][d] + p["bias"][d, 0], 3
            )  # SiLU
            spread = np.exp(LOG_STD * np.tanh(spread / LOG_STD)) * float(head.scale[d])
            due = logsumexp(log_softmax(logit) + norm.logpdf(z[d], place + shift, spread)) - math.log(std[row, d])
            assert ours[row, d].item() == pytest.approx(due, rel=1e-4, abs=1e-4)


def test_a_dimension_is_told_by_those_before_it_alone() -> None:
    head, numbers = wild("autoregressive")
    value = torch.randn(2, 1, 3, generator=generator(5), requires_grad=True)
    for d in range(3):
        (gradient,) = torch.autograd.grad(head.log_prob(numbers, value)[..., d].sum(), value)
        assert (gradient[..., : d + 1] != 0).all()
        assert (gradient[..., d + 1 :] == 0).all()


def test_the_mean_of_an_autoregressive_head_is_that_of_its_draws_where_dependence_is_linear() -> None:
    head, numbers = wild("autoregressive", rows=100_000)
    assert isinstance(head, AutoregressiveHead)
    head.before.data.zero_()
    head.shift.data.mul_(0.3)
    draws = head.sample(numbers, generator=generator(3))
    error = draws.std(1) / math.sqrt(100_000)
    assert ((draws.mean(1) - head.mean(numbers[:, :1])[:, 0]).abs() < 5 * error).all()


@pytest.mark.parametrize("name", HEADS)
def test_some_members_of_a_head_are_what_they_were(name: str) -> None:
    head, numbers = wild(name, members=3)
    some, value = torch.tensor([2, 0]), torch.zeros(1, 3)
    assert torch.equal(head.of(some).log_prob(numbers[some], value), head.log_prob(numbers, value)[some])


def test_imagination_repeats_the_elites_predictions_with_an_autoregressive_head() -> None:
    spec, batch = known_system("bimodal", episodes=20, seed=0, ends=True)
    model = train(spec, batch, replace(SMALL, head="autoregressive"), 100).best_model()
    state, action = batch.obs[:9, 0] * 0.3, batch.action[:9, 0]
    reached, reward, end = Imagination(model)(state.expand(2, -1, -1), action.expand(3, 2, -1, -1))
    for e, member in enumerate(model.elites.tolist()):
        now = state
        for h in range(3):
            now, paid, ended = (each[member].detach() for each in model.predict(now, action))
            torch.testing.assert_close(reached[h, e], now, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(reward[h, e], paid, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(end[h, e], ended, rtol=1e-4, atol=1e-4)


# Where the truth is known


@pytest.mark.parametrize("system", ENTROPY)
def test_code_lengths_come_within_two_percent_of_the_entropy_where_the_head_can_say_it(system: str) -> None:
    spec, batch = known_system(system, episodes=60, seed=0)  # type: ignore[arg-type]
    _, fresh = known_system(system, episodes=60, seed=1)  # type: ignore[arg-type]
    length = {}
    for head, updates in {"gaussian": 900, "autoregressive": 1200}.items():
        learner = train(spec, batch, replace(SMALL, head=head, compare_every=150), updates)  # type: ignore[arg-type]
        with torch.no_grad():
            length[head] = -learner.transition_log_prob(*transition(fresh)).mean().item()
    assert length["autoregressive"] == pytest.approx(ENTROPY[system], rel=0.02)
    assert length["gaussian"] == pytest.approx(GAUSSIAN[system], rel=0.03)
    if system == "independent":
        assert length["gaussian"] == pytest.approx(ENTROPY[system], rel=0.02)
    else:
        gap = GAUSSIAN[system] - ENTROPY[system]  # 1.2 and 2.9 nats
        assert length["gaussian"] - length["autoregressive"] > 0.9 * gap


def test_intervals_hold_what_followed_and_ends_are_as_probable_as_they_are() -> None:
    spec, batch = known_system("independent", episodes=100, seed=0, ends=True)
    _, fresh = known_system("independent", episodes=100, seed=1, ends=True)
    learner = train(spec, batch, SMALL, 1000)
    data = Transitions(*transition(fresh), fresh.terminated[:, 0], fresh.episode.numpy())
    some = data.take(np.arange(2000))
    found = pit(learner, some, samples=99, generator=generator(0), rng=np.random.default_rng(0))
    for level in (0.5, 0.9, 0.95):
        np.testing.assert_allclose(coverage(found, level).mean(0), level, atol=0.04)
    said = learner.imagine(data.obs, data.action).end.numpy()
    assert np.abs(said - end_probability(data.obs.numpy())).mean() < 0.03


# Calibration


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_a_known_error_of_the_spread_is_found(name: str, factor: float) -> None:
    head, _ = wild(name)
    numbers = torch.randn(2, 4000, head.outputs, generator=generator(4))
    truth = copy.deepcopy(head)
    truth.scale.copy_(torch.tensor([factor, 1.0, 1 / factor]))
    value = truth.sample(numbers, generator=generator(3))[0]  # the first member is the truth, the second is off
    kept = torch.tensor([True, True, False])
    only = torch.tensor([0])
    found = fit_scale(head.of(only), numbers[only], value, kept)
    np.testing.assert_allclose(found, [factor, 1, 1], rtol=0.08)
    assert torch.equal(head.scale, torch.ones(3))


def test_a_known_line_through_the_logits_is_found_and_few_ends_change_little() -> None:
    rng = np.random.default_rng(0)
    logit = torch.from_numpy(rng.normal(-1, 2, 20_000))
    happened = torch.from_numpy(rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * logit.numpy() - 0.7))))
    slope, shift = fit_logit(logit.expand(2, -1), happened)
    assert slope == pytest.approx(0.5, abs=0.03)
    assert shift == pytest.approx(-0.7, abs=0.08)
    rare = torch.full((2, 500), -7.0)
    assert fit_logit(rare, torch.zeros(500, dtype=torch.bool)) == pytest.approx((1, 0), abs=0.5)


def test_calibration_moves_no_mean_and_raises_the_likelihood_of_what_it_saw() -> None:
    spec, batch = known_system("independent", episodes=30, seed=0, ends=True)
    model = train(spec, batch, SMALL, 200).best_model()
    model.head.scale.fill_(1)
    model.end_slope.fill_(1)
    model.end_shift.fill_(0)
    before, mean = model.log_prob(*transition(batch)).mean(), model.predict(*transition(batch)[:2])[0]
    calibrate(model, rows_of(batch))
    assert model.log_prob(*transition(batch)).mean() > before
    assert torch.equal(model.predict(*transition(batch)[:2])[0], mean)
    assert model.end_slope != 1


def test_calibration_without_rows_changes_nothing() -> None:
    spec, batch = known_system("independent", episodes=20, seed=0)
    model = EnsembleModel(spec, members=2, elites=1, hidden=(8,), generator=generator(0))
    before = copy.deepcopy(model.state_dict())
    calibrate(model, Rows.of(batch, torch.arange(0)))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# Training


def test_a_member_that_no_longer_improves_stays_at_its_best_weights() -> None:
    spec, batch = known_system("independent", episodes=20, seed=0)
    config = replace(SMALL, compare_every=20, patience=2)
    learner = train(spec, batch, config, 20)
    learner.selection.best[1] = -1e9  # it can never be beaten now
    rng, best = np.random.default_rng(1), [p[1].clone() for p in learner.kept.parameters()]
    for _ in range(50):
        learner.update(part(batch, rng.integers(0, len(batch.episode), 128)))
    assert learner.selection.moving(2).tolist() == [True, False, True]
    for now, kept, old in zip(learner.model.parameters(), learner.kept.parameters(), best, strict=True):
        assert torch.equal(kept[1], old)
        assert torch.equal(now[1], old)
        assert not torch.equal(now[0], kept[0])


def test_a_window_s_likelihood_is_that_of_its_steps_from_the_member_s_own_means() -> None:
    spec = toy_spec()
    batch = toy_batch(spec, batch_size=6, window=3)
    valid = batch.valid.clone()
    valid[0, 2:] = False
    model = EnsembleModel(spec, members=2, elites=1, hidden=(8,), generator=generator(0))
    ours = model.nll(batch.obs, batch.action, batch.reward, batch.terminated, valid)
    for member in range(2):
        state, total = batch.obs[:, 0], torch.zeros(6)
        for k in range(3):
            numbers, logit = (each[member] for each in model(state, batch.action[:, k]))
            value = model.target(state, batch.obs[:, k + 1], batch.reward[:, k])
            log_prob = model.head.of(torch.tensor([member])).log_prob(numbers[None], value)[0].sum(-1)
            end = torch.nn.functional.binary_cross_entropy_with_logits(
                logit, batch.terminated[:, k].float(), reduction="none"
            )
            total = total + (end - log_prob) * valid[:, k]
            state = model.predict(state, batch.action[:, k])[0][member].clamp(model.low, model.high)
        torch.testing.assert_close(ours[member], total / valid.sum(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [{"head": "autoregressive"}, {"rollout": 3}, {"patience": 1}], ids=str)
def test_every_kind_of_model_resumes_bit_for_bit(changes: dict[str, object]) -> None:
    spec, config = toy_spec(), replace(SMALL, compare_every=2, hidden=(8,), **changes)  # type: ignore[arg-type]
    batches = [toy_batch(spec, batch_size=16, seed=seed, needs=config.needs) for seed in range(6)]
    straight, stopped = (config.build(spec, seed=0, device="cpu") for _ in range(2))
    for batch in batches:
        metrics = straight.update(batch)
    assert all(value.isfinite() for value in metrics.values())
    for batch in batches[:3]:
        stopped.update(batch)
    resumed = config.build(spec, seed=0, device="cpu")
    resumed.load_state_dict(through_files(stopped.state_dict()))
    for batch in batches[3:]:
        resumed.update(batch)
    assert equal_states(resumed.state_dict(), straight.state_dict())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": "vq"}, "expected gaussian or autoregressive"),
        ({"patience": -1}, "patience"),
        ({"rollout": 0}, "rollout"),
    ],
)
def test_options_that_cannot_be_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(MPCConfig(), **changes)  # type: ignore[arg-type]


def test_a_state_of_another_head_is_refused() -> None:
    spec = toy_spec()
    one, other = (
        replace(SMALL, head=head).build(spec, seed=0, device="cpu") for head in ("gaussian", "autoregressive")
    )
    with pytest.raises(ValueError, match="another head or another version"):
        other.load_state_dict(one.state_dict())
