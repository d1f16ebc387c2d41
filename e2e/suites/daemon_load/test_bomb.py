"""A fork bomb of root's: it meets the bound, and one kill ends it.

All the processes that the bound allows want the processor at once, so answers are late meanwhile: how late is
printed, and depends on the bound. Afterwards the daemon is as before.
"""

import time

from harness import env, host
from harness.server import Result
from harness.wait import until
from suites.daemon_load import client
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


def test_fork_bomb(server, sandbox):
    server.run(sandbox, "true")
    with probing(server, sandbox) as found:
        pid = client.start(server, sandbox, "b() { b | b & }; b; sleep 1000", user="root")
        there = len(host.sandbox_processes(server.data, sandbox))
        more = SERVER["config"]["node"]["processes"]
        until(lambda: len(host.sandbox_processes(server.data, sandbox)) > there + more, what="an explosion", timeout=60)
        start = time.perf_counter()
        client.kill(server, sandbox, pid)
        until(lambda: is_calm(server, sandbox), what="the end of the bomb", timeout=120)
        took = time.perf_counter() - start
    print(f"bomb: {found[0]}; killed in {took:.1f} s")
    assert not found[0].failures, found[0].failures
    with probing(server, sandbox) as after:
        for _ in range(10):
            assert server.run(sandbox, "echo well").out == "well"
    print(f"afterwards: {after[0]}")
    assert after[0].quantile(0.5) <= 100, str(after[0])
