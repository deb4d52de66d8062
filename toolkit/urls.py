"""What is a URL, and what a Path makes of one. Nothing is imported: the command line asks before it loads anything."""

from __future__ import annotations

import re
from pathlib import Path

URL = re.compile(r"[a-z][a-z0-9+.-]+://")
MANGLED = re.compile(r"(s3|gs|az|memory):/")  # what a Path makes of a URL


def is_url(where: object) -> bool:
    """Whether `where` names a place that is no folder of this machine."""
    return isinstance(where, str) and bool(URL.match(where))


def refuse_mangled(where: object) -> None:
    """Raise ValueError if `where` is a Path that was made of a URL."""
    if isinstance(where, Path) and (mangled := MANGLED.match(str(where))):
        raise ValueError(f"{where} is a Path, which drops a slash of a URL; give {mangled[1]}://... as a str")
