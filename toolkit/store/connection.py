"""From a URL and the environment to a connection, and from its errors to one line that can be shown."""

from __future__ import annotations

import atexit
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from datetime import timedelta
from functools import cache
from queue import SimpleQueue
from typing import Any, TypeVar
from urllib.parse import urlsplit

from obstore.exceptions import BaseError, UnknownConfigurationKeyError
from obstore.store import MemoryStore, from_url

from toolkit.store.backend import checked_key

SCHEMES = ("s3", "gs", "az", "memory")
SECONDS = 60.0  # for one request, and again for its retries; PACKMULE_REMOTE_SECONDS overrides it
RETRIES = 6
AT_ONCE = 16  # requests of one process in flight
T = TypeVar("T")
SECRET = re.compile(r"(?i)secret|token|password|access_key$|account_key|sas_")  # names of what no message shows
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")


def cause(text: str, secrets: Sequence[str]) -> str:
    """What a request failed of, in one line, without `secrets` and those of the environment."""
    text = text.partition("\n\nDebug source")[0]
    if code := _CODE.search(text):
        said = _MESSAGE.search(text)
        text = text[: code.start()].partition("<?xml")[0].rstrip(" :\n") + f" {code[1]}"
        text += f": {said[1]}" if said and said[1] else ""
    for secret in (*secrets, *(value for name, value in os.environ.items() if SECRET.search(name))):
        if len(secret) >= 8:
            text = text.replace(secret, "***")
    return re.sub(r"//[^/@\s]*@", "//***@", " ".join(text.split()))[:500]


def advice(cause: str) -> str:
    """What could be done about it; empty where nothing is known."""
    if "169.254.169.254" in cause or "metadata.google" in cause:
        return (
            "; no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true "
            "for a public bucket"
        )
    if "NoSuchBucket" in cause:
        return "; make the bucket first"
    if "status code: 403" in cause or "status code: 401" in cause:
        return "; check the credentials, and what they may do"
    if "error sending request" in cause or "connect" in cause:
        return "; is the server there? AWS_ENDPOINT_URL says where it is"
    return ""


def parts(url: str) -> tuple[str, str, str]:
    """Scheme, bucket, and what every key begins with: '' or 'prefix/'. Raises ValueError naming what is wrong."""
    found = urlsplit(url)
    if found.scheme not in SCHEMES:
        raise ValueError(f"{found.scheme}:// is no kind of store; expected {', '.join(f'{s}://' for s in SCHEMES)}")
    if "@" in found.netloc or found.query or found.fragment:
        raise ValueError(
            f"{found.scheme}:// URL with credentials, '?' or '#'; expected {found.scheme}://bucket/prefix: "
            "credentials come from the environment or options"
        )
    if not found.netloc and found.scheme != "memory":
        raise ValueError(f"{url} names no bucket; expected {found.scheme}://bucket/prefix")
    prefix = found.path.strip("/")
    return found.scheme, found.netloc, f"{checked_key(prefix)}/" if prefix else ""


@cache
def memory(name: str) -> MemoryStore:
    """The objects of memory://name, for as long as this process lives."""
    return MemoryStore()


def connect(scheme: str, bucket: str, options: dict[str, str]) -> Any:
    environment = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    endpoint = options.get("endpoint") or next((v for n in environment if (v := os.environ.get(n))), "")
    if scheme == "s3":
        place = {"endpoint": endpoint} if endpoint else {}
        options = {"disable_bulk_delete": "true", **options, **place}  # keys are deleted one by one
    patience = timedelta(seconds=_seconds())
    try:
        return from_url(  # type: ignore[call-overload]  # options are checked by it
            f"{scheme}://{bucket}",
            config=options,
            client_options={"allow_http": endpoint.startswith("http://"), "timeout": patience},
            retry_config={"max_retries": RETRIES, "retry_timeout": patience},
        )
    except UnknownConfigurationKeyError as error:
        raise ValueError(f"{scheme}://{bucket}: {str(error).splitlines()[0]}") from None
    except BaseError as error:
        hidden = [value for name, value in options.items() if SECRET.search(name)]
        raise ValueError(f"{scheme}://{bucket}: {cause(str(error), hidden)}") from None


def _seconds() -> float:
    text = os.environ.get("PACKMULE_REMOTE_SECONDS", "")
    try:
        if not 0 < (seconds := float(text or SECONDS)) < 86400:
            raise ValueError
    except ValueError:
        raise ValueError(f"PACKMULE_REMOTE_SECONDS is {text!r}; expected seconds above 0, below 86400") from None
    return seconds


class Askers:
    """Threads that ask a server, so that whoever waits for the answer can be interrupted: Ctrl-C does not wait for it.

    They end with the process: what is under way then gets a second to come to its end, and is left alone.
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._lock = threading.Lock()
        self._open = self._threads = 0  # requests that are not answered yet; threads
        self._running: set[Future[Any]] = set()
        atexit.register(self._end)

    def submit(self, request: Callable[[], T]) -> Future[T]:
        """The answer to come."""
        future: Future[T] = Future()
        with self._lock:
            self._open += 1
            more = self._threads < min(self._open, AT_ONCE)
            self._threads += more
        if more:
            threading.Thread(target=self._serve, name="packmule-remote", daemon=True).start()
        self._work.put((future, request))
        return future

    def _serve(self) -> None:
        while True:
            future, request = self._work.get()
            if future.set_running_or_notify_cancel():
                self._running.add(future)
                try:
                    future.set_result(request())
                except BaseException as error:
                    future.set_exception(error)
                self._running.discard(future)
            with self._lock:
                self._open -= 1
            del future, request  # nothing is kept while waiting for more

    def _end(self) -> None:
        wait(list(self._running), timeout=1.0)


@cache
def askers(process: int) -> Askers:
    """The threads of this process; a fork has none of its parent's."""
    return Askers()
