"""Losses and gradients of one update against the papers' equations, written out in float64, and against d3rlpy's."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from helpers import toy_batch, toy_spec
from test_parity import CLOSE, HIDDEN, Queue, assert_same_gradients, first_moments, linear_layers, pour
from torch import Tensor, nn

from algos.awac import AWACConfig
from algos.bc import BCConfig
from algos.cql import CQLConfig
from algos.d3rlpy import D3rlpyConfig
from algos.dt import DTConfig
from algos.fql import FQLConfig
from algos.rebrac import ReBRACConfig
from algos.td3bc import TD3BCConfig
from toolkit.core import Batch, LearnerConfig, Step

SPEC = toy_spec()


class Wide:
    """A network's weights in float64, and the network once more, written plainly: (B, inputs) -> (B, M, outputs)."""

    def __init__(self, module: nn.Module, activation: Callable[[Tensor], Tensor] = lambda h: h.clamp_min(0)) -> None:
        self.activation = activation
        named = {name: p.detach().double().requires_grad_() for name, p in module.named_parameters()}
        self.all = list(named.values())
        self.layers = [p for name, p in named.items() if "layers" in name]
        self.norms = [p for name, p in named.items() if "norms" in name]

    def __call__(self, x: Tensor) -> Tensor:
        members = []
        for m in range(len(self.layers[0])):
            h = x
            for index in range(0, len(self.layers), 2):
                h = h @ self.layers[index][m] + self.layers[index + 1][m]
                if index + 2 < len(self.layers):
                    h = self.activation(h)
                    if self.norms:
                        scale, shift = (p[m] for p in self.norms[index : index + 2])
                        middle, spread = h.mean(-1, keepdim=True), h.var(-1, keepdim=True, unbiased=False)
                        h = (h - middle) / (spread + 1e-5).sqrt() * scale + shift
            members.append(h)
        return torch.stack(members, 1)


def wide_batch(config: LearnerConfig, seed: int = 0) -> tuple[Batch, dict[str, Tensor]]:
    """A batch, and its fields in a learner's units, in float64: by their definitions, without our modules."""
    batch = toy_batch(SPEC, 64, seed=seed, needs=config.needs)
    mean, std = (torch.from_numpy(x).double() for x in (SPEC.obs.mean, SPEC.obs.std))
    low, high = (torch.from_numpy(x).double() for x in (SPEC.action_low, SPEC.action_high))

    def unit(action: Tensor) -> Tensor:
        return 2 * (action[:, 0].double() - low) / (high - low) - 1

    s, next_s = ((batch.obs.double() - mean) / std).unbind(1)
    fields = {"s": s, "next_s": next_s, "a": unit(batch.action), "r": batch.reward[:, 0].double()}
    fields["alive"] = 1 - batch.terminated[:, 0].double()
    if batch.next_action is not None:
        fields["next_a"] = unit(batch.next_action)
    return batch, fields


def noise_of(learner: object, *shape: int) -> Tensor:
    """The noise the learner is about to draw."""
    random = torch.Generator()
    random.set_state(learner.noise.get_state())
    return torch.randn(*shape, generator=random).double()


