"""Copies of runs that lie on an object store, for whatever reads folders of runs: status, figures, reports, evaluation.

A copy is made of one entry of the run (see `toolkit.journal`), so it is whole; only what changed is fetched, and every
file is checked against its digest. Copies are in the user's cache and may be removed at any time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from toolkit.journal import ENTRY, TRIES, Entry, Journal
from toolkit.lease import STALE_SECONDS
from toolkit.status import RunState, run_state, states
from toolkit.store.backend import backend
from toolkit.store.files import JSON_BYTES, StoreError, user_cache, write_durably
from toolkit.urls import is_url, refuse_mangled

HEAVY = ("checkpoint/", "snapshots/", "given/")  # what only evaluation needs
FETCH_BYTES = 1 << 26  # of files fetched together


@dataclass(frozen=True)
class Found:
    """A run at a URL."""

    url: str
    entry: Entry
    journal: Journal
    failed: bool  # there is word of a failure

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.url.rpartition("/")[2]

    @property
    def copy(self) -> Path:
        """Where its copy is, or will be."""
        return copies_of(self.url.rpartition("/")[0]) / self.name

    def running(self) -> bool:
        """Whether a process is at work on it; if its age cannot be told, one that began counts."""
        with suppress(OSError):
            return self.journal.holder(self.entry, STALE_SECONDS) is not None
        return True


def copies_of(out: str) -> Path:
    """Where copies are of the runs in `out`, a URL."""
    return user_cache() / "runs" / sha256(out.rstrip("/").encode()).hexdigest()[:16]


def survey(url: str) -> list[Found]:
    """Every run at or below a URL, begun or done, sorted."""
    place = backend(url)
    keys = place.sizes()
    newest = {match["run"] or "": key for key in keys if (match := ENTRY.fullmatch(key))}  # keys are in order
    journals = [Journal(place, run) for run in sorted(newest)]
    try:
        contents = place.read_many([newest[journal.prefix] for journal in journals], limit=JSON_BYTES)
    except FileNotFoundError:  # a holder has put the next
        entries = [journal.newest() for journal in journals]
    else:
        entries = [Entry.from_bytes(data, f"{one.name}/entries") for one, data in zip(journals, contents, strict=True)]
    return [
        Found(journal.name, entry, journal, journal.key("failure.json") in keys)
        for journal, entry in zip(journals, entries, strict=True)
        if entry is not None
    ]


def copied(*places: str | Path, whole: bool = False) -> list[Path]:
    """Folders as they are, and for each run at or below a URL the folder of its copy; `whole` with its checkpoints.

    Raises FileNotFoundError if no run is at or below a URL, and as the backend does.
    """
    found: list[Path] = []
    for place in places:
        refuse_mangled(place)
        if not is_url(place):
            found.append(Path(place))
            continue
        found += [copy_of(run, whole=whole) for run in _some(str(place))]
    return found


def only(place: str) -> Path:
    """A folder, or that of a whole copy of the run at a URL. Raises ValueError if several runs are below it."""
    folders = copied(place, whole=True)
    if len(folders) > 1:
        raise ValueError(f"{place} holds {len(folders)} runs; give the URL of one")
    return folders[0]


def _some(url: str) -> list[Found]:
    runs = [run for run in survey(url) if "config.json" in run.entry.files]  # not those just begun
    if not runs:
        raise FileNotFoundError(f"no runs at {url}; give the URL of a run, or one below which there are runs")
    return runs


def local_folder(out: str) -> Path:
    """The folder `out`; of a URL that holds runs, the folder of their copies, which are made now."""
    if not is_url(out):
        return Path(out)
    for run in survey(out):
        copy_of(run)
    return copies_of(out)


def states_of(*places: str | Path) -> tuple[list[RunState], dict[Path, str]]:
    """Every run at or below folders and URLs, as `toolkit.status.states`, and the URLs of those that are copies.

    A run on an object store is as it was at its last commit.
    """
    urls: dict[Path, str] = {}
    found: list[RunState] = []
    for place in places:
        if not is_url(place):
            found += states(place)
            continue
        for run in _some(str(place)):
            one = run_state(copy_of(run))
            found.append(replace(one, state="running") if one.state != "done" and run.running() else one)
            urls[one.folder] = run.url
    return found, urls


def fetched(url: str, *, whole: bool) -> Path:
    """The folder of a copy of the run at `url`. Raises FileNotFoundError if there is none."""
    for run in survey(url):
        if run.url == url:
            return copy_of(run, whole=whole)
    raise FileNotFoundError(f"no run at {url}")


def fetch_into(out: Path, *urls: str) -> list[Path]:
    """Copy every run at or below URLs whole into `out`; the folders, sorted by URL.

    Raises ValueError, before anything is written, for a folder, runs of one name, or one that was begun in `out`.
    """
    for url in urls:
        if not is_url(url):
            raise ValueError(f"{url} is no URL; fetch copies runs from s3://bucket/prefix into a folder")
    runs = [run for url in urls for run in _some(url)]
    if len({run.name for run in runs}) < len(runs):
        raise ValueError(f"some runs below {', '.join(urls)} have the same name; fetch them into different folders")
    for run in runs:
        if list((out / run.name).glob("lease-*.json")):
            raise ValueError(f"{out / run.name} is a run of its own, begun in that folder; give --out another folder")
    return [copy_of(run, whole=True, folder=out / run.name) for run in runs]


def copy_of(run: Found, *, whole: bool = False, folder: Path | None = None) -> Path:
    """The folder of a copy of a run as it is now; in the user's cache unless `folder` is given."""
    folder, entry = run.copy if folder is None else folder, run.entry
    for _ in range(TRIES):
        try:
            fetch(run.journal, entry, folder, lambda path: whole or not path.startswith(HEAVY))
            break
        except FileNotFoundError:  # its holder has put the next, and deleted what that does not name
            entry = run.journal.newest() or entry
    else:
        raise OSError(f"{run.url}: its files are replaced faster than they are read; try again")
    for path in files_below(folder):
        if path not in entry.files and path.startswith("checkpoint/"):  # an earlier one
            (folder / path).unlink(missing_ok=True)
    (folder / "failure.json").unlink(missing_ok=True)
    if run.failed and not entry.done:
        with suppress(FileNotFoundError):
            write_durably(folder / "failure.json", run.journal.backend.read(run.journal.key("failure.json")))
    return folder


