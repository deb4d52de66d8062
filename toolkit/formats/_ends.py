"""Ends of episodes in sources that do not keep the observation after the last action.

The last step of a truncated episode then has no next observation and is left out: nothing else is lost. A terminated
step must stay, or no learner learns that anything ends; but what follows it is not known. So it is asked for: `final`
"repeat" lets the last observation stand for the next one (values never look at it; a model of the dynamics is told
that nothing moved), "drop" leaves out the step and with it the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from toolkit.core import Array
from toolkit.formats import Final


@dataclass(frozen=True)
class Ends:
    """What is kept of each episode, one entry an episode of the source."""

    steps: Array  # (E,) int64 actions kept; an episode of 0 is left out
    terminated: Array  # (E,) bool, as kept
    repeated: Array  # (E,) bool: the last observation stands for the one that is not recorded
    notes: tuple[str, ...]

    @property
    def kept(self) -> Array:
        """Numbers of the episodes that are not left out."""
        return np.flatnonzero(self.steps > 0)

    def observations(self, episode: int, rows: Array) -> Array:
        """The T+1 observations of an episode from those recorded with its actions, (at least T, ...)."""
        steps = int(self.steps[episode])
        if self.repeated[episode]:
            return np.concatenate([rows[:steps], rows[steps - 1 : steps]])
        return rows[: steps + 1]


def without_final(lengths: Array, terminated: Array, final: Final | None) -> Ends:
    """Ends of E episodes of `lengths` (E,) recorded actions and as many observations, `terminated` (E,) or not.

    Raises ValueError, saying what each choice costs, if some are terminated and `final` is None.
    """
    lengths, terminated = np.asarray(lengths, np.int64), np.asarray(terminated, bool)
    ended, cut = int(terminated.sum()), int((~terminated).sum())
    if ended and final is None:
        raise ValueError(
            f"{ended} episodes end in a terminated step whose next observation the source does not hold; say --final "
            "repeat (the last observation stands for it: harmless to values, wrong for models of the dynamics) or "
            "--final drop (the step and its end are left out)"
        )
    repeated = terminated & (final == "repeat")
    steps = np.where(repeated, lengths, lengths - 1)
    notes = []
    if cut:
        notes.append(f"the last step of {cut} truncated episodes was left out: its next observation is not recorded")
    if ended and final == "repeat":
        notes.append(f"the last observation of {ended} terminated episodes stands for the next, which is not recorded")
    if ended and final == "drop":
        notes.append(f"the last, terminated step of {ended} episodes was left out: no episode ends as terminated")
    if empty := int((steps < 1).sum()):
        notes.append(f"{empty} episodes have no step left and were left out")
    return Ends(np.maximum(steps, 0), repeated, repeated, tuple(notes))


def spans(ends: Array) -> tuple[Array, Array]:
    """Starts and stops (E,) of the stretches of rows that `ends` (N,) bool closes; rows after the last are one too."""
    stops = np.flatnonzero(ends) + 1
    if len(ends) and (len(stops) == 0 or stops[-1] != len(ends)):
        stops = np.append(stops, len(ends))
    return np.concatenate([[0], stops[:-1]]).astype(np.int64) if len(stops) else stops, stops.astype(np.int64)


def same_length(arrays: Mapping[str, int], where: object) -> int:
    """The number of rows that arrays, name -> rows, have in common. Raises ValueError naming those that differ."""
    if len(found := set(arrays.values())) == 1:
        return found.pop()
    told = ", ".join(f"{name} {count}" for name, count in sorted(arrays.items()))
    raise ValueError(f"{where}: arrays differ in length ({told} rows); expected as many rows of each")
