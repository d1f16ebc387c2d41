"""Terminals and tunnels by their frames, through the ingress."""

import struct
import threading
import time

import pytest
from harness import env
from harness.wait import until
from suites.terminal.ws import BINARY, PING, PONG, READY, TEXT, WebSocket, attach, terminal, tunnel


# Greets, counts what it is sent until that ends, and says the number.
COUNTING = """
import socket
listener = socket.create_server(("127.0.0.1", 7001))
while True:
    connection, _ = listener.accept()
    try:
        connection.sendall(b"hello")
        count = 0
        while data := connection.recv(65536):
            count += len(data)
        connection.sendall(b"%d" % count)
    except OSError:
        pass
    connection.close()
"""

ECHOING = """
import asyncio

async def echo(reader, writer):
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 7002, backlog=4096)
    await server.serve_forever()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def web(server):
    made = server.create()
    yield made
    server.delete(made)


def info(server, sandbox, made):
    return server.sandbox_call(sandbox, "GET", f"/api/v1/pty/{made[0]}").json()


def test_refusals_come_before_the_upgrade(server, web):
    made = terminal(server, web, "sleep 600")
    path = f"/api/v1/pty/{made[0]}/ws"
    for where, headers, status, code in [
        (path, {}, 403, "INVALID_TOKEN"),
        (path, {"X-PTY-Token": "0" * 64}, 403, "INVALID_TOKEN"),
        (f"{path}?token={made[1]}", {"X-PTY-Token": "0" * 64}, 403, "INVALID_TOKEN"),
        ("/api/v1/pty/none/ws", {"X-PTY-Token": made[1]}, 404, "SESSION_NOT_FOUND"),
        ("/api/v1/tunnels/tcp", {}, 400, "INVALID_REQUEST"),
        ("/api/v1/tunnels/tcp?port=0", {}, 400, "INVALID_REQUEST"),
        ("/api/v1/tunnels/tcp?port=1", {}, 502, "CONNECTION_REFUSED"),
        ("/internal/v1/connect?port=9501", {}, 404, "NOT_FOUND"),
    ]:
        socket = WebSocket(server, f"{web}.local", where, headers)
        assert socket.status == status and code.encode() in socket.body, (where, socket.status, socket.body)
    assert WebSocket(server, f"{web}.local", path, key="wrong").status == 401
    with WebSocket(server, f"{web}.local", f"{path}?token={made[1]}") as socket:
        assert socket.status == 101 and "sec-websocket-extensions" not in socket.headers
    assert server.sandbox_call(web, "DELETE", f"/api/v1/pty/{made[0]}").status == 204


def test_a_terminal_is_a_real_one(server, web):
    script = "test -t 0 && tty; echo yes > /dev/tty; stty size; echo $TERM; id -un; ps -o sid= -p $$; echo $$"
    made = terminal(server, web, script, rows=33, cols=111)
    with attach(server, web, made) as socket:
        messages, code, reason = socket.rest()
    assert messages[-1] == b"\x03\0\0\0\0" and (code, reason) == (1000, "exit:0")
    lines = b"".join(m[1:] for m in messages[:-1]).decode().split("\r\n")
    assert lines[0].startswith("/dev/pts/"), lines
    assert lines[1:5] == ["yes", "33 111", "xterm-256color", "tl-user"], lines
    assert lines[5].strip() == lines[6], lines


def test_input_signals_and_sizes(server, web):
    script = "trap 'echo told' WINCH; trap 'echo int; exit 5' INT; echo on; while :; do sleep 0.05; stty size; done"
    made = terminal(server, web, script)
    with attach(server, web, made) as socket:
        socket.until("on\r\n")
        socket.send(b"\x01" + struct.pack(">HH", 100, 30))
        socket.until("told\r\n")
        socket.until("30 100\r\n")
        socket.type("\x03")
        messages, code, reason = socket.rest()
    assert messages[-1] == b"\x03" + struct.pack(">i", 5) and (code, reason) == (1000, "exit:5")
    assert info(server, web, made)["exit_code"] == 5


def test_output_waits_for_ready_and_is_replayed(server, web):
    made = terminal(server, web, "stty -echo; echo first; cat")
    with attach(server, web, made) as one, attach(server, web, made, ready=False) as two:
        one.until("first\r\n")
        two.send(b"?", PING)
        frame = next(frame for frame in iter(two.next, None) if frame != (PING, b""))
        assert frame == (PONG, b"?"), "nothing before READY"
        one.type("second\n")
        one.until("second\r\n")
        two.send(READY)
        assert two.until("second\r\n").startswith("first")
        one.close()
        assert one.rest()[1] == 1000
    with attach(server, web, made) as socket:
        assert socket.until("second\r\n").startswith("first")
        assert server.sandbox_call(web, "DELETE", f"/api/v1/pty/{made[0]}").status == 204
        assert socket.rest()[1:] == (1001, "session terminated")


def test_a_kill_takes_the_whole_tree(server, web):
    script = "trap '' HUP; setsid sleep 97531 & echo on; while :; do sleep 0.2; done"
    made = terminal(server, web, script)
    with attach(server, web, made) as socket:
        socket.until("on\r\n")
        assert server.sandbox_call(web, "DELETE", f"/api/v1/pty/{made[0]}").status == 204
        assert socket.rest()[1:] == (1001, "session terminated")
    until(lambda: server.run(web, "pgrep -f 'sleep 9753[1]'").status == 1, what="nobody is left")


def test_rules_are_kept_by_closing(server, web):
    made = terminal(server, web, "stty raw -echo; cat > /dev/null")
    for frames, code in [
        ([(b"text", TEXT)], 1003),
        ([(b"\x09", BINARY)], 1003),
        ([(bytes(65537), BINARY)], 1009),
        ([(bytes(65536), BINARY)] * 40, 1008),
    ]:
        with attach(server, web, made) as socket:
            try:
                for payload, opcode in frames:
                    socket.send(payload, opcode)
            except OSError:
                pass  # Closed before all was sent.
            assert socket.rest()[1] == code, code
    assert info(server, web, made)["is_alive"]
    assert server.sandbox_call(web, "DELETE", f"/api/v1/pty/{made[0]}").status == 204


def test_much_output_arrives_whole(server, web):
    count = env.scale(200_000, 2_000_000)
    made = terminal(server, web, f"seq 1 {count}")
    with attach(server, web, made) as socket:
        messages, code, reason = socket.rest()
    assert (code, reason) == (1000, "exit:0")
    numbers = b"".join(m[1:] for m in messages[:-1]).split()
    assert numbers[-1] == b"%d" % count
    # What was printed before READY may have left the history.
    assert numbers[1:] == [b"%d" % n for n in range(count - len(numbers) + 2, count + 1)]


def test_64_terminals(server):
    made = server.create()
    terminals = [terminal(server, made, "exec sleep 600") for _ in range(64)]
    reply = server.sandbox_call(made, "POST", "/api/v1/pty", {"command": "true"})
    assert (reply.status, reply.code) == (429, "TOO_MANY_SESSIONS"), reply
    assert server.sandbox_call(made, "DELETE", f"/api/v1/pty/{terminals[0][0]}").status == 204
    until(lambda: not info(server, made, terminals[0])["is_alive"], what="the end of one")
    again = server.sandbox_call(made, "POST", "/api/v1/pty", {"command": "true"})
    assert again.status == 201, again
    server.delete(made)


def test_tunnel_both_ways_and_its_ends(server, web):
    body = {"command": "python3", "args": ["-c", COUNTING]}
    assert server.sandbox_call(web, "POST", "/api/v1/processes", body).status == 201
    until(lambda: tunnel(server, web, 7001).status == 101, what="the server inside")
    with tunnel(server, web, 7001) as socket:
        begun = time.monotonic()
        assert socket.next() == (BINARY, b"hello")
        assert time.monotonic() - begun > 0.04, "50 ms after the upgrade"
        socket.send(bytes(300_000))
        socket.close()
        messages, code, _ = socket.rest()
        assert (b"".join(messages), code) == (b"300000", 1000), "heard to its end after the client's close"
    with tunnel(server, web, 7001) as socket:
        socket.send(b"x", TEXT)
        assert socket.rest()[1] == 1003


def test_many_tunnels_at_once(server, web):
    count = env.scale(100, 1500)
    body = {"command": "python3", "args": ["-c", ECHOING]}
    assert server.sandbox_call(web, "POST", "/api/v1/processes", body).status == 201
    until(lambda: tunnel(server, web, 7002).status == 101, what="the server inside")
    failures, sockets, lock = [], [], threading.Lock()

    def open_some(some):
        for number in range(some):
            socket = tunnel(server, web, 7002)
            with lock:
                if socket.status != 101:
                    failures.append((socket.status, socket.body))
                sockets.append((number, socket))

    threads = [threading.Thread(target=open_some, args=(count // 10,)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(sockets) == count // 10 * 10
    for number, socket in sockets:
        socket.send(b"%08d" % number)
    for number, socket in sockets:
        assert socket.next() == (BINARY, b"%08d" % number)
    for _, socket in sockets:
        socket.close()
        assert socket.rest()[1] == 1000
        socket.socket.close()


def check_pings_come_and_who_does_not_answer_is_dropped(server, web):
    made = terminal(server, web, "sleep 600")
    with attach(server, web, made) as socket:
        socket.socket.settimeout(120)
        begun, pings = time.monotonic(), 0
        while (frame := socket.next()) == (PING, b""):
            pings += 1
        assert frame == (None, b"") and 30 < time.monotonic() - begun < 60, frame
        assert 4 <= pings <= 7, "every 5 s, until one has been out for 30 s"
    assert info(server, web, made)["is_alive"], "the terminal lives on"


if env.FULL:
    # It takes more than half a minute.
    test_pings = check_pings_come_and_who_does_not_answer_is_dropped
