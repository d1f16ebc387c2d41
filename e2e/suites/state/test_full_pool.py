"""The pool runs full under running sandboxes: all are frozen before it is, none is harmed, and all go on."""

import contextlib
import time

import pytest
from harness import env
from harness.wait import until
from suites.state import box

# Room for some layers, and a floor high enough for the slowest look at it.
SERVER = {"config": {"pool": {"initial_mb": 2048, "max_mb": 2048, "freeze_below_mb": 400}}}
SAID = "is frozen"
# Writes until it is stopped: some MiB at a time, each of them on the disk before the next.
HOG = "cd /var/tmp; n=0; while dd if=/dev/zero of=fill.$n bs=1M count=16 conv=fsync 2>/dev/null; do n=$((n+1)); sleep 0.05; done"


def frozen(server, sandbox: str) -> bool:
    info = server.info(sandbox)
    assert info["status"] == "running", info
    return SAID in info.get("error_details", {}).get("message", "")


def beats(server, sandbox: str) -> int:
    return int(server.run(sandbox, "cat /var/tmp/beats 2>/dev/null | wc -l").out)


def heart(server) -> str:
    """A sandbox that writes a line to its disk ten times a second."""
    sandbox = server.create(name=box.fresh_name(), timeout_secs=0)
    script = "while echo beat >> /var/tmp/beats; do sync /var/tmp/beats; sleep 0.1; done; echo broken > /tmp/broken"
    body = {"command": "sh", "args": ["-c", script]}
    assert server.sandbox_call(sandbox, "POST", "/api/v1/processes", body).status == 201
    until(lambda: beats(server, sandbox) > 2, what="its heart beating")
    return sandbox


def hog(server) -> str:
    sandbox = server.create(timeout_secs=3600)
    assert server.sandbox_call(sandbox, "POST", "/api/v1/processes", {"command": "sh", "args": ["-c", HOG]}).status == 201
    return sandbox


def silent(server, sandbox: str) -> bool:
    with contextlib.suppress(TimeoutError, OSError):
        return server.sandbox_call(sandbox, "GET", "/api/v1/health", timeout=1).status >= 500
    return True


def goes_on(server, sandbox: str) -> None:
    """It is unharmed: its file system takes writes, and nothing of it has failed."""
    until(lambda: not frozen(server, sandbox), 30, "thawed")
    before = beats(server, sandbox)
    until(lambda: beats(server, sandbox) > before, what="its heart beating again")
    assert server.run(sandbox, "test ! -e /tmp/broken && echo 1 > /var/tmp/mine && sync && cat /var/tmp/mine").out == "1"


@pytest.mark.parametrize("restart", env.scale((True,), (False, True)), ids=lambda it: "killed meanwhile" if it else "same server")
def test_a_full_pool_freezes_and_harms_nobody(new_server, restart):
    server = new_server(f"-full-pool-{restart:d}", **SERVER)
    witness, spare = heart(server), heart(server)
    snapshot = box.snapshot(server, spare, "filesystem")
    box.reach(server, spare, "running")
    filler = hog(server)
    for sandbox in (witness, spare, filler):
        until(lambda s=sandbox: frozen(server, s), 120, f"{sandbox} being frozen")
    assert silent(server, witness) and silent(server, filler)
    # Nothing new begins, and what is asked of the frozen is refused with the reason.
    assert box.post(server, witness, "suspend?wait_ms=20000", timeout=30).status in (200, 202)
    assert frozen(server, witness)
    begun = box.post(server, spare, "snapshot", {"snapshot_type": "filesystem"}).json()["snapshot_id"]
    failed = box.settled(server, begun)
    assert failed["status"] == "failed" and "stood still" in failed["error"], failed
    waiting = server.call("POST", "/sandboxes", {"wait": False}).json()["sandbox_id"]
    info = server.info(waiting)
    assert (info["status"], info["pending_reason"]) == ("pending", "no_resources_available"), info
    if restart:
        server.restart(kill=True)
        assert frozen(server, witness) and silent(server, witness)
    # As long as there is no room it stays so.
    stays = time.monotonic() + 2
    until(lambda: time.monotonic() > stays or not frozen(server, witness), what="a while")
    assert frozen(server, witness)

    server.delete(filler)
    goes_on(server, witness)
    goes_on(server, spare)
    box.reach(server, waiting, "running")
    child = box.restore(server, snapshot["id"])
    assert server.run(child, "echo works").out == "works"
    box.suspend(server, witness)
    box.resume(server, witness)
    box.gone(server, [witness, spare, waiting, child])


# A file of 1400 MiB, written as fast as memory takes it: nothing is waited for until its end.
BURST = """
import os, random
block = random.Random(7).randbytes(1 << 20)
file = os.open("/var/tmp/burst", os.O_CREAT | os.O_WRONLY)
for number in range(1400):
    os.write(file, block[number:] + block[:number])
os.fsync(file)
"""
CHECK = """
import random
block = random.Random(7).randbytes(1 << 20)
with open("/var/tmp/burst", "rb") as file:
    print([number for number in range(1400) if file.read(1 << 20) != block[number:] + block[:number]])
"""


def test_what_memory_holds_of_a_burst_has_room_too(new_server):
    """What was written and is not on the disk yet takes room there: all stand still before that is gone."""
    server = new_server("-burst", config={"pool": {"initial_mb": 2048, "max_mb": 2048}})
    witness, ballast = heart(server), server.create()
    assert server.run(ballast, "dd if=/dev/zero of=/var/tmp/ballast bs=1M count=700 conv=fsync", timeout=120).status == 0
    burst = server.create(resources={"cpus": 2, "memory_mb": 3072, "disk_mb": 4096})
    body = {"command": "python3", "args": ["-c", BURST]}
    pid = server.sandbox_call(burst, "POST", "/api/v1/processes", body).json()["pid"]
    for sandbox in (witness, burst):
        until(lambda s=sandbox: frozen(server, s), 60, f"{sandbox} being frozen")
    server.delete(ballast)
    goes_on(server, witness)
    ended = lambda: server.sandbox_call(burst, "GET", f"/api/v1/processes/{pid}").json()  # noqa: E731
    until(lambda: ended()["status"] != "running", 60, "the burst's end")
    assert ended()["exit_code"] == 0, ended()
    # What another mount reads comes from the disk.
    snapshot = box.snapshot(server, burst, "filesystem")["id"]
    child = box.restore(server, snapshot)
    assert server.run(child, "python3 -c \"$CHECK\"", env={"CHECK": CHECK}).out == "[]"
    box.gone(server, [witness, burst, child])
    box.forget(server, [snapshot])
