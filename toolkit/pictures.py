"""Pictures of the report: found, put in order, embedded with their captions and the numbers they draw."""

from __future__ import annotations

import base64
import csv
import io
import re
from html import escape
from pathlib import Path

from toolkit.page import details, round_cell, table

ORDER = (  # in which figures are shown; others follow by name
    "scaling", "comparison", "improvement", "profiles", "convergence", "heatmap", "seen_unseen", "distance",
    "bottlenecks", "pareto", "bits", "proxies", "selection", "curves",
)  # fmt: skip


def find_figure(folder: Path, name: str | Path) -> Path:
    """The picture meant by a name or path; SVG before PNG. Raises FileNotFoundError saying where it was looked for."""
    given = Path(name)
    if given.suffix in (".svg", ".png"):
        tried = [given, folder / given]
    else:
        tried = [base / f"{given}{end}" for base in (folder, folder / "figures") for end in (".svg", ".png")]
    for path in tried:
        if path.is_file():
            return path
    raise FileNotFoundError(f"figure {str(name)!r} is not there; looked for {', '.join(map(str, tried))}")


def rank(path: Path) -> tuple[int, str]:
    """Where a picture stands in the report, for sorting."""
    return (ORDER.index(path.stem) if path.stem in ORDER else len(ORDER), path.stem)


def picture(path: Path, number: int) -> str:
    """The figure as HTML, its picture embedded; no wider than drawn, on a phone four fifths of that."""
    from toolkit import registry

    kind = {".svg": "image/svg+xml", ".png": "image/png"}[path.suffix]
    content = path.read_bytes()
    data = base64.b64encode(content).decode("ascii")
    known = registry.figures().get(path.stem)
    caption = known.caption if known else ""
    alt = escape(f"Figure {path.stem}. {caption}", quote=True)
    points = re.search(rb'<svg[^>]* width="([0-9.]+)pt"', content)
    width = f' style="--width: {float(points[1]) * 4 / 3:.0f}px"' if points else ""
    rows = numbers(path)
    cells = [[*rows[0]], *([round_cell(x) for x in row.values()] for row in rows)] if rows else []
    finding = known.finding(rows) if known and rows else ""
    told = f"<p>{escape(finding)}</p>" if finding else ""
    drawn = details("The numbers drawn", table(cells)) if cells else ""
    name = escape(path.stem.replace("seen_unseen", "seen and unseen").replace("_", " "))
    return (
        f'<figure><div class="picture"><img src="data:{kind};base64,{data}" alt="{alt}"{width}></div>'
        f"<figcaption><strong>Figure {number}, {name}.</strong> {escape(caption)}</figcaption>{told}{drawn}</figure>"
    )


def numbers(path: Path) -> list[dict[str, str]]:
    """The rows that a picture draws, from the CSV beside it; none if there is no such file."""
    file = path.with_suffix(".csv")
    return list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8")))) if file.is_file() else []
