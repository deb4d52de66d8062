"""How many dataset draws would decide, if what was measured is the truth.

A decision that rests on several tests is reached when all of them pass. Each one's power is exact for normal draws
(noncentral t). The chance that all pass is taken as the product: no more than the truth where tests that rest on the
same runs tend to pass together, as they do here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, isfinite, prod, sqrt

from scipy import special

MANY = 1000.0  # degrees of freedom from which Student's distributions are taken for normal


@dataclass(frozen=True)
class Bar:
    """A mean must be shown to lie beyond a threshold, or between two."""

    sd: float  # of one draw; with several tasks, of the mean over tasks
    room: float  # from the true mean to the threshold; not positive: on the wrong side, no number of draws helps
    alpha: float = 0.025  # of each one-sided test
    strata: float = 1.0  # degrees of freedom a draw adds: the number of tasks, or Satterthwaite's count of them
    back: float = inf  # room to a threshold on the other side, if there is one

    @property
    def passable(self) -> bool:
        """Whether the truth lies where it is to be shown, and its noise is known."""
        return self.room > 0 and self.back > 0 and isfinite(self.sd)

    def power(self, draws: float) -> float:
        """The chance to pass with so many draws (at least 2)."""
        if not self.passable:
            return 0.0
        if self.sd == 0:
            return 1.0
        missed = sum(self._misses(room, draws) for room in (self.room, self.back) if isfinite(room))
        return max(0.0, 1 - missed)  # a mean cannot miss both at once

    def _misses(self, room: float, draws: float) -> float:
        degrees, shift = self.strata * (draws - 1), room * sqrt(draws) / self.sd
        bound = -float(special.stdtrit(degrees, self.alpha))
        if degrees >= MANY or shift > 30:  # the noncentral t loses its digits there
            return float(special.ndtr(bound - shift))
        return float(special.nctdtr(degrees, shift, bound))


def power(bars: Iterable[Bar], draws: float) -> float:
    """The chance that every bar is passed with so many draws, as if one told nothing about another."""
    return prod(bar.power(draws) for bar in bars)


def draws_needed(bars: Sequence[Bar], *, power: float = 0.8) -> float:
    """The least number of draws (2 or more) at which all of `bars` pass with at least this chance; infinite if none."""
    if not all(bar.passable for bar in bars):
        return inf
    return float(_least(bars, power))


def _least(bars: Sequence[Bar], wanted: float) -> int:
    """By doubling, then halving: power grows with draws."""
    low, high = 1, 2
    while power(bars, high) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(bars, middle) >= wanted else (middle, high)
    return high


def equivalence_bar(
    sd: float, *, effect: float = 0.0, margin: float = 0.1, alpha: float = 0.05, strata: float = 1.0
) -> Bar:
    """The test of `tost`, if paired draw differences have this `sd` and mean `effect`."""
    return Bar(sd, margin - abs(effect), alpha, strata, margin + abs(effect))


def draws_for_equivalence(
    sd: float, *, effect: float = 0.0, margin: float = 0.1, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Draws at which TOST passes with `power`. Infinite when |effect| >= margin: more of the same never makes unequal
    things equal."""
    return draws_needed([equivalence_bar(sd, effect=effect, margin=margin, alpha=alpha)], power=power)


def draws_for_bound(sd: float, gap: float, *, level: float = 0.95, power: float = 0.8) -> float:
    """Draws at which the lower end of the `level` interval clears a threshold lying `gap` below the mean, with `power`.

    Infinite when gap <= 0: the mean is on the wrong side.
    """
    return draws_needed([Bar(sd, gap, (1 - level) / 2)], power=power)
