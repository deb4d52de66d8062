"""`packmule data coverage`: how diverse stores are, as a table, as JSON and as pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from toolkit.commands.types import Location

if TYPE_CHECKING:
    from toolkit.coverage import Coverage as Descriptors
    from toolkit.stats import Estimate


@dataclass
class Coverage:
    """Measure how diverse stores are, on equally many transitions of each, with 95% intervals over episodes."""

    stores: Positional[list[Location]]
    """Stores of one suite."""
    sample: int | None = None
    """Transitions of each store; at most 10,000 and what the smallest store holds by default."""
    seed: int = 0
    """Seed of the sampled episodes and of the intervals."""
    reference: Location | None = None
    """A store whose state-action bins SACo is a share of; all the stores' together by default."""
    view: str | None = None
    """A view that every store has saved; whole stores by default."""
    plot: Path | None = None
    """Also draw figures into this folder."""
    json: bool = False
    """Print JSON for programs."""

    def run(self) -> int:
        from toolkit.coverage import coverage
        from toolkit.plots import plot_data
        from toolkit.records import naming
        from toolkit.store import ReplayStore

        opened = [ReplayStore.open(path) for path in self.stores]
        opened = [store if self.view is None else store.view(self.view) for store in opened]
        reference = None if self.reference is None else ReplayStore.open(self.reference)
        found = coverage(opened, sample=self.sample, seed=self.seed, reference=reference)
        print(json.dumps([d.to_json() for d in found], indent=1, allow_nan=False) if self.json else table(found))
        if self.plot is not None:
            with naming(self.plot):
                paths = plot_data(found, self.plot)
            if not self.json:
                print("\n" + "\n".join(map(str, paths)))
        return 0


def table(found: Sequence[Descriptors]) -> str:
    """One row a store, and below what the columns mean."""
    from toolkit.text import aligned

    rows = [["store", "episodes", "SACo", "TQ", "H(s)", "H(a|s)", "H(a|s,e)", "contexts", "H(c)", "spread(c)"]]
    for d in found:
        spread = [e.value for e in d.context_spread.values()]
        estimates = (d.saco, d.tq, d.state_entropy, d.behaviour_entropy, d.behaviour_entropy_within)
        rows.append(
            [
                d.store, str(d.episodes), *map(_text, estimates), str(d.contexts), _text(d.context_entropy),
                f"{sum(spread) / len(spread):.2f}" if spread else "-",
            ]
        )  # fmt: skip
    first = found[0]
    return "\n".join(
        [
            aligned(rows),
            "",
            f"n = {first.transitions:,} transitions of each store, in whole episodes; [95% intervals over episodes]",
            f"SACo: share of occupied state-action bins, against {first.against}; TQ: 0 random, 1 expert",
            f"H: entropies in bits, of states ({', '.join(first.coordinates)}), of actions given the state, given",
            "   also the episode (and so its context), and of contexts",
            "spread(c): standard deviation of the context numbers in units of the suite's range, their mean",
        ]
    )


def _text(estimate: Estimate | None) -> str:
    return "-" if estimate is None else str(estimate)
