"""The ingress streams both ways and holds nothing back."""

import base64
import hashlib
import os
import threading

import pytest
from harness import env
from harness.wait import until
from suites.ingress import grpc_calls
from suites.ingress.test_ports import serve

BIG = env.scale(8, 256) << 20


@pytest.fixture(scope="module")
def web(server):
    made = server.create(exposed_ports=[8000, grpc_calls.PORT])
    serve(server, made, "0.0.0.0", 8000)
    return made


def connect(server, web, path, *headers, port=8000):
    """Opens a connection and sends a request's head."""
    connection = server.dial(timeout=30)
    name = f"{port}-{web}.localhost" if port else f"{web}.local"
    lines = [f"GET {path} HTTP/1.1", f"Host: {name}", f"Authorization: Bearer {server.key}", *headers]
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    return connection, connection.makefile("rb")


def head(stream) -> tuple[int, dict[str, str]]:
    """Reads the head of an answer."""
    status = int(stream.readline().split()[1])
    lines = iter(lambda: stream.readline().strip().decode(), "")
    return status, {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}


def test_events_arrive_one_by_one(server, web):
    """The next event is allowed only after the one before was received: a buffer would hang."""
    server.run(web, "printf 0 > /tmp/allowed")
    connection, stream = connect(server, web, "/sse")
    with connection:
        status, headers = head(stream)
        assert status == 200 and headers["content-type"] == "text/event-stream"
        for number in range(3):
            line = next(line for line in stream if line.startswith(b"data:"))
            assert line == b"data: %d\n" % number
            server.run(web, f"printf {number + 1} > /tmp/allowed")


def test_a_run_is_delivered_while_it_runs(server, web):
    body = b'{"command":"sh","args":["-c","rm -f /tmp/go; echo first; while ! test -e /tmp/go; do sleep 0.02; done; echo last"]}'
    with server.dial(timeout=30) as connection:
        lines = ["POST /api/v1/processes/run HTTP/1.1", f"Host: {web}.local", f"Authorization: Bearer {server.key}"]
        lines += ["Accept: text/event-stream", f"Content-Length: {len(body)}"]
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
        stream = connection.makefile("rb")
        assert head(stream)[0] == 200
        assert b"first" in next(line for line in stream if b'"line"' in line)
        server.run(web, "touch /tmp/go")
        assert b"last" in next(line for line in stream if b'"line"' in line)


def test_an_upload_flows_while_it_is_sent(server, web):
    """The program has the first half before the second half exists."""
    block, digest = os.urandom(1 << 16), hashlib.sha256()
    server.run(web, "printf 0 > /tmp/received")

    def body():
        half = BIG // len(block) // 2
        for number in range(half * 2):
            if number == half:
                received = lambda: int(server.run(web, "cat /tmp/received").out or 0)  # noqa: E731
                until(lambda: received() >= half * len(block), what="the first half inside")
            digest.update(block)
            yield block

    reply = server.sandbox_call(web, "POST", "/upload", body(), host=f"8000-{web}.localhost")
    assert reply.status == 200, reply
    assert reply.json() == {"size": BIG // len(block) // 2 * 2 * len(block), "sha256": digest.hexdigest()}


def test_a_large_download_is_whole(server, web):
    reply = server.sandbox_call(web, "GET", f"/download/{BIG}", host=f"8000-{web}.localhost")
    assert (reply.status, len(reply.body)) == (200, BIG)
    assert reply.body[:16] == b"0123456789abcdef" and reply.body[-16:] == b"0123456789abcdef"


def test_a_slow_reader_costs_no_memory(server, web):
    """Back-pressure: while nobody reads, the server's memory does not take the download in."""
    size = 512 << 20

    def resident() -> int:
        status = open(f"/proc/{server.process.pid}/status").read()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) >> 10

    before = resident()
    connection, stream = connect(server, web, f"/download/{size}")
    with connection:
        assert head(stream)[0] == 200
        received = 0
        while received < 32 << 20:
            received += len(stream.read1(1 << 20))
        assert resident() - before < 64, "MiB"
    assert server.run(web, "echo alive").out == "alive"


def test_websocket(server, web):
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
    connection, stream = connect(server, web, "/ws", *upgrade)
    with connection:
        status, headers = head(stream)
        accept = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        assert (status, headers["sec-websocket-accept"]) == (101, base64.b64encode(accept).decode())
        for text in (b"hello", b"", b"x" * 125):
            connection.sendall(bytes([0x82, 0x80 | len(text)]) + b"\0\0\0\0" + text)
            assert stream.read(2 + len(text)) == bytes([0x82, len(text)]) + text
        connection.sendall(b"\x88\x80\0\0\0\0")
        assert stream.read(2) == b"\x88\x00"
        assert stream.read() == b"", "the end passes through too"


def test_many_at_once(server, web):
    failures: list = []

    def one():
        reply = server.sandbox_call(web, "GET", "/download/200000", host=f"8000-{web}.localhost")
        if (reply.status, len(reply.body)) != (200, 200000):
            failures.append(reply)

    threads = [threading.Thread(target=one) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_grpc(server, web):
    grpc_calls.serve(server, web)
    grpc_calls.check(server, web)
