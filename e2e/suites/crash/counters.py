"""Sandboxes with a running counter, and what it says."""

import pathlib
from dataclasses import dataclass

from harness.wait import until

PROGRAM = pathlib.Path(__file__).with_name("counter.py").read_bytes()
FILE = "/tmp/count"


@dataclass
class Reading:
    """What a counter has written."""

    count: int
    longest_pause: float


def start(server, **fields) -> str:
    """Creates a sandbox and starts its counter."""
    made = server.create(timeout_secs=0, **fields)
    assert server.sandbox_call(made, "PUT", "/api/v1/files?path=/tmp/counter.py", PROGRAM).status == 204
    body = {"command": "python3", "args": ["/tmp/counter.py", FILE]}
    assert server.sandbox_call(made, "POST", "/api/v1/processes", body).status == 201
    until(lambda: read(server, made).count > 5, what=f"the counter of {made}")
    return made


def read(server, sandbox: str) -> Reading:
    """Reads a counter through the API."""
    reply = server.sandbox_call(sandbox, "GET", f"/api/v1/files?path={FILE}")
    count, _, pause = reply.body.decode().partition(" ") if reply.status == 200 else ("0", "", "0")
    return Reading(int(count or 0), float(pause or 0))
