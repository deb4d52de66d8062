"""Fitted Q evaluation (arXiv:2007.09055, sec. 3): a trained policy's value, estimated from data alone.

For choosing between trained runs without acting. The value is that of the policy as evaluation runs it: a
deterministic policy's own action follows the next state; one that draws random numbers is asked `samples` times,
each draw from its own distribution, and their Q are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit import checkpoint
from toolkit.configure import load_learner, open_data
from toolkit.core import Array, Batch, Policy, Reactive, Spec, child_seed
from toolkit.given import check_shape
from toolkit.nets import StackedMLP, adam, descend, generator, polyak
from toolkit.normalize import Normalizer
from toolkit.records import RunConfig
from toolkit.stats import Estimate
from toolkit.store import Mixture, ReplayStore

RESAMPLES = 2000
Progress = Callable[[int, int], None]  # done, total


@dataclass(frozen=True)
class FQEConfig:
    """How Q is fitted. The members of the ensemble share the data and differ in their first weights only."""

    discount: float = 0.99
    """Of future rewards."""
    steps: int = 10_000
    """Gradient steps."""
    batch_size: int = 256
    samples: int = 10
    """Actions drawn where the policy draws random numbers; a deterministic one is asked once."""
    members: int = 2
    """Networks with targets of their own; the value is their mean."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""
    lr: float = 3e-4
    """Adam's learning rate."""
    tau: float = 0.05
    """Rate of the target networks' moving average: values are found after some 3 / (tau (1 - discount)) steps."""
    starts: int = 1000
    """Episodes, drawn at random if there are more, at whose first states the value is estimated."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "samples", "members", "starts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, most in (("batch_size", 1 << 24), ("samples", 1 << 12), ("members", 1 << 10)):
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most}, got {getattr(self, name)}")
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount must lie in [0, 1), got {self.discount}: else a value need not be finite")
        if not (0 < self.lr < math.inf and 0 < self.tau <= 1):
            raise ValueError(f"lr must be above 0 and tau in (0, 1], got {self.lr} and {self.tau}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be one or more widths of at least 1, got {self.hidden}")

    @property
    def settled(self) -> float:
        """How far, at best, moving targets have gone from zero to the values: 1 - exp(-steps tau (1 - discount))."""
        return -math.expm1(-self.steps * self.tau * (1 - self.discount))


class FittedQ:
    """Q of one policy, in raw units. Targets never leave what rewards of the data could add up to."""

    def __init__(self, policy: Reactive, spec: Spec, config: FQEConfig, *, seed: int) -> None:
        self.policy, self.spec, self.config = policy, spec, config
        self.td_error = math.nan  # set by `fit`
        self.observe, self.scale = Normalizer(spec.obs), Normalizer(spec.action)
        inputs = spec.obs_dim + spec.action_dim
        weights = generator(child_seed(seed, "parameters"))
        self.q = StackedMLP(config.members, inputs, config.hidden, 1, generator=weights)
        self.target = deepcopy(self.q)
        self.optimizer = adam(self.q.parameters(), config.lr)
        low, high = min(float(spec.reward.low[0]), 0.0), max(float(spec.reward.high[0]), 0.0)
        self.low, self.high = (end / (1 - config.discount) for end in (low, high))
        self.unit = max(abs(self.low), abs(self.high), 1e-6) * (1 - config.discount)  # the largest reward, in size
        self.unit *= min(spec.horizon, 1 / (1 - config.discount))

    def inputs(self, obs: Tensor, action: Tensor) -> Tensor:
        """Raw observations (B, O) and actions (B, A), one-hot if discrete, as the networks read them: (B, O + A)."""
        return torch.cat([self.observe(obs), action if self.spec.discrete else self.scale(action)], -1)

    def acts(self, obs: Tensor) -> list[Tensor]:
        """The policy's actions for raw observations (B, O): one (B, A), or `samples` of them if it draws."""
        times = 1 if self.policy.deterministic else self.config.samples
        found = [self.policy.choose(obs.to(self.policy.device)).cpu() for _ in range(times)]
        if self.spec.discrete:
            return [torch.nn.functional.one_hot(action, self.spec.action_dim).float() for action in found]
        return found

    @torch.no_grad()
    def values(self, obs: Tensor) -> Tensor:
        """V of raw observations (B, O), raw units, each member's: the mean of Q over the policy's actions; (M, B).

        By the target networks: an average of the latest ones, whose noise of single steps it leaves out.
        """
        q = torch.stack([self.target(self.inputs(obs, action)).squeeze(-1) for action in self.acts(obs)])
        return (q.mean(0) * self.unit).clamp(self.low, self.high)

    def update(self, batch: Batch) -> Tensor:
        """One step down the squared error to r + discount V(s'); a truncated end still bootstraps. The loss, 0-d."""
        alive = 1 - batch.terminated[:, 0].float()
        target = batch.reward[:, 0] + self.config.discount * alive * self.values(batch.obs[:, 1])
        target = target.clamp(self.low, self.high) / self.unit
        q = self.q(self.inputs(batch.obs[:, 0], batch.action[:, 0])).squeeze(-1)
        loss = (q - target).square().mean(1).sum()
        descend(self.optimizer, loss)
        polyak(self.target, self.q, self.config.tau)
        return loss.detach()


