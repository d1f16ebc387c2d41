"""Pools over HTTP alone."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from harness.wait import until

IMAGE = "tensorlake/ubuntu-minimal"
# Small enough for a hundred of them.
SHAPE = {"cpus": 0.25, "memory_mb": 256, "disk_mb": 1024}


class Pool:
    """A pool of a server."""

    def __init__(self, server, **fields) -> None:
        self.server = server
        self.fields = {"image": IMAGE, "resources": SHAPE, **fields}
        reply = server.call("POST", "/sandbox-pools", self.fields)
        assert reply.status == 200, reply
        self.id = reply.json()["pool_id"]
        assert reply.json() == {"pool_id": self.id, "namespace": "default"}

    def info(self) -> dict:
        reply = self.server.call("GET", f"/sandbox-pools/{self.id}")
        assert reply.status == 200, reply
        return reply.json()

    def replace(self, **fields):
        """Changes some of it; what is not said is as it was made, and the policy is kept."""
        fields = {k: v for k, v in {**self.fields, **fields}.items() if k != "network" or k in fields}
        return self.server.call("PUT", f"/sandbox-pools/{self.id}", fields)

    def containers(self, state: str) -> dict[str, str | None]:
        return {c["id"]: c["sandbox_id"] for c in self.info()["containers"] if c["state"] == state}

    def idle(self, count: int, timeout: float = 60) -> set[str]:
        """The containers that wait, once there are so many."""
        until(lambda: len(self.containers("Idle")) == count, timeout, f"{count} containers that wait")
        return set(self.containers("Idle"))

    def ask(self, hold_ms: int = 60_000, body=None):
        """Claims; returns the answer."""
        headers = {"X-Tensorlake-Request-Timeout-Ms": str(hold_ms), "X-Tensorlake-Request-Timeout-Grace-Ms": "0"}
        return self.server.call("POST", f"/sandbox-pools/{self.id}/sandboxes", body, headers=headers, timeout=120)

    def claim(self, **options) -> str:
        reply = self.ask(**options)
        assert reply.status == 200 and reply.json()["status"] == "running", reply
        return reply.json()["sandbox_id"]

    def claim_at_once(self, count: int) -> list[str]:
        with ThreadPoolExecutor(count) as at_once:
            return list(at_once.map(lambda _: self.claim(hold_ms=110_000), range(count)))

    def sandboxes(self) -> list[str]:
        """The live sandboxes that were claimed from it."""
        all_of_them = self.server.call("GET", "/sandboxes").json()["sandboxes"]
        return [s["id"] for s in all_of_them if s.get("pool_id") == self.id and s["status"] != "terminated"]

    def end(self) -> None:
        for sandbox in self.sandboxes():
            self.server.delete(sandbox)
        assert self.server.call("DELETE", f"/sandbox-pools/{self.id}").status in (200, 404)


@contextlib.contextmanager
def pool(server, **fields) -> Iterator[Pool]:
    """A pool that ends with its test, and with it what was claimed from it."""
    made = Pool(server, **fields)
    try:
        yield made
    finally:
        made.end()
