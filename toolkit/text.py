"""Plain text: tables for the terminal, and what a learner asks for in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.core import Needs


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length as left-aligned columns, two spaces apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def asks(needs: Needs) -> list[str]:
    """What a learner takes from the data besides observations and actions, in words."""
    said = {
        f"windows of {needs.window}": needs.window > 1,
        "reward": needs.reward,
        "goal": needs.goal,
        "next action": needs.next_action,
        f"{needs.n_step}-step returns": needs.n_step > 1,
        "returns to go": needs.returns_to_go,
        "hindsight goals": needs.hindsight > 0,
        f"best {needs.top_fraction:.0%} of episodes": needs.top_fraction < 1,
    }
    return [words for words, asked in said.items() if asked]
