"""Clients that misbehave: bytes and timing are the test's own."""

import json
import re
import socket

from harness.wait import until


def connect(server, timeout: float = 60) -> socket.socket:
    """A bare connection to the ingress."""
    host, _, port = server.ingress.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=timeout)


def head(server, sandbox: str, method: str, path: str, *lines: str) -> bytes:
    """A request's head."""
    first = [f"{method} /api/v1{path} HTTP/1.1", f"Host: {sandbox}.local", f"Authorization: Bearer {server.key}"]
    return "\r\n".join([*first, *lines, "", ""]).encode()


def start_run(server, sandbox: str, command: str, *args: str, **fields) -> socket.socket:
    """Sends `processes/run`; reading the answer is the caller's, or nobody's."""
    body = json.dumps({"command": command, "args": args, **fields}).encode()
    connection = connect(server)
    lines = ("Accept: text/event-stream", f"Content-Length: {len(body)}", "Connection: close")
    connection.sendall(head(server, sandbox, "POST", "/processes/run", *lines) + body)
    return connection


def discard(connection: socket.socket) -> tuple[int, bytes]:
    """Reads to the end; returns how much it was, and the last of it."""
    buffer, total, last = bytearray(1 << 20), 0, b""
    with connection:
        while count := connection.recv_into(buffer):
            total += count
            last = (last + bytes(buffer[max(0, count - 256) : count]))[-256:]
    return total, last


def start(server, sandbox: str, script: str, **fields) -> int:
    """Starts a shell script; returns its pid."""
    body = {"command": "sh", "args": ["-c", script], **fields}
    reply = server.sandbox_call(sandbox, "POST", "/api/v1/processes", body)
    assert reply.status == 201, reply
    return reply.json()["pid"]


def process(server, sandbox: str, pid: int) -> dict:
    """A process as the daemon shows it."""
    reply = server.sandbox_call(sandbox, "GET", f"/api/v1/processes/{pid}")
    assert reply.status == 200, reply
    return reply.json()


def wait_end(server, sandbox: str, pid: int, timeout: float = 60) -> dict:
    """Waits until a process has ended."""
    ended = lambda: (p := process(server, sandbox, pid))["status"] != "running" and p  # noqa: E731
    return until(ended, timeout, f"the end of {pid}")


def kill(server, sandbox: str, pid: int) -> None:
    """Kills a process and its tree."""
    reply = server.sandbox_call(sandbox, "DELETE", f"/api/v1/processes/{pid}")
    assert reply.status == 204, reply


def daemon(server, sandbox: str) -> dict[str, int]:
    """What the daemon holds: kB resident now, descriptors, and processes in its sandbox."""
    script = "cat /proc/1/status; echo fds $(ls /proc/1/fd | wc -l); echo pids $(ls /proc | grep -c '^[0-9]')"
    out = server.run(sandbox, script, user="root").out
    values = {name: int(found[1]) for name in ("VmRSS:", "fds", "pids") if (found := re.search(rf"{name}\s+(\d+)", out))}
    return {"rss_kb": values["VmRSS:"], "descriptors": values["fds"], "processes": values["pids"]}
