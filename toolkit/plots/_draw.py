"""Drawing figures by name from evaluation records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolkit import registry
from toolkit.plots import save
from toolkit.records import Record


def draw_figures(records: Sequence[Record], names: Sequence[str], folder: str | Path) -> list[Path]:
    """Draw the named figures into `folder`; PNG, SVG and CSV paths, in that order for each.

    Without names, every figure that applies to the records. Raises ValueError for an unknown name, a named
    figure that does not apply, or if none applies.
    """
    known = registry.figures()
    chosen = [registry.pick("figure", name, known) for name in names] or list(known.values())
    paths, refused = [], []
    for figure in chosen:
        try:
            paths += save(figure, records, folder)
        except ValueError as error:
            if names:
                raise
            refused.append(f"{figure.name}: {error}")
    if not paths:
        raise ValueError("no figure applies to these runs; " + "; ".join(refused))
    return paths
