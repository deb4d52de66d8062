"""The mapped tier's file: packed rows of one commit under derived/, written whole, checked, rebuilt at need."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import mmap
import os
import secrets
import shutil
import stat
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import numpy as np
import torch

from toolkit.core import Array
from toolkit.sampling import Packed
from toolkit.sampling.index import SPARE
from toolkit.store.backend import Backend
from toolkit.store.files import StoreError, canonical, digest, flush_directory, user_cache, write_json
from toolkit.store.schema import Schema

LAYOUT = 1  # of the rows in the file; a file of another layout is not used
Tier = Literal["auto", "memory", "mapped", "streaming"]


@dataclass(frozen=True)
class Block:
    """Consecutive packed rows."""

    rows: Array  # (n, W) float32
    images: dict[str, Array]  # key -> (n, H, W, C) uint8

    def part(self, first: int, stop: int) -> Block:
        """Rows first..stop, sharing memory."""
        return Block(self.rows[first:stop], {name: values[first:stop] for name, values in self.images.items()})

    def arrays(self) -> list[Array]:
        """What goes into the files, in their order."""
        return [self.rows, *self.images.values()]


Blocks = Callable[[], Iterator[Block]]  # in order, verified by the time the last one was taken


def choose_tier(
    size: int, folders: list[Path], built: bool, *, remote: bool = False
) -> Literal["memory", "mapped", "streaming"]:
    """Memory for `size` bytes that fit half of what is available; else mapped if the disk has room; else streaming.

    Of a remote store mapped comes first: what was fetched once need not be fetched again.
    """
    fits = size <= available_memory() // 2
    if fits and not remote:
        return "memory"
    if built or any(_room(folder) > size + size // 10 for folder in folders):
        return "mapped"
    return "memory" if fits else "streaming"


def available_memory() -> int:
    """Bytes this process may still take: what the system has available, and what its control group allows."""
    limits = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError, IndexError):
        group = Path("/proc/self/cgroup").read_text().split("::")[1].splitlines()[0]
        folder = Path("/sys/fs/cgroup") / group.strip("/")
        limits.append(int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text()))
    return max(0, min(limits, default=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))


def cache_folders(store: Backend) -> list[Path]:
    """Where a packed file may stand: in the store; for one that is remote or read-only, in the user's cache."""
    inside = [] if store.local is None else [store.local / "derived"]
    return [*inside, user_cache()]


