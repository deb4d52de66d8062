"""One line of progress with the time left, rewritten in a terminal and sparse in a log."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from typing import TextIO


class ProgressLine:
    """Shows `label done/total, time left`: one line rewritten in a terminal, elsewhere a line each `every` seconds."""

    def __init__(self, label: str, total: int, *, stream: TextIO | None = None, every: float = 10.0) -> None:
        self.label, self.total = label, max(1, total)
        self.stream = stream or sys.stderr or io.StringIO()  # standard error may be closed: then nothing is shown
        self.live = self.stream.isatty()
        self.every = 0.2 if self.live else every
        self.began = time.monotonic()
        self.first: float | None = None  # work already done when this started, which took no time now
        self.last = self.began if not self.live else 0.0

    def update(self, done: float, note: str = "") -> None:
        """Show that `done` of `total` is finished."""
        now = time.monotonic()
        if self.first is None:
            self.first = done
        if now - self.last < self.every and done < self.total:
            return
        self.last = now
        elapsed, fresh = now - self.began, done - self.first
        left = f", {duration(elapsed / fresh * (self.total - done))} left" if fresh > 0 and done < self.total else ""
        count = f"{done:.0f}" if done >= 1000 else f"{done:.4g}"
        text = f"{self.label} {count}/{self.total} ({100 * done / self.total:.0f}%){left}{'  ' + note if note else ''}"
        print(f"\r\x1b[K{text}" if self.live else text, end="" if self.live else "\n", file=self.stream, flush=True)

    def close(self, note: str = "") -> None:
        """End the line and say how long it took."""
        text = f"{self.label}: {duration(time.monotonic() - self.began)}{'  ' + note if note else ''}"
        print(f"\r\x1b[K{text}" if self.live else text, file=self.stream, flush=True)


class Phases:
    """A line of progress for each phase of long work, one after another.

    With `label` and all `phases` in order, a line says whose work it is and which phase of how many.
    """

    def __init__(self, label: str = "", phases: Sequence[str] = ()) -> None:
        self.label, self.phases = label, list(phases)
        self.phase = ""
        self.line: ProgressLine | None = None

    def update(self, phase: str, done: int, total: int) -> None:
        """Show that `done` of `total` of a phase is finished; another phase ends the line of the one before."""
        if phase != self.phase or self.line is None:
            self.close()
            place = [f"{self.phases.index(phase) + 1} of {len(self.phases)}"] if self.phases else []
            self.phase = phase
            self.line = ProgressLine(", ".join([*([self.label] if self.label else []), *place, phase]), total)
        self.line.update(done)

    def close(self) -> None:
        """End the line of the present phase."""
        if self.line is not None:
            self.line.close()
        self.line = None


def duration(seconds: float) -> str:
    """Seconds as '45 s', '3 min 20 s' or '2 h 05 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