def assert_gradients(optimizer: torch.optim.Optimizer, loss: Tensor, parameters: list[Tensor]) -> None:
    """Adam's first moments after one step are a tenth of the gradients; each agrees to 1e-5 of the largest."""
    due = torch.autograd.grad(loss, parameters, retain_graph=True)
    for found, wanted in zip(first_moments(optimizer), due, strict=True):
        np.testing.assert_allclose(10 * found.double(), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def joined(*parts: Tensor) -> Tensor:
    return torch.cat(parts, -1)


def test_td3bc_update_equals_the_papers_equations():
    config = TD3BCConfig(hidden=HIDDEN, actor_every=1)
    learner = config.build(SPEC, seed=3, device="cpu")
    learner.critic_optimizer.param_groups[0]["lr"] = 0.0  # so that the actor climbs the critic written here
    batch, x = wide_batch(config)
    actor, critics = Wide(learner.actor), Wide(learner.critics)
    noise = (0.2 * noise_of(learner, 64, 2)).clamp(-0.5, 0.5)
    next_a = (actor(x["next_s"])[:, 0].tanh() + noise).clamp(-1, 1)
    target = (x["r"] + 0.99 * x["alive"] * critics(joined(x["next_s"], next_a))[..., 0].min(1).values).detach()
    critic_loss = sum(((critics(joined(x["s"], x["a"]))[:, m, 0] - target) ** 2).mean() for m in range(2))
    pi = actor(x["s"])[:, 0].tanh()
    q = critics(joined(x["s"], pi))[:, 0, 0]
    actor_loss = ((pi - x["a"]) ** 2).mean() - 2.5 / q.detach().abs().mean() * q.mean()
    metrics = learner.update(batch)
    np.testing.assert_allclose(metrics["critic_loss"], critic_loss.detach(), **CLOSE)
    np.testing.assert_allclose(metrics["actor_loss"], actor_loss.detach(), **CLOSE)
    assert_gradients(learner.critic_optimizer, critic_loss, critics.all)
    assert_gradients(learner.actor_optimizer, actor_loss, actor.all)


def test_rebrac_update_equals_the_papers_equations():
    """Layer norm included. A truncated last step has no next action: it is left out of the critic's loss alone."""
    config = ReBRACConfig(hidden=HIDDEN, actor_every=1, actor_penalty=0.3, critic_penalty=0.7)
    learner = config.build(SPEC, seed=3, device="cpu")
    learner.critic_optimizer.param_groups[0]["lr"] = 0.0
    batch, x = wide_batch(config)
    actor, critics = Wide(learner.actor), Wide(learner.critics)
    noise = (0.2 * noise_of(learner, 64, 2)).clamp(-0.5, 0.5)
    next_a = (actor(x["next_s"])[:, 0].tanh() + noise).clamp(-1, 1)
    penalised = critics(joined(x["next_s"], next_a))[..., 0].min(1).values - 0.7 * ((next_a - x["next_a"]) ** 2).sum(1)
    target = (x["r"] + 0.99 * x["alive"] * penalised).detach()
    counted = (batch.next_valid | batch.terminated)[:, 0]
    assert not counted.all()
    q = critics(joined(x["s"], x["a"]))[counted][..., 0]
    critic_loss = ((q - target[counted, None]) ** 2).mean(0).sum()
    pi = actor(x["s"])[:, 0].tanh()
    q = critics(joined(x["s"], pi))[..., 0].min(1).values
    actor_loss = (0.3 * ((pi - x["a"]) ** 2).sum(1) - q / q.detach().abs().mean()).mean()
    metrics = learner.update(batch)
    np.testing.assert_allclose(metrics["critic_loss"], critic_loss.detach(), **CLOSE)
    np.testing.assert_allclose(metrics["actor_loss"], actor_loss.detach(), **CLOSE)
    assert_gradients(learner.critic_optimizer, critic_loss, critics.all)
    assert_gradients(learner.actor_optimizer, actor_loss, actor.all)


def test_awac_update_equals_the_papers_equations():
    config = AWACConfig(hidden=HIDDEN, actor_hidden=HIDDEN, samples=3, temperature=0.5, weight_decay=0.0)
    learner = config.build(SPEC, seed=3, device="cpu")
    learner.critic_optimizer.param_groups[0]["lr"] = 0.0
    batch, x = wide_batch(config)
    mean, critics = Wide(learner.actor.mean), Wide(learner.critics)
    log_std = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    std = (6 / (1 + (-log_std).exp()) - 6).exp()
    noise = noise_of(learner, 64, 4, 2)
    next_a = (mean(x["next_s"])[:, 0].tanh() + std * noise[:, 0]).clamp(-1, 1)
    target = (x["r"] + 0.99 * x["alive"] * critics(joined(x["next_s"], next_a))[..., 0].min(1).values).detach()
    critic_loss = ((critics(joined(x["s"], x["a"]))[..., 0] - target[:, None]) ** 2).mean(0).sum()
    pi = mean(x["s"])[:, 0].tanh()
    tried = [(pi + std * noise[:, k]).clamp(-1, 1) for k in (1, 2, 3)]
    value = torch.stack([critics(joined(x["s"], a))[..., 0].min(1).values for a in tried]).mean(0)
    advantage = (critics(joined(x["s"], x["a"]))[..., 0].min(1).values - value).detach()
    weight = (advantage / 0.5).exp()
    log_prob = torch.distributions.Normal(pi, std).log_prob(x["a"]).sum(1)
    actor_loss = -(weight / weight.mean() * log_prob).mean()
    metrics = learner.update(batch)
    np.testing.assert_allclose(metrics["critic_loss"], critic_loss.detach(), **CLOSE)
    np.testing.assert_allclose(metrics["actor_loss"], actor_loss.detach(), **CLOSE)
    assert_gradients(learner.critic_optimizer, critic_loss, critics.all)
    assert_gradients(learner.actor_optimizer, actor_loss, [log_std, *mean.all])


def gelu(x: Tensor) -> Tensor:
    """The tanh approximation (arXiv:1606.08415)."""
    return 0.5 * x * (1 + ((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)).tanh())


def test_fql_update_equals_the_papers_equations():
    config = FQLConfig(hidden=HIDDEN, alpha=3.0, flow_steps=4)
    learner = config.build(SPEC, seed=3, device="cpu")
    batch, x = wide_batch(config)
    flow, actor, critics = (Wide(part, gelu) for part in (learner.flow, learner.actor, learner.critics))
    random = torch.Generator()
    random.set_state(learner.noise.get_state())
    next_z, z, actor_z = torch.randn(3, 64, 2, generator=random).double()
    t = torch.rand(64, 1, generator=random).double()
    next_a = actor(joined(x["next_s"], next_z))[:, 0].clamp(-1, 1)
    target = (x["r"] + 0.99 * x["alive"] * critics(joined(x["next_s"], next_a))[..., 0].mean(1)).detach()
    critic_loss = ((critics(joined(x["s"], x["a"]))[..., 0] - target[:, None]) ** 2).mean()
    flow_loss = ((flow(joined(x["s"], (1 - t) * z + t * x["a"], t))[:, 0] - (x["a"] - z)) ** 2).mean()
    path = actor_z
    for k in range(4):
        path = path + flow(joined(x["s"], path, torch.full_like(t, k / 4)))[:, 0] / 4
    pi = actor(joined(x["s"], actor_z))[:, 0]
    q = critics(joined(x["s"], pi.clamp(-1, 1)))[..., 0].mean(1)
    actor_loss = 3.0 * ((pi - path.detach().clamp(-1, 1)) ** 2).mean() - q.mean()
    metrics = learner.update(batch)
    for name, due in (("critic_loss", critic_loss), ("flow_loss", flow_loss), ("actor_loss", actor_loss)):
        np.testing.assert_allclose(metrics[name], due.detach(), **CLOSE)
    assert_gradients(learner.critic_optimizer, critic_loss, critics.all)
    assert_gradients(learner.flow_optimizer, flow_loss, flow.all)
    assert_gradients(learner.actor_optimizer, actor_loss, actor.all)


DT_SMALL = DTConfig(context=6, width=16, heads=2, layers=2, dropout=0.0, clip=1e6, warmup=0)


def test_dt_update_equals_torchs_own_transformer_in_float64():
    """torch's encoder layers with our weights, tokens laid out by hand; a window that ends early counts less."""
    learner = DT_SMALL.build(SPEC, seed=3, device="cpu")
    batch = toy_batch(SPEC, 16, needs=DT_SMALL.needs)
    valid = torch.arange(6) < torch.randint(1, 7, (16, 1), generator=torch.Generator().manual_seed(0))
    batch = dataclasses.replace(batch, valid=valid)
    net = copy.deepcopy(learner.net).double()
    blocks = []
    for block in net.trunk.blocks:
        layer = nn.TransformerEncoderLayer(16, 2, 64, 0.0, "relu", batch_first=True, norm_first=True).double()
        pairs = {"norm1": layer.norm1, "norm2": layer.norm2, "widen": layer.linear1, "narrow": layer.linear2}
        for name, part in (pairs | {"mix": layer.self_attn.out_proj}).items():
            part.load_state_dict(getattr(block, name).state_dict())
        layer.self_attn.in_proj_weight.data, layer.self_attn.in_proj_bias.data = block.qkv.weight, block.qkv.bias
        blocks.append(layer)
    mean, std = (torch.from_numpy(x).double() for x in (SPEC.obs.mean, SPEC.obs.std))
    low, high = (torch.from_numpy(x).double() for x in (SPEC.action_low, SPEC.action_high))
    obs, action = (batch.obs.double()[:, :-1] - mean) / std, 2 * (batch.action.double() - low) / (high - low) - 1
    largest = max(abs(SPEC.returns.low[0]), abs(SPEC.returns.high[0]))
    tokens = []
    for k in range(6):
        tokens += [net.of_return(batch.return_to_go[:, k, None].double() / largest), net.of_obs(obs[:, k])]
        tokens = [*tokens[:-2], *(token + net.position.weight[k] for token in tokens[-2:])]
        tokens.append(net.of_action(action[:, k]) + net.position.weight[k])
    h = net.trunk.norm(torch.stack(tokens, 1))
    for layer in blocks:
        h = layer(h, src_mask=torch.ones(18, 18, dtype=torch.bool).triu(1))
    output = net.out(net.trunk.last_norm(h[:, 1::3])).tanh()
    due = ((output - action) ** 2).mean(-1)[valid].mean()
    np.testing.assert_allclose(learner.update(batch)["mse"], due.detach(), **CLOSE)


def test_a_dt_policy_acts_as_the_network_does_on_its_whole_history():
    """Rows that begin at different times, and episodes longer than the context."""
    learner = DT_SMALL.build(SPEC, seed=3, device="cpu")
    policy, rng = learner.policy(seed=0), np.random.default_rng(0)
    histories: list[list[tuple]] = [[], []]
    for index in range(9):
        first = np.array([index == 0, index in (0, 4)])
        step = Step(rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=2).astype(np.float32) * ~first, first)
        action = policy.act(step)
        for row in range(2):
            past = [] if first[row] else histories[row]
            asked = float(learner.returns.target) if first[row] else past[-1][0] - step.reward[row]
            histories[row] = [*past, (asked, step.obs[row], action[row])]
            recent = histories[row][-6:]
            parts = (torch.tensor(np.array(part, np.float32))[None] for part in zip(*recent, strict=True))
            with torch.no_grad():
                due = learner.choose(*parts)[0, -1]
            np.testing.assert_allclose(action[row], due, rtol=1e-4, atol=1e-5)


