"""A headless Chromium, driven over a pipe (Chrome's DevTools protocol): only the browser itself is needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page. `requests` and `complaints` (console errors, exceptions) grow as it works."""

    def __init__(self, profile: Path) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._number, self._buffer = 0, b""
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # Chrome reads commands from descriptor 3 and answers on 4.
        script = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-pipe",
        ]
        flags += ["--disable-background-networking", "--no-first-run", f"--user-data-dir={profile}"]
        argv = ["bash", "-c", script, "bash", str(CHROMIUM), *flags, "about:blank"]
        self._process = subprocess.Popen(
            argv, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out, self._session = ours_in, ours_out, ""
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **given: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; events that arrive meanwhile are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": given}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._in, 1 << 20)
            if not part:
                raise RuntimeError("the browser ended")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def _note(self, event: dict[str, Any]) -> None:
        kind, body = event.get("method"), event.get("params", {})
        if kind == "Network.requestWillBeSent":
            self.requests.append(body["request"]["url"])
        elif kind == "Runtime.exceptionThrown":
            self.complaints.append(body["exceptionDetails"]["text"])
        elif kind == "Runtime.consoleAPICalled" and body["type"] in ("error", "warning"):
            self.complaints.append(str(body["args"]))
        elif kind == "Log.entryAdded" and body["entry"]["level"] in ("error", "warning"):
            self.complaints.append(body["entry"]["text"])

    def open(self, path: Path, *, width: int, dark: bool = False) -> None:
        """Load a file in a window `width` CSS pixels wide, a phone's if narrow."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
        self("Page.navigate", url=path.resolve().as_uri())
        while self.run("document.readyState") != "complete":
            pass

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression on the page."""
        return self("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        size = self("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data = self("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self, path: Path) -> None:
        """The page as printed on A4."""
        data = self("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=False)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(timeout=20)
        os.close(self._in)
        os.close(self._out)
