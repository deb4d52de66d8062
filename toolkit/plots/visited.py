"""Where the data went: how often each place of a two-dimensional task was visited, one panel a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from toolkit import registry
from toolkit.coverage import Coverage
from toolkit.plots import Figure, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELLS = 64  # of each coordinate


def rows(records: Sequence[Coverage]) -> list[Row]:
    """One row a visited cell and store, with its share of the steps; and one a wall of the suite.

    Raises ValueError if the task coordinates are not two.
    """
    found: list[Row] = []
    for r in records:
        if len(r.coordinates) != 2:
            raise ValueError(f"the states of {r.store} have {len(r.coordinates)} coordinates; a plane needs 2")
        edges = [np.linspace(low, high, CELLS + 1) for low, high in r.extent]
        inside = np.clip(r.points, *np.array(r.extent).T)
        counts = np.histogram2d(inside[:, 0], inside[:, 1], bins=edges)[0]
        base = {"store": r.store, "transitions": r.transitions, "episodes": r.episodes}
        base |= {"x_name": r.coordinates[0], "y_name": r.coordinates[1]}
        for i, j in np.argwhere(counts > 0).tolist():
            place = {"x": float(edges[0][i]), "y": float(edges[1][j])}
            size = {"width": float(edges[0][1] - edges[0][0]), "height": float(edges[1][1] - edges[1][0])}
            found.append({**base, "kind": "cell", **place, **size, "share": float(counts[i, j] / len(r.points))})
        for x, y, width, height in registry.suite(r.suite).walls if r.suite else ():
            found.append({**base, "kind": "wall", "x": x, "y": y, "width": width, "height": height})
    return found


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """Darker is more often, on one logarithmic scale for all panels; walls are hatched."""
    from matplotlib import colormaps
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.patches import Rectangle

    shares = [r["share"] for r in rows if r["kind"] == "cell"]
    shades = ListedColormap(colormaps["cividis_r"](np.linspace(0.15, 1, 256)))  # its palest shades vanish in print
    norm = LogNorm(min(shares), max(max(shares), 10 * min(shares)))
    shown = None
    for ax, store in zip(axes, dict.fromkeys(r["store"] for r in rows), strict=True):
        own = [r for r in rows if r["store"] == store]
        cells = [r for r in own if r["kind"] == "cell"]
        boxes = [Rectangle((r["x"], r["y"]), r["width"], r["height"]) for r in cells]
        shown = PatchCollection(boxes, cmap=shades, norm=norm, linewidths=0)
        shown.set_array(np.array([r["share"] for r in cells]))
        ax.add_collection(shown)
        walls = [r for r in own if r["kind"] == "wall"]
        for r in walls:
            box = Rectangle((r["x"], r["y"]), r["width"], r["height"], fc="#e8e8e8", ec="#999999", hatch="////", lw=0)
            ax.add_patch(box)
        ax.autoscale_view()
        if walls:  # a place in the world: both directions to one scale
            (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
            ax.set_box_aspect((high - low) / (right - left))
        ax.grid(visible=False)
        ax.set_title(f"{store}\nn = {own[0]['transitions']:,}, {own[0]['episodes']} episodes", loc="left", fontsize=9)
        ax.set_xlabel(own[0]["x_name"])
        if ax.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            ax.set_ylabel(own[0]["y_name"])
    bar = axes[0].figure.colorbar(shown, ax=list(axes), shrink=0.8, aspect=30)  # type: ignore[union-attr, arg-type]
    bar.set_label(f"share of steps in a cell (1/{CELLS} of each range)")


DATA_FIGURE = Figure(
    name="visited",
    caption="Where the sampled steps of each store were, in task coordinates; darker places were visited more often, "
    "on one logarithmic scale, white ones never. Walls are hatched.",
    rows=rows,
    draw=draw,
    panels=lambda rows: len({r["store"] for r in rows}),
    size=lambda rows: (2.9, 3.0) if len({r["store"] for r in rows}) > 1 else (4.2, 3.4),
)
