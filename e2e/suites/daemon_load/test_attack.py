"""The daemon under attack: it answers others in time meanwhile, and is well afterwards."""

import threading
import time
from contextlib import nullcontext

import pytest
from harness import env
from harness.wait import until
from suites.daemon_load import client, control
from suites.daemon_load.probe import probing

ALONE = True
# Other calls are answered within this, whatever goes on.
PATIENCE_MS = 100
FLOOD_BYTES = env.scale(64 << 20, 10 << 30)
UNREAD = env.scale(2, 64)
FINISHED = env.scale(400, 10_000)
# The processes that run when nothing else does: the control.
AT_REST = env.scale(0, 1)


@pytest.fixture(scope="module")
def victim(server):
    """With both cores of a small machine: what is tested is the daemon, not the quota."""
    made = server.create(resources={"cpus": 2}, exposed_ports=[control.PORT])
    if env.FULL:
        control.start(server, made)
    yield made
    server.delete(made)


@pytest.fixture(scope="module")
def bystander(server):
    """A sandbox where nothing happens: what its daemon takes is the machine's."""
    made = server.create()
    yield made
    server.delete(made)


@pytest.fixture
def probed(server, victim, bystander, request):
    """Probes during the test; then looks at the answers and at the daemon."""
    for made in (victim, bystander):
        server.run(made, "true")
    control_too = control.probing_it(server, victim) if env.FULL else nullcontext([None])
    with probing(server, bystander) as quiet, control_too as bare, probing(server, victim) as found:
        yield
    answers, others = found[0], [each for each in (quiet[0], bare[0]) if each]
    said = "; ".join(map(str, [answers, *others]))
    print(f"{request.node.name}: {said}")
    assert not answers.failures, answers.failures
    # A small run on a busy machine has too few samples for its largest to say anything.
    share = 1 if env.FULL else 0.95
    assert answers.quantile(share) <= PATIENCE_MS + max(each.quantile(share) for each in others), said
    assert server.run(victim, "echo well").out == "well"
    state = client.daemon(server, victim)
    print(f"  afterwards {state}")
    assert state["descriptors"] < 40, state


def running(server, sandbox: str) -> int:
    """How many processes run of those that a test has started."""
    return server.sandbox_call(sandbox, "GET", "/api/v1/info").json()["running_processes"] - AT_REST


def test_flood_without_a_reader(server, victim, probed):
    pid = client.start(server, victim, f"yes 0123456789012345678901234567890123456789 | head -c {FLOOD_BYTES}")
    ended = client.wait_end(server, victim, pid, timeout=150 if not env.FULL else 900)
    assert ended["exit_code"] == 0
    lines = server.sandbox_call(victim, "GET", f"/api/v1/processes/{pid}/stdout").json()["lines"]
    assert lines[0].startswith("[tarn: ") and lines[0].endswith(" earlier lines dropped]")


def test_flood_to_a_client_that_never_reads(server, victim, probed):
    held = client.start_run(server, victim, "sh", "-c", f"yes 0123456789 | head -c {FLOOD_BYTES}")
    busy = lambda: running(server, victim) == 1  # noqa: E731
    until(busy, what="the run")
    server.run(victim, "i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done")
    # It waits for its reader; once that has gone it runs on, and is killed here.
    assert busy()
    held.close()
    for each in server.sandbox_call(victim, "GET", "/api/v1/processes").json()["processes"]:
        if each["status"] == "running" and each["command"] != "python3":
            client.kill(server, victim, each["pid"])
    until(lambda: not busy(), what="the end of the run")


def test_clients_that_never_read(server, victim, probed):
    held = [client.start_run(server, victim, "sh", "-c", "yes | head -c 50000000") for _ in range(UNREAD)]
    until(lambda: running(server, victim) == UNREAD, what=f"{UNREAD} runs", timeout=60)
    print("  meanwhile", client.daemon(server, victim))
    for connection in held:
        connection.close()
    started = time.monotonic()
    what = "the end of the runs, which go on without a reader"
    until(lambda: running(server, victim) == 0, what=what, timeout=env.scale(120, 400))
    print(f"  all ended {time.monotonic() - started:.0f} s after their clients had gone")


