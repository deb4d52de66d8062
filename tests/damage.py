"""Sources of foreign formats with wrong bytes in them."""

from __future__ import annotations

import random
from pathlib import Path

from toolkit import registry
from toolkit.formats import Reading


def outcomes(name: str, source: Path, *, count: int) -> dict[str, int]:
    """How often it was "read" and "refused" in `count` times, a file of `source` damaged anew each time.

    Raises AssertionError if what went wrong is not told as a refusal.
    """
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    clean, drawn = {path: path.read_bytes() for path in files}, random.Random(0)
    found: dict[str, int] = {}
    for _ in range(count):
        path = drawn.choice(files)
        content = bytearray(clean[path])
        for _ in range(drawn.choice([1, 3, 20])):
            content[drawn.randrange(len(content))] = drawn.randrange(256)
        path.write_bytes(content[: drawn.randrange(len(content))] if drawn.random() < 0.1 else content)
        try:
            opened = registry.format(name).read(source, Reading(final="repeat"))
            assert all(len(one.reward) for one in opened.recordings(0))
            outcome = "read"
        except ValueError as error:
            outcome = "refused"
            assert not isinstance(error, UnicodeError), error  # what a library stumbled over, not what is wrong
        path.write_bytes(clean[path])
        found[outcome] = found.get(outcome, 0) + 1
    return found
