"""Laws of the networks: members do not touch each other, and both kinds serve every learner that has a choice."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers import equal_states, through_files, toy_batch, toy_spec

from algos._common import values
from toolkit import registry
from toolkit.nets import StackedResidual, generator, single, stack

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
    with pytest.raises(ValueError, match="expected mlp or residual"):
        dataclasses.replace(config, net="cnn")
