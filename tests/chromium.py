"""A headless Chromium for tests, driven by the DevTools protocol: a microphone that plays a file, clicks, screenshots.

https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

FLAGS = (
    *(
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-extensions",
    ),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--remote-debugging-port=0"),
)


def _find_executable() -> str | None:
    """Return a Chromium that runs: some systems have a script of that name which only says where to get one."""
    for path in filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        if not subprocess.run([path, "--version"], capture_output=True, check=False).returncode:
            return path
    return None


EXECUTABLE = _find_executable()


class Page:
    """One tab: what it has asked for, what went wrong in it, and a hand on its keyboard and mouse."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.last_id = 0
        self.requests: list[str] = []  # URLs
        self.errors: list[str] = []  # exceptions, and what was logged as an error
        self.frames: list[tuple[str, dict[str, Any]]] = []  # events of WebSockets: "sent" or "received", and the event
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the result of a method of the protocol; keep the events that come before it."""
        self.last_id += 1
        self.socket.send(json.dumps({"id": self.last_id, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=20))
            if message.get("id") == self.last_id:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self._keep(message["method"], message["params"])

    def _keep(self, event: str, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Network.webSocketCreated":
            self.requests.append(params["url"])
        elif event.startswith("Network.webSocketFrame") and params.get("response", {}).get("opcode") == 1:
            direction = event.removeprefix("Network.webSocketFrame").lower()
            self.frames.append((direction, json.loads(params["response"]["payloadData"])))
        elif event == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript, awaited where it is a promise."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"]))
        return result["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 15) -> Any:
        """Return the first true value of an expression."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"{expression} did not become true in {seconds} s: {self.text()}"
            time.sleep(0.02)
        return value

    def text(self, selector: str = "body") -> str:
        """Return the text of an element as it is seen."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    def click(self, selector: str) -> None:
        """Press and release the mouse on an element."""
        corner = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        box = self.evaluate(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({corner})")
        for event in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=event, x=box[0], y=box[1], button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press and release a key that writes nothing, as `Escape` or `Tab`, or `Enter`."""
        code = {"Escape": 27, "Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for event in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=event, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def write(self, text: str) -> None:
        """Write a text where the focus is."""
        self.call("Input.insertText", text=text)

    def open(self, url: str) -> None:
        """Open an address, and wait until the page is there."""
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def screenshot(self, path: Path, width: int, height: int, *, scheme: str = "light", scale: float = 1) -> None:
        """Write an image of the page in a window of a size, in CSS pixels, and a colour scheme."""
        self.emulate(width, height, scheme=scheme, scale=scale)
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def emulate(self, width: int, height: int, *, scheme: str = "light", motion: str = "", scale: float = 1) -> None:
        """Give the window a size, in CSS pixels, a colour scheme and a wish for motion."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        self.call("Emulation.setEmulatedMedia", features=features)


@contextmanager
def open_page(folder: Path, *flags: str) -> Iterator[Page]:
    """Start Chromium with a profile in a folder; yield its tab."""
    from websockets.sync.client import connect

    command = [EXECUTABLE, *FLAGS, f"--user-data-dir={folder}", *flags, "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with connect(_find_tab(folder, process), max_size=None, compression=None) as socket:
                yield Page(socket)
        finally:
            process.terminate()


def _find_tab(folder: Path, process: subprocess.Popen) -> str:
    """Return the address of the first tab, which Chromium writes into its profile."""
    port_file = folder / "DevToolsActivePort"
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        if port_file.exists() and (lines := port_file.read_text().splitlines()):
            with urlopen(f"http://127.0.0.1:{lines[0]}/json") as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            if tabs:
                return tabs[0]["webSocketDebuggerUrl"]
        time.sleep(0.05)
    raise RuntimeError("Chromium did not start.")