def actor_critic_pair(config: LearnerConfig, algo: str, actor: Callable[[object], nn.Module], *options: str):
    """Ours and d3rlpy's with our weights; `actor` picks our network that is its policy."""
    learner = config.build(SPEC, seed=3, device="cpu")
    other = D3rlpyConfig(algo=algo, hidden=HIDDEN, options=options).build(SPEC, seed=0, device="cpu")
    pour(actor(learner), linear_layers(other.modules["policy"]))
    if "targ_policy" in other.modules:
        pour(actor(learner), linear_layers(other.modules["targ_policy"]))
    for member in range(2):
        pour(learner.critics, linear_layers(other.modules["q_funcs"][member]), member)
        pour(learner.targets, linear_layers(other.modules["targ_q_funcs"][member]), member)
    return learner, other


def test_td3bc_follows_d3rlpy_over_several_updates():
    config = TD3BCConfig(hidden=HIDDEN, actor_every=1, noise=0.0)
    options = ("update_actor_interval=1", "target_smoothing_sigma=0.0")
    learner, other = actor_critic_pair(config, "td3_plus_bc", lambda own: own.actor, *options)
    for seed in range(5):
        batch = toy_batch(SPEC, 64, seed=seed)
        ours, theirs = learner.update(batch), other.update(batch)
        np.testing.assert_allclose(ours["critic_loss"], theirs["critic_loss"], rtol=1e-4)
        np.testing.assert_allclose(ours["actor_loss"], theirs["actor_loss"], rtol=1e-4)
        if seed == 0:
            np.testing.assert_allclose(ours["critic_loss"], theirs["critic_loss"], **CLOSE)
            assert_same_gradients(learner.critic_optimizer, other.optimizers["critic_optim"].optim)
            assert_same_gradients(learner.actor_optimizer, other.optimizers["actor_optim"].optim)


