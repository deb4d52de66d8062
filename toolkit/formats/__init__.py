"""Foreign formats: one file each, that reads and, where that makes sense, writes it.

A format hands over what its source says, episode by episode, as `Recording`s; `toolkit.transfer` proves with
`toolkit.alignment` that rows stand where they should before anything is written. A format never guesses: what its
source does not hold is asked for (`Reading`) or left out with a note.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from toolkit.core import Array
from toolkit.store.schema import Schema

if TYPE_CHECKING:
    from toolkit.store import ReplayStore

Final = Literal["repeat", "drop"]


@dataclass(frozen=True)
class Reading:
    """What a reader may be told. Defaults leave it to the source, or refuse where the source does not say."""

    keys: tuple[str, ...] | None = None  # observations to keep, by the source's names; all by default
    final: Final | None = (
        None  # where a terminated step's next observation is not recorded: see `toolkit.formats._ends`
    )
    limits: tuple[float, float] | None = None  # of every action number; the source's, its convention's or its data's


@dataclass(frozen=True)
class Recording:
    """One episode of T steps as its source holds it; arrays have one entry a step, observations one more.

    `ends` and `next_obs` are what the alignment proof looks at: flags as recorded, of which only the last may be set,
    and next observations where the source has its own.
    """

    where: str  # how a person finds it in the source: "rows 0 to 999", "demo_3"
    obs: Any  # (T+1, ...), an array or nested like the space
    action: Array  # (T, ...)
    reward: Array  # (T,)
    terminated: bool
    ends: Mapping[str, Array] = field(default_factory=dict)  # name of the flag -> (T,) bool
    next_obs: Mapping[str, Array] = field(default_factory=dict)  # name of a leaf -> (T, ...)
    info: dict[str, Array] = field(default_factory=dict)  # (T, ...)
    columns: dict[str, Any] = field(default_factory=dict)  # task, behaviour, seed, success


@dataclass(frozen=True)
class Source:
    """An opened source: its schema, how many episodes it has, and the episodes from any number on, in one order."""

    schema: Schema  # `environment` stays empty: `toolkit.transfer` fills it
    count: int
    recordings: Callable[[int], Iterator[Recording]]  # from this episode on; may be called again
    notes: Sequence[str] = ()  # what was left out or taken for granted, a sentence each, for whoever imports
    limits: str = ""  # what was taken for granted of the actions' limits; with a suite nothing is


class Format(ABC):
    """One foreign format. Creating it imports none of what it `requires`."""

    name: ClassVar[str]
    about: ClassVar[str]  # one line: what files it is
    requires: ClassVar[tuple[str, ...]] = ()  # modules; `extra` installs them
    extra: ClassVar[str | None] = None
    final_observation: ClassVar[bool] = True  # whether it holds the observation after an episode's last action

    @abstractmethod
    def read(self, source: Path, reading: Reading) -> Source:
        """Open `source`, a file or folder. Nothing in it is executed, and no link in it is followed.

        Raises ValueError, saying what came, what was due and what to do, if it is not of this format or does not say
        what an episode needs; FileNotFoundError if nothing is there.
        """

    def write(self, store: ReplayStore, target: Path) -> Sequence[str]:
        """Write the episodes of a store or view to `target`, which does not exist; return what could not be kept.

        Raises ValueError, before anything is written, if the format cannot hold the store's spaces.
        """
        raise NotImplementedError(f"format {self.name!r} is read, not written")

    @property
    def writes(self) -> bool:
        """Whether `write` is there."""
        return type(self).write is not Format.write

    def check(self) -> None:
        """Raise ImportError, saying what to install, if a requirement is missing."""
        for module in self.requires:
            try:
                importlib.import_module(module)
            except ImportError as error:
                install = f"pip install 'packmule[{self.extra}]'" if self.extra else f"pip install {module}"
                raise ImportError(f"format {self.name!r} needs {module} ({error}): {install}") from None
