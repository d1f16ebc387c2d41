"""What one sandbox may ask of the network, and what that leaves to another (docs/network.md)."""

import contextlib
import json
import pathlib
import socket
import statistics
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import env, host
from harness.lab import OUTSIDE
from harness.netns import within
from harness.wait import until

SECONDS = 30
TOGETHER = "lab"
CONNECTIONS, RATE, BURST, MEGABITS = 24, 10, 60, 40
SERVER = {
    "config": {
        "network": {
            "connections": CONNECTIONS,
            "new_connections_per_sec": RATE,
            "new_connections_burst": BURST,
            "bandwidth_mbit": MEGABITS,
        }
    }
}
LOAD = pathlib.Path(__file__).with_name("load.py").read_bytes()


@pytest.fixture(scope="module")
def port(lab):
    """A server of the internet's that echoes, or gives as much as it is told."""
    service = within(f"/run/netns/{lab.name}", lambda: socket.create_server(("", 0), backlog=256))
    threading.Thread(target=_accept, args=(service,), daemon=True).start()
    yield service.getsockname()[1]
    service.close()


def _accept(service):
    while True:
        try:
            channel, _ = service.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(channel,), daemon=True).start()


def _serve(channel):
    with channel, contextlib.suppress(OSError, struct.error):
        way = channel.recv(1)
        (left,) = struct.unpack("!Q", channel.recv(8, socket.MSG_WAITALL))
        while way == b"e" and (data := channel.recv(65536)):
            channel.sendall(data)
        while way == b"u" and left:
            left -= len(channel.recv(min(left, 1 << 18)))
        while way == b"d" and left:
            left -= channel.send(b"x" * min(left, 65536))
        channel.sendall(b".")
        channel.recv(1)


@pytest.fixture
def new_box(server, lab, port):
    """Makes sandboxes that reach the lab."""
    made = []

    def make():
        box = server.create(cpus=1)
        made.append(box)
        assert server.sandbox_call(box, "PUT", "/api/v1/files?path=/tmp/load.py", LOAD).status == 204
        lab.lead_here(host.tag_of(server.data))
        # The server looks for new networks of the host every few seconds; TCP tries again until then.
        load(server, box, "ask", OUTSIDE, port, 1)
        return box

    yield make
    for box in made:
        server.delete(box)


def load(server, box, verb, *arguments, timeout=120):
    """Runs the program inside."""
    command = " ".join(["exec python3 /tmp/load.py", verb, *map(str, arguments)])
    result = server.run(box, command, timeout=timeout)
    assert result.status == 0, result
    return json.loads(result.out)


def begin(server, box, verb, *arguments) -> int:
    """Starts the program inside and leaves it; returns its process."""
    body = {"command": "python3", "args": ["/tmp/load.py", verb, *map(str, arguments)]}
    reply = server.sandbox_call(box, "POST", "/api/v1/processes", body)
    assert reply.status == 201, reply
    return reply.json()["pid"]


def beats(server, box) -> int:
    """How often the kept connection has echoed."""
    return int(server.run(box, "cat /tmp/beats 2>/dev/null | wc -c").out)


def goes_on(server, box) -> None:
    """Waits until the kept connection has echoed again, twice."""
    before = beats(server, box)
    until(lambda: beats(server, box) >= before + 2, what="an echo over the connection that stands", timeout=60)


def test_connections_at_a_time(server, new_box, port):
    box, other = new_box(), new_box()
    begin(server, box, "keep", OUTSIDE, port, "/tmp/beats")
    goes_on(server, box)
    ends = load(server, box, "hold", OUTSIDE, port, CONNECTIONS + 10)
    assert 0 < ends.pop("open") <= CONNECTIONS - 1, ends
    assert list(ends) == ["[Errno 111] Connection refused"], "said at once"
    goes_on(server, box)
    assert len(load(server, other, "ask", OUTSIDE, port, 3)) == 3, "another has its own"
    # Those of the program that has ended count no more.
    until(lambda: load(server, box, "hold", OUTSIDE, port, 3) == {"open": 3}, what="room again", timeout=60)


def test_new_connections_in_a_second(server, new_box, port):
    box, other = new_box(), new_box()
    begin(server, box, "keep", OUTSIDE, port, "/tmp/beats")
    goes_on(server, box)
    reached, took = load(server, box, "ring", OUTSIDE, port, 2 * BURST)
    assert 0 < reached <= BURST + RATE * took + 2, (reached, took)
    goes_on(server, box)
    assert len(load(server, other, "ask", OUTSIDE, port, 3)) == 3, "another has its own"
    # Not refused but late: TCP tries again.
    assert len(load(server, box, "ask", OUTSIDE, port, 3)) == 3


@pytest.mark.parametrize("way", ["push", "pull"])
def test_bandwidth(server, new_box, port, way):
    box = new_box()
    rate, least = MEGABITS * 125_000, env.scale(1, 8)
    took = load(server, box, way, OUTSIDE, port, rate * least)
    # A burst goes at once.
    assert took >= 0.9 * least, took
    if env.FULL:
        assert took <= least / 0.8, "TCP finds the rate"


def test_a_flood_is_not_felt_next_door(server, new_box, port):
    """New connections, datagrams and questions without end."""
    box, other = new_box(), new_box()
    count = env.scale(8, 25)

    def typical() -> float:
        # Within the bystander's own limits.
        took = load(server, other, "ask", OUTSIDE, port, count)
        assert len(took) == count
        return statistics.median(took)

    quiet = typical()
    with ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(load, server, box, "flood", env.scale(4, 10))
        during = typical()
        assert server.run(other, "echo alive").out == "alive"
        sent = flooding.result()
    assert all(sent.values()), sent
    if env.FULL:
        assert during <= 2 * quiet, (quiet, during)
