"""Stacked networks: M members computed together by one batched multiply a layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]  # a weight and a bias


class StackedLinear(nn.Module):
    """M linear layers at once: (M, B, inputs) -> (M, B, outputs).

    Weights and biases start uniform in +-1/sqrt(inputs), torch's own rule for nn.Linear. Raises ValueError without
    inputs: data of images alone give none.
    """

    def __init__(self, members: int, inputs: int, outputs: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if inputs < 1:
            raise ValueError(
                f"a network was asked for with {inputs} inputs: the data have no vector observations, only images, and "
                "this learner reads none"
            )
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        """(M, B, inputs) -> (M, B, outputs)."""
        return torch.baddbmm(self.bias, x, self.weight)


class StackedNorm(nn.Module):
    """M layer norms at once (arXiv:1607.06450): (M, B, width) -> (M, B, width)."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, width))
        self.bias = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise over the last axis, then scale and shift."""
        return torch.addcmul(self.bias, F.layer_norm(x, x.shape[-1:]), self.weight)


class StackedMLP(nn.Module):
    """M multilayer perceptrons at once; a shared input (B, inputs) is given to every member.

    forward: (B, inputs) or (M, B, inputs) -> (M, B, outputs). With `layer_norm`, every hidden layer is
    normalised after its activation. `activation` may work in place.
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        activation: Callable[[Tensor], Tensor] = torch.relu_,
        layer_norm: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if members < 1 or any(width < 1 for width in hidden):
            raise ValueError(f"members and hidden widths must be at least 1, got {members} and {tuple(hidden)}")
        sizes = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(StackedLinear(members, i, o, generator=generator) for i, o in pairwise(sizes))
        self.norms = nn.ModuleList(StackedNorm(members, width) for width in hidden if layer_norm)
        self.members, self.activation = members, activation

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            x = x.expand(self.members, *x.shape)
        for index, layer in enumerate(list(self.layers)[:-1]):
            x = self.activation(layer(x))
            if self.norms:
                x = self.norms[index](x)
        return self.layers[-1](x)

    def apart(self) -> list[Member]:
        """The members one by one, with the weights of this moment; gradients reach the stack."""
        layers, norms = (
            [tuple(p.unbind() for p in part.parameters()) for part in parts] for parts in (self.layers, self.norms)
        )
        return [
            Member([(w[m], b[m]) for w, b in layers], [(w[m], b[m]) for w, b in norms], self.activation)
            for m in range(self.members)
        ]


class Member:
    """One member of a StackedMLP: (N, inputs) -> (N, outputs)."""

    def __init__(self, layers: list[Pair], norms: list[Pair], activation: Callable[[Tensor], Tensor]) -> None:
        self.first, *self.rest = layers
        self.norms, self.activation = norms, activation

    def __call__(self, x: Tensor) -> Tensor:
        weight, bias = self.first
        return self.after_first(torch.addmm(bias, x, weight))

    def after_first(self, x: Tensor) -> Tensor:
        """From the first layer's sums (..., width), which may be overwritten, to the output (N, outputs).

        They are flattened after the activation only: in place on a view, it would cost a copy of the gradient.
        """
        for index, (weight, bias) in enumerate(self.rest):
            x = self.activation(x)
            if self.norms:
                scale, shift = self.norms[index]
                x = torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), scale)
            x = torch.addmm(bias, x.flatten(0, -2), weight)
        return x


class MLP(nn.Module):
    """One perceptron for inputs of any leading shape: (..., inputs) -> (..., outputs)."""

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, **options: Any) -> None:
        super().__init__()
        self.stack = StackedMLP(1, inputs, hidden, outputs, **options)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.stack(x.reshape(1, -1, x.shape[-1]))
        return flat.reshape(*x.shape[:-1], flat.shape[-1])


