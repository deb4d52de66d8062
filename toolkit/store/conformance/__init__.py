"""What every backend must do, and every store on it: run these laws against your own.

Under pytest, as a class:

    from toolkit.store.conformance import BackendConformance, StoreConformance

    class TestMyBackend(BackendConformance):
        def open(self, place):
            return MyBackend(f"mine://test/{place}")

    class TestStoreOnMine(StoreConformance):
        def open(self, place):
            return MyBackend(f"mine://test/{place}")

or without it: `check_backend(open)` and `check_store(open)`. Either way `open(place)` gives a backend on the place of
that name: two of one name see the same values, as two processes would; two of different names share nothing. Names
are new in every run, letters, digits and '-'. Nothing is cleaned up: let them lie in something temporary.
"""

from __future__ import annotations

from collections.abc import Callable

from toolkit.store.backend import Backend
from toolkit.store.conformance.backends import BackendConformance
from toolkit.store.conformance.stores import StoreConformance

__all__ = ["BackendConformance", "StoreConformance", "check_backend", "check_store"]


def check_backend(open: Callable[[str], Backend]) -> None:
    """Every law of `BackendConformance`. Raises AssertionError naming each that does not hold, and how."""
    _check(BackendConformance(), open)


def check_store(open: Callable[[str], Backend]) -> None:
    """Every law of `StoreConformance`. Raises AssertionError naming each that does not hold, and how."""
    _check(StoreConformance(), open)


def _check(laws: BackendConformance | StoreConformance, open: Callable[[str], Backend]) -> None:
    laws.open = open  # type: ignore[assignment, method-assign]
    broken = []
    for name in sorted(dir(type(laws))):
        if name.startswith("test_"):
            try:
                getattr(laws, name)()
            except Exception as error:
                broken.append(f"{name.removeprefix('test_').replace('_', ' ')}: {type(error).__name__}: {error}")
    if broken:
        raise AssertionError(f"{len(broken)} laws do not hold:\n" + "\n".join(broken))
