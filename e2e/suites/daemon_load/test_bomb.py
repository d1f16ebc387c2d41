"""A fork bomb of root's: it meets the bound, and one kill ends it.

All the processes that the bound allows want the processor at once, so answers are late meanwhile: how late depends
on the bound, and is printed beside what the smallest program that answers takes there. Afterwards the daemon is as
before.
"""

import time

import pytest
from harness import env, host
from harness.server import Result
from harness.wait import until
from suites.daemon_load import client, control
from suites.daemon_load.probe import probing

ALONE = True
SERVER = {"config": {"node": {"processes": env.scale(64, 1024)}}}


def is_calm(server, sandbox) -> bool:
    """Whether few processes are left; a sandbox that is still full starts none to look.

    The shell that looks has to fork nothing: there may be room for it and for no other.
    """
    look = {"command": "sh", "args": ["-c", "set -- /proc/[0-9]*; echo $#"], "user": "root"}
    reply = server.sandbox_call(sandbox, "POST", "/api/v1/processes/run", look, headers={"Accept": "text/event-stream"})
    if reply.code == "PROCESS_START_FAILED":
        return False
    seen = Result.parse(reply.body)
    assert seen.out.strip().isdigit(), seen
    return int(seen.out) < 20


@pytest.fixture
def victim(server):
    made = server.create(exposed_ports=[control.PORT])
    control.start(server, made)
    yield made
    server.delete(made)


def test_fork_bomb(server, victim):
    with probing(server, victim) as found, control.probing_it(server, victim) as bare:
        pid = client.start(server, victim, "b() { b | b & }; b; sleep 1000", user="root")
        there = len(host.sandbox_processes(server.data, victim))
        more = SERVER["config"]["node"]["processes"]
        until(lambda: len(host.sandbox_processes(server.data, victim)) > there + more, what="an explosion", timeout=60)
        start = time.perf_counter()
        client.kill(server, victim, pid)
        until(lambda: is_calm(server, victim), what="the end of the bomb", timeout=120)
        took = time.perf_counter() - start
    print(f"bomb: {found[0]}; the control {bare[0]}; killed in {took:.1f} s")
    assert not found[0].failures, found[0].failures
    with probing(server, victim) as after:
        for _ in range(10):
            assert server.run(victim, "echo well").out == "well"
    print(f"afterwards: {after[0]}")
    assert after[0].quantile(0.5) <= 100, str(after[0])
