"""Reading folders of others: what lies inside them and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LARGEST = 1 << 26  # bytes of a JSON file that are read


def no_links(folder: Path) -> None:
    """Raise ValueError naming the first link inside `folder`: one could lead out of it."""
    for one in folder.rglob("*"):
        if one.is_symlink():
            raise ValueError(f"{one} is a link; a source is read without following any")


def json_file(path: Path) -> Any:
    """What a JSON file says. Raises ValueError if it is not there, is no JSON, or is larger than any such file."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path} has {path.stat().st_size} bytes; expected at most {LARGEST}")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); is {path.parent} of the right format?") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error})") from None
