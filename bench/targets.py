"""What is measured against each other: the stub, tarn without a runtime, tarn on gVisor."""

import pathlib
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass

from harness.server import Server

STUB = pathlib.Path(__file__).with_name("stub.py")


@dataclass
class Target:
    """Where the client is pointed."""

    name: str
    api_url: str
    api_key: str


class Targets(ExitStack):
    """Starts all targets, and ends them with everything they made."""

    def __enter__(self) -> "Targets":
        super().__enter__()
        self.complaints: list[str] = []
        self.all = [self._stub()]
        self.servers = {runtime: self._tarn(runtime) for runtime in ("sim", "gvisor")}
        self.all += [Target(name, s.api, s.key) for name, s in self.servers.items()]
        return self

    def _stub(self) -> Target:
        process = subprocess.Popen([sys.executable, str(STUB)], stdout=subprocess.PIPE, text=True)
        self.callback(process.wait)
        self.callback(process.kill)
        port = process.stdout.readline().strip()
        return Target("stub", f"http://127.0.0.1:{port}", "tl_apiKey_none")

    def _tarn(self, runtime: str) -> Server:
        server = Server(f"bench-{runtime}", runtime=runtime)
        self.callback(lambda: self.complaints.extend(server.close()))
        return server.start()
