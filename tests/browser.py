"""A page in Debian's chromium, without a window, driven over pipes by the DevTools protocol."""

import fcntl
import json
import os
import shutil
import subprocess

import pytest


class Page:
    """The page in a file; `.requests` are the addresses it asked for, without `data:`, `.errors` those of its scripts.

    Skips the test where chromium is not installed.
    """

    def __init__(self, path, profile, width=1280, height=900, dark=False):
        chromium = shutil.which("chromium")
        if chromium is None:
            pytest.skip("chromium is not installed")
        self.requests, self.errors, self.number = [], [], 0
        pipes = [*os.pipe(), *os.pipe()]
        # numbers of two digits: not those that chromium reads and writes
        commands, self.output, self.input, answers = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pipes)
        for end in pipes:
            os.close(end)
        flags = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run".split()
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "", chromium, *flags, f"--user-data-dir={profile}"],
            pass_fds=(commands, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self.session, self.unread = None, b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.loaded = False
        self.call("Page.navigate", url=path.absolute().as_uri())
        while not self.loaded:
            self.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.output)
        os.close(self.input)
        self.process.wait(timeout=30)

    def read(self):
        """Read one message; note what the page did."""
        while b"\0" not in self.unread:
            piece = os.read(self.input, 1 << 20)
            assert piece, "chromium ended"
            self.unread += piece
        message, self.unread = self.unread.split(b"\0", 1)
        message = json.loads(message)
        method, values = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            if not (address := values["request"]["url"]).startswith("data:"):
                self.requests.append(address)
        elif method == "Page.loadEventFired":
            self.loaded = True
        elif method in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.errors.append(values)
        return message

    def call(self, method, **values):
        """Call a method of the protocol and return its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": values}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.output, json.dumps(message).encode() + b"\0")
        while (answer := self.read()).get("id") != self.number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def run(self, script):
        """Return the value of a script in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, path, whole=True):
        """Write a picture of the page as PNG."""
        import base64

        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
