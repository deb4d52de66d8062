"""Types of flags that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

from toolkit.urls import is_url

Location = Annotated[str, tyro.conf.arg(metavar="FOLDER|URL")]
"""Where a store or runs are. Not a Path: that would drop a slash of s3://."""


def refuse_none(command: Any) -> Any:
    """The command itself. Raises ValueError if it takes runs and was given none."""
    if getattr(command, "runs", None) == []:
        raise ValueError("no runs were given; name some: a run's folder, or what holds several, as in runs/iql-*")
    return command


def local_runs(places: list[str], *, whole: bool = False) -> list[Path]:
    """Folders as they are, and copies of the runs at URLs; `whole` with their checkpoints. See `toolkit.copies`."""
    if not any(map(is_url, places)):
        return [Path(place) for place in places]
    from toolkit.copies import copied

    return copied(*places, whole=whole)
