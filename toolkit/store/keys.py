"""One key of a schema: what is stored of it, and how it becomes numbers in a packed row."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from toolkit.core import Array

Kind = Literal["box", "discrete", "multi-discrete", "multi-binary"]
ROLES = ("observation", "goal", "image", "action")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
INFO_TYPES = ("bool", *INTEGERS, "float16", "float32", "float64")
LARGEST = float(np.finfo(np.float32).max) / 2  # the difference of two such numbers is finite too
DEEPEST = 8  # parts of a nested key's name
MOST_CHOICES = 1 << 16  # numbers a one-hot code may have
PART = re.compile(r"(?=.{1,100}$)[A-Za-z0-9][A-Za-z0-9._-]*( [A-Za-z0-9._-]+)*")  # cannot leave the store's folder
RESERVED = "zarr.json"  # stands in every folder of a store


@dataclass(frozen=True)
class Key:
    """One observation or the action. `low`, `high` and `resolution` have an entry for each packed number.

    What is packed: numbers of a "box" and of a "multi-binary" observation as they are, row-major; the choice of a
    "discrete" key one-hot; the choices of a "multi-discrete" observation one-hot each, one after the other. An action
    is one choice: of "multi-discrete" and "multi-binary" actions every combination is a choice of its own, numbered
    row-major, so a learner of discrete actions serves them too. Images are stored and not packed.

    Raises ValueError if a part does not fit another.
    """

    name: str  # parts joined with "/": the store's folders are nested as the space is
    role: str  # "observation"; "goal" (constant in an episode, packed last); "image"; "action"
    shape: tuple[int, ...]  # of one entry as stored; an image's is (H, W, C)
    low: tuple[float | None, ...]  # None: unbounded
    high: tuple[float | None, ...]
    resolution: tuple[float, ...]  # bin width for code lengths, raw units
    dtype: str = "float32"  # on disk
    space: Kind = "box"
    choices: tuple[int, ...] = ()  # of each number, where there are any
    start: tuple[int, ...] = ()  # the least of each, as the environment counts

    def __post_init__(self) -> None:
        checked_path(f"{self.role} key", self.name)
        if self.role not in ROLES:
            raise ValueError(f"observation {self.name!r} has role {self.role!r}; expected one of {', '.join(ROLES)}")
        if self.space not in get_args(Kind):
            raise ValueError(f"{self.name!r} has space {self.space!r}; expected one of {', '.join(get_args(Kind))}")
        if not all(type(size) is int and size >= 0 for size in self.shape):
            raise ValueError(f"{self.name!r} has shape {self.shape}; expected sizes of at least 0")
        if self.dtype not in ("float32", *INTEGERS):
            raise ValueError(
                f"{self.name!r} has dtype {self.dtype!r}; expected float32 or one of {', '.join(INTEGERS)}"
            )
        if self.role == "image" and (self.dtype != "uint8" or len(self.shape) != 3 or self.space != "box"):
            raise ValueError(f"image {self.name!r} is {self.dtype} {self.shape}; expected uint8 (H, W, C)")
        count = 0 if self.space == "box" else math.prod(self.shape)
        if not len(self.choices) == len(self.start) == count:
            raise ValueError(
                f"{self.name!r} has {len(self.choices)} choices and {len(self.start)} starts; expected {count} of each"
            )
        if any(type(n) is not int for n in (*self.choices, *self.start)) or any(n < 1 for n in self.choices):
            raise ValueError(f"{self.name!r} has choices {self.choices}; expected integers of at least 1")
        if self.one_hot:
            checked_choices(self.name, self.role, self.choices)
        for what in ("low", "high", "resolution"):
            if len(getattr(self, what)) != self.size:
                raise ValueError(
                    f"{what} of {self.name!r} has {len(getattr(self, what))} entries; expected {self.size}"
                )

    @property
    def one_hot(self) -> bool:
        """Whether choices are packed one-hot."""
        return self.space != "box" and (self.space != "multi-binary" or self.role == "action")

    @property
    def size(self) -> int:
        """Numbers in a packed row."""
        if self.role == "image":
            return 0
        if not self.one_hot:
            return math.prod(self.shape)
        return math.prod(self.choices) if self.role == "action" else sum(self.choices)

    def pack(self, values: Any) -> Array:
        """Entries (..., *shape) -> (..., size) float32; the leading axes are free. Numbers are not checked."""
        array = np.asarray(values) if self.one_hot else np.asarray(values, np.float32)
        lead = array.shape[: array.ndim - len(self.shape)]
        if array.shape[len(lead) :] != self.shape:
            raise ValueError(f"{self.name!r} has shape {array.shape}; expected {self.shape} at its end")
        if not self.one_hot:
            return array.reshape(*lead, self.size)
        offset = np.asarray(self.start, np.int64)
        code = np.clip(array.reshape(-1, len(self.start)).astype(np.int64) - offset, 0, np.subtract(self.choices, 1))
        if self.role == "action":
            place = np.ravel_multi_index(tuple(code.T), self.choices)[:, None]
        else:
            place = code + np.cumsum([0, *self.choices[:-1]])
        packed = np.zeros((len(code), self.size), np.float32)
        np.put_along_axis(packed, place, 1.0, axis=1)
        return packed.reshape(*lead, self.size)

    def executable(self, action: Any) -> Any:
        """A policy's action (A,), or the number of a choice, as the environment takes it. Raises ValueError."""
        if not self.one_hot:
            array = np.asarray(action, np.float32)
            if not np.isfinite(array).all():
                raise ValueError(f"the policy returned the action {array.tolist()}; its training has diverged")
            return array.reshape(self.shape)
        number = int(action)
        if not 0 <= number < self.size:
            raise ValueError(f"the policy chose action {number}; expected 0 to {self.size - 1}")
        if self.space == "discrete":
            return number + self.start[0]
        code = np.asarray(np.unravel_index(number, self.choices)) + self.start
        return code.reshape(self.shape).astype(self.dtype)

    def check(self, values: Any, count: int) -> None:
        """Raise ValueError unless `values` are `count` entries of this key, naming both."""
        name = "action" if self.role == "action" else f"observation {self.name!r}"
        kinds = {"multi-binary": "iub", "discrete": "iu", "multi-discrete": "iu"}.get(self.space, "")
        array = check_array(name, values, (count, *self.shape), self.dtype, kinds)
        if self.role == "image" and array.dtype != np.uint8:
            raise ValueError(f"{name} is {array.dtype}; an image is uint8, 0 to 255")
        if self.space == "box" or not array.size:
            return
        flat = array.reshape(count, -1).astype(np.int64)
        least, most = np.asarray(self.start), np.add(self.start, self.choices) - 1
        if (wrong := ((flat < least) | (flat > most)).any(0)).any():
            at = int(np.flatnonzero(wrong)[0])
            which = f" {at}" if flat.shape[1] > 1 else ""
            raise ValueError(
                f"{name}{which} spans {flat[:, at].min()} to {flat[:, at].max()}; expected {least[at]} to {most[at]}"
            )


