"""How parameters move: generators, optimisers, one step down a loss, targets that follow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def generator(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator with the given seed (any non-negative integer below 2**63)."""
    return torch.Generator(device=device).manual_seed(seed)


@torch.no_grad()
def polyak(target: nn.Module, source: nn.Module, rate: float) -> None:
    """target <- (1 - rate) * target + rate * source, for every parameter in one fused call."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), rate)


class Adam(torch.optim.Adam):
    """torch's fused Adam, bit for bit, for one group of parameters of one device and type.

    torch's own step looks up every setting and every parameter's state again and sorts them by device, which takes as
    long as moving a small network does. Here they are looked up once. Within a compiled update the same formulas are
    written out instead, for the compiler to fuse; they round differently.
    """

    _moments: tuple[Any, ...] = (None,)  # the state they were looked up in, then means, squares and steps

    def __init__(self, parameters: Iterable[nn.Parameter], **settings: Any) -> None:
        super().__init__(parameters, fused=True, **settings)
        for parameter in self.param_groups[0]["params"]:  # as torch does at the first step; a compiled one cannot
            zeros = [torch.zeros_like(parameter, memory_format=torch.preserve_format) for _ in range(2)]
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            self.state[parameter] = {"step": step, "exp_avg": zeros[0], "exp_avg_sq": zeros[1]}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter by its gradient (arXiv:1412.6980, algorithm 1)."""
        (group,) = self.param_groups
        own = group["params"]
        grads = [parameter.grad for parameter in own]
        if len(self.state) < len(own) or any(grad is None for grad in grads):
            super().step(closure)
            return
        if self._moments[0] is not self.state:
            slots = [self.state[parameter] for parameter in own]
            self._moments = (self.state, *([slot[k] for slot in slots] for k in ("exp_avg", "exp_avg_sq", "step")))
        _, means, squares, steps = self._moments
        torch._foreach_add_(steps, 1)
        move = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        settings = {name: group[name] for name in ("lr", "weight_decay", "eps")}
        beta1, beta2 = group["betas"]
        move(own, grads, means, squares, [], steps, beta1=beta1, beta2=beta2, amsgrad=False, maximize=False, **settings)

    step.hooked = True  # type: ignore[attr-defined]  # torch would wrap it in a profiler's record otherwise

    @torch.no_grad()
    def written_out(self, grads: Sequence[Tensor]) -> None:
        """The same step as plain operations on each parameter, for `grads` in the parameters' order."""
        (group,) = self.param_groups
        lr, decay, eps, (beta1, beta2) = (group[name] for name in ("lr", "weight_decay", "eps", "betas"))
        for parameter, given in zip(group["params"], grads, strict=True):
            slot, grad = self.state[parameter], given
            if group["decoupled_weight_decay"]:
                parameter.mul_(1 - lr * decay)
            elif decay:
                grad = grad + decay * parameter
            step, mean, square = slot["step"].add_(1), slot["exp_avg"], slot["exp_avg_sq"]
            mean.lerp_(grad, 1 - beta1)
            square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            size = (square.sqrt() / (1 - beta2**step).sqrt()).add_(eps)
            parameter.sub_(lr / (1 - beta1**step) * mean / size)


def adam(parameters: Iterable[nn.Parameter], lr: float, *, weight_decay: float = 0.0) -> torch.optim.Adam:
    """Adam with torch's defaults, fused into one kernel where there is one; `weight_decay` is an L2 penalty."""
    return _adam(list(parameters), lr=lr, weight_decay=weight_decay)


def adamw(parameters: Iterable[nn.Parameter], lr: float, *, weight_decay: float) -> torch.optim.Adam:
    """Adam with decoupled weight decay (arXiv:1711.05101), fused likewise."""
    return _adam(list(parameters), lr=lr, weight_decay=weight_decay, decoupled_weight_decay=True)


def _adam(own: list[nn.Parameter], **settings: Any) -> torch.optim.Adam:
    fused = own[0].device.type in {"cpu", "cuda"}
    return Adam(own, **settings) if fused else torch.optim.Adam(own, **settings)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, *, clip: float | None = None) -> None:
    """One step down `loss` (0-d) for the optimiser's own parameters; no other gradient is computed.

    With `clip`, the gradient's norm is brought down to it.
    """
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if torch.compiler.is_compiling():
        if clip is not None or not isinstance(optimizer, Adam):
            raise NotImplementedError("a compiled update can neither clip nor use another optimiser than fused Adam")
        optimizer.written_out(torch.autograd.grad(loss, own))
        return
    for parameter in own:
        parameter.grad = None
    loss.backward(inputs=own)
    if clip is not None:
        nn.utils.clip_grad_norm_(own, clip)
    optimizer.step()
