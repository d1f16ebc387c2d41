"""The life of a snapshot, and what is restored from one."""

import concurrent.futures

import pytest
from harness.wait import until
from suites.state import box

SERVER = box.SERVER


def answer(reply):
    return reply.status, reply.code


def ids(reply):
    assert reply.status == 200, reply
    return [snapshot["id"] for snapshot in reply.json()["snapshots"]]


def test_what_is_shown_of_one(server, sandbox):
    taken = box.snapshot(server, sandbox, "filesystem")
    expected = {"namespace", "sandbox_id", "status", "snapshot_type", "base_image", "created_at"}
    assert expected <= set(taken) and "snapshot_id" not in taken
    assert (taken["sandbox_id"], taken["snapshot_type"]) == (sandbox, "filesystem")
    assert taken["size_bytes"] > 0 and taken["rootfs_disk_bytes"] == 10240 << 20
    assert isinstance(taken["created_at"], int) and taken["created_at"] > 1_600_000_000_000
    box.forget(server, [taken["id"]])


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (None, "filesystem"),
        ({}, "filesystem"),
        ({"snapshot_type": "filesystem"}, "filesystem"),
        ({"snapshot_type": "memory"}, "memory"),
        ({"snapshot_content_mode": "full"}, "memory"),
        ({"snapshot_content_mode": "filesystem_only"}, "filesystem"),
    ],
)
def test_types(server, box_of_all, body, kind):
    reply = box.post(server, box_of_all, "snapshot", body)
    assert reply.status == 202 and set(reply.json()) == {"snapshot_id", "status"}, reply
    taken = box.settled(server, reply.json()["snapshot_id"])
    assert (taken["status"], taken["snapshot_type"]) == ("completed", kind)
    box.reach(server, box_of_all, "running")
    box.forget(server, [taken["id"]])


@pytest.fixture(scope="module")
def box_of_all(server):
    """A sandbox for tests that only take snapshots of it."""
    sandbox = server.create()
    yield sandbox
    box.gone(server, [sandbox])


@pytest.mark.parametrize("body", [{"snapshot_type": "disk"}, {"snapshot_type": 5}, "[]", "{", {"snapshot_content_mode": "half"}])
def test_bad_bodies(server, box_of_all, body):
    assert answer(box.post(server, box_of_all, "snapshot", body)) == (400, "INVALID_REQUEST")


def test_files_survive_and_processes_do_not(server):
    source = server.create()
    server.run(source, "echo kept > /var/tmp/kept; mkdir -p /root 2>/dev/null; ln -s kept /var/tmp/link; chmod 640 /var/tmp/kept")
    server.sandbox_call(source, "POST", "/api/v1/processes", '{"command":"sleep","args":["4242"]}')
    taken = box.snapshot(server, source, "filesystem")
    server.run(source, "echo changed > /var/tmp/kept")
    box.gone(server, [source])
    assert ids(server.call("GET", f"/sandboxes/{source}/snapshots")) == [taken["id"]], "of an ended one, too"
    restored = box.restore(server, taken["id"])
    try:
        seen = server.run(restored, "cat /var/tmp/link; stat -c %a /var/tmp/kept; pgrep -fc '[s]leep 4242'")
        assert seen.lines["stdout"] == ["kept", "640", "0"], seen
        twin = box.restore(server, taken["id"])
        server.run(twin, "echo twin > /var/tmp/kept")
        assert server.run(restored, "cat /var/tmp/kept").out == "kept", "each has its own"
        box.gone(server, [twin])
        assert answer(server.call("DELETE", f"/snapshots/{taken['id']}")) == (200, None)
        assert server.run(restored, "cat /var/tmp/kept").out == "kept", "the snapshot is gone, what came of it is not"
        for method in ("GET", "DELETE"):
            assert answer(server.call(method, f"/snapshots/{taken['id']}")) == (404, "SNAPSHOT_NOT_FOUND")
        again = server.call("POST", "/sandboxes", {"snapshot_id": taken["id"]})
        assert answer(again) == (404, "SNAPSHOT_NOT_FOUND")
        onward = box.snapshot(server, restored, "filesystem")
        third = box.restore(server, onward["id"], resources={"disk_mb": 12288})
        assert server.run(third, "cat /var/tmp/kept").out == "kept"
        size = int(server.run(third, "df -m --output=size / | tail -1").out)
        assert size > 10800, "the disk has grown"
        box.gone(server, [third])
        box.forget(server, [onward["id"]])
    finally:
        box.gone(server, [restored])