def generator(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator with the given seed (any non-negative integer below 2**63)."""
    return torch.Generator(device=device).manual_seed(seed)


@torch.no_grad()
def polyak(target: nn.Module, source: nn.Module, rate: float) -> None:
    """target <- (1 - rate) * target + rate * source, for every parameter in one fused call."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), rate)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A copy of the optimiser's state as nested dicts with string keys and plain leaves.

    {"state": {"0": {"step": ..., "exp_avg": ...}, ...}, "groups": {"0": {"lr": ..., "betas": [...]}}},
    parameters numbered as in `optimizer.state_dict()`. Later steps do not change what was returned.
    """
    full = optimizer.state_dict()
    state = {
        str(index): {key: value.detach().clone() if isinstance(value, Tensor) else value for key, value in slot.items()}
        for index, slot in full["state"].items()
    }
    groups = {
        str(index): {key: list(value) if isinstance(value, tuple) else value for key, value in group.items()}
        for index, group in enumerate(
            {k: v for k, v in group.items() if k != "params"} for group in full["param_groups"]
        )
    }
    return {"state": state, "groups": groups}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Inverse of `optimizer_state`; nothing is shared with `state` afterwards.

    Numbers that came back as 0-d tensors, or the reverse, and lists that were tuples are accepted.
    Raises ValueError if the number of groups or of parameters differs.
    """
    full = optimizer.state_dict()
    count = sum(len(group["params"]) for group in full["param_groups"])
    if len(state["groups"]) != len(full["param_groups"]) or len(state["state"]) not in (0, count):
        raise ValueError(
            f"optimiser state has {len(state['groups'])} groups and {len(state['state'])} parameters; "
            f"expected {len(full['param_groups'])} and {count}, or 0 before the first step"
        )

    def alike(value: Any, own: Any) -> Any:
        if isinstance(value, Tensor) and not isinstance(own, Tensor) and own is not None:
            value = value.tolist()
        if isinstance(own, tuple):
            return tuple(value)
        return type(own)(value) if isinstance(own, bool | float | int) and value is not None else value

    def moment(key: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().clone()
        return torch.tensor(float(value)) if key == "step" else value

    slots = {int(i): {key: moment(key, value) for key, value in slot.items()} for i, slot in state["state"].items()}
    groups = [
        {
            key: value if key == "params" else alike(state["groups"][str(i)].get(key, value), value)
            for key, value in group.items()
        }
        for i, group in enumerate(full["param_groups"])
    ]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})


def adam(parameters: Iterable[nn.Parameter], lr: float, *, weight_decay: float = 0.0) -> torch.optim.Adam:
    """Adam with torch's defaults, fused into one kernel where there is one; `weight_decay` is an L2 penalty."""
    own = list(parameters)
    return torch.optim.Adam(own, lr=lr, weight_decay=weight_decay, fused=own[0].device.type in {"cpu", "cuda"})


def adamw(parameters: Iterable[nn.Parameter], lr: float, *, weight_decay: float) -> torch.optim.AdamW:
    """Adam with decoupled weight decay (arXiv:1711.05101), fused likewise."""
    own = list(parameters)
    fused = own[0].device.type in {"cpu", "cuda"}
    return torch.optim.AdamW(own, lr=lr, weight_decay=weight_decay, fused=fused)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, *, clip: float | None = None) -> None:
    """One step down `loss` (0-d) for the optimiser's own parameters; no other gradient is computed.

    With `clip`, the gradient's norm is brought down to it.
    """
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.zero_grad()
    loss.backward(inputs=own)
    if clip is not None:
        nn.utils.clip_grad_norm_(own, clip)
    optimizer.step()


class Checkpointed:
    """`state_dict` and `load_state_dict` of every attribute that must be kept, found by its type.

    Modules, parameters, optimisers and generators are kept under their attributes' names, with the
    counter `step`. Everything returned is a copy, and nothing is shared with what is loaded.
    """

    step: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Nested dicts with string keys; leaves are tensors, numbers, strings, booleans, None or lists."""
        kept: dict[str, Any] = {"step": self.step}
        for name, part in vars(self).items():
            if isinstance(part, nn.Module):
                kept[name] = {key: value.detach().clone() for key, value in part.state_dict().items()}
            elif isinstance(part, nn.Parameter):
                kept[name] = part.detach().clone()
            elif isinstance(part, torch.optim.Optimizer):
                kept[name] = optimizer_state(part)
            elif isinstance(part, torch.Generator):
                kept[name] = part.get_state()
        return kept

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`. Raises ValueError if the kept names differ."""
        due = self.state_dict().keys()
        if state.keys() != due:
            raise ValueError(
                f"state holds {sorted(state)}, expected {sorted(due)}: was it saved by another configuration?"
            )
        for name, part in vars(self).items():
            if isinstance(part, nn.Module):
                part.load_state_dict(state[name])
            elif isinstance(part, nn.Parameter):
                part.data.copy_(state[name])
            elif isinstance(part, torch.optim.Optimizer):
                load_optimizer_state(part, state[name])
            elif isinstance(part, torch.Generator):
                part.set_state(state[name].cpu())
        self.step = int(state["step"])
