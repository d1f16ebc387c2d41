"""Live resize through the Python SDK: up and down under load, a disk under its writer, what is refused, and what
a resize survives."""

import contextlib
import http.client
import json
import threading

import pytest
from harness import env
from harness.wait import until
from tensorlake.sandbox import SandboxResizeError

SECONDS = 20
SERVER = {"config": {"pool": {"initial_mb": 2048, "max_mb": env.scale(3072, 8192)}}}
SMALL, LARGE = env.scale(1024, 10_240), env.scale(2048, 20_480)
# Longer than anything a loaded machine needs.
PATIENCE = 120

# Appends numbered lines, each durable before the next.
WRITER = r"""
import os
log = os.open("/home/tl-user/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
number = 0
while True:
    os.write(log, b"%d\n" % number)
    os.fsync(log)
    number += 1
"""
# Writes so many MiB, and then what their sum is.
BULK = r"""
import hashlib, os
total = hashlib.sha256()
with open("/home/tl-user/bulk", "wb") as bulk:
    for _ in range({}):
        chunk = os.urandom(1 << 20)
        total.update(chunk)
        bulk.write(chunk)
open("/home/tl-user/sum", "w").write(total.hexdigest() + "\n")
"""
# Takes so many MiB, says so, and keeps them.
HOLDER = "import signal; held = bytearray(b'x') * ({} << 20); print(len(held), flush=True); signal.pause()"
CHECK = r"""
lines = open("/home/tl-user/log").read().splitlines()
assert lines[:-1] == [str(number) for number in range(len(lines) - 1)], "a gap"
print(len(lines))
"""


def python(box, code, **options):
    return box.start_process("python3", args=["-c", code], **options)


def out(box, script):
    result = box.run("sh", args=["-c", script])
    assert result.exit_code == 0, result
    return result.stdout


def lines(box):
    """How many lines the writer has written; none is missing."""
    result = box.run("python3", args=["-c", CHECK])
    assert result.exit_code == 0, result
    return int(result.stdout)


def size(box):
    """The size of the disk as `df` shows it, in MiB."""
    return int(out(box, "df -m --output=size / | tail -n 1"))


def alive(box, process):
    return out(box, f"test -d /proc/{process.pid} && echo yes || echo no") == "yes"


def goes_on(box):
    before = lines(box)
    until(lambda: lines(box) > before, 60, "the next line")


def resize(box, **shape):
    info = box.update(poll_interval=0.05, timeout=PATIENCE, **shape).value
    assert info.resource_resize.status == "succeeded", info
    for field, value in shape.items():
        assert getattr(info.resources, field) == getattr(info.resource_resize.requested, field) == value
    return info.resource_resize.generation


def shrinks(box, **shape):
    try:
        return resize(box, **shape)
    except SandboxResizeError as error:
        assert error.reason.value == "failed", error
        return None


def refusal(server, box, **shape):
    """The code of a refusal; the SDK asks before, and refuses some by itself."""
    reply = server.call("PATCH", f"/sandboxes/{box.sandbox_id}", {"resources": shape})
    assert reply.status == 400, reply
    return reply.json()["code"]


@pytest.fixture
def loaded(sdk):
    """A sandbox in which somebody writes and somebody computes."""
    box = sdk.create(cpus=1, memory_mb=512, disk_mb=SMALL)
    workers = [python(box, WRITER), python(box, "while True: sum(range(1000))")]
    until(lambda: out(box, "cat /home/tl-user/log 2>/dev/null || true"), 60, "the first line")
    return box, workers


def test_up_and_down_under_load(loaded):
    box, workers = loaded
    generations = []
    for number in range(env.scale(3, 50)):
        generations.append(resize(box, cpus=2, memory_mb=1024 + number))
        generations.append(resize(box, cpus=1, memory_mb=512))
    assert generations == sorted(set(generations)), "each is newer than the last"
    goes_on(box)
    assert all(alive(box, worker) for worker in workers)
    # What it has already is not sent again, and the last resize is still told.
    info = box.update(cpus=1, memory_mb=512).value
    assert info.resource_resize.generation == generations[-1]