@dataclass(frozen=True)
class Evaluation:
    """A policy's value at the episodes' first states, beside what the data's own behaviour received from there."""

    run: str  # its id; "" for a policy that is of no run
    learner: str
    value: Estimate  # of the policy: discounted, mean over first states; the interval is over episodes only
    behaviour: Estimate  # Monte-Carlo: the episodes' own discounted rewards, likewise
    disagreement: float  # standard deviation of the members' mean values: no part of the interval
    td_error: float  # root mean square over the last tenth of the steps; large where the fit has not settled
    settled: float  # FQEConfig.settled; well below 1, values are still on their way from zero
    truncated: float  # share of those episodes whose Monte-Carlo sum ends before their environment does
    deterministic: bool
    discount: float
    steps: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        ends = {
            name: {"value": e.value, "low": e.low, "high": e.high, "level": e.level, "episodes": e.n}
            for name, e in (("value", self.value), ("behaviour", self.behaviour))
        }
        return {**vars(self), **ends}


def fit(
    policy: Reactive,
    draw: Callable[[], Batch],
    spec: Spec,
    config: FQEConfig,
    *,
    seed: int,
    progress: Progress | None = None,
) -> FittedQ:
    """Fit Q of `policy` on transitions from `draw`. Raises FloatingPointError if the loss is not finite."""
    fitted, last = FittedQ(policy, spec, config, seed=seed), []
    for number in range(1, config.steps + 1):
        loss = fitted.update(draw())
        if number > config.steps - max(1, config.steps // 10):
            last.append(loss)
        if number % 500 == 0 or number == config.steps:
            if not math.isfinite(float(loss)):
                raise FloatingPointError(f"the loss of Q is not finite after {number} steps; lower the learning rate")
            if progress is not None:
                progress(number, config.steps)
    fitted.td_error = fitted.unit * float(torch.stack(last).mean() / config.members) ** 0.5
    return fitted


def evaluate_run(
    folder: str | Path,
    *,
    store: str | Path | None = None,
    view: str | None = None,
    commit: int | None = None,
    config: FQEConfig | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Fit Q of a trained run's policy on a store, by default the one it was trained on, and value its first states.

    Raises ValueError if the policy remembers, plans or asks for a return (its action is no function of the
    observation, so no Q of states and actions is its value), or if the data are of another shape than the run's.
    """
    run, policy, data = ready(folder, store=store, view=view, commit=commit, seed=seed)
    torch.set_num_threads(run.threads)
    found = evaluate(policy, data, config or FQEConfig(), seed=seed, progress=progress)
    return replace(found, run=run.identity, learner=run.learner)


def ready(
    folder: str | Path, *, store: str | Path | None, view: str | None, commit: int | None, seed: int
) -> tuple[RunConfig, Reactive, ReplayStore | Mixture]:
    """A run, its policy and the data to evaluate it on. Raises as `evaluate_run` does, before anything is fitted."""
    run, learner, _ = load_learner(folder)
    policy = reactive(run, learner.policy(seed=child_seed(seed, "fqe", "policy")), "has no value that can be fitted")
    data = opened(run, store, view, commit)
    check_shape(folder, data.spec, str(data.path))
    return run, policy, data


def evaluate(
    policy: Reactive, data: ReplayStore | Mixture, config: FQEConfig, *, seed: int, progress: Progress | None = None
) -> Evaluation:
    """Fit Q of a policy on a store, view or mixture, and value the first states of its episodes, all counting alike."""
    sampler = data.sampler(batch_size=config.batch_size, seed=child_seed(seed, "fqe", "batches"))
    fitted = fit(policy, sampler.next, data.spec, config, seed=child_seed(seed, "fqe"), progress=progress)
    first, sums, truncated = episodes(data, config, seed)
    each = fitted.values(torch.from_numpy(first)).double().numpy()  # (M, n)
    rng = np.random.default_rng(child_seed(seed, "fqe", "bootstrap"))
    return Evaluation(
        run="",
        learner="",
        value=bootstrapped(each.mean(0), rng),
        behaviour=bootstrapped(sums, rng),
        disagreement=float(each.mean(1).std(ddof=1)) if len(each) > 1 else 0.0,
        td_error=fitted.td_error,
        settled=config.settled,
        truncated=truncated,
        deterministic=policy.deterministic,
        discount=config.discount,
        steps=config.steps,
    )


def reactive(run: RunConfig, policy: Policy, consequence: str) -> Reactive:
    """The policy, if it looks at the present observation alone. Raises ValueError naming the learner if not."""
    if isinstance(policy, Reactive):
        return policy
    raise ValueError(
        f"{run.learner} {consequence}: its policy depends on more than the present observation "
        f"({type(policy).__name__} remembers steps, plans ahead or asks for a return)"
    )


def opened(run: RunConfig, store: str | Path | None, view: str | None, commit: int | None) -> ReplayStore | Mixture:
    """The named data, or else the run's own. Raises ValueError for data without episodes."""
    if store is None and (view, commit) != (None, None):
        raise ValueError("view and commit are of a store; name it too")
    data = open_data(run.store, run.commit, run.view, run.relabel) if store is None else open_data(store, commit, view)
    if len(data) == 0:
        raise ValueError(f"{data.path} holds no episodes yet; append some and commit")
    return data


def learner_spec(folder: str | Path) -> Spec:
    """The Spec that a run was trained for. Raises as `checkpoint.read_spec`."""
    return checkpoint.read_spec(folder)[0]


def episodes(data: ReplayStore | Mixture, config: FQEConfig, seed: int) -> tuple[Array, Array, float]:
    """First observations (n, O) float32, discounted sums of rewards (n,) float64, and the share that is truncated."""
    chosen = np.arange(len(data))
    if len(chosen) > config.starts:
        chosen = np.sort(np.random.default_rng(child_seed(seed, "fqe", "starts")).permutation(chosen)[: config.starts])
    first, sums, ended = [], [], 0
    for index in chosen.tolist():
        episode = data.episode(index)
        first.append(data.schema.flatten({key: values[:1] for key, values in episode.observations().items()})[0])
        sums.append(monte_carlo(episode.reward, config.discount))
        ended += episode.terminated
    return np.stack(first).astype(np.float32), np.array(sums), 1 - ended / len(chosen)


def monte_carlo(reward: Array, discount: float) -> float:
    """The discounted sum of one episode's rewards (T,), in float64."""
    return float(np.asarray(reward, np.float64) @ discount ** np.arange(len(reward)))


def bootstrapped(values: Array, rng: np.random.Generator, level: float = 0.95) -> Estimate:
    """The mean of (n,) with a percentile bootstrap interval; without bounds for one value."""
    n = len(values)
    if n == 1:
        return Estimate(float(values[0]), -math.inf, math.inf, level, 1)
    means = np.array([values[rng.integers(n, size=n)].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(values.mean()), float(low), float(high), level, n)
