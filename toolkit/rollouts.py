"""Rollouts of a learned model, branched from recorded states: an endless stream, the same whoever asks for it.

Branched rollouts are MBPO's (arXiv:1906.08253); rewards less a multiple of the model's uncertainty are MOPO's
(arXiv:2005.13239).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from toolkit.core import Array, Dynamics, Episode, Learner, Step, child_seed
from toolkit.nets import generator
from toolkit.store import ReplayStore

BLOCK = 256  # rollouts imagined together; what they are depends on it
BEHAVIOUR = "imagined"


@dataclass(frozen=True)
class Imagining:
    """How rollouts are imagined. Raises ValueError for a number that does not fit."""

    horizon: int = 5
    """Steps of a rollout that does not terminate before."""
    actions: Literal["perturbed", "uniform", "actor"] = "perturbed"
    """The data's own from the start on, with noise; uniform within the limits; or a trained run's."""
    noise: float = 0.1
    """Of perturbed actions: standard deviation as a share of half the range; of choices, the share drawn anew."""
    penalty: float = 0.0
    """Reward lost for one of uncertainty."""
    uncertainty: Literal["disagreement", "noise"] = "disagreement"
    """What is penalised; see `toolkit.core.Imagined`. noise is MOPO's, in raw units."""

    def __post_init__(self) -> None:
        if not 1 <= self.horizon <= 10_000:
            raise ValueError(f"horizon must lie in 1 to 10,000, got {self.horizon}")
        for name in ("noise", "penalty"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and at least 0, got {getattr(self, name)}")
        for name, known in (("actions", ("perturbed", "uniform", "actor")), ("uncertainty", ("disagreement", "noise"))):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; expected one of {', '.join(known)}")


class Rollouts:
    """An endless stream of rollouts, each a function of the settings, the seed and its number."""

    def __init__(
        self,
        model: Dynamics,
        actor: Learner | None,
        data: ReplayStore,
        settings: Imagining,
        *,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.model, self.actor, self.data, self.settings = model, actor, data, settings
        self.seed, self.device, self.spec, self.schema = seed, device, data.spec, data.schema
        self.gather = data.gather(window=settings.horizon)
        table = data.episodes
        self.task, self.context = table["task"], table["context"]
        self.number = np.arange(len(data)) if data.chosen is None else data.chosen
        spec = self.spec
        low = np.where(np.isfinite(spec.action_low), spec.action_low, spec.action.low)  # without limits, the data's own
        high = np.where(np.isfinite(spec.action_high), spec.action_high, spec.action.high)
        self.low, self.high = torch.from_numpy(low), torch.from_numpy(high)

    def stream(self, start: int) -> Iterator[Episode]:
        """Rollouts from number `start` on."""
        for number in count(start // BLOCK):
            yield from self.block(number)[start % BLOCK if number == start // BLOCK else 0 :]

    def block(self, number: int) -> list[Episode]:
        """Rollouts number * BLOCK to (number + 1) * BLOCK, imagined together."""
        horizon, own = self.settings.horizon, child_seed(self.seed, "imagine", number)
        rng = np.random.default_rng(child_seed(own, "starts"))
        drawn, random = generator(child_seed(own, "actions")), generator(child_seed(own, "model"), self.device)
        starts = rng.integers(self.gather.index.total, size=BLOCK)
        fields = self.gather.fields(starts, rng)
        act = self._acting(fields["action"], drawn, seed=child_seed(own, "actor"))
        obs, reward = fields["obs"][:, 0], torch.zeros(BLOCK)
        seen, acted, paid, lost, ended = [obs], [], [], [], []
        for step in range(horizon):
            action = act(step, obs, reward)
            found = self.model.imagine(obs.to(self.device), action.to(self.device), generator=random)
            end = torch.rand(BLOCK, generator=random, device=self.device) < found.end
            obs, reward = found.obs.cpu(), found.reward.cpu()
            seen.append(obs)
            acted.append(action)
            lost.append(self.settings.penalty * getattr(found, self.settings.uncertainty).cpu())
            paid.append(reward - lost[-1])
            ended.append(end.cpu())
        last = np.full(BLOCK, horizon)
        if self.settings.actions == "perturbed" and horizon > 1:
            last = fields["valid"].sum(1).numpy()
        ends = torch.stack(ended, 1).numpy()
        length = np.where(ends.any(1), np.minimum(ends.argmax(1) + 1, last), last)
        arrays = [torch.stack(parts, 1).numpy() for parts in (seen, acted, paid, lost)]
        return [
            self._episode(int(starts[row]), int(fields["episode"][row]), bool(ends[row, steps - 1]), *(
                array[row, : steps + (array is arrays[0])] for array in arrays
            ))
            for row, steps in enumerate(length.tolist())
        ]  # fmt: skip

    def _acting(
        self, recorded: Tensor, random: torch.Generator, *, seed: int
    ) -> Callable[[int, Tensor, Tensor], Tensor]:
        """(step, obs (B, O), reward (B,)) -> actions (B, A), one-hot if discrete; `recorded` (B, H, A)."""
        discrete, size = self.spec.discrete, self.spec.action_dim
        if self.actor is not None:
            policy = self.actor.policy(seed=seed)

            def ask(step: int, obs: Tensor, reward: Tensor) -> Tensor:
                shown = Step(obs.numpy(), reward.numpy(), np.full(len(obs), step == 0))
                found = torch.from_numpy(np.asarray(policy.act(shown)))
                return _one_hot(found, size) if discrete else found.float().clamp(self.low, self.high)

            return ask

        def uniform(rows: int) -> Tensor:
            if discrete:
                return _one_hot(torch.randint(size, (rows,), generator=random), size)
            return self.low + (self.high - self.low) * torch.rand(rows, size, generator=random)

        if self.settings.actions == "uniform":
            return lambda step, obs, reward: uniform(len(obs))
        noise, scale = self.settings.noise, self.settings.noise * (self.high - self.low) / 2

        def perturb(step: int, obs: Tensor, reward: Tensor) -> Tensor:
            own = recorded[:, step]
            if discrete:
                anew = torch.rand(len(own), 1, generator=random) < noise
                return torch.where(anew, uniform(len(own)), own)
            return (own + scale * torch.randn(own.shape, generator=random)).clamp(self.low, self.high)

        return perturb

    def _episode(
        self, start: int, source: int, terminated: bool, obs: Array, action: Array, reward: Array, lost: Array
    ) -> Episode:
        """One rollout of T steps: obs (T+1, O), action (T, A), rewards (T,) and what they lost (T,)."""
        keys, steps = self.schema.observations, len(reward)
        parts = np.split(obs, np.cumsum([key.size for key in keys])[:-1], axis=1)
        index, form = self.gather.index, self.schema.action
        executed = action.reshape(steps, *form.shape) if not form.one_hot else np.stack(
            [np.asarray(form.executable(code)) for code in action.argmax(1)]
        )  # fmt: skip
        branched = start - int(index.ends[source] - index.lengths[source])
        return Episode(
            obs={key.name: part.reshape(steps + 1, *key.shape) for key, part in zip(keys, parts, strict=True)},
            action=executed,
            reward=reward,
            terminated=terminated,
            info={
                "source_episode": np.full(steps, self.number[source], np.int64),
                "source_step": np.full(steps, branched, np.int64),
                "penalty": lost,
            },
            columns={
                "behaviour": BEHAVIOUR,
                "task": self.task[source],
                "context": self.context[source].tolist(),
            },
        )


def _one_hot(choice: Tensor, size: int) -> Tensor:
    return torch.nn.functional.one_hot(choice.long(), size).float()
