"""A snapshot of a layer that was written at many places: how long the sandbox stands still, by the layer's extents."""

import re
import subprocess
import time
from dataclasses import dataclass, field

import bare
import report
from harness.server import Server
from ours import Rows, call, note, snapshot, standstill, timed

STILL_MS = 50
# Writes one large file; then, again and again, over parts of it: some in order, some here and there. No fsync but after
# the first, so that what was written last is in memory when the snapshot comes.
PROGRAM = """
import os, random, sys
mib, dirty, scattered, seed = map(int, sys.argv[1:])
data = os.open("/var/tmp/data", os.O_RDWR | os.O_CREAT, 0o600)
if seed == 0:
    for n in range(mib):
        os.pwrite(data, b"\\x5a" * (1 << 20), n << 20)
    os.fsync(data)
chance = random.Random(seed)
for n in range(dirty):
    os.pwrite(data, b"\\xa5" * (1 << 20), n * (mib // dirty) << 20)
for n in range(scattered):
    os.pwrite(data, chance.randbytes(4096), chance.randrange(mib * 256) << 12)
"""


@dataclass(frozen=True)
class Scale:
    """How much is written."""

    written_mib: int
    dirty_mib: int
    scattered: int
    earlier: int
    scattered_between: int
    rounds: int


FULL = Scale(written_mib=10240, dirty_mib=200, scattered=20_000, earlier=20, scattered_between=1000, rounds=6)
SMALL = Scale(written_mib=64, dirty_mib=8, scattered=200, earlier=2, scattered_between=50, rounds=2)


@dataclass
class Found:
    """What was measured, and what was promised of it."""

    rows: Rows = field(default_factory=dict)
    extents: list[int] = field(default_factory=list)
    checks: list[tuple[bool, str]] = field(default_factory=list)


def extents(file) -> int:
    """How many pieces a file is in."""
    said = subprocess.run(["filefrag", file], check=True, capture_output=True, text=True).stdout
    return int(re.search(r"(\d+) extents? found", said)[1])


def measure(server: Server, scale: Scale) -> Found:
    disk = {"cpus": 1, "memory_mb": 1024, "disk_mb": scale.written_mib + 2048}
    sandbox = call(server, "POST", "/sandboxes", {"resources": disk, "timeout_secs": 0})["sandbox_id"]
    found = Found()

    def write(dirty: int, scattered: int, seed: int) -> None:
        words = [str(scale.written_mib), str(dirty), str(scattered), str(seed)]
        ran = server.run(sandbox, f'exec python3 -c "$PROGRAM" {" ".join(words)}', 600, env={"PROGRAM": PROGRAM})
        assert ran.status == 0, ran

    # Nothing is removed: to give back files in so many pieces takes minutes, which the end of the server would wait for.
    write(0, 0, 0)
    for number in range(scale.earlier):
        write(0, scale.scattered_between, number + 1)
        snapshot(server, sandbox, "filesystem")
    for number in range(scale.rounds):
        write(scale.dirty_mib, scale.scattered, 1000 + number)
        step(server, sandbox, found)
    still = found.rows["standing still"]["tarn"]
    middle, high = report.p50(still), report.quantile(still, 0.95)
    what = f"{scale.written_mib} MiB written, {scale.dirty_mib} MiB dirty, {scale.scattered} scattered writes"
    what += f" after {scale.earlier} snapshots, {found.extents[0]} to {found.extents[-1]} extents"
    found.checks.append((middle <= STILL_MS, f"{what}: stands still {middle:.1f} ms ≤ {STILL_MS} ms (p95 {high:.1f} ms)"))
    return found


def step(server: Server, sandbox: str, found: Found) -> None:
    """A snapshot of ours, and the same by hand, of the same file."""
    before = standstill(server)
    taken = timed(found.rows, "snapshot, filesystem", "tarn", lambda: snapshot(server, sandbox, "filesystem"))
    note(found.rows, "standing still", "tarn", standstill(server) - before)
    found.extents.append(extents(server.data / "pool/captures" / taken / "layer.img"))

    control = server.data / f"runsc/root/runsc-{sandbox}.sock"
    image, target = server.data / "pool/layers" / sandbox / "disk.img", server.data / f"pool/bare{len(found.extents)}.img"
    begun = time.perf_counter()
    bare.sync(image.parent / "layer", whole=True)
    paused = time.perf_counter()
    bare.ask(control, "Pause")
    bare.clone(image, target)
    bare.ask(control, "Resume")
    note(found.rows, "standing still", "bare", (time.perf_counter() - paused) * 1e3)
    bare.sync(target)
    note(found.rows, "snapshot, filesystem", "bare", (time.perf_counter() - begun) * 1e3)