@dataclass(frozen=True)
class InfoKey:
    """One key of the per-step extras: any shape, and a number type of its own."""

    shape: tuple[int, ...] = ()
    dtype: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.dtype not in INFO_TYPES:
            raise ValueError(f"an info key has dtype {self.dtype!r}; expected one of {', '.join(INFO_TYPES)}")
        if not all(type(size) is int and size >= 0 for size in self.shape):
            raise ValueError(f"an info key has shape {self.shape}; expected sizes of at least 0")

    def check(self, name: str, values: Any, count: int) -> None:
        """Raise ValueError unless `values` are `count` entries that the dtype holds; NaN is allowed."""
        kinds = "b" if self.dtype == "bool" else "fiub" if self.dtype.startswith("float") else "iub"
        check_array(f"info {name!r}", values, (count, *self.shape), self.dtype, kinds)


def checked_choices(name: str, role: str, choices: tuple[int, ...]) -> int:
    """The length of the one-hot code of `choices`; see `Key`. Raises ValueError if it is beyond reason."""
    size = math.prod(choices) if role == "action" else sum(choices)
    if size > MOST_CHOICES:
        advice = "so that an action is one of fewer" if role == "action" else "so that it shows them as numbers (a Box)"
        shown = size if size < 10**12 else "over 10**12"
        raise ValueError(f"{name!r} has {shown} choices, the most is {MOST_CHOICES}: wrap the environment {advice}")
    return size


def checked_path(kind: str, name: str) -> str:
    """`name`, or ValueError unless its parts between slashes are plain names (so no path can leave the store)."""
    parts = name.split("/")
    for part in parts:
        if not PART.fullmatch(part):
            raise ValueError(
                f"{kind} {name!r} is not a valid name; use letters, digits, '.', '_', '-' and spaces between words"
            )
        if part == RESERVED:
            raise ValueError(
                f"{kind} {name!r} has the part {part!r}, which is a file of the store; choose another name"
            )
    if len(parts) > DEEPEST:
        raise ValueError(f"{kind} {name!r} is nested {len(parts)} deep; the most is {DEEPEST}")
    return name


def groups_of(name: str) -> list[str]:
    """The groups a key lies in, nearest first: "a/b/c" has "a/b" and "a"."""
    return [name.rsplit("/", n)[0] for n in range(1, name.count("/") + 1)]


def check_array(name: str, values: Any, shape: tuple[int, ...], dtype: str, kinds: str = "") -> Array:
    """`values` as an array. Raises ValueError, naming it, if shape or type differ or `dtype` cannot hold a number."""
    array, held = np.asarray(values), np.dtype(dtype)
    kinds = kinds or ("f" if held.kind == "f" else "iu")
    if array.shape != shape or array.dtype.kind not in kinds:
        expected = {"f": "floating point", "iu": "integer", "b": "boolean"}.get(kinds, "numeric")
        raise ValueError(f"{name} is {array.dtype} {array.shape}; expected {expected} {shape}")
    if array.dtype.kind == "f" and (dtype == "float32" or array.itemsize > held.itemsize):
        most = LARGEST if dtype == "float32" else float(np.finfo(held).max)
        if (np.abs(array) > most).any():
            raise ValueError(f"{name} has numbers beyond {most:.2g}, which {dtype} cannot hold and subtract")
    if held.kind == "f" and array.dtype.kind in "iu" and (array.astype(held).astype(np.float64) != array).any():
        raise ValueError(f"{name} has integers that {dtype} cannot hold exactly; store them as integers, or scaled")
    if held.kind in "iu" and array.dtype.kind in "iu" and array.size:
        limits = np.iinfo(held)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise ValueError(f"{name} spans {array.min()} to {array.max()}, which {dtype} cannot hold")
    return array
