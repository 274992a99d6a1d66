"""A headless Chromium over its own debugging protocol: pages, real keys, the network's log and the console's."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_KEYS = {"Enter": 13, "Escape": 27, "Tab": 9}
CONTROL, SHIFT = 2, 8


@contextmanager
def chromium() -> Iterator[str]:
    """Run a browser until the block ends; yields the address of its debugging protocol."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        quiet = "no-first-run disable-extensions disable-background-networking disable-component-update disable-sync"
        plain = "headless=new no-sandbox disable-gpu disable-default-apps disable-dev-shm-usage no-proxy-server"
        command = [CHROMIUM, *(f"--{name}" for name in f"{plain} {quiet}".split()), f"--user-data-dir={profile}",
                   "--remote-debugging-port=0", "about:blank"]  # fmt: skip
        with subprocess.Popen(
            command, env={**os.environ, "HOME": profile}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            try:
                told = Path(profile) / "DevToolsActivePort"
                until = time.monotonic() + 120
                while not (told.is_file() and len(lines := told.read_text().split()) == 2):
                    assert process.poll() is None, "chromium ended at once"
                    assert time.monotonic() < until, "chromium did not start"
                    time.sleep(0.1)
                yield f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            finally:
                process.terminate()


class Page:
    """One page in a profile of its own. `requests` are the addresses it asked for, `said` what its console holds."""

    def __init__(self, link: aiohttp.ClientWebSocketResponse) -> None:
        self._link, self._numbers, self._session = link, itertools.count(1), ""
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self.requests: list[str] = []
        self.said: list[str] = []

    async def call(self, method: str, **params: Any) -> Any:
        """One command of the protocol.

        Raises:
            RuntimeError: the browser refuses it.
        """
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        about = {"sessionId": self._session} if self._session else {}
        await self._link.send_json({"id": number, "method": method, "params": params, **about})
        return await asyncio.wait_for(self._waiting[number], 120)

    async def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise.

        Raises:
            RuntimeError: it throws.
        """
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"])[:2000])
        return found["result"].get("value")

    async def open(self, url: str) -> None:
        """Go there, and wait until it is loaded."""
        await self.call("Page.navigate", url=url)
        await self.until(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    async def until(self, script: str, seconds: float = 60) -> None:
        """Wait until an expression is true.

        Raises:
            AssertionError: it did not become so.
        """
        end = time.monotonic() + seconds
        while not await self.run(script):
            assert time.monotonic() < end, f"never true: {script}; the page shows: " + await self.run(
                "document.body.innerText"
            )
            await asyncio.sleep(0.05)

    async def text(self, selector: str) -> str:
        """What an element shows."""
        found: str = await self.run(f"document.querySelector({json.dumps(selector)}).innerText")
        return found

    async def key(self, name: str, modifiers: int = 0) -> None:
        """Press and release a key."""
        about = {"key": name, "code": name, "windowsVirtualKeyCode": _KEYS[name], "modifiers": modifiers}
        typed = {"text": "\r"} if name == "Enter" and not modifiers else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **about, **typed)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    async def type(self, text: str) -> None:
        """Write into what has the focus."""
        await self.call("Input.insertText", text=text)

    async def scheme(self, name: str) -> None:
        """Prefer light or dark."""
        feature = {"name": "prefers-color-scheme", "value": name}
        await self.call("Emulation.setEmulatedMedia", media="screen", features=[feature])

    async def narrow(self, width: int) -> None:
        """A screen of so many pixels."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False
        )

    async def picture(self, path: Path) -> None:
        """Save what is seen of the whole page."""
        found = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    async def listen(self) -> None:
        """Take replies and events until cancelled."""
        async for message in self._link:
            value = json.loads(message.data)
            if (number := value.get("id")) is not None:
                waiting = self._waiting.pop(number)
                if waiting.done():
                    continue
                if "error" in value:
                    waiting.set_exception(RuntimeError(value["error"]["message"]))
                else:
                    waiting.set_result(value["result"])
            elif value["method"] == "Network.requestWillBeSent":
                self.requests.append(value["params"]["request"]["url"])
            elif value["method"] == "Runtime.exceptionThrown":
                self.said.append(json.dumps(value["params"]["exceptionDetails"])[:1000])
            elif value["method"] == "Runtime.consoleAPICalled":
                self.said.append(json.dumps(value["params"]["args"])[:1000])
            elif value["method"] == "Log.entryAdded":
                self.said.append(value["params"]["entry"]["text"])

    async def begin(self) -> None:
        """Make the page."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        made = await self.call("Target.createTarget", url="about:blank", browserContextId=context)
        self._session = (await self.call("Target.attachToTarget", targetId=made["targetId"], flatten=True))["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Emulation.setFocusEmulationEnabled", enabled=True)


@asynccontextmanager
async def page(address: str) -> AsyncIterator[Page]:
    """A new page of a running browser; closed with the block."""
    async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as link:
        made = Page(link)
        listening = asyncio.ensure_future(made.listen())
        try:
            await made.begin()
            yield made
        finally:
            listening.cancel()
            await asyncio.wait([listening])
