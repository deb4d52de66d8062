"""Stores on object stores: s3://bucket/prefix, through obstore (the extra `remote`)."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import wait
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

try:
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError
except ImportError as error:
    raise ImportError(f"stores at a URL need obstore ({error}): pip install 'packmule[remote]'") from error

from toolkit.store.backend import checked_key
from toolkit.store.connection import SECRET, advice, askers, cause, connect, memory, parts
from toolkit.store.files import JSON_BYTES, StoreError

PAGE = 1000  # keys in one answer to a listing
MARK = "packmule"  # metadata of an object: which call of `create` made it
T = TypeVar("T")
S = TypeVar("S")


class RemoteError(OSError):
    """The object store did not do what was asked; the message says what, where and why, without credentials.

    Never a StoreError: what cannot be reached is not damaged, and no reader may fall back to an older commit.
    """


class ObjectBackend:
    """A `Backend` on an object store, at a URL: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix.

    memory://name/prefix is kept in this process, for tests. Where the server is and who asks come from `options`
    (obstore's names: endpoint, region, access_key_id, secret_access_key, session_token, skip_signature, ...) or from
    the usual environment variables (AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
    AWS_SESSION_TOKEN, AWS_SKIP_SIGNATURE=true for a public bucket); profiles in files are not read.

    Values are replaced and created by single requests, so every one is durable when it returns. `create` stands on
    conditional puts (If-None-Match: *); a server that accepts one for a key that exists is refused before it is used.
    """

    local: Path | None = None

    def __init__(self, url: str, **options: str) -> None:
        """Nothing is asked of the server yet. Raises ValueError for a URL or an option that is not understood."""
        self.name = url.rstrip("/")
        scheme, bucket, self._root = parts(url)
        self._store = memory(bucket) if scheme == "memory" else connect(scheme, bucket, options)
        self._secrets = [value for name, value in options.items() if SECRET.search(name)]
        self._clock: float | None = None  # the server's time less the monotonic clock's; None until it was asked

    def __repr__(self) -> str:
        return f"ObjectBackend({self.name!r})"

    def read(self, key: str, *, limit: int = JSON_BYTES, start: int = 0, size: int | None = None) -> bytes:
        """See `Backend`. Raises RemoteError if the server cannot be asked."""
        return self._wait(self._read, key, limit, start, size)

    def read_many(self, keys: Sequence[str], *, limit: int) -> list[bytes]:
        """See `Backend`; up to 16 at once."""
        return self._wait_all(lambda key: self._read(key, limit, 0, None), keys)

    def size(self, key: str) -> int | None:
        """See `Backend`."""
        found = self._wait(self._head, key)
        return None if found is None else int(found["size"])

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """See `Backend`."""
        return self._wait(self._sizes, prefix)

    def names(self, prefix: str = "") -> list[str]:
        """See `Backend`."""
        return self._wait(self._names, prefix)

    def write(self, key: str, data: bytes) -> None:
        """See `Backend`."""
        self._wait(self._write, key, data)

    def write_many(self, files: Mapping[str, bytes]) -> None:
        """See `Backend`; up to 16 at once."""
        self._wait_all(lambda item: self._write(*item), files.items())

    def create(self, key: str, data: bytes) -> None:
        """See `Backend`. Raises RemoteError if the server does not honour the condition, or did not say if it did."""
        self._wait(self._create, key, data)

    def delete(self, key: str) -> None:
        """See `Backend`."""
        self._wait(self._delete, key)

    def flush(self) -> None:
        """Nothing to do: a put is durable when it returns."""

    def age(self, key: str) -> float | None:
        """See `Backend`; by the server's clock, whole seconds."""
        return self._wait(self._age, key)

    def _path(self, key: str) -> str:
        return self._root + checked_key(key)

    def _folder(self, prefix: str) -> str:
        """What lists the folder `prefix`: '' is the whole store."""
        return self._path(prefix) if prefix else self._root.rstrip("/")

    def _read(self, key: str, limit: int, start: int, size: int | None) -> bytes:
        path = self._path(key)
        options: Any = {}
        if start or size is not None:
            options = {"range": {"offset": start} if size is None else (start, start + max(1, size))}
        try:
            found = self._ask("read", key, lambda: obstore.get(self._store, path, options=options))
        except RemoteError:
            if options and (there := self._head(key)) is not None and start >= there["size"]:
                return b""  # a range that begins at the end or beyond is an error to servers
            raise
        first, stop = found.range
        if size == 0:  # no server knows an empty range
            return b""
        if stop - first > limit:
            raise StoreError(
                f"{self.name}/{key} is {found.meta['size']} bytes long, {stop - first} of them are to be read, more "
                f"than the {limit} it may have; not read"
            )
        data = bytes(self._ask("read", key, found.bytes))
        if len(data) != stop - first:
            raise RemoteError(f"{self.name}/{key}: {len(data)} of {stop - first} bytes came; try again")
        return data

    def _head(self, key: str) -> Any:
        path = self._path(key)
        try:
            return self._ask("look at", key, lambda: obstore.head(self._store, path))
        except FileNotFoundError:
            return None

    def _sizes(self, prefix: str) -> dict[str, int]:
        folder = self._folder(prefix) or None
        pages = self._ask("list", prefix, lambda: obstore.list(self._store, folder, chunk_size=PAGE).collect())
        return dict(sorted((page["path"].removeprefix(self._root), page["size"]) for page in pages))

    def _names(self, prefix: str) -> list[str]:
        folder = self._folder(prefix) or None
        found = self._ask("list", prefix, lambda: obstore.list_with_delimiter(self._store, folder))
        paths = [*found["common_prefixes"], *(item["path"] for item in found["objects"])]
        return sorted({path.rstrip("/").rpartition("/")[2] for path in paths})

    def _write(self, key: str, data: bytes) -> None:
        path = self._path(key)
        self._ask("write", key, lambda: obstore.put(self._store, path, data, use_multipart=False))

    def _create(self, key: str, data: bytes) -> None:
        path = self._path(key)
        if self._clock is None:
            self._probe()
        mark = secrets.token_hex(16)
        try:
            self._ask("create", key, lambda: self._put_new(path, data, mark))
        except AlreadyExistsError:
            if self._made(path) != mark:  # the answer to a first try was lost, and it was tried again
                raise FileExistsError(f"{self.name}/{key} exists already") from None
        except RemoteError as error:
            if self._made(path) != mark:
                raise RemoteError(f"{error}; whether it arrived is not known: look again") from None

    def _put_new(self, path: str, data: bytes, mark: str) -> Any:
        return obstore.put(self._store, path, data, mode="create", use_multipart=False, attributes={MARK: mark})

    def _made(self, path: str) -> str | None:
        """Which call of `create` made the object; None if it is absent or the server keeps no metadata."""
        try:
            found = obstore.get(self._store, path, options={"head": True})
        except (BaseError, FileNotFoundError):
            return None
        made = found.attributes.get(MARK)
        return None if made is None else str(made)

    def _delete(self, key: str) -> None:
        path = self._path(key)
        with contextlib.suppress(FileNotFoundError):
            self._ask("delete", key, lambda: obstore.delete(self._store, path))

    def _age(self, key: str) -> float | None:
        if (found := self._head(key)) is None:
            return None
        if self._clock is None:
            self._probe()
        assert self._clock is not None
        return max(0.0, self._clock + time.monotonic() - found["last_modified"].timestamp())

    def _probe(self) -> None:
        """Create a key twice, to see that the second time fails, and what time it is over there; then delete it."""
        key = f".probe.{secrets.token_hex(8)}.partial"  # a name that `gc` sweeps, should this be interrupted
        path = self._root + key
        self._ask("create", key, lambda: self._put_new(path, b"1", "probe"))
        asked = time.monotonic()
        try:
            self._ask("create", key, lambda: self._put_new(path, b"2", "probe again"))
        except AlreadyExistsError:
            pass
        else:
            raise RemoteError(
                f"{self.name}: the server lets a key be created twice (it ignores If-None-Match: *), so commits of "
                "two writers could overwrite each other; use a server that honours conditional puts"
            )
        finally:
            found = self._head(key)
            self._delete(key)
        if found is None:
            raise RemoteError(f"{self.name}: an object that was just written is not there; this is no safe place")
        self._clock = found["last_modified"].timestamp() - asked

    def _ask(self, verb: str, key: str, request: Callable[[], T]) -> T:
        """The answer to a request. Raises FileNotFoundError, AlreadyExistsError, or RemoteError saying what failed."""
        try:
            return request()
        except AlreadyExistsError:
            raise
        except (BaseError, FileNotFoundError) as error:
            why = cause(str(error), self._secrets)
            if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in why:
                raise FileNotFoundError(f"{self.name}/{key}: nothing is there") from None
            where = f"{self.name}/{key}" if key else self.name
            raise RemoteError(f"cannot {verb} {where}: {why}{advice(why)}") from None

    def _wait(self, work: Callable[..., T], *given: Any) -> T:
        """The result of `work`, done in a thread of its own: Ctrl-C stops waiting at once."""
        return self._wait_all(lambda _: work(*given), [None])[0]

    def _wait_all(self, work: Callable[[S], T], items: Iterable[S]) -> list[T]:
        """The results of `work` for each item, in order, some at once. Raises the first error, after all ended."""
        futures = [askers(os.getpid()).submit(partial(work, item)) for item in items]
        try:
            wait(futures)
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()  # those that did not begin, if this was interrupted
