"""How much to search, and for what: the options of a planner, and the checks between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from worldmodel.planners import Update, cem, mbop, mppi


@dataclass(frozen=True)
class Planning:
    """The part of a configuration that decides how a learned model is planned with; it changes no training.

    Options that the chosen `planner` has no use for are left alone: `best` and `momentum` belong to cem and icem
    (momentum to mppi and mbop as well), `keep`, `colour` and `decay` to icem, `colour` also to mppi, `temperature` to
    mppi and mbop.
    """

    planner: Literal["icem", "cem", "mppi", "mbop"] = "icem"
    """icem (arXiv:2008.06389), cem (the same without its noise and memory), mppi (arXiv:1707.02342), or
    mbop (arXiv:2008.05556): samples follow the prior, or without one a clone of the data, trained beside the model."""
    samples: int = 60
    """Action sequences scored in an iteration."""
    iterations: int = 3
    """Rounds of sampling for each action taken."""
    horizon: int = 20
    """Steps a sequence looks ahead."""
    best: int = 8
    """Sequences an iteration's mean and spread are taken from."""
    momentum: float = 0.1
    """Share of the old mean and spread in the new; with mbop, of the last plan in every sample."""
    keep: float = 0.3
    """Fraction of `best` that is scored again in the next iteration, and after a step."""
    colour: float = 2.0
    """Exponent of the noise's spectrum over a sequence: 0 is white, larger holds actions for longer."""
    decay: float = 1.0
    """Each iteration has this many times fewer samples than the one before, but never fewer than twice `best`."""
    temperature: float = 0.5
    """Of the samples' weights, in standard deviations of their scores; small trusts the best alone."""
    spread: float = 1.0
    """Standard deviation a search starts with, as a fraction of half the action range; samples are clipped to it.
    With discrete actions the share of choices drawn uniformly."""
    particles: int = 1
    """Elite members that imagine each sequence. 1 deals sequences out to members, `elites` asks every member."""
    discount: float = 0.99
    """Weight of a reward one step later."""
    reward: Literal["learned", "known", "goal"] = "learned"
    """The model's, the one the suite states in closed form, or minus the distance to the goal, in the data's spread."""
    achieved: tuple[int, ...] = ()
    """Observation numbers that show the goal reached, in the goal's order; for reward goal."""
    penalty: float = 0.0
    """Reward, in its standard deviations, lost in a step on which two members disagree as on held-out data."""
    prune: float = 1.0
    """Quantile of held-out disagreement; sequences with a step beyond it are dropped while others are left. 1: none."""
    prior: str | None = None
    """Folder of a trained run whose policy proposes actions. Data of good actions alone: see mpc-near and mbop."""
    guided: float = 0.25
    """Share of the samples that follow the prior through the model; with mbop all do."""
    prior_spread: float = 0.2
    """Noise round the prior's actions, in the units of `spread`."""
    restart: bool = False
    """With a prior: begin every search at what it would do from here on, not at the last plan."""
    value: str | None = None
    """Folder of a trained run whose value of the last state imagined is added to a plan's worth."""

    def check(self, elites: int) -> None:
        """Raises ValueError for options that cannot be, alone or together, with so many elite members."""
        for field in ("samples", "iterations", "horizon", "best", "particles"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        for field, known in (("planner", ("icem", "cem", "mppi", "mbop")), ("reward", ("learned", "known", "goal"))):
            if getattr(self, field) not in known:
                raise ValueError(f"{field} is {getattr(self, field)!r}; expected one of {', '.join(known)}")
        if self.particles > elites:
            raise ValueError(f"particles ({self.particles}) must not exceed elites ({elites})")
        if self.samples * self.particles % elites:
            raise ValueError(
                f"samples * particles ({self.samples} * {self.particles}) must divide evenly among elites ({elites})"
            )
        if not self.best + 1 < self.samples:
            raise ValueError(f"best ({self.best}) must be smaller than samples ({self.samples}) by 2 or more")
        if not (0 <= self.momentum < 1 and 0 <= self.keep <= 1 and 0 < self.discount <= 1):
            raise ValueError(
                "momentum must lie in [0, 1), keep in [0, 1] and discount in (0, 1], "
                f"got {self.momentum}, {self.keep} and {self.discount}"
            )
        if not (self.spread > 0 and self.temperature > 0 and self.colour >= 0 and self.penalty >= 0):
            raise ValueError(
                "spread and temperature must be positive; colour and penalty must not be negative, got "
                f"{self.spread}, {self.temperature}, {self.colour} and {self.penalty}"
            )
        if not (self.decay >= 1 and 0 < self.prune <= 1 and 0 < self.guided <= 1 and self.prior_spread >= 0):
            raise ValueError(
                "decay must be at least 1, prune and guided lie in (0, 1] and prior_spread not be negative, got "
                f"{self.decay}, {self.prune}, {self.guided} and {self.prior_spread}"
            )
        if (self.penalty or self.prune < 1) and elites == 1:
            raise ValueError(
                f"penalty {self.penalty} and prune {self.prune} need elites > 1: one member cannot disagree with itself"
            )
        if self.reward == "goal" and not self.achieved:
            raise ValueError("reward goal needs achieved: which observation numbers show the goal reached")

    @property
    def clones(self) -> bool:
        """Whether a clone of the data has to be trained as the prior."""
        return self.planner == "mbop" and self.prior is None

    @property
    def coloured(self) -> bool:
        """Whether the noise of a sequence's steps hangs together."""
        return self.planner in ("icem", "mppi") and self.colour > 0

    def update(self) -> Update:
        """The planner's update, with its options."""
        if self.planner == "mppi":
            return partial(mppi, temperature=self.temperature, momentum=self.momentum)
        if self.planner == "mbop":
            return partial(mbop, temperature=self.temperature)
        return partial(cem, elites=self.best, momentum=self.momentum)

    def rounds(self, multiple: int) -> list[int]:
        """Samples of each iteration, every one divisible by `multiple`."""
        decay = self.decay if self.planner == "icem" else 1.0
        least = float(min(2 * self.best, self.samples))
        counts = [float(self.samples)]
        for i in range(1, self.iterations):  # once at the least it stays there: powers of `decay` may overflow
            counts.append(least if counts[-1] == least else max(self.samples / decay**i, least))
        return [self.samples, *(-int(-count // multiple) * multiple for count in counts[1:])]
