"""Figures: one file each. A figure draws given numbers on given axes; it computes, styles and saves nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """A module in this folder defines `FIGURE = Figure(...)` and is listed, drawn and reported by being there."""

    name: str
    caption: str  # one or two sentences for the report: what is drawn and how to read it
    rows: Callable[[Sequence[Any]], list[Row]]  # evaluation records -> the numbers drawn; this is the CSV
    draw: Callable[[Sequence[Axes], list[Row]], None]  # draws the rows on the panels
    panels: Callable[[list[Row]], int] = lambda rows: 1  # how many axes `draw` wants