def test_lists_are_newest_first_and_of_the_project(server, box_of_all, sandbox):
    first = box.snapshot(server, box_of_all, "filesystem")["id"]
    second = box.snapshot(server, sandbox, "filesystem")["id"]
    third = box.snapshot(server, box_of_all, "filesystem")["id"]
    assert ids(server.call("GET", "/snapshots"))[:3] == [third, second, first]
    assert ids(server.call("GET", "/v1/namespaces/default/snapshots"))[:3] == [third, second, first]
    assert ids(server.call("GET", f"/sandboxes/{box_of_all}/snapshots"))[:2] == [third, first]
    assert ids(server.call("GET", f"/sandboxes/{sandbox}/snapshots")) == [second]
    foreign = server.command("key", "create", "--project", "foreign").stdout.strip()
    assert ids(server.call("GET", "/snapshots", key=foreign)) == []
    for method in ("GET", "DELETE"):
        reply = server.call(method, f"/snapshots/{first}", key=foreign)
        assert answer(reply) == (404, "SNAPSHOT_NOT_FOUND")
    reply = server.call("GET", f"/sandboxes/{sandbox}/snapshots", key=foreign)
    assert answer(reply) == (404, "SANDBOX_NOT_FOUND")
    box.forget(server, [first, second, third])
    assert not {first, second, third} & set(ids(server.call("GET", "/snapshots")))


def test_two_at_once(server, sandbox):
    server.run(sandbox, "dd if=/dev/urandom of=/var/tmp/big bs=1M count=100 2>/dev/null")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(box.post, server, sandbox, "snapshot", {"snapshot_type": "memory"}) for _ in range(8)]
        replies = [each.result() for each in asked]
    taken = [reply.json()["snapshot_id"] for reply in replies if reply.status == 202]
    assert taken and {answer(r) for r in replies if r.status != 202} <= {(409, "SANDBOX_BUSY")}, replies
    assert {box.settled(server, each)["status"] for each in taken} == {"completed"}
    assert server.run(sandbox, "echo well").out == "well"
    box.forget(server, taken)


def test_one_that_is_cancelled_is_gone_and_the_source_runs_on(server, sandbox):
    server.run(sandbox, "dd if=/dev/urandom of=/var/tmp/big bs=1M count=200 2>/dev/null")
    begun = box.post(server, sandbox, "snapshot", {"snapshot_type": "memory"}).json()["snapshot_id"]
    early = server.call("POST", "/sandboxes", {"snapshot_id": begun, "wait": False})
    if early.status == 202:
        box.gone(server, [early.json()["sandbox_id"]])
    else:
        assert answer(early) == (400, "SNAPSHOT_NOT_READY")
    assert server.call("DELETE", f"/snapshots/{begun}").status == 200
    assert answer(server.call("GET", f"/snapshots/{begun}")) == (404, "SNAPSHOT_NOT_FOUND")
    box.reach(server, sandbox, "running")
    assert server.run(sandbox, "echo well").out == "well"
    until(lambda: begun not in ids(server.call("GET", "/snapshots")), what="its end")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_of_nobody(server, method):
    for snapshot_id in ("snap_0000000000000000", "nonsense"):
        assert answer(server.call(method, f"/snapshots/{snapshot_id}")) == (404, "SNAPSHOT_NOT_FOUND")
    assert answer(server.call("GET", "/sandboxes/nobody/snapshots")) == (404, "SANDBOX_NOT_FOUND")