def test_awac_losses_equal_d3rlpys(monkeypatch):
    """The same noise. d3rlpy sums its actor loss over the batch of 64, ours is the mean.

    Every step is terminated, for d3rlpy's target is soft actor-critic's: a squashed sample, its entropy counted.
    """
    config = AWACConfig(hidden=HIDDEN, actor_hidden=HIDDEN, weight_decay=0.0)
    learner, other = actor_critic_pair(config, "awac", lambda own: own.actor.mean, "critic_learning_rate=0")
    learner.critic_optimizer.param_groups[0]["lr"] = 0.0
    noise, queue = noise_of(learner, 64, 2, 2).float(), Queue(monkeypatch)
    queue.normal += [noise[:, 0], noise[:, 1].unsqueeze(0)]
    batch = toy_batch(SPEC, 64)
    batch = dataclasses.replace(batch, terminated=torch.ones_like(batch.terminated))
    theirs = other.update(batch)
    ours = learner.update(batch)
    np.testing.assert_allclose(ours["critic_loss"], theirs["critic_loss"], **CLOSE)
    np.testing.assert_allclose(64 * ours["actor_loss"], theirs["actor_loss"], rtol=1e-5)


def test_discrete_critics_see_the_exact_sum_over_actions():
    """CQL(H) with discrete actions: log sum_a exp Q less Q of the data, and double Q-learning's target, in float64."""
    spec = toy_spec(discrete=True, action_dim=3)
    learner = CQLConfig(hidden=HIDDEN).build(spec, seed=3, device="cpu")
    batch = toy_batch(spec, 64)
    critics = Wide(learner.critics)
    mean, std = (torch.from_numpy(x).double() for x in (spec.obs.mean, spec.obs.std))
    s, next_s = ((batch.obs.double() - mean) / std).unbind(1)
    a, alive = batch.action[:, 0].argmax(-1), 1 - batch.terminated[:, 0].double()
    next_q = critics(next_s).min(1).values
    target = (batch.reward[:, 0].double() + 0.99 * alive * next_q.max(1).values).detach()  # targets equal critics yet
    q = critics(s)
    data_q = q[torch.arange(64), :, a]
    gap = (q.exp().sum(-1).log() - data_q).mean(0)
    bellman = ((data_q - target[:, None]) ** 2).mean(0).sum()
    metrics = learner.update(batch)
    np.testing.assert_allclose(metrics["critic_loss"], bellman.detach(), **CLOSE)
    np.testing.assert_allclose(metrics["gap"], gap.mean().detach(), **CLOSE)
    assert_gradients(learner.critic_optimizer, bellman + 5 * gap.sum(), critics.all)


