"""Imported once by the server that workers are forked from: all that a run needs, and that starts no thread."""

from __future__ import annotations

import gc

import toolkit.commands.data
import toolkit.commands.runs
import toolkit.commands.sweep
import toolkit.grid
import toolkit.sweep
import toolkit.train  # noqa: F401
from toolkit import registry

registry.learners()
registry.suites()
gc.freeze()  # a worker's garbage collection then leaves these objects, and the pages it shares with the server, alone
