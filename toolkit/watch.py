"""Watching a sweep: a table of the runs under way, rewritten in a terminal; a line now and then elsewhere."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from toolkit.progress import ProgressLine, duration
from toolkit.status import RunState, run_state

EVERY_SECONDS = 1.0


class Watch:
    """Shows how a sweep of `total` runs goes on; call it with the number finished and the name of the last.

    Without the folder `out`, as for runs on an object store, there is no table of the runs under way.
    """

    def __init__(self, names: Sequence[str], out: Path | None, *, stream: TextIO | None = None) -> None:
        self.names, self.out = set(names), out
        self.line = ProgressLine("sweep", len(names), stream=stream)
        self.stream = self.line.stream
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.drawn = 0  # lines of the table on the screen
        self.done: set[str] = set()

    def __call__(self, done: int, name: str) -> None:
        with self.lock:
            self._wipe()
            self.line.update(done, name)

    def __enter__(self) -> Watch:
        if self.line.live:
            self.thread = threading.Thread(target=self._redraw, daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        if self.line.live:
            self.thread.join()
        self._wipe()
        self.line.close()

    def _redraw(self) -> None:
        while not self.over.wait(EVERY_SECONDS):
            running = self.running()
            with self.lock:
                self._wipe()
                rows = [row(one) for one in running[: shutil.get_terminal_size().lines - 3]]
                print("".join(f"\n{text}" for text in rows), end="", file=self.stream, flush=True)
                self.drawn = len(rows)

    def _wipe(self) -> None:
        """Back to the line of progress, and clear all below."""
        if self.drawn:
            print(f"\x1b[{self.drawn}A\r\x1b[0J", end="", file=self.stream, flush=True)
            self.drawn = 0

    def running(self) -> list[RunState]:
        """The runs under way."""
        found: list[RunState] = []
        if self.out is None:
            return found
        try:
            names = sorted(self.names.intersection(os.listdir(self.out)) - self.done)
        except FileNotFoundError:  # nothing has begun
            return []
        for name in names:
            try:
                one = run_state(self.out / name)
            except ValueError:  # its config.json is not written yet
                continue
            if one.state == "done":
                self.done.add(name)
            elif one.state == "running":
                found.append(one)
        return found


def row(one: RunState, width: int = 20) -> str:
    """'iql-seed0-cd7745188a1d  [#####      ]  500/2000  40 s left'."""
    full = round(width * one.step / one.steps)
    left = f"  {duration(one.left)} left" if one.left is not None else ""
    return f"  {one.folder.name}  [{'#' * full}{' ' * (width - full)}]  {one.step}/{one.steps}{left}"