def test_many_finished_processes(server, victim, probed):
    """Half of them at once with others; only the latest are listed."""

    def some(count):
        for _ in range(count):
            reply = server.sandbox_call(victim, "POST", "/api/v1/processes", {"command": "true"})
            assert reply.status == 201, reply

    threads = [threading.Thread(target=some, args=(FINISHED // 4,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: running(server, victim) == 0, what="all ends")
    assert len(server.sandbox_call(victim, "GET", "/api/v1/processes").json()["processes"]) <= 256 + AT_REST


def test_line_without_end(server, victim, probed):
    size = env.scale(20_000_000, 100_000_000)
    total, last = client.discard(client.start_run(server, victim, "sh", "-c", f"head -c {size} /dev/zero | tr '\\0' x"))
    assert b'"exit_code":0' in last
    assert size < total < size * 1.01, "pieces of 64 KiB, nothing lost"


def test_input_that_is_never_read(server, victim, probed):
    pid = client.start(server, victim, "sleep 1000", stdin_mode="pipe")
    held = client.connect(server)
    held.sendall(client.head(server, victim, "POST", f"/processes/{pid}/stdin", "Content-Length: 200000000"))
    held.settimeout(0.5)
    sent = 0
    with pytest.raises(TimeoutError):
        while True:
            sent += held.send(b"x" * 65536)
    assert sent < 100_000_000, "back-pressure"
    server.run(victim, "true")
    client.kill(server, victim, pid)
    assert client.wait_end(server, victim, pid)["signal"] == 9
    held.close()


def test_slow_and_half_open_requests(server, victim, probed):
    """Heads and bodies of which nothing more comes, at the ingress and at the daemon behind it."""
    body = client.head(server, victim, "POST", "/processes/run", "Content-Length: 1000") + b'{"command"'
    upload = client.head(server, victim, "PUT", "/files?path=/tmp/slow", "Content-Length: 1000000") + b"x" * 1000
    held = []
    for number in range(env.scale(60, 400)):
        connection = client.connect(server)
        connection.sendall([b"GET /api/v1/hea", body, upload, b""][number % 4])
        held.append(connection)
    for _ in range(20):
        server.run(victim, "true")
    for connection in held:
        connection.close()
    gone = lambda: server.run(victim, "ls -a /tmp | grep -c tarn-upload").out == "0"  # noqa: E731
    until(gone, what="the end of the interrupted uploads")


def test_huge_heads(server, victim, probed):
    for lines in (["x: " + "y" * 200_000], [f"x{n}: y" for n in range(2000)]):
        with client.connect(server) as connection:
            try:
                connection.sendall(client.head(server, victim, "GET", "/health", *lines))
                answer = connection.recv(65536)
            except (BrokenPipeError, ConnectionResetError):
                answer = b""
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:100]


INSIDE = """
import socket, sys, threading, time
held, refused, end = [], 0, time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    s = socket.socket()
    try:
        s.connect(("127.0.0.1", 9501))
        s.sendall([b"GET /", b"GET /api/v1/info HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n", b"x" * 100000][len(held) % 3])
        s.setblocking(False)
        held.append(s)
    except OSError:
        refused += 1
    if len(held) > 500:
        held = held[250:]
print(len(held), refused)
"""


def test_connections_from_inside(server, victim, probed):
    """Programs of the sandbox can reach its daemon, but not without the token, and not all of it."""
    result = server.run(victim, "python3 -c \"$PROGRAM\" $SECS", env={"PROGRAM": INSIDE, "SECS": str(env.scale(2, 20))})
    assert result.status == 0, result
