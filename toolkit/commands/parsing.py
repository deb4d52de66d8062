"""Flags to a command by tyro, whose errors name each flag as it was typed."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

INNER = "tyro-dummy-inner"  # tyro's own name, before that of a part of a command which refused its values


def parsed(parse: Callable[[], T], argv: Sequence[str]) -> T:
    """What `parse` makes of `argv`. Raises SystemExit as tyro does, having printed what is wrong.

    Raises ValueError if a part of the command, such as the learner's options, refused its values, naming the flags.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse()
    except SystemExit as stop:
        error = refusal(stop)
        if INNER not in said.getvalue().replace("_", "-") or error is None:
            raise
        said = io.StringIO()
        raise ValueError(f"{named(str(error), argv)}: {error}") from None
    finally:
        if said.getvalue():
            print(said.getvalue(), end="", file=sys.stderr)


def refusal(stop: BaseException) -> ValueError | None:
    """The ValueError on whose account tyro stopped, if there is one."""
    cause = stop.__context__
    while cause is not None and not isinstance(cause, ValueError):
        cause = cause.__context__
    return cause


def named(message: str, argv: Sequence[str]) -> str:
    """The flags of a part that were typed and whose options `message` speaks of; all that were typed if of none."""
    typed = dict.fromkeys(word.partition("=")[0] for word in argv if re.match(r"--[\w-]+\.[\w-]", word))
    words = set(re.findall(r"\w+", message))
    meant = [flag for flag in typed if flag.rpartition(".")[2].replace("-", "_") in words]
    return ", ".join(meant or typed) or "the options"
