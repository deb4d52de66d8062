"""Laws of the networks: members do not touch each other, a window's steps see none later, and all serve learners."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers import equal_states, through_files, toy_batch, toy_spec
from torch import nn

from algos._common import values
from algos.bc import BCConfig
from algos.iql import IQLConfig
from toolkit import registry
from toolkit.core import Step
from toolkit.nets import (
    StackedResidual,
    Windowed,
    generator,
    load_optimizer_state,
    optimizer_state,
    single,
    stack,
)
from toolkit.nets.stacked import dropped
from toolkit.nets.steps import Adam

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
KINDS = [("mlp", False), ("mlp", True), ("residual", False)]


def network(net: str, layer_norm: bool, members: int = 2):
    return stack(net, members, 5, (16, 16), 3, layer_norm=layer_norm, generator=generator(0))


@pytest.mark.parametrize(("net", "layer_norm"), KINDS)
def test_a_member_apart_equals_the_member_in_the_stack(net, layer_norm):
    networks, x = network(net, layer_norm), torch.randn(40, 5, generator=generator(1))
    apart = torch.stack([member(x) for member in networks.apart()])
    np.testing.assert_allclose(apart.detach(), networks(x).detach(), **CLOSE)
    one = torch.autograd.grad(apart.square().sum(), networks.parameters())
    other = torch.autograd.grad(networks(x).square().sum(), networks.parameters())
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("net", "layer_norm"), KINDS)
def test_values_of_many_actions_equal_the_network_on_each(net, layer_norm):
    critics = network(net, layer_norm)
    obs, actions = torch.randn(50, 3, generator=generator(1)), torch.randn(50, 31, 2, generator=generator(2))
    critics = stack(net, 2, 5, (16, 16), 1, layer_norm=layer_norm, generator=generator(0))
    plain = critics(torch.cat([obs.unsqueeze(1).expand(-1, 31, -1), actions], -1).flatten(0, 1)).view(2, 50, 31)
    np.testing.assert_allclose(values(critics, obs, actions).detach(), plain.detach(), **CLOSE)


@pytest.mark.parametrize(("net", "layer_norm"), KINDS)
def test_a_gradient_of_one_member_leaves_the_other_alone(net, layer_norm):
    networks = network(net, layer_norm)
    networks(torch.randn(8, 5, generator=generator(1)))[0].sum().backward()
    assert all((parameter.grad[1] == 0).all() for parameter in networks.parameters())
    assert any((parameter.grad[0] != 0).any() for parameter in networks.parameters())


def test_a_residual_network_equals_its_equation_in_float64():
    net = StackedResidual(1, 5, (16, 16), 3, generator=generator(0))
    p = {name: parameter.detach().double()[0] for name, parameter in net.named_parameters()}
    x = torch.randn(40, 5, generator=generator(1))

    def normed(h: torch.Tensor, index: int) -> torch.Tensor:
        spread = h.var(-1, keepdim=True, unbiased=False)
        scaled = (h - h.mean(-1, keepdim=True)) / (spread + 1e-5).sqrt()
        return scaled * p[f"norms.{index}.weight"] + p[f"norms.{index}.bias"]

    h = x.double() @ p["embed.weight"] + p["embed.bias"]
    for k in (0, 1):
        wide = (normed(h, k) @ p[f"widen.{k}.weight"] + p[f"widen.{k}.bias"]).clamp_min(0)
        h = h + wide @ p[f"narrow.{k}.weight"] + p[f"narrow.{k}.bias"]
    np.testing.assert_allclose(net(x)[0].detach(), normed(h, 2) @ p["out.weight"] + p["out.bias"], rtol=1e-4, atol=1e-5)


def test_one_network_takes_any_leading_shape():
    net = single("residual", 5, (8,), 2, generator=generator(0))
    x = torch.randn(3, 4, 5, generator=generator(1))
    np.testing.assert_allclose(net(x)[1].detach(), net(x[1]).detach(), **CLOSE)


def transformer(window: int = 6, **options) -> Windowed:
    return single("transformer", 5, (128, 128), 3, window=window, generator=generator(0), **options)


def test_a_transformers_step_depends_on_it_and_those_before_alone():
    net, x = transformer(), torch.randn(4, 6, 5, generator=generator(1))
    later = torch.cat([x[:, :3], x[:, 3:] + 5], 1)
    np.testing.assert_allclose(net(later)[:, :3].detach(), net(x)[:, :3].detach(), **CLOSE)
    np.testing.assert_allclose(net(x[:, :3]).detach(), net(x)[:, :3].detach(), **CLOSE)
    earlier = torch.cat([x[:, :1] + 5, x[:, 1:]], 1)
    assert ((net(earlier) - net(x)).abs().amax((0, 2)) > 1e-4).all()  # every step reads the first
    assert (net(x.flip(1)) - net(x).flip(1)).abs().max() > 1e-4  # and knows its place


def test_a_transformer_takes_any_leading_shape_and_no_longer_window():
    net, x = transformer(), torch.randn(2, 3, 4, 5, generator=generator(1))
    np.testing.assert_allclose(net(x)[1, 2].detach(), net(x[1, 2]).detach(), **CLOSE)
    for shape in ((7, 5), (2, 7, 5), (5,)):
        with pytest.raises(ValueError, match="1 to 6 steps"):
            net(torch.zeros(shape))


def test_networks_without_inputs_or_with_unequal_widths_are_refused():
    for settings in ({"inputs": 0, "hidden": (8,)}, {"inputs": 3, "hidden": (8, 16)}, {"inputs": 3, "hidden": ()}):
        for net in ("residual", "transformer"):
            with pytest.raises(ValueError, match=r"no vector observations|equal widths"):
                single(net, outputs=2, window=2, generator=generator(0), **settings)
    with pytest.raises(ValueError, match="reads single steps"):
        stack("transformer", 2, 3, (8,), 1, generator=generator(0))


@pytest.mark.parametrize("net", ["mlp", "residual", "transformer"])
def test_dropout_is_drawn_from_the_given_generator_and_without_one_is_off(net):
    options = {"window": 4, "generator": generator(0)}
    plain, dropping = (single(net, 5, (64, 64), 3, dropout=share, **options | {"generator": generator(0)})
                       for share in (0.0, 0.2))  # fmt: skip
    x = torch.randn(100, 4, 5, generator=generator(1))
    due = plain(x)
    assert torch.equal(dropping(x), due)
    assert torch.equal(plain(x, generator(2)), due)
    one, same, other = (dropping(x, generator(seed)) for seed in (2, 2, 3))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_dropout_takes_the_share_and_keeps_the_mean():
    x = torch.ones(100, 1000)
    found = dropped(x, 0.3, generator(0))
    assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    np.testing.assert_allclose((found == 0).float().mean(), 0.3, atol=0.01)
    np.testing.assert_allclose(found.mean(), 1, atol=0.01)


CHOOSING = {
    name: config
    for name, config in registry.learners().items()
    if config.name == name and "net" in {field.name for field in dataclasses.fields(config)}
}


@pytest.mark.parametrize("name", CHOOSING)
def test_learners_train_resume_and_act_with_residual_networks(name):
    spec, config = toy_spec(), CHOOSING[name]
    narrow = {"hidden": (8, 8)} | ({"actor_hidden": (8, 8)} if name == "awac" else {})
    config = dataclasses.replace(config, net="residual", **narrow)
    learners = [config.build(spec, seed=0, device="cpu") for _ in range(2)]
    batches = [toy_batch(spec, seed=seed, needs=config.needs) for seed in range(4)]
    for batch in batches:
        metrics = learners[0].update(batch)
    assert all(torch.isfinite(value) for value in metrics.values())
    for batch in batches[:2]:
        learners[1].update(batch)
    resumed = config.build(spec, seed=0, device="cpu")
    resumed.load_state_dict(through_files(learners[1].state_dict()))
    for batch in batches[2:]:
        resumed.update(batch)
    assert equal_states(resumed.state_dict(), learners[0].state_dict())
    with pytest.raises(ValueError, match="must be equal"):
        dataclasses.replace(config, hidden=(8, 16))
    with pytest.raises(ValueError, match="expected mlp, residual, transformer"):
        dataclasses.replace(config, net="cnn")


@pytest.mark.parametrize("name", sorted(CHOOSING))
def test_a_transformer_is_refused_for_single_transitions_saying_what_to_do(name):
    says = "a window of 2 observations or more" if name == "bc" else "bc with a window"
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(CHOOSING[name], net="transformer", hidden=(8,))


def test_a_window_is_refused_for_nets_that_read_one_observation():
    with pytest.raises(ValueError, match="net is mlp and window 4"):
        BCConfig(window=4)


HISTORY = BCConfig(net="transformer", window=4, hidden=(16, 16))


@pytest.mark.parametrize("discrete", [False, True])
def test_a_history_conditioned_policy_acts_as_the_network_does_on_its_last_observations(discrete):
    """Rows that begin at different times, and episodes longer than the window."""
    learner = HISTORY.build(toy_spec(discrete), seed=3, device="cpu")
    policy, rng = learner.policy(seed=0), np.random.default_rng(0)
    histories: list[list] = [[], []]
    for index in range(8):
        first = np.array([index == 0, index in (0, 3)])
        step = Step(rng.normal(size=(2, 3)).astype(np.float32), np.ones(2, np.float32), first)
        action = policy.act(step)
        for row in range(2):
            histories[row] = [*([] if first[row] else histories[row]), step.obs[row]][-4:]
            with torch.no_grad():
                due = learner.choose(torch.tensor(np.array(histories[row])))[-1]
            np.testing.assert_allclose(action[row], due, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["gaussian", "squared"])
def test_steps_past_an_episodes_end_are_not_cloned(head):
    spec, config = toy_spec(), dataclasses.replace(HISTORY, head=head)
    batch = toy_batch(spec, 16, needs=config.needs)
    valid = torch.arange(4) < torch.randint(1, 5, (16, 1), generator=generator(0))
    losses = []
    for shift in (0.0, 3.0):
        learner = config.build(spec, seed=0, device="cpu")
        obs, action = batch.obs.clone(), batch.action.clone()
        obs[:, :-1][~valid] += shift
        action[~valid] -= shift
        losses.append(*learner.update(dataclasses.replace(batch, obs=obs, action=action, valid=valid)).values())
    assert losses[0] == losses[1]
    assert losses[0] != next(iter(config.build(spec, seed=0, device="cpu").update(batch).values()))


@pytest.mark.parametrize("discrete", [False, True])
def test_iqls_actor_drops_in_training_and_never_when_it_acts(discrete):
    spec = toy_spec(discrete)
    batch, step = toy_batch(spec, 16), toy_batch(spec, 4).obs[:, 0]
    plain, dropping = (
        IQLConfig(hidden=(16, 16), dropout=share).build(spec, seed=0, device="cpu") for share in (0.0, 0.5)
    )
    assert torch.equal(plain.choose(step), dropping.choose(step))
    one, other = plain.update(batch), dropping.update(batch)
    assert {name for name in one if one[name] != other[name]} == {"actor_loss"}
    assert torch.equal(dropping.choose(step), dropping.choose(step))
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got 1"):
        IQLConfig(dropout=1.0)


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}])
def test_adam_moves_as_torchs_does_bit_for_bit_and_written_out_nearly(settings):
    own, theirs, plain = (
        [nn.Parameter(torch.randn(shape, generator=generator(1))) for shape in ((5, 3), (3,))] for _ in range(3)
    )
    mine, quick = Adam(own, lr=0.01, **settings), Adam(plain, lr=0.01, **settings)
    due = torch.optim.Adam(theirs, lr=0.01, fused=True, **settings)
    random = generator(2)
    for index in range(6):
        if index == 3:  # moments come back from a checkpoint
            load_optimizer_state(mine, optimizer_state(mine))
        grads = [torch.randn(p.shape, generator=random) for p in own]
        for parameters in (own, theirs):
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad.clone()
        mine.step()
        due.step()
        quick.written_out(grads)
    for a, b, c in zip(own, theirs, plain, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(c, b, rtol=1e-5, atol=1e-7)
