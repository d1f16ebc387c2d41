"""What the daemon costs: at rest, and while it carries streams."""

import base64
import json
import os
import pathlib
import re
import subprocess
import threading

import pytest
from harness import env, http
from suites.daemon_load import client

SECONDS = 50
STREAM_BYTES = env.scale(64, 1024) << 20
IDLE_KB, STREAMING_KB = 2 << 10, 30 << 10


def test_the_binary_is_small():
    assert os.stat(env.TARND).st_size <= 3 << 20


def test_it_rests_in_little_memory():
    """As Linux counts: the pages that are there. gVisor counts a mapping of less than 2 MiB, and the part of a
    stack beyond such a border, as there once one page of it is, so its figure says little."""
    command = [env.TARND, "--listen", "127.0.0.1:0", "--allow-internal-from-loopback"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        try:
            url, token = "http://" + daemon.stdout.readline().split()[-1], "a" * 64
            limits = {"processes": 1000, "output_bytes": 64 << 20}
            secret = {"token": token, "entropy": base64.b64encode(bytes(32)).decode()}
            init = {"protocol": 1, "sandbox_id": "x", "hostname": "x", "env": [], "now_ms": 0, "limits": limits, **secret}
            assert http.request(f"{url}/internal/v1/init", "POST", body=json.dumps(init)).status == 200
            for script in ("true", "echo text; echo more >&2"):
                body = json.dumps({"command": "sh", "args": ["-c", script]})
                run = http.request(f"{url}/api/v1/processes/run", "POST", headers={"X-Tarn-Token": token}, body=body)
                assert b'"exit_code":0' in run.body
            status = pathlib.Path(f"/proc/{daemon.pid}/status").read_text()
        finally:
            daemon.kill()
    resident = int(re.search(r"VmRSS:\s+(\d+)", status)[1])
    print(f"resident kB at rest: {resident}")
    assert resident <= IDLE_KB


def watched(server, sandbox, work) -> int:
    """Runs some work; returns the most that was resident meanwhile, in kB, by looking all the time."""
    most, end = [0], threading.Event()

    def watch():
        while not end.is_set():
            most.append(client.daemon(server, sandbox)["rss_kb"])

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
        script = f"head -c {STREAM_BYTES} /dev/zero | tr '\\0' x | fold -w 4095"
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
