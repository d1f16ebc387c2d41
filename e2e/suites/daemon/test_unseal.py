"""Sealed, written down, restored and unsealed: the daemon serves whoever its sandbox is now, and nobody of before."""

import json
import select
import socket
import time
import types

import pytest
from harness.wait import until
from suites.daemon.restored import Restored
from suites.daemon.table import P, T
from suites.terminal.ws import READY, WebSocket

# Longer than the time limit of the limited run, which must not notice.
LIMIT_SECONDS, GAP_SECONDS = 6, 9
TOKENS = ["a" * 64, "b" * 64]


def dial(box, timeout=30) -> socket.socket:
    """A connection to the daemon, around the ingress."""
    host, _, port = box.daemon.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=timeout)


def connect(box, path, method="GET", body="", token=None):
    """Sends a request on a connection that stays open."""
    connection = dial(box)
    head = f"{method} {path} HTTP/1.1\r\nHost: t\r\nX-Tarn-Token: {token or box.token}\r\nContent-Length: {len(body)}"
    connection.sendall(f"{head}\r\n\r\n{body}".encode())
    return connection


def look(box, terminal):
    """Attaches to a terminal, around the ingress."""
    daemon = types.SimpleNamespace(dial=lambda timeout: dial(box, timeout), key="")
    headers = {"X-Tarn-Token": box.token, "X-PTY-Token": terminal["token"]}
    client = WebSocket(daemon, "t", f"{T}/{terminal['session_id']}/ws", headers, timeout=30)
    assert client.status == 101, client.body
    client.send(READY)
    return client


def ends(connection) -> bool:
    """Reads to the end, which must come before the connection's time is over."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.fixture(scope="module")
def sealed(server):
    """A sandbox that was written down under seal and restored, and is sealed still."""
    sandbox = server.create()
    server.kill()
    box = Restored(server, sandbox)

    def start(path, body, **options):
        reply = box.call("POST", path, body, **options)
        assert reply.status == 201, reply
        return reply.json()

    made = {"counter": start(P, {"command": "sh", "args": ["-c", "echo first; while :; do echo tick; sleep 0.1; done"]})}
    # Held while the sandbox itself is sealed: what was asked with the token to come is answered then.
    box.seal()
    held = [connect(box, path, token=TOKENS[0]) for path in ("/api/v1/health", P)]
    assert select.select(held, [], [], 0.5)[0] == [], "answered under seal"
    made["unsealed"] = box.unseal("itself", TOKENS[0])
    made["held"] = [connection.recv(12) for connection in held]
    made["terminal"] = start(T, {"command": "bash", "args": ["-c", "stty -echo; echo before; while read line; do echo got-$line; done"]})
    made["follow"] = connect(box, f"{P}/{made['counter']['pid']}/stdout/follow")
    made["client"] = look(box, made["terminal"])
    made["client"].until("before")
    body = json.dumps({"command": "sleep", "args": ["1000"], "timeout": LIMIT_SECONDS})
    made["run"] = connect(box, f"{P}/run", "POST", body)
    running = until(lambda: [p for p in box.call("GET", P).json()["processes"] if p["command"] == "sleep"], what="the limited run")
    made["limited"] = running[0]["pid"]
    made["lines"] = box.call("GET", f"{P}/{made['counter']['pid']}/stdout").json()["line_count"]
    box.seal()
    box.freeze_to_image()
    went = time.monotonic()
    until(lambda: time.monotonic() - went > GAP_SECONDS, GAP_SECONDS + 5, "the gap", longest_pause=1)
    box.go_on()
    yield box, made
    for name in ("follow", "run"):
        made[name].close()
    box.remove()


def test_held_requests_are_answered_when_the_sandbox_itself_goes_on(sealed):
    _, made = sealed
    assert made["unsealed"].status == 200, made["unsealed"]
    assert made["held"] == [b"HTTP/1.1 200"] * 2, made["held"]


def test_a_suspended_sandbox_is_unsealed_with_another_token(sealed):
    box, made = sealed
    old = box.token
    waiting = connect(box, "/api/v1/health")
    reply = box.unseal("suspended", TOKENS[1])
    assert reply.status == 200 and reply.json()["protocol"] == 1, reply
    made["info"] = box.call("GET", f"{P}/{made['limited']}").json()
    assert box.unseal("suspended", TOKENS[1]).status == 200
    box.token = old
    assert box.call("GET", "/api/v1/health").status == 401
    assert box.unseal("suspended", TOKENS[1]).status == 401
    box.token = TOKENS[1]
    assert box.call("GET", "/api/v1/health").json() == {"healthy": True}
    for connection in (waiting, made["follow"], made["run"], made["client"].socket):
        assert ends(connection)


def test_a_process_of_before_runs_and_is_followed(sealed):
    box, made = sealed
    pid = made["counter"]["pid"]
    assert box.call("GET", f"{P}/{pid}").json()["status"] == "running"
    until(lambda: box.call("GET", f"{P}/{pid}/stdout").json()["line_count"] > made["lines"] + 3, what="more ticks")
    connection = connect(box, f"{P}/{pid}/stdout/follow")
    seen = b""
    while b"first" not in seen or seen.count(b"tick") < made["lines"] + 3:
        seen += connection.recv(1 << 16)
    connection.close()


def test_a_terminal_of_before_is_attached_to_again(sealed):
    box, made = sealed
    client = look(box, made["terminal"])
    client.until("before")
    client.type("x\n")
    client.until("got-x")
    client.close()


def test_the_time_in_the_image_is_none_of_a_time_limit(sealed):
    box, made = sealed
    assert made["info"]["status"] == "running", made["info"]
    ended = until(lambda: (p := box.call("GET", f"{P}/{made['limited']}").json()).get("ended_at") and p, LIMIT_SECONDS + 10)
    assert ended["signal"] == 9, ended
