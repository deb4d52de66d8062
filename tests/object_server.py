"""A real S3-compatible server for tests, and a proxy in front of it that can misbehave.

The server is localbucket, a process of its own on a loopback port; or, if PACKMULE_S3_SERVER holds the URL of one
(see tests/radosgw.sh), that one, with the AWS_* variables that are set.
"""

from __future__ import annotations

import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

LOCALBUCKET = """
import socketserver
socketserver.StreamRequestHandler.disable_nagle_algorithm = True  # or every small answer waits 40 ms for the client
import localbucket
localbucket.main()
"""
GIVEN = os.environ.get("PACKMULE_S3_SERVER", "")
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "packmule", "AWS_SECRET_ACCESS_KEY": "packmule-secret"}


@contextmanager
def object_server(folder: Path) -> Iterator[str]:
    """The URL of a server; skips the test, saying why, if there is none to start."""
    pytest.importorskip("obstore", reason="obstore is not installed (the extra 'remote')")
    if GIVEN:
        yield GIVEN
        return
    pytest.importorskip("localbucket", reason="localbucket is not installed (the extra 'test')")
    port = free_port()
    command = [sys.executable, "-c", LOCALBUCKET, str(folder), "--port", str(port)]
    with (folder.parent / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(300):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def make_bucket(server: str) -> str:
    """The name of a new bucket; the environment holds credentials."""
    import obstore
    from obstore.store import S3Store

    name = f"packmule-{secrets.token_hex(6)}"
    store = S3Store(name, endpoint=server, region="us-east-1", client_options={"allow_http": True})
    url = obstore.sign(store, "PUT", "", timedelta(minutes=5)) if GIVEN else f"{server}/{name}"
    with urllib.request.urlopen(urllib.request.Request(url, method="PUT", data=b"")):
        return name


class Proxy:
    """Passes requests on to a server, notes them in `seen`, and does to them what `mischief` says.

    `mischief(method, key)` gives None, "unconditional" (the condition of a put is taken off), "lost" (it is done, but
    the answer never comes), "busy" (503), "hang", or "cut" (the connection closes before anything is done).
    """

    def __init__(self, server: str) -> None:
        self.seen: list[tuple[str, str]] = []
        self.mischief: Callable[[str, str], str | None] = lambda method, key: None
        self.done = threading.Event()
        proxy, target = self, urlsplit(server)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                key = urlsplit(self.path).path.lstrip("/").partition("/")[2]
                proxy.seen.append((self.command, key))
                what = proxy.mischief(self.command, key)
                headers = dict(self.headers.items())
                if what == "hang":
                    proxy.done.wait(60)
                if what in ("hang", "cut"):
                    self.close_connection = True
                    return
                if what == "busy":
                    self.send_response(503)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if what == "unconditional":
                    headers = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
                link = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
                link.request(self.command, self.path, body, headers)
                answer = link.getresponse()
                data = answer.read()
                link.close()
                if what == "lost":
                    self.close_connection = True
                    return
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:  # a client that went away
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.done.set()
        self._server.shutdown()
        self._server.server_close()


def child(code: str, *argv: str, **environment: str) -> subprocess.Popen[str]:
    """A Python process that runs `code`; the tests' modules can be imported."""
    start = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    command = [sys.executable, "-c", start + textwrap.dedent(code), *argv]
    env = {**os.environ, **environment}
    piped = subprocess.PIPE
    return subprocess.Popen(command, text=True, stdin=piped, stdout=piped, stderr=piped, env=env)
