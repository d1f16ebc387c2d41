"""What the tests of state do again and again, without an SDK."""

import pathlib
import re
import uuid

from harness.wait import until

WITNESS = pathlib.Path(__file__).with_name("witness.py")
PORT = 8000
# Room for the images of some sandboxes at a time.
SERVER = {"config": {"pool": {"initial_mb": 2048, "max_mb": 5120}}}


def fresh_name() -> str:
    return f"s-{uuid.uuid4().hex[:10]}"


def status(server, sandbox: str) -> str:
    return server.info(sandbox)["status"]


def reach(server, sandbox: str, wanted: str, timeout: float = 60) -> dict:
    """Waits for a status; returns the sandbox then."""
    return until(
        lambda: (info := server.info(sandbox))["status"] == wanted and info,
        timeout,
        f"{sandbox} being {wanted} (it is {server.info(sandbox)})",
    )


def post(server, sandbox: str, what: str, body=None, **options):
    """`POST …/{sandbox}/{what}`"""
    return server.call("POST", f"/sandboxes/{sandbox}/{what}", body, **options)


def suspend(server, sandbox: str) -> None:
    reply = post(server, sandbox, "suspend?wait_ms=60000", timeout=70)
    assert reply.status == 200, (reply, server.info(sandbox))
    assert status(server, sandbox) == "suspended"


def resume(server, sandbox: str) -> None:
    reply = post(server, sandbox, "resume?wait_ms=60000", timeout=70)
    assert reply.status == 200, (reply, server.info(sandbox))
    assert status(server, sandbox) == "running"


def snapshot(server, sandbox: str, kind: str, timeout: float = 120) -> dict:
    """Takes a snapshot and waits until it is complete; returns it."""
    begun = post(server, sandbox, "snapshot", {"snapshot_type": kind})
    assert (begun.status, begun.json()["status"]) == (202, "in_progress"), begun
    taken = settled(server, begun.json()["snapshot_id"], timeout)
    assert taken["status"] == "completed", taken
    # Its source is free a moment after.
    reach(server, sandbox, "running")
    return taken


def settled(server, snapshot_id: str, timeout: float = 120) -> dict:
    """Waits until a snapshot is no longer being taken."""
    return until(
        lambda: (s := server.call("GET", f"/snapshots/{snapshot_id}").json())["status"] != "in_progress" and s,
        timeout,
        f"snapshot {snapshot_id}",
    )


def restore(server, snapshot_id: str, **fields) -> str:
    """Creates from a snapshot; returns the id of what runs then."""
    reply = server.call("POST", "/sandboxes", {"snapshot_id": snapshot_id, **fields}, timeout=120)
    assert reply.status == 200 and reply.json()["status"] == "running", reply
    return reply.json()["sandbox_id"]


def copy(server, sandbox: str, times: int) -> list[str]:
    """Copies; returns the ids of what runs then."""
    reply = post(server, sandbox, f"copy?times={times}", timeout=180, headers={"X-Tensorlake-Request-Timeout-Ms": "170000"})
    assert reply.status == 200, reply
    copies = reply.json()["sandboxes"]
    assert len(copies) == times and {c["status"] for c in copies} == {"running"}, reply
    return [c["sandbox_id"] for c in copies]


def with_witness(server, mib: int = 32, **fields) -> str:
    """A named sandbox in which the witness runs."""
    sandbox = server.create(name=fresh_name(), exposed_ports=[PORT], timeout_secs=0, **fields)
    upload = server.sandbox_call(sandbox, "PUT", "/api/v1/files?path=/tmp/witness.py", WITNESS.read_bytes())
    assert upload.status < 300, upload
    body = {"command": "python3", "args": ["/tmp/witness.py", str(mib)]}
    assert server.sandbox_call(sandbox, "POST", "/api/v1/processes", body).status == 201
    until(lambda: ask(server, sandbox, "/counts", strict=False), what="the witness")
    return sandbox


def ask(server, sandbox: str, path: str = "/", strict: bool = True, **options):
    """Asks the witness through the ingress."""
    reply = server.sandbox_call(sandbox, "GET", path, host=f"{PORT}-{sandbox}.local", **options)
    if not strict and reply.status != 200:
        return None
    assert reply.status == 200, reply
    return reply.json()


def resumes(server, sandbox: str) -> list[str]:
    """How the sandbox was resumed so far, as the server's log says: from its processes or from its image."""
    found = re.findall(rf"a sandbox was resumed sandbox.id={sandbox} warm=(true|false)", server.log_text())
    return ["warm" if warm == "true" else "cold" for warm in found]


def gone(server, sandboxes) -> None:
    """Ends what a test made, whatever became of it."""
    for sandbox in sandboxes:
        server.call("DELETE", f"/sandboxes/{sandbox}")


def forget(server, snapshots) -> None:
    for snapshot_id in snapshots:
        server.call("DELETE", f"/snapshots/{snapshot_id}")
