"""A headless Chromium, driven through its pipe by the DevTools protocol: nothing but the standard library."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless_shell")


def chromium() -> str | None:
    """The program, where there is one."""
    return next((path for name in NAMES if (path := shutil.which(name)) is not None), None)


# The browser reads commands from its descriptor 3 and answers on 4; shells take no descriptor above 9 for another.
_LAUNCHER = """
import fcntl, os, sys
into, out = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(into, 3)
os.dup2(out, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page in a browser that finds no other machine.

    Attributes:
        faults: what went wrong on the page: exceptions, and warnings and errors on its console.
        requests: addresses that the page asked for, but for what lies in it.
    """

    def __init__(self, folder: Path, size: tuple[int, int] = (1500, 1200)) -> None:
        self.faults: list[str] = []
        self.requests: list[str] = []
        self._answers, self._count, self._session, self._is_loaded = b"", 0, "", False
        into, self._out = os.pipe()
        self._back, out = os.pipe()
        options = [
            "--headless=new",
            "--no-sandbox",  # which root needs
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--remote-debugging-pipe",
            f"--user-data-dir={folder}",
            f"--window-size={size[0]},{size[1]}",
        ]
        command = [sys.executable, "-c", _LAUNCHER, str(into), str(out), str(chromium()), *options]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        home = os.environ | {"HOME": str(folder)}
        self._process = subprocess.Popen(command, pass_fds=(into, out), env=home, **quiet)
        os.close(into)
        os.close(out)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._back)

    def call(self, method: str, **parameters: Any) -> Any:
        """What the browser answers to a command."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._answers:
            ready, _, _ = select.select([self._back], [], [], 60)
            assert ready, "the browser says nothing"
            came = os.read(self._back, 2**20)
            assert came, "the browser has ended"
            self._answers += came
        message, self._answers = self._answers.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        told, what = found.get("method"), found.get("params", {})
        if told == "Runtime.exceptionThrown" or told == "Log.entryAdded":
            self.faults.append(json.dumps(what)[:2000])
        elif told == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning"):
            self.faults.append(json.dumps(what["args"])[:2000])
        elif told == "Network.requestWillBeSent" and not what["request"]["url"].startswith(("data:", "blob:")):
            self.requests.append(what["request"]["url"])
        elif told == "Page.loadEventFired":
            self._is_loaded = True
        return found

    def open(self, path: Path, ready: str) -> None:
        """Open a file and wait until an expression is true there."""
        self._is_loaded = False
        self.call("Page.navigate", url=path.as_uri())
        while not self._is_loaded:
            self._next()
        self.wait(ready)

    def wait(self, expression: str) -> None:
        """Wait until an expression is true, half a minute at most."""
        for _ in range(300):
            if self.run(f"Boolean({expression})"):
                return
            time.sleep(0.1)
        raise AssertionError(f"never true: {expression}; {self.faults}")

    def run(self, code: str) -> Any:
        """The value of an expression on the page, once it is there."""
        answer = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def drag(self, *points: tuple[float, float]) -> None:
        """Press the mouse at the first point, move it along the others, let it go; one point is a click."""
        self._mouse("mouseMoved", points[0], "none")
        self._mouse("mousePressed", points[0], "left")
        for point in points[1:]:
            self._mouse("mouseMoved", point, "left")
        self._mouse("mouseReleased", points[-1], "left")

    def move(self, point: tuple[float, float]) -> None:
        """Move the mouse."""
        self._mouse("mouseMoved", point, "none")

    def _mouse(self, kind: str, at: tuple[float, float], button: str) -> None:
        count = 0 if kind == "mouseMoved" else 1
        self.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button=button, clickCount=count)

    def picture(self) -> bytes:
        """The page as it looks, a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
