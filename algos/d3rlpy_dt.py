"""d3rlpy's transformers over windows (https://github.com/takuseno/d3rlpy), on our batches and in our loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from algos._common import ReturnScale, check_batch, check_hidden
from algos._d3rlpy import Adapted, library, theirs
from algos._history import History
from toolkit.core import Batch, Family, LearnerConfig, Needs, Policy, Spec


@dataclass(frozen=True)
class D3rlpyDTConfig(LearnerConfig):
    """d3rlpy's Decision Transformer (arXiv:2106.01345), continuous or discrete as the data's actions are.

    The constants are d3rlpy's, which differ between the two kinds. The policy asks for `target_return`, less what
    it has received. As in our own `dt`, and unlike d3rlpy's loop, positions count from the window's start, windows
    are padded behind (which attention hides) instead of in front, and returns are divided by the largest in the
    data. d3rlpy's discrete loss counts padded steps as choice 0, as it does in its own loop.
    """

    name: ClassVar[str] = "d3rlpy-dt"
    family: ClassVar[Family] = "supervised"
    paper: ClassVar[str] = "2106.01345"
    actions: ClassVar[tuple[Literal["continuous", "discrete"], ...]] = ("continuous", "discrete")
    algos: ClassVar[dict[bool, str]] = {False: "decision_transformer", True: "discrete_decision_transformer"}

    context: int = 20
    """Steps that are read, d3rlpy's context_size."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the observation encoder; the last is that of a token, and must be a multiple of num_heads."""
    target_return: float | None = None
    """Return the policy asks for; None: the highest in the data."""
    options: tuple[str, ...] = ()
    """Fields of d3rlpy's config as key=value, the value in JSON: num_layers=2 attn_dropout=0."""

    def __post_init__(self) -> None:
        check_hidden(self.hidden)
        if self.context < 2:
            raise ValueError(f"context must be at least 2, got {self.context}")
        if self.target_return is not None and not math.isfinite(self.target_return):
            raise ValueError(f"target_return must be finite, got {self.target_return}")
        if any(option.startswith("context_size") for option in self.options):
            raise ValueError("option context_size is given by context; name it there")
        if self.options:  # an option must be known to one of the two kinds at least; `build` asks the one in use
            problems = [problem for kind in self.algos.values() if (problem := self.refused(kind))]
            if len(problems) == len(self.algos):
                raise problems[0]

    def refused(self, algo: str) -> ValueError | None:
        """Why d3rlpy's algorithm cannot take the options, if it cannot."""
        try:
            self.theirs(algo)
        except ValueError as error:
            return error
        return None

    def theirs(self, algo: str) -> Any:
        """d3rlpy's own config. Raises ValueError for options that it has not, or that do not fit together."""
        found = theirs(algo, self.hidden, (*self.options, f"context_size={self.context}"))
        if self.hidden[-1] % found.num_heads:
            raise ValueError(f"hidden ends in {self.hidden[-1]}; expected a multiple of num_heads, {found.num_heads}")
        if found.max_timestep <= self.context:
            raise ValueError(f"max_timestep must be above context, got {found.max_timestep} and {self.context}")
        return found

    @property
    def needs(self) -> Needs:
        """Windows with undiscounted returns to go."""
        return Needs(window=self.context, reward=True, returns_to_go=True, discount=1.0)

    def build(self, spec: Spec, *, seed: int, device: str) -> D3rlpyTransformer:
        """Raises ValueError for unbounded actions, and for discrete or continuous ones that it does not take."""
        if spec.discrete not in self.algos:
            raise ValueError(f"{self.name} needs continuous actions, the store's are discrete ({spec.action_dim})")
        return D3rlpyTransformer(self, spec, seed=seed, device=device)


@dataclass(frozen=True)
class D3rlpyTACRConfig(D3rlpyDTConfig):
    """d3rlpy's transformer actor-critic with regularisation (Lee and Moon, 2023): a transformer with twin critics."""

    name: ClassVar[str] = "d3rlpy-tacr"
    family: ClassVar[Family] = "offline_rl"
    paper: ClassVar[str] = ""
    actions: ClassVar[tuple[Literal["continuous", "discrete"], ...]] = ("continuous",)
    algos: ClassVar[dict[bool, str]] = {False: "tacr"}


class D3rlpyTransformer(Adapted):
    """One of d3rlpy's transformers."""

    def __init__(self, config: D3rlpyDTConfig, spec: Spec, *, seed: int, device: str) -> None:
        self.config = config
        super().__init__(config.theirs(config.algos[spec.discrete]), spec, seed=seed, device=device)
        self.returns = ReturnScale(spec, config.target_return).to(device)

    def numbered(self, action: Tensor) -> Tensor:
        """Raw actions (..., A) as d3rlpy reads them: scaled to [-1, 1], or the number of a choice (..., 1)."""
        return action.argmax(-1, keepdim=True).float() if self.discrete else self.scale(action)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One update of d3rlpy's over the window's valid steps; padded ones are zero and hidden from attention."""
        check_batch(batch, self.config.needs)
        assert batch.return_to_go is not None
        valid = batch.valid.unsqueeze(-1)
        steps = torch.arange(1, batch.valid.shape[1] + 1, device=self.device).expand(batch.valid.shape)
        return self.advance(
            library().torch_utility.TorchTrajectoryMiniBatch(
                observations=self.observe(batch.obs[:, :-1]) * valid,
                actions=self.numbered(batch.action) * valid,
                rewards=batch.reward.unsqueeze(-1),
                returns_to_go=(self.returns(batch.return_to_go)).unsqueeze(-1) * valid,
                terminals=batch.terminated.unsqueeze(-1).float(),
                timesteps=steps,
                masks=batch.valid.float(),
                device=self.device,
            )
        )

    def choose(self, to_go: Tensor, obs: Tensor, action: Tensor) -> Tensor:
        """Actions for every step of histories: returns to go (N, L), observations (N, L, O), actions (N, L, A), raw.

        Steps are read causally, so what stands behind a step, or in its own action's place, does not matter.
        """
        self.impl.modules.set_eval()
        steps = torch.arange(1, to_go.shape[1] + 1, device=self.device).expand(to_go.shape)
        seen = self.observe(obs), self.numbered(action), self.returns(to_go).unsqueeze(-1), steps
        found = self.modules["transformer"](*seen, torch.zeros_like(to_go))
        return found[1].argmax(-1) if self.discrete else self.scale.inverse(found)

    def policy(self, *, seed: int) -> Policy:
        """Reads the last `context` steps of each row; deterministic, so `seed` is unused."""
        return History(self, self.choose, self.config.context)

    def state_dict(self) -> dict[str, Any]:
        """That of every adapter, and the scale of returns with the one that is asked for."""
        return super().state_dict() | {"returns": {k: v.clone() for k, v in self.returns.state_dict().items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        self.returns.load_state_dict(state["returns"])
