"""What the daemon costs: at rest, and while it carries streams."""

import base64
import json
import os
import pathlib
import re
import subprocess
import threading
from contextlib import contextmanager

import pytest
from harness import env, http
from harness.wait import until
from suites.daemon_load import client

SECONDS = 50
STREAM_BYTES = env.scale(24, 1024) << 20
IDLE_KB, STREAMING_KB = 2 << 10, 30 << 10
# Finished processes that the daemon remembers, and what they and the allocator may take.
REMEMBERED, FORGOTTEN_KB = 256, 6 << 10


def test_the_binary_is_small():
    assert os.stat(env.TARND).st_size <= 3 << 20


class Native:
    """The daemon on the host itself, where memory is counted by the page."""

    def __init__(self, daemon: subprocess.Popen, output_bytes: int) -> None:
        self.daemon, self.token = daemon, "a" * 64
        self.url = "http://" + daemon.stdout.readline().split()[-1]
        secret = {"token": self.token, "entropy": base64.b64encode(bytes(32)).decode()}
        limits = {"processes": 1000, "output_bytes": output_bytes}
        init = {"protocol": 1, "sandbox_id": "x", "hostname": "x", "env": [], "now_ms": 0, "limits": limits, **secret}
        assert http.request(f"{self.url}/internal/v1/init", "POST", body=json.dumps(init)).status == 200

    def call(self, method: str, path: str, body: dict | None = None) -> http.Reply:
        text = None if body is None else json.dumps(body)
        return http.request(f"{self.url}/api/v1{path}", method, headers={"X-Tarn-Token": self.token}, body=text)

    def start(self, script: str) -> None:
        reply = self.call("POST", "/processes", {"command": "sh", "args": ["-c", script]})
        assert reply.status == 201, reply

    def rest(self) -> int:
        """Waits until nothing runs; returns the kB that are resident then."""
        until(lambda: self.call("GET", "/info").json()["running_processes"] == 0, what="all ends")
        status = pathlib.Path(f"/proc/{self.daemon.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])


@contextmanager
def native(output_bytes: int = 64 << 20):
    command = [env.TARND, "--listen", "127.0.0.1:0", "--allow-internal-from-loopback"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        try:
            yield Native(daemon, output_bytes)
        finally:
            daemon.kill()


def test_it_rests_in_little_memory():
    """As Linux counts: the pages that are there. gVisor counts a mapping of less than 2 MiB, and the part of a
    stack beyond such a border, as there once one page of it is, so its figure says little."""
    with native() as daemon:
        for script in ("true", "echo text; echo more >&2"):
            run = daemon.call("POST", "/processes/run", {"command": "sh", "args": ["-c", script]})
            assert b'"exit_code":0' in run.body
        resident = daemon.rest()
    print(f"resident kB at rest: {resident}")
    assert resident <= IDLE_KB


def test_forgotten_output_is_no_memory():
    """Floods, with small processes between whose traces last longer; then so many that all those are forgotten."""
    with native(output_bytes=32 << 20) as daemon:
        before = daemon.rest()
        for _ in range(2):
            for _ in range(4):
                daemon.start("yes 0123456789012345678901234567890 | head -c 12000000")
                for _ in range(3):
                    daemon.start("echo small")
            flooded = daemon.rest()
            for _ in range(REMEMBERED + 4):
                daemon.start("echo small")
            forgotten = daemon.rest()
            print(f"resident kB: {before} at first, {flooded} with 32 MiB of output, {forgotten} without")
            assert 24 << 10 < flooded < 44 << 10
            assert forgotten <= before + FORGOTTEN_KB


def watched(server, sandbox, work) -> int:
    """Runs some work; returns the most that was resident meanwhile, in kB, by looking all the time. It looks without
    a process, which would take the only CPU from the work."""
    most, end = [0], threading.Event()

    def watch():
        while not end.is_set():
            status = server.sandbox_call(sandbox, "GET", "/api/v1/files?path=/proc/1/status")
            most.append(int(re.search(rb"VmRSS:\s+(\d+)", status.body)[1]))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        work()
    finally:
        end.set()
        thread.join()
    return max(most)


@pytest.mark.timeout(600)
def test_streams_take_little_memory(server, sandbox):
    def run():
        script = f"yes $(head -c 4095 /dev/zero | tr '\\0' x) | head -c {STREAM_BYTES}"
        assert b'"exit_code":0' in client.discard(client.start_run(server, sandbox, "sh", "-c", script))[1]

    def upload():
        body = (b"x" * (1 << 20) for _ in range(STREAM_BYTES >> 20))
        assert server.sandbox_call(sandbox, "PUT", "/api/v1/files?path=/tmp/big", body).status == 204

    def download():
        with client.connect(server) as connection:
            connection.sendall(client.head(server, sandbox, "GET", "/files?path=/tmp/big", "Connection: close"))
            assert client.discard(connection)[0] > STREAM_BYTES

    found = {work.__name__: watched(server, sandbox, work) for work in (upload, download, run)}
    print(f"resident kB, streaming {STREAM_BYTES >> 20} MiB: {found}")
    assert max(found.values()) <= STREAMING_KB
