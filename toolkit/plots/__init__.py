"""Figures: one file each. A figure draws given numbers on given axes; it computes, styles and saves nothing.

Figures of runs are called FIGURE and draw evaluation records, or what else they say that they read; figures of data
are called DATA_FIGURE and draw the descriptors of `toolkit.coverage`; figures of a model are called MODEL_FIGURE and
draw a `toolkit.diagnose.Diagnosis`.

`save` does the styling and saving: PNG, SVG and the CSV of the numbers drawn, the same bytes each time.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolkit.records import DamagedFile, replace_bytes
from toolkit.tables import Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart with any colour vision; pale yellow last, as it is weakest on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 3.0,
    "svg.fonttype": "path",  # drawn, so the picture needs no font of the reader's
}
FEW = 10  # runs; below this a picture says so


@dataclass(frozen=True)
class Figure:
    """A module in this folder defines `FIGURE = Figure(...)` and is listed, drawn and reported by being there.

    `rows` raises ValueError, saying why, if the figure does not apply to the records.
    """

    name: str
    caption: str  # one or two sentences for the report: what is drawn and how to read it
    rows: Callable[[Sequence[Any]], list[Row]]  # what it reads -> the numbers drawn; this is the CSV
    draw: Callable[[Sequence[Axes], list[Row]], None]  # draws the rows on the panels
    panels: Callable[[list[Row]], int] = lambda rows: 1  # how many axes `draw` wants
    size: Callable[[list[Row]], tuple[float, float]] = lambda rows: (4.6, 3.2)  # inches of one panel
    shared: bool = True  # panels have the same axes
    reads: Literal["records", "folders"] | Table = "records"  # evaluation records, runs' folders, or rows of a table
    finding: Callable[[Sequence[dict[str, str]]], str] = lambda rows: (
        ""
    )  # rows of its CSV -> what they say, for the report


class Folders(list[Path]):
    """Folders of finished runs, with the records that have been read from them and perhaps named anew."""

    def __init__(self, folders: Iterable[Path], records: Sequence[Any]) -> None:
        super().__init__(folders)
        self.records = records


def save(figure: Figure, records: Sequence[Any], folder: str | Path, *, dpi: int = 160) -> list[Path]:
    """Write NAME.png, NAME.svg and NAME.csv into `folder` (made if absent) and return their paths in that order.

    The same records give the same bytes. Raises ValueError if the figure does not apply to the records.
    """
    return _save(figure, _rows(figure, records), Path(folder), dpi)


def _rows(figure: Figure, records: Sequence[Any]) -> list[Row]:
    if not records:
        source = f"{figure.reads.file} beside or below the runs" if isinstance(figure.reads, Table) else "finished runs"
        raise ValueError(f"figure {figure.name!r} is drawn from {source}; there are none")
    rows = figure.rows(records)
    if not rows:
        raise ValueError(f"figure {figure.name!r} has nothing to draw from {len(records)} records")
    return rows


def _save(figure: Figure, rows: list[Row], folder: Path, dpi: int = 160) -> list[Path]:
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    paths = [folder / f"{figure.name}.{ending}" for ending in ("png", "svg", "csv")]
    count = figure.panels(rows)
    columns = count if count <= 3 else min(ceil(sqrt(count)), 4)
    lines = ceil(count / columns)
    width, height = figure.size(rows)
    share = figure.shared and count > 1
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE, "svg.hashsalt": figure.name}):
        canvas = Canvas(figsize=(width * columns, height * lines), layout="constrained")
        grid = canvas.subplots(lines, columns, squeeze=False, sharex=share, sharey=share).ravel()
        for spare in grid[count:]:
            spare.remove()
        figure.draw(list(grid[:count]), rows)
        for axes in grid[:count]:  # shared axes hide the numbers of inner panels
            axes.tick_params(labelbottom=True)
        drawn = [io.BytesIO(), io.BytesIO()]
        canvas.savefig(drawn[0], format="png", dpi=dpi, metadata={"Software": None})
        canvas.savefig(drawn[1], format="svg", metadata={"Date": None, "Creator": None})
    for path, data in zip(paths, [*(each.getvalue() for each in drawn), to_csv(rows).encode()], strict=True):
        replace_bytes(path, data)
    return paths


def plot(
    paths: Sequence[str | Path],
    names: Sequence[str],
    folder: str | Path,
    *,
    records: Sequence[Any] | None = None,
) -> list[Path]:
    """Draw the named figures of what lies at `paths` into `folder`; PNG, SVG and CSV paths, in that order for each.

    `paths` hold finished runs and tables; `records` are those of the runs, if they have been loaded. Without names,
    every figure that applies. Raises FileNotFoundError if a path does not exist, and ValueError for an unknown name, a
    named figure that does not apply, a damaged file, or if none applies.
    """
    from toolkit import registry
    from toolkit.records import load, run_folders
    from toolkit.runs import Evaluated

    known = registry.figures()
    chosen = [registry.pick("figure", name, known) for name in names] or list(known.values())
    folders = run_folders(*paths)
    if records is None:
        records = load(*folders) if folders else []
    records = Evaluated(records)
    inputs: dict[Any, Sequence[Any]] = {"records": records, "folders": Folders(folders, records)}
    inputs |= {f.reads: f.reads.read(*paths) for f in chosen if isinstance(f.reads, Table)}
    if not any(map(len, inputs.values())):
        load(*paths)  # raises, and says what a finished run is
    return _plot([(figure, inputs[figure.reads]) for figure in chosen], folder, f"{len(folders)} runs", bool(names))


def plot_data(descriptors: Sequence[Any], folder: str | Path) -> list[Path]:
    """As `plot`, every figure of data that applies to `descriptors`, a list of `toolkit.coverage.Coverage`."""
    from toolkit import registry

    figures = registry.data_figures().values()
    return _plot([(figure, descriptors) for figure in figures], folder, f"{len(descriptors)} stores", False)


def plot_model(diagnosis: Any, folder: str | Path) -> list[Path]:
    """As `plot`, every figure of a model that applies to a `toolkit.diagnose.Diagnosis`."""
    from toolkit import registry

    return _plot([(figure, [diagnosis]) for figure in registry.model_figures().values()], folder, "models", False)


def _plot(chosen: Sequence[tuple[Figure, Sequence[Any]]], folder: str | Path, what: str, strict: bool) -> list[Path]:
    """Save each figure from what it reads; one that does not apply is passed over, unless `strict` or all are.

    What they show is computed before the first is written, so that a damaged file is found before.
    """
    found, refused = [], []
    for figure, given in chosen:
        try:
            found.append((figure, _rows(figure, given)))
        except DamagedFile:
            raise
        except ValueError as error:
            if strict:
                raise
            refused.append(f"{figure.name}: {error}")
    if not found:
        raise ValueError(f"no figure applies to these {what}; " + "; ".join(refused))
    return [path for figure, rows in found for path in _save(figure, rows, Path(folder))]


def to_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV with a heading of every key, in order of first appearance; None and absent are empty."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def look(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Name -> (colour, marker), by place in the sorted names; from the ninth on colours meet other markers."""
    return {n: (COLOURS[i % 8], MARKERS[(i + i // 8) % 8]) for i, n in enumerate(sorted(set(names)))}


def counts(rows: Sequence[Row], each: str = "") -> str:
    """'n = 6 runs (3 draws)' behind the summary rows of a picture, one an `each`, with a warning below ten."""

    least = min(row["runs"] for row in rows)
    runs, draws = (span(row[key] for row in rows if row.get(key) is not None) for key in ("runs", "draws"))
    warning = f", fewer than {FEW}" if least < FEW else ""
    of = f"{draws} draw{'s' * (draws != '1')}"
    return f"n = {runs} run{'s' * (runs != '1')}{each and f' a {each}'} ({of}){warning}"


def span(values: Iterable[int]) -> str:
    """'6', or '6 to 8'."""
    found = sorted(set(values))
    return f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"


def suite_of(dataset: str) -> str:
    """The beginning of "pendulum / 2,000 / 2 / 0.1"; empty where a dataset is called otherwise."""
    first, mark, _ = dataset.partition(" / ")
    return first if mark and not first[0].isdigit() else ""
