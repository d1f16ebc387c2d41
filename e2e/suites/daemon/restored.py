"""Takes a sandbox to a memory image and back under its daemon's feet, with the runtime's own command.

What the daemon must withstand is the same whoever does it: the sandbox's memory is written down, its
processes end, and some time later another set of them goes on from that very instant, in the same
network namespace, with a clock that has jumped. The server must not run meanwhile.
"""

import base64
import json
import os
import pathlib
import subprocess
import time

from harness import env, http, ledger
from harness.wait import until

GATEWAY, INSIDE = "169.254.77.1", "169.254.77.2/30"
GATEWAY_MAC = "02:00:00:00:77:01"
# The flags of the runtime are part of the image, so they are read off the running sandbox.
SHARED_FLAGS = (
    "platform network overlay2 file-access file-access-mounts ignore-cgroups host-settings "
    "control-rpc-stop-timeout sidecar-usage-policy allow-suid net-raw gofer-network-namespace in-sandbox-cgroup"
).split()


class Restored:
    """A sandbox without its server."""

    def __init__(self, server, sandbox: str) -> None:
        self.id = sandbox
        self.root = server.data / "runsc"
        self.image = server.home / "image"
        entry = ledger.entry(server.data, sandbox)
        self.daemon, self.token = f"http://{entry['started']['daemon']}", entry["token"]
        self.pid = entry["started"]["pid"]
        config = json.loads((self.root / "bundle" / sandbox / "config.json").read_text())
        spaces = config["linux"]["namespaces"]
        self.namespace = next(space["path"] for space in spaces if space["type"] == "network")
        words = pathlib.Path(f"/proc/{self.pid}/cmdline").read_text().split("\0")
        self.flags = [word for word in words if word.lstrip("-").split("=")[0] in SHARED_FLAGS and "=" in word]
        version = pathlib.Path(env.ASSETS, "runsc/current").read_text().strip()
        self.program = f"{env.ASSETS}/runsc/{version}/runsc"

    def call(self, method: str, path: str, body=None, **options) -> http.Reply:
        """Asks the daemon around the ingress, as the node does."""
        body = json.dumps(body) if isinstance(body, dict) else body
        return http.request(self.daemon + path, method, headers={"X-Tarn-Token": self.token}, body=body, **options)

    def seal(self) -> None:
        """Has the daemon hold requests."""
        reply = self.call("POST", "/internal/v1/seal", {})
        assert reply.status == 200, reply

    def unseal(self, continues: str, token: str) -> http.Reply:
        """Unseals with what is the token until then; the new one is used from then on."""
        body = {"protocol": 1, "continues": continues, "token": token, "sandbox_id": self.id, "now_ms": int(time.time() * 1000)}
        reply = self.call("POST", "/internal/v1/unseal", {**body, "entropy": base64.b64encode(os.urandom(32)).decode()})
        self.token = token if reply.status == 200 else self.token
        return reply

    def freeze_to_image(self) -> None:
        """Writes the memory down; the sandbox's processes end."""
        self.image.mkdir()
        self._runsc("checkpoint", f"--image-path={self.image}", "--compression=none", self.id)
        until(lambda: not pathlib.Path(f"/proc/{self.pid}").exists(), what="the end of the old sandbox")
        self.remove()

    def go_on(self) -> None:
        """Restores from the image, in the same namespace."""
        inside = ["nsenter", f"--net={self.namespace}", "ip"]
        for words in (
            ["addr", "add", INSIDE, "dev", "eth0"],
            ["route", "add", "default", "via", GATEWAY],
            ["neigh", "replace", GATEWAY, "lladdr", GATEWAY_MAC, "nud", "permanent", "dev", "eth0"],
        ):
            subprocess.run([*inside, *words], check=True, timeout=10)
        bundle = self.root / "bundle" / self.id
        self._runsc("restore", "--detach", f"--bundle={bundle}", f"--image-path={self.image}", self.id)

    def remove(self) -> None:
        """Removes what the runtime has of it."""
        self._runsc("delete", "--force", self.id)

    def _runsc(self, *words: str) -> None:
        command = [self.program, f"--root={self.root}/root", f"--log={self.root}/test.log", *self.flags, *words]
        # No pipes: what is inherited stays with a restored sandbox.
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
        log = self.root / "test.log"
        assert done.returncode == 0, f"runsc {words[0]}: {log.read_text()[-600:] if log.exists() else done}"
