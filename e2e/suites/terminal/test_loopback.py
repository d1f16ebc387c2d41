"""Development servers on the loopback inside, reached by their exposed port."""

import base64
import hashlib
import os

import pytest
from harness.wait import until
from suites.ingress.test_ports import serve
from suites.ingress.test_streams import connect, head


@pytest.fixture(scope="module")
def dev(server):
    """A sandbox with servers on each loopback."""
    made = server.create(exposed_ports=[8001, 8002, 8003])
    serve(server, made, "127.0.0.1", 8001)
    body = {"command": "python3", "args": ["-m", "http.server", "--bind", "::1", "8002"], "working_dir": "/etc"}
    assert server.sandbox_call(made, "POST", "/api/v1/processes", body).status == 201
    yield made
    server.delete(made)


def test_both_loopbacks_are_reached(server, dev):
    for _ in range(3):
        reply = server.sandbox_call(dev, "GET", "/x?y=z", host=f"8001-{dev}.localhost")
        assert reply.status == 200 and reply.json()["path"] == "/x?y=z", reply
        assert not [name for name in reply.json()["headers"] if name.startswith("x-tarn")]
    until(lambda: server.sandbox_call(dev, "GET", "/hostname", host=f"8002-{dev}.localhost").status == 200)
    body = b"x" * 3_000_000
    reply = server.sandbox_call(dev, "POST", "/upload", body, host=f"8001-{dev}.localhost")
    assert reply.json() == {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def test_nothing_on_either_is_refused(server, dev):
    reply = server.sandbox_call(dev, "GET", "/", host=f"8003-{dev}.localhost")
    assert (reply.status, reply.code) == (502, "CONNECTION_REFUSED"), reply


def test_a_websocket_passes(server, dev):
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
    connection, stream = connect(server, dev, "/ws", *upgrade, port=8001)
    with connection:
        assert head(stream)[0] == 101
        connection.sendall(b"\x82\x85\0\0\0\0hello")
        assert stream.read(7) == b"\x82\x05hello"


def test_a_program_that_moves_is_found_again(server, dev):
    host = f"8003-{dev}.localhost"
    serve(server, dev, "127.0.0.1", 8003)
    assert server.sandbox_call(dev, "GET", "/", host=host).status == 200
    server.run(dev, "pkill -f 'inside.py 127.0.0.1 800[3]'")
    serve(server, dev, "0.0.0.0", 8003)
    assert server.sandbox_call(dev, "GET", "/", host=host).status == 200
