"""Where a run is carried out: a folder that all workers see, or a URL like s3://bucket/runs."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Protocol

from toolkit.lease import hold
from toolkit.records import RunConfig, read_config, replace_json
from toolkit.urls import is_url, refuse_mangled

TAIL_BYTES = 1500  # of a log, shown at once


class Held(Protocol):
    """A run that this process works on, until it ends or is replaced after a silence."""

    folder: Path  # where it works

    def check(self) -> None:
        """Raise LeaseLost if another process is known to have taken over; call it before each write."""

    def commit(self, *, done: bool = False) -> None:
        """What is in the folder stands from now on, also if this machine is lost. Raises LeaseLost."""


class Place(Protocol):
    """Where one run is, whoever works on it."""

    name: str  # for messages: the folder, or the URL
    log: Path  # where a process that carries it out writes what it prints

    def finished(self) -> bool:
        """Whether the run is done."""

    def hold(self) -> AbstractContextManager[Held]:
        """Work on the run, as its folder stands. Raises BlockingIOError if another process does."""

    def result(self, config: RunConfig) -> Path:
        """The folder of the finished run, a copy if it is elsewhere."""

    def told(self) -> str:
        """The end of the log of the last process that carried it out, or ''."""

    def failed(self, how: dict[str, Any]) -> None:
        """Keep how it failed, for whoever asks how far it is."""

    def ended(self, *, good: bool) -> None:
        """Keep the log; if `good`, no failure is left and no copy on this machine."""


class RunFolder:
    """A run in a folder that all workers see."""

    def __init__(self, out: Path, name: str) -> None:
        self.folder = out / name
        self.name, self.log = str(self.folder), self.folder / "log.txt"

    def finished(self) -> bool:
        """See `Place`."""
        return (self.folder / "DONE").exists()

    def hold(self) -> AbstractContextManager[Held]:
        """See `Place`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return hold(self.folder)

    def result(self, config: RunConfig) -> Path:
        """See `Place`."""
        if read_config(self.folder).store != config.store:  # the same data, moved
            replace_json(self.folder / "config.json", config.to_json())
        return self.folder

    def told(self) -> str:
        """See `Place`."""
        return end_of(self.log)

    def failed(self, how: dict[str, Any]) -> None:
        """See `Place`."""
        replace_json(self.folder / "failure.json", how)

    def ended(self, *, good: bool) -> None:
        """See `Place`."""
        if good:
            (self.folder / "failure.json").unlink(missing_ok=True)


def place_of(out: str | Path, name: str) -> Place:
    """The place of run `name` in `out`. Raises ValueError or ImportError for a URL that cannot be used."""
    refuse_mangled(out)
    if is_url(out):
        from toolkit.remote_run import RemoteRun

        return RemoteRun(str(out), name)
    return RunFolder(Path(out), name)


def finished(out: str | Path, names: Collection[str]) -> set[str]:
    """Those of the runs `names` that are done in `out`."""
    if is_url(out):
        from toolkit.copies import survey

        return {run.name for run in survey(str(out)) if run.entry.done}.intersection(names)
    return {name for name in names if RunFolder(Path(out), name).finished()}


def check_out(out: str) -> None:
    """Raise, before anything is started, if runs cannot be kept at `out`, a URL or a folder made when needed."""
    if is_url(out):
        from toolkit.remote_run import check_url

        check_url(out)
    else:
        check_folder(Path(out))


def check_folder(out: Path) -> None:
    """Raises ValueError if `out` cannot be a folder to write to, because it or what should hold it is a file."""
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ValueError(
            f"{there} is a file, and a folder is needed, there or to be made: choose another place to write to"
        )


def end_of(path: Path) -> str:
    """The last bytes of a log, or '' if there is none."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        return file.read().decode(errors="replace").strip()
    return ""