def test_a_disk_grows_under_its_writer(server, loaded):
    box, workers = loaded
    before = size(box)
    assert before <= SMALL
    # More than the small disk has; allocated, not written.
    more = f"fallocate -l {SMALL + SMALL // 10}M /home/tl-user/more"
    assert box.run("sh", args=["-c", more]).exit_code != 0
    out(box, "rm -f /home/tl-user/more")
    bulk = env.scale(64, 2048)
    writer = python(box, BULK.format(bulk))
    resize(box, disk_mb=LARGE)
    assert size(box) > LARGE * 9 // 10, before
    out(box, more)
    goes_on(box)
    assert all(alive(box, worker) for worker in workers)
    until(lambda: not alive(box, writer), 150, "the end of the bulk")
    sums = f"sha256sum < /home/tl-user/bulk | cut -d ' ' -f 1; cat /home/tl-user/sum; stat -c %s /home/tl-user/bulk"
    found, expected, length = out(box, sums).split()
    assert (found, int(length)) == (expected, bulk << 20)
    assert refusal(server, box, disk_mb=SMALL) == "DISK_SHRINK_FORBIDDEN"


def test_what_cannot_be_is_refused_and_harms_nothing(server, sdk):
    box = sdk.create(cpus=1, memory_mb=768, disk_mb=1024, name="refused")
    assert refusal(server, box, cpus=100_000) == "LIMIT_EXCEEDED"
    assert refusal(server, box, memory_mb=1) == "LIMIT_EXCEEDED"
    holder = python(box, HOLDER.format(400))
    until(lambda: box.get_stdout(holder.pid).lines, 60, "its memory")
    with pytest.raises(SandboxResizeError) as error:
        box.update(memory_mb=256, poll_interval=0.05, timeout=PATIENCE)
    assert error.value.reason.value == "failed" and "256 MiB" in str(error.value), error.value
    assert error.value.confirmed_resources.memory_mb == 768
    assert alive(box, holder), "nothing is ended for it"
    box.kill_process(holder.pid)
    until(lambda: not alive(box, holder), 60, "its end")
    # What it had is given back some time after its end.
    generation = until(lambda: shrinks(box, memory_mb=256), 60, "the memory to be back")
    box.suspend()
    assert refusal(server, box, memory_mb=512) == "SANDBOX_NOT_RUNNING"
    assert sdk.client.get(box.sandbox_id).resource_resize.generation == generation


def test_it_lasts(server, sdk):
    """Over kill -9 of the server, also in the middle; a suspend; in a snapshot."""
    box = sdk.create(cpus=1, memory_mb=512, disk_mb=1024, name="lasting")
    python(box, WRITER)
    before = resize(box, cpus=2, memory_mb=640)

    def ask():
        # Its answer is lost with the server.
        with contextlib.suppress(OSError, http.client.HTTPException):
            server.call("PATCH", f"/sandboxes/{box.sandbox_id}", {"resources": {"memory_mb": 768, "disk_mb": 2048}})

    asking = threading.Thread(target=ask)
    asking.start()
    latest = lambda: server.info(box.sandbox_id)["resource_resize"]["generation"]  # noqa: E731
    until(lambda: latest() > before, 60, "the resize", longest_pause=0.01)
    server.restart(kill=True)
    asking.join(60)
    info = box.wait_for_resource_resize(latest(), timeout=PATIENCE, poll_interval=0.1).value
    shape = {"cpus": 2, "memory_mb": 768, "disk_mb": 2048}
    assert {field: getattr(info.resources, field) for field in shape} == shape
    assert size(box) > 1800
    goes_on(box)
    box.suspend()
    box.resume()
    assert size(box) > 1800
    goes_on(box)
    assert {field: getattr(box.info().resources, field) for field in shape} == shape
    snapshot = box.checkpoint()
    restored = sdk.create(snapshot_id=snapshot.snapshot_id)
    assert {field: getattr(restored.info().resources, field) for field in shape} == shape
    assert size(restored) > 1800 and lines(restored) > 0


def test_without_an_sdk(server, sandbox):
    path = f"/sandboxes/{sandbox}"
    assert "resource_resize" not in server.info(sandbox)
    mixed = server.call("PATCH", path, {"resources": {"cpus": 2}, "name": "box"})
    assert (mixed.status, mixed.json()["code"]) == (400, "INVALID_REQUEST")
    gpus = server.call("PATCH", path, {"resources": {"gpus": [{"count": 1, "model": "H100"}]}})
    assert (gpus.status, gpus.json()["code"]) == (400, "INVALID_REQUEST")
    reply = server.call("PATCH", path, {"resources": {"memory_mb": 1536}})
    assert reply.status == 200, reply
    assert reply.json()["resource_resize"]["requested"]["memory_mb"] == 1536, json.dumps(reply.json())
    generation = reply.json()["resource_resize"]["generation"]
    done = lambda: server.info(sandbox)["resource_resize"]["status"] == "succeeded"  # noqa: E731
    until(done, PATIENCE, "the resize")
    assert server.info(sandbox)["resources"]["memory_mb"] == 1536
    assert server.info(sandbox)["resource_resize"]["generation"] == generation
