"""A headless browser for tests: Chromium, controlled by the W3C's WebDriver protocol.

    with browser.open(size=(1280, 900)) as page:
        page.visit("file:///tmp/report.html")
        page.run("return document.title")

It needs chromium and chromedriver: apt-get install chromium chromium-driver.
"""

import base64
import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

MISSING = "chromium and chromedriver are not installed: apt-get install chromium chromium-driver"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for a reference to an element
KEYS = {
    "Enter": "\ue007",
    "Backspace": "\ue003",
    "Escape": "\ue00c",
    "Tab": "\ue004",
    "ArrowRight": "\ue014",
    "Space": "\ue00d",
}


def installed() -> bool:
    """Whether a browser and its driver are installed."""
    return bool(shutil.which("chromedriver") and (shutil.which("chromium") or shutil.which("google-chrome")))


class Page:
    """One window of a browser."""

    def __init__(self, ask: Callable[..., Any]):
        self._ask = ask

    def visit(self, address: str) -> None:
        """Opens an address, and waits until the page is loaded."""
        self._ask("POST", "/url", url=address)

    def run(self, script: str, *arguments: Any) -> Any:
        """Runs the body of a function in the page; returns what it returns, as JSON."""
        return self._ask("POST", "/execute/sync", script=script, args=list(arguments))

    def element(self, css: str) -> str:
        """The first element that matches a selector; an error if there is none."""
        return self._ask("POST", "/element", using="css selector", value=css)[ELEMENT]

    def click(self, css: str) -> None:
        """Clicks as a person does: an element that is hidden or covered is an error."""
        self._ask("POST", f"/element/{self.element(css)}/click")

    def type(self, css: str, text: str) -> None:
        """Types into an element; names of KEYS in <> are those keys: "fid<Enter>"."""
        text = re.sub(r"<(\w+)>", lambda found: KEYS[found[1]], text)
        self._ask("POST", f"/element/{self.element(css)}/value", text=text)

    def drag(self, css: str, *points: tuple[float, float]) -> None:
        """Drags the mouse over an element, through points in units of the element's width and height."""
        box = self.run(
            "const e = document.querySelector(arguments[0]); e.scrollIntoView({block: 'center'}); "
            "const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]",
            css,
        )
        at = [{"x": box[0] + x * box[2], "y": box[1] + y * box[3], "button": "left"} for x, y in points]
        moved = [("mouseMoved", point) for point in at]
        for kind, point in [("mousePressed", at[0]), *moved, ("mouseReleased", at[-1])]:
            self._tell("Input.dispatchMouseEvent", type=kind, buttons=1, clickCount=1, **point)

    def texts(self, css: str) -> list[str]:
        """The visible texts of all elements that match a selector."""
        return self.run("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText.trim())", css)

    def count(self, css: str) -> int:
        """The number of elements that match a selector."""
        return self.run("return document.querySelectorAll(arguments[0]).length", css)

    def until(self, script: str, seconds: float = 15.0) -> None:
        """Waits until the script returns something true."""
        ends = time.monotonic() + seconds
        while not self.run(script):
            if time.monotonic() > ends:
                raise TimeoutError(f"after {seconds} s not yet: {script}")
            time.sleep(0.05)

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        """Sets the size of the window, and whether the page sees a preference for light or dark colours."""
        self._tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._tell("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: pathlib.Path, whole: bool = True) -> None:
        """Writes a PNG of the window, or of the whole page."""
        size = self.run("return {width: innerWidth, height: document.documentElement.scrollHeight}")
        clip = {"clip": {"x": 0, "y": 0, "scale": 1, **size}} if whole else {}
        found = self._tell("Page.captureScreenshot", captureBeyondViewport=whole, format="png", **clip)
        path.write_bytes(base64.b64decode(found["data"]))

    def requests(self) -> list[str]:
        """The addresses that the page has requested since the last call."""
        lines = [json.loads(entry["message"])["message"] for entry in self._ask("POST", "/se/log", type="performance")]
        return [line["params"]["request"]["url"] for line in lines if line["method"] == "Network.requestWillBeSent"]

    def errors(self) -> list[str]:
        """The errors and warnings in the console since the last call."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", type="browser")]

    def _tell(self, command: str, **parameters: Any) -> Any:
        return self._ask("POST", "/goog/cdp/execute", cmd=command, params=parameters)


@contextlib.contextmanager
def open(size: tuple[int, int] = (1280, 900)) -> Iterator[Page]:
    """Starts a headless browser, and ends it after the block."""
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        starts = (re.search(r"started successfully on port (\d+)", line) for line in driver.stdout)
        port = next(found[1] for found in starts if found)

        def request(method: str, path: str, body: dict | None) -> Any:
            content = None if body is None else json.dumps(body).encode()
            query = urllib.request.Request(f"http://127.0.0.1:{port}{path}", content, method=method)
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            try:
                with opener.open(query, timeout=120) as answer:
                    return json.load(answer)["value"]
            except urllib.error.HTTPError as error:
                failure = json.load(error)["value"]
                raise RuntimeError(f"{failure['error']}: {failure['message'].splitlines()[0]}") from None

        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                     f"--window-size={size[0]},{size[1]}"]  # fmt: skip
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
        }
        session = request("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        page = Page(lambda method, path, **body: request(method, f"/session/{session}{path}", body))
        page.resize(*size)
        try:
            yield page
        finally:
            request("DELETE", f"/session/{session}", None)
    finally:
        driver.terminate()
        driver.wait(20)
        driver.stdout.close()
