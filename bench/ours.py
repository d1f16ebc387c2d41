"""What the server is asked for in the benches of state, and how its time is taken."""

import contextlib
import http.client
import json
import re
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable

from harness.server import Server
from harness.wait import until

FILL = "import sys,time; x=bytearray(b'\\x01')*(int(sys.argv[1])<<20); open('/tmp/full','w').close(); time.sleep(1e6)"
BUDGET_SECS = 300
# How long a step waits at most for the machine to be at rest; 0: it begins at once.
patience_secs = 0.0
_kept = threading.local()
# What is measured of us and of the bare runtime, row by row; the second is empty where there is no such step.
Rows = dict[str, dict[str, list[float]]]


def call(server: Server, method: str, path: str, body=None, budget: int = BUDGET_SECS):
    """Asks the API on a connection that is kept, as the SDKs keep theirs; each thread has its own."""
    headers = {"Authorization": f"Bearer {server.key}", "X-Tensorlake-Request-Timeout-Ms": str(budget * 1000)}
    text = None if body is None else json.dumps(body)
    status, answer = exchange(server.api, method, path, text, headers)
    if status not in (200, 202):
        raise RuntimeError(f"{method} {path}: {status} {answer[:300]!r}")
    return json.loads(answer) if answer else None


def exchange(api: str, method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[int, bytes]:
    """One request and its answer; where the server has closed the kept connection, on a new one."""
    parts = urllib.parse.urlsplit(api)

    def ask(connection: http.client.HTTPConnection) -> tuple[int, bytes]:
        connection.request(method, parts.path + path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()

    known = getattr(_kept, "connection", None)
    if known and (known.host, known.port) == (parts.hostname, parts.port):
        with contextlib.suppress(ConnectionError):
            return ask(known)
    _kept.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=BUDGET_SECS + 10)
    return ask(_kept.connection)


def timed(rows: Rows, row: str, who: str, work: Callable):
    """Calls, and notes the milliseconds it took."""
    rest()
    begun = time.perf_counter()
    result = work()
    note(rows, row, who, (time.perf_counter() - begun) * 1e3)
    return result


def rest() -> None:
    """Waits until the machine does next to nothing: what goes on behind the last answer, such as getting the next
    sandbox ready, is not this step's.

    Nobody is told of that, so the processors are asked. One that never rests is measured as it is.
    """
    deadline = time.monotonic() + patience_secs
    while time.monotonic() < deadline:
        before = _busy_ticks()
        time.sleep(0.1)
        if _busy_ticks() - before <= 2:
            return


def _busy_ticks() -> int:
    """Hundredths of a second in which one of the processors was not idle."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(field) for field in file.readline().split()[1:9]]
    return sum(fields) - fields[3] - fields[4]


def note(rows: Rows, row: str, who: str, millis: float) -> None:
    rows.setdefault(row, {"tarn": [], "bare": []})[who].append(millis)


@contextlib.contextmanager
def filled(server: Server, mib: int):
    """A named sandbox in which so much memory is touched."""
    asked = {"name": f"bench-{uuid.uuid4().hex[:8]}", "resources": {"cpus": 1, "memory_mb": mib + 384}, "timeout_secs": 0}
    made = call(server, "POST", "/sandboxes", asked)["sandbox_id"]
    try:
        if mib:
            body = {"command": "python3", "args": ["-c", FILL, str(mib)]}
            assert server.sandbox_call(made, "POST", "/api/v1/processes", body).status == 201
            until(lambda: server.run(made, "ls /tmp/full").out.strip() == "/tmp/full", 60, "the memory being touched")
        yield made
    finally:
        call(server, "DELETE", f"/sandboxes/{made}")


def snapshot(server: Server, sandbox: str, kind: str) -> str:
    """Takes a snapshot; returns when it is complete."""
    made = call(server, "POST", f"/sandboxes/{sandbox}/snapshot", {"snapshot_type": kind})["snapshot_id"]
    while (now := call(server, "GET", f"/snapshots/{made}"))["status"] == "in_progress":
        time.sleep(0.001)
    assert now["status"] == "completed", now
    return made


def standstill(server: Server) -> float:
    """All standstills of snapshots so far, in ms."""
    text = server.call("GET", "/metrics").body.decode()
    return float(re.search(r"^tarn_snapshot_standstill_seconds_total (\S+)", text, re.M)[1]) * 1e3


def end(server: Server, sandboxes: list[str]) -> None:
    """Ends sandboxes, and waits until they are off the host: their end is charged to nobody."""
    for sandbox in sandboxes:
        call(server, "DELETE", f"/sandboxes/{sandbox}")
    for sandbox in sandboxes:
        until(lambda one=sandbox: not (server.data / "ledger" / one).exists(), 120, f"the end of {sandbox}")