def fetch(journal: Journal, entry: Entry, folder: Path, wanted: Callable[[str], bool] = lambda path: True) -> None:
    """Put the wanted files of an entry in `folder`, those that are not there already.

    Raises FileNotFoundError if one is gone, StoreError if its content is not what the entry says.
    """
    missing = [path for path in entry.files if wanted(path) and not _same(folder / path, entry.files[path].sha256)]
    for batch in _batches(missing, [entry.files[path].size for path in missing]):
        stored = [entry.files[path] for path in batch]
        limit = max(one.size for one in stored)
        contents = journal.backend.read_many([journal.key(one.key) for one in stored], limit=limit)
        for path, one, data in zip(batch, stored, contents, strict=True):
            if sha256(data).hexdigest() != one.sha256:
                raise StoreError(f"{journal.name}/{one.key}: content is not what the run's entry says; it is damaged")
            write_durably(folder / path, data)


def files_below(folder: Path) -> list[str]:
    """Paths of a run's own files in its folder, sorted: not leases, logs, failures, or what is half written."""
    found = []
    for where, _, names in os.walk(folder):
        prefix = Path(where).relative_to(folder).as_posix()
        found += [name if prefix == "." else f"{prefix}/{name}" for name in names if not name.endswith(".partial")]
    return sorted(path for path in found if path not in ("log.txt", "failure.json"))


def _same(path: Path, digest: str) -> bool:
    try:
        return sha256(path.read_bytes()).hexdigest() == digest
    except FileNotFoundError:
        return False


def _batches(paths: Sequence[str], sizes: Sequence[int]) -> Iterator[list[str]]:
    """Paths in groups of about FETCH_BYTES, at least one each."""
    batch: list[str] = []
    total = 0
    for path, size in zip(paths, sizes, strict=True):
        if batch and total + size > FETCH_BYTES:
            yield batch
            batch, total = [], 0
        batch.append(path)
        total += size
    if batch:
        yield batch