def test_a_mixtures_likelihood_equals_its_definition_in_float64():
    learner = BCConfig(hidden=HIDDEN, head="mixture", components=4).build(SPEC, seed=0, device="cpu")
    for index in range(20):
        learner.update(toy_batch(SPEC, 64, seed=index))
    batch, _ = wide_batch(BCConfig(), seed=99)
    mean, std = (torch.from_numpy(x).double() for x in (SPEC.obs.mean, SPEC.obs.std))
    out = Wide(learner.net)((batch.obs[:, 0].double() - mean) / std)[:, 0]
    weight = F.softmax(out[:, :4], -1)
    centre, free = out[:, 4:12].view(64, 4, 2), out[:, 12:].view(64, 4, 2)
    spread = (-5 + 7 / (1 + (-(free + np.log(5 / 2))).exp())).exp()
    raw_mean, raw_std = (torch.from_numpy(x).double() for x in (SPEC.action.mean, SPEC.action.std))
    each = torch.distributions.Normal(raw_mean + raw_std * centre, raw_std * spread)
    density = (weight * each.log_prob(batch.action[:, 0].double()[:, None]).sum(-1).exp()).sum(-1)
    found = learner.action_log_prob(batch.obs[:, 0], batch.action[:, 0]).detach()
    np.testing.assert_allclose(found, density.log().detach(), rtol=1e-5)