class PackedFile:
    """Packed rows of one commit: FOLDER/packed-v1-<commit digest>/{rows.f32, image-0.u8, ..., meta.json}.

    A folder of that name is complete: it is made under another name, flushed and renamed. Opening checks that it
    is of this commit, schema and layout and has every byte; `check` reads it all. What does not fit is rebuilt.
    """

    def __init__(self, store: Backend, schema: Schema, commit_digest: str, rows: int) -> None:
        self._folders = cache_folders(store)
        self._name = f"packed-v{LAYOUT}-{commit_digest[:40]}"
        self._schema, self._rows = schema, rows
        self._width = schema.obs_dim + schema.action_dim + 2
        shape = {"obs_dim": schema.obs_dim, "action_dim": schema.action_dim, "goal_dim": schema.goal_dim}
        images = {name: list(shape) for name, shape in schema.images.items()}
        self._identity = {
            "layout": LAYOUT, "commit": commit_digest, "rows": rows, "spare": SPARE, **shape, "images": images
        }  # fmt: skip
        self._files = {"rows.f32": 4 * self._width}  # name -> bytes a row
        self._files |= {f"image-{i}.u8": math.prod(shape) for i, shape in enumerate(images.values())}

    @property
    def folders(self) -> list[Path]:
        """Where it may stand, in order of preference."""
        return self._folders

    def find(self) -> Path | None:
        """The folder of a usable packed file, or None."""
        for folder in self._folders:
            with contextlib.suppress(StoreError):
                self._meta(folder / self._name)
                return folder / self._name
        return None

    def open(self, blocks: Blocks) -> Packed:
        """The rows, memory-mapped read-only; built first, block by block, if there is no usable file."""
        found = self.find() or self.build(blocks)
        rows = self._map(found / "rows.f32", np.float32, (self._width,))
        images = {
            name: self._map(found / f"image-{i}.u8", np.uint8, shape)
            for i, (name, shape) in enumerate(self._schema.images.items())
        }
        return Packed(rows, self._schema.obs_dim, self._schema.action_dim, self._schema.goal_dim, SPARE, images)

    def _map(self, path: Path, dtype: type, shape: tuple[int, ...]) -> torch.Tensor:
        mapped = np.memmap(path, dtype, "r", shape=(self._rows + SPARE, *shape))
        if mapped.nbytes > available_memory() // 2:  # most reads will miss: do not read ahead around each
            with contextlib.suppress(AttributeError, OSError):
                mapped._mmap.madvise(mmap.MADV_RANDOM)  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch has no read-only tensors; nothing of ours writes to rows
            return torch.from_numpy(mapped)

    def build(self, blocks: Blocks) -> Path:
        """Write the file, in the store or where that cannot be written in the user's cache; one block in memory."""
        for folder in self._folders:
            try:
                return self._build(folder, blocks())
            except OSError as error:
                if folder == self._folders[-1] or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
        raise AssertionError

    def check(self) -> None:
        """Read the whole file. Raises StoreError naming the first damaged block of rows, or if there is no file."""
        found = self.find()
        if found is None:
            raise StoreError(f"no packed rows of this commit in {' or '.join(map(str, self._folders))}")
        for name, sums in self._meta(found)["blocks"].items():
            at = 0
            with (found / name).open("rb") as file:
                for rows, stated in sums:
                    if google_crc32c.value(file.read(rows * self._files[name])) != stated:
                        raise StoreError(f"{found / name}: rows {at} to {at + rows - 1} are damaged; delete {found}")
                    at += rows

    def _meta(self, found: Path) -> dict[str, Any]:
        """The description of a complete file. Raises StoreError if there is none or it does not fit."""
        try:
            meta = json.loads((found / "meta.json").read_bytes())
            stated = meta.pop("digest")
            sizes = {name: (found / name).lstat() for name in self._files}
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise StoreError(f"{found}: no packed rows ({error})") from None
        fits = stated == digest(meta) and canonical({k: meta.get(k) for k in self._identity}) == canonical(
            self._identity
        )
        whole = all(
            stat.S_ISREG(sizes[name].st_mode) and sizes[name].st_size == (self._rows + SPARE) * each
            for name, each in self._files.items()
        )
        if not fits or not whole:
            raise StoreError(f"{found}: packed rows of other data, or damaged")
        return dict(meta)

    def _build(self, folder: Path, blocks: Iterator[Block]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        made = folder / f".{self._name}.{secrets.token_hex(8)}.partial"
        made.mkdir()
        try:
            sums: dict[str, list[list[int]]] = {name: [] for name in self._files}
            total = 0
            with contextlib.ExitStack() as opened:
                files = [opened.enter_context((made / name).open("wb")) for name in self._files]
                for block in blocks:
                    for name, file, values in zip(self._files, files, block.arrays(), strict=True):
                        data = values.tobytes()
                        file.write(data)
                        sums[name].append([len(values), google_crc32c.value(data)])
                    total += len(block.rows)
                for file, each in zip(files, self._files.values(), strict=True):
                    file.write(bytes(SPARE * each))
                    file.flush()
                    os.fsync(file.fileno())
            if total != self._rows:
                raise StoreError(f"{total} rows were read but {self._rows} are committed")
            meta = {**self._identity, "blocks": sums}
            write_json(made / "meta.json", {**meta, "digest": digest(meta)})
            final = folder / self._name
            while True:
                with contextlib.suppress(StoreError):
                    self._meta(final)
                    return final  # another process was first
                shutil.rmtree(final, ignore_errors=True)  # damaged; whoever mapped it keeps what it mapped
                try:
                    os.rename(made, final)
                except OSError as error:
                    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                        continue
                    raise
                flush_directory(folder)
                return final
        finally:
            shutil.rmtree(made, ignore_errors=True)


def _room(folder: Path) -> int:
    """Free bytes where `folder` is or would be made; 0 if it cannot be written."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free if os.access(folder, os.W_OK) else 0
