# SPDX-License-Identifier: GPL-2.0-or-later
"""A headless Chromium, driven over the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

import asyncio
import base64
import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

CHROMIUM = shutil.which("chromium")
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # refuses to run as root otherwise, as tests in containers do
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)


@dataclass
class Tab:
    """One tab, and what happened in it."""

    socket: WebSocketClientConnection
    session: str = ""
    complaints: list[str] = field(default_factory=list)
    """Messages on the console and entries of the log: errors, refused resources, broken policies."""
    requests: list[str] = field(default_factory=list)
    _number: int = 0

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and note the events that come before its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        await self.socket.write_message(json.dumps({**message, "sessionId": self.session} if self.session else message))
        while True:
            found = await self._next()
            if found.get("id") == self._number:
                assert "error" not in found, found["error"]
                return dict(found["result"])

    async def _next(self) -> dict[str, Any]:
        text = await asyncio.wait_for(self.socket.read_message(), 20)
        assert text is not None, "the browser has gone"
        found: dict[str, Any] = json.loads(text)
        match found.get("method"):
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded":
                self.complaints.append(json.dumps(found["params"]))
            case "Network.requestWillBeSent":
                self.requests.append(found["params"]["request"]["url"])
        return found

    async def open(self, url: str) -> None:
        """Go to a page and wait until it is there."""
        await self.call("Page.navigate", url=url)
        while (await self._next()).get("method") != "Page.loadEventFired":
            pass

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def resize(self, width: int, height: int) -> None:
        """Give the page a window of this size."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    async def prefer(self, scheme: str) -> None:
        """Let the reader prefer ``light`` or ``dark``."""
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def press(self, key: str) -> None:
        """Press a key and let it go."""
        codes = {"Tab": 9, "Enter": 13}
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=codes[key], **text)

    async def picture(self, form: str = "png") -> bytes:
        """What the window shows, as ``png`` or ``webp``."""
        quality = {"quality": 60} if form == "webp" else {}
        found = await self.call("Page.captureScreenshot", format=form, **quality)
        return base64.b64decode(found["data"])


@contextlib.asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Tab]:
    """A new browser with one empty tab."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220 - nothing else runs
        try:
            socket = await websocket_connect(await asyncio.to_thread(_address, process), max_message_size=64 << 20)
            tab = Tab(socket)
            target = await tab.call("Target.createTarget", url="about:blank")
            session = await tab.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
            tab.session = session["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                await tab.call(f"{domain}.enable")
            yield tab
            socket.close()
        finally:
            process.terminate()
            await asyncio.to_thread(process.communicate)


def _address(process: subprocess.Popen[str]) -> str:
    """Where it listens, as it says on standard error."""
    assert process.stderr is not None
    for line in process.stderr:
        match = re.search(r"DevTools listening on (ws://127\.0\.0\.1:\S+)", line)
        if match:
            return match[1]
    raise AssertionError("the browser has ended")
