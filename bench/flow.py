"""Commands and bytes through a daemon: each beside what the same machine does without one, in the same run."""

import os
import pathlib
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager

from harness import ledger
from harness.server import Server
from harness.wait import until
from measure import Samples, timed
from suites.daemon_load import client
from targets import Target
from tensorlake.sandbox import Sandbox

MB = 1e6
WIDTHS = (80, 4096)
# The same program on both sides of the measured connection: bytes in until the end, to a file or to nowhere, or
# bytes out.
SINK = """
import os, socket
listener = socket.socket()
listener.bind(("0.0.0.0", 7000))
listener.listen()
print("up", flush=True)
buffer = bytearray(1 << 20)
while True:
    peer = listener.accept()[0]
    left = int(peer.makefile("rb", 0).readline())
    if left < 0:
        with open("/tmp/stream", "wb", 0) as file:
            while count := peer.recv_into(buffer):
                file.write(memoryview(buffer)[:count])
            os.fsync(file.fileno())
        os.unlink("/tmp/stream")
    while left > 0:
        peer.sendall(buffer)
        left -= len(buffer)
    peer.shutdown(socket.SHUT_WR)
    while peer.recv_into(buffer):
        pass
    peer.close()
"""


# Asks the program inside to write what comes to a file, and to sync it.
TO_A_FILE = -1


@contextmanager
def sandbox(server: Server):
    """A sandbox with both cores: what is measured is the daemon, not the quota."""
    made = server.create(resources={"cpus": 2, "memory_mb": 2048, "disk_mb": 6144})
    try:
        yield made
    finally:
        server.delete(made)


def round_trip(targets: list[Target], count: int) -> dict[str, Samples]:
    """`true` by the SDK's `run`, in turn on each target and, as the same program, on the host itself."""
    boxes = {t.name: Sandbox.create(api_url=t.api_url, api_key=t.api_key) for t in targets}
    samples: dict[str, Samples] = {name: {} for name in [*boxes, "host"]}
    calls = {name: lambda box=box: box.run("true") for name, box in boxes.items()}
    calls["host"] = lambda: subprocess.run(["true"], check=True)
    try:
        for number in range(count + 1):
            for name, call in calls.items():
                timed(samples[name] if number else {}, "run true", call)
    finally:
        for box in boxes.values():
            box.terminate()
    return samples


def output(server: Server, made: str, rounds: int, size: int) -> dict[str, Samples]:
    """`cat` of a file of lines: payload MB/s of a run's stream, and of a pipe on the host."""
    samples: dict[str, Samples] = {"tarn": {}, "host": {}}
    with tempfile.TemporaryDirectory(prefix="tarn-bench-", dir="/var/tmp") as directory:
        for width in WIDTHS:
            lines, name = (b"x" * (width - 1) + b"\n") * (size // width), f"output, {width} B lines"
            file = pathlib.Path(directory, "lines")
            file.write_bytes(lines)
            upload = server.sandbox_call(made, "PUT", "/api/v1/files?path=/tmp/lines", lines)
            assert upload.status == 204, upload
            for _ in range(rounds):
                rate(samples["tarn"], name, len(lines), lambda: run_cat(server, made, len(lines)))
                rate(samples["host"], name, len(lines), lambda file=file: host_cat(file, len(lines)))
    return samples


def run_cat(server: Server, made: str, least: int) -> None:
    """Reads a run's stream as fast as it comes, without looking at it."""
    total, last = client.discard(client.start_run(server, made, "cat", "/tmp/lines"))
    assert total > least and b'"exit_code":0' in last, last


def host_cat(file: pathlib.Path, size: int) -> None:
    """The same without a sandbox."""
    buffer, total = bytearray(1 << 20), 0
    with subprocess.Popen(["cat", file], stdout=subprocess.PIPE, bufsize=0) as child:
        while count := child.stdout.readinto(buffer):
            total += count
    assert total == size


def files(server: Server, made: str, rounds: int, size: int) -> dict[str, Samples]:
    """MB/s of one upload and download, of one plain TCP stream each way, of one that ends in a synced file, and of
    `dd conv=fsync` inside."""
    pid = client.start(server, made, 'exec python3 -c "$SINK"', env={"SINK": SINK})
    up = lambda: server.sandbox_call(made, "GET", f"/api/v1/processes/{pid}/stdout").json()["lines"]  # noqa: E731
    until(up, what="the plain TCP server inside")
    address = ledger.entry(server.data, made)["started"]["daemon"].partition(":")[0]
    steps = {
        "TCP in": lambda: plain(address, 0, size),
        "TCP out": lambda: plain(address, size, 0),
        # Before there is another file: a full pool is slow.
        "TCP to a file": lambda: plain(address, TO_A_FILE, size),
        "dd conv=fsync": lambda: dd(server, made, size),
        "upload": lambda: upload(server, made, size),
        "download": lambda: download(server, made, size),
    }
    samples: Samples = {}
    for _ in range(rounds):
        for name, step in steps.items():
            rate(samples, name, size, step)
        assert server.sandbox_call(made, "DELETE", "/api/v1/files?path=/tmp/file").status == 204
    client.kill(server, made, pid)
    return {"1 GiB" if size == 1 << 30 else f"{size >> 20} MiB": samples}


def plain(address: str, get: int, put: int) -> None:
    """One TCP stream to the sandbox's address, nothing between."""
    block, buffer = os.urandom(1 << 20), bytearray(1 << 20)
    with socket.create_connection((address, 7000), timeout=120) as peer:
        peer.sendall(f"{get}\n".encode())
        for _ in range(put >> 20):
            peer.sendall(block)
        peer.shutdown(socket.SHUT_WR)
        while count := peer.recv_into(buffer):
            get -= count
    assert get in (0, TO_A_FILE), get


def dd(server: Server, made: str, size: int) -> None:
    """Writes to the same layer from inside."""
    script = f"dd if=/dev/zero of=/tmp/dd bs=1M count={size >> 20} conv=fsync status=none && rm /tmp/dd"
    assert server.run(made, script, timeout=300).status == 0


def upload(server: Server, made: str, size: int) -> None:
    """A PUT; answered when it is on the disk."""
    block = os.urandom(1 << 20)
    with client.connect(server, timeout=300) as peer:
        lines = (f"Content-Length: {size}", "Connection: close")
        peer.sendall(client.head(server, made, "PUT", "/files?path=/tmp/file", *lines))
        for _ in range(size >> 20):
            peer.sendall(block)
        answer = peer.recv(4096)
    assert answer.startswith(b"HTTP/1.1 204"), answer


def download(server: Server, made: str, size: int) -> None:
    """A GET of the same file."""
    peer = client.connect(server, timeout=300)
    peer.sendall(client.head(server, made, "GET", "/files?path=/tmp/file", "Connection: close"))
    total, _ = client.discard(peer)
    assert size < total < size + 4096, total


def rate(samples: Samples, name: str, size: int, step) -> None:
    """Notes the MB/s of a step."""
    start = time.perf_counter()
    step()
    samples.setdefault(name, []).append(size / MB / (time.perf_counter() - start))
