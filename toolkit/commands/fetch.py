"""`packmule fetch`: runs from an object store into a folder; and which flags take no URL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from tyro.conf import Positional

from toolkit.commands.types import Location
from toolkit.urls import MANGLED

T = TypeVar("T")


@dataclass
class Fetch:
    """Copy runs from an object store into a folder, with their checkpoints, for commands that take folders only.

    Copies are of the last commit of each run. Those that are there already are brought up to date.
    """

    runs: Positional[list[Location]]
    """URLs of runs, or of what holds them."""
    out: Path = Path("runs")
    """Each run's folder is made inside this one."""

    def run(self) -> int:
        from toolkit.copies import fetch_into

        print("\n".join(map(str, fetch_into(self.out, *self.runs))))
        return 0


def refuse_urls(command: T) -> T:
    """`command`. Raises ValueError naming the first of its flags that takes a path and was given a URL."""
    for name, value in _paths(command):
        if MANGLED.match(str(value)):
            url = str(value).replace(":/", "://", 1)
            raise ValueError(
                f"{name} is a folder or file, not {url}: URLs go where --help says FOLDER|URL; "
                "packmule fetch copies runs into a folder"
            )
    return command


def _paths(command: Any) -> Iterator[tuple[str, Path]]:
    for field in fields(command):
        value = getattr(command, field.name)
        if is_dataclass(value):
            yield from _paths(value)
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, Path):
                yield field.name, one
