"""What the daemon costs: at rest, and while it carries streams."""

import os
import threading

from harness import env
from suites.daemon_load import client

STREAM_BYTES = env.scale(128, 1024) << 20
IDLE_KB, STREAMING_KB = 2 << 10, 30 << 10


def test_the_binary_is_small():
    assert os.stat(env.TARND).st_size <= 3 << 20


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


def test_memory_is_small_and_constant(server, sandbox):
    idle = client.daemon(server, sandbox)["rss_kb"]

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
    print(f"resident kB: idle {idle}, streaming {STREAM_BYTES >> 20} MiB: {found}")
    assert idle <= IDLE_KB
    assert max(found.values()) <= STREAMING_KB
