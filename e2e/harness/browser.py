"""Chromium on this host: the one of the desktop image, run in that image's tree, and driven by its debugging protocol.

It sees the image read-only with the host's network, in namespaces of its own that end with it."""

import base64
import json
import os
import pathlib
import select
import ssl
import subprocess
import time

from . import env
from .wait import until

IMAGE = "tensorlake/ubuntu-vnc"
PROGRAM = "usr/lib/chromium/chromium"
POLICIES = "etc/chromium/policies/managed"
SIZE = (960, 540)
# On a loaded machine it takes a while to start.
PATIENCE = 60
# It gives all its connections up when an interface of the host comes or goes, as those of sandboxes do.
NETWORK_CHANGED = "net::ERR_NETWORK_CHANGED"
ROOM = """
root=$1 policy=$2 from=$3 to=$4
shift 4
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
for place in tmp root run dev {policies}; do mount -t tmpfs tmpfs "$root/$place"; done
for device in null zero random urandom; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm"
mount -t proc proc "$root/proc"
printf %s "$policy" >"$root/{policies}/test.json"
exec 3<&"$from" 4>&"$to"
exec chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/bin:/bin /{program} "$@"
"""


def tree() -> pathlib.Path | None:
    """The image's tree, if it has the browser: on Ubuntu it is another one."""
    for file in pathlib.Path(env.ASSETS).glob("images/*/image.json"):
        root = file.parent / "rootfs"
        if IMAGE in json.loads(file.read_text())["names"] and (root / PROGRAM).exists():
            return root
    return None


class Refused(Exception):
    """The browser answered a call with an error."""


class Browser:
    """A browser with one page, that trusts a CA as an administrator says so."""

    def __init__(self, root: pathlib.Path, ca_pem: str | None, log: pathlib.Path) -> None:
        der = [base64.b64encode(ssl.PEM_cert_to_DER_cert(ca_pem)).decode()] if ca_pem else []
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        script = "set -eu\n" + ROOM.format(policies=POLICIES, program=PROGRAM)
        # As root it has no sandbox of its own.
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        flags += ["--disable-component-update", "--user-data-dir=/tmp/profile", "--remote-debugging-pipe"]
        flags += [f"--window-size={SIZE[0]},{SIZE[1]}", "about:blank"]
        command = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
        command += ["bash", "-c", script, "browser", str(root), json.dumps({"CACertificates": der})]
        command += [str(to_browser), str(from_browser), *flags]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, pass_fds=(to_browser, from_browser), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        os.close(to_browser)
        os.close(from_browser)
        self._log, self._seen, self._number, self._session = log, b"", 0, None
        # Why something that the page asked for did not come.
        self.failures: list[str] = []

    def __enter__(self) -> "Browser":
        try:
            target = self.ask("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self.ask("Page.enable")
            self.ask("Network.enable")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.wait(30)
        os.close(self._write)
        os.close(self._read)

    def ask(self, method: str, **params) -> dict:
        """Calls a method of the debugging protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while True:
            answer = self._next(end, method)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise Refused(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, url: str) -> str | None:
        """Goes to a page; returns why it could not."""
        return self.ask("Page.navigate", url=url).get("errorText")

    def value(self, expression: str):
        """What an expression is on the page; None while one page gives way to another."""
        try:
            return self.ask("Runtime.evaluate", expression=expression)["result"].get("value")
        except Refused:
            return None

    def wait(self, expression: str, what: str):
        """Waits until an expression is true on the page."""
        return until(lambda: self.value(expression), PATIENCE, what)

    def screenshot(self) -> bytes:
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])

    def _next(self, end: float, method: str) -> dict:
        """The next message, an answer or an event."""
        while b"\0" not in self._seen:
            ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
            part = os.read(self._read, 1 << 20) if ready else b""
            assert part, f"the browser does not answer {method}: {self._log.read_text(errors='replace')[-2000:]}"
            self._seen += part
        text, _, self._seen = self._seen.partition(b"\0")
        message = json.loads(text)
        params = message.get("params", {})
        self.failures += [params[key] for key in ("errorText", "errorMessage") if key in params]
        return message
