"""What a checkpoint keeps of a learner: nested dicts of tensors and plain numbers, nothing shared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


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

    def moment(key: str, value: Any, parameter: Tensor) -> Any:
        if isinstance(value, Tensor) and value.shape == parameter.shape and key != "step":
            like = torch.empty_like(parameter.detach(), dtype=value.dtype)  # a fused step presumes equal strides
            return like.copy_(value)
        if isinstance(value, Tensor):
            return value.detach().clone()
        return torch.tensor(float(value)) if key == "step" else value

    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots = {
        int(i): {key: moment(key, value, own[int(i)]) for key, value in slot.items()}
        for i, slot in state["state"].items()
    }
    groups = [
        {
            key: value if key == "params" else alike(state["groups"][str(i)].get(key, value), value)
            for key, value in group.items()
        }
        for i, group in enumerate(full["param_groups"])
    ]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})


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
