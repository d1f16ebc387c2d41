"""What is measured against each other: the stub, tarn without a runtime, tarn on gVisor."""

import pathlib
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from harness.server import Server
from harness.wait import until

STUB = pathlib.Path(__file__).with_name("stub.py")


@dataclass
class Target:
    """Where the client is pointed."""

    name: str
    api_url: str
    api_key: str
    pid: int
    ledger: pathlib.Path | None = None

    def cpu_ms(self) -> float:
        """The CPU time that the server's threads have used, all that live; not what they started."""
        used = 0
        for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                used += int((task / "schedstat").read_text().split()[0])
        return used / 1e6

    def settle(self) -> None:
        """Waits until the last sandbox is off the machine, so that its end is not charged to the next target.

        A delete answers when its intent is durable; taking the sandbox down goes on behind the answer.
        """
        if self.ledger is not None:
            # What it keeps for the next ones is nobody's.
            until(lambda: not [*self.ledger.glob("[!.]*")], what=f"{self.name} at rest")


class Targets(ExitStack):
    """Starts the stub and a server on each runtime, and ends them with everything they made."""

    def __init__(self, runtimes: tuple[str, ...] | list[str] = ("sim", "gvisor")) -> None:
        super().__init__()
        self._runtimes = runtimes

    def __enter__(self) -> "Targets":
        super().__enter__()
        self.complaints: list[str] = []
        try:
            self.all = [self._stub()]
            self.servers = {runtime: self._tarn(runtime) for runtime in self._runtimes}
        except BaseException:
            self.close()
            raise
        self.all += [Target(name, s.api, s.key, s.process.pid, s.data / "ledger") for name, s in self.servers.items()]
        return self

    def _stub(self) -> Target:
        process = subprocess.Popen([sys.executable, str(STUB)], stdout=subprocess.PIPE, text=True)
        self.callback(process.wait)
        self.callback(process.kill)
        port = process.stdout.readline().strip()
        return Target("stub", f"http://127.0.0.1:{port}", "tl_apiKey_none", process.pid)

    def _tarn(self, runtime: str) -> Server:
        server = Server(f"bench-{runtime}", runtime=runtime)
        self.callback(lambda: self.complaints.extend(server.close()))
        return server.start()
