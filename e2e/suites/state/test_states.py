"""Every answer of suspend and resume (spec 02 §1), and what the sandbox shows on the way."""

import time

import pytest
from harness.wait import until
from suites.state import box

SERVER = box.SERVER


@pytest.fixture
def named(server):
    sandbox = server.create(name=box.fresh_name(), timeout_secs=0)
    yield sandbox
    box.gone(server, [sandbox])


def answer(reply):
    return reply.status, reply.code


def test_running_to_suspended_and_back(server, named):
    assert answer(box.post(server, named, "resume")) == (200, None)
    assert box.post(server, named, "suspend").status == 202
    seen = set()
    until(lambda: seen.add(box.status(server, named)) or "suspended" in seen, 60, "the suspend")
    assert seen <= {"running", "suspending", "suspended"}
    assert answer(box.post(server, named, "suspend")) == (200, None)
    info = server.info(named)
    assert info["sandbox_url"] and info["outcome"] is None and "error_details" not in info
    assert box.post(server, named, "resume").status == 202
    seen = set()
    until(lambda: seen.add(box.status(server, named)) or "running" in seen, 60, "the resume")
    assert seen <= {"suspended", "running"}, "while a resume is under way the status stays"


def test_held_until_it_is_done(server, named):
    for what, wanted in (("suspend", "suspended"), ("resume", "running")):
        reply = box.post(server, named, f"{what}?wait_ms=60000", timeout=70)
        assert (reply.status, box.status(server, named)) == (200, wanted), reply


def test_by_name_too(server, named):
    name = server.info(named)["name"]
    box.suspend(server, name)
    box.resume(server, name)
    assert server.info(name)["id"] == named


def test_a_wait_that_runs_out_is_202(server, named):
    assert box.post(server, named, "suspend?wait_ms=0").status == 202
    box.reach(server, named, "suspended")
    assert box.post(server, named, "suspend?wait_ms=0").status == 200


def test_a_resume_joins_a_suspend(server, named):
    box.post(server, named, "suspend")
    assert box.post(server, named, "suspend").status in (200, 202)
    assert box.post(server, named, "resume?wait_ms=60000", timeout=70).status == 200
    box.reach(server, named, "running")
    assert server.run(named, "echo well").out == "well"


def test_during_a_snapshot(server, named):
    server.run(named, "dd if=/dev/urandom of=/var/tmp/big bs=1M count=64 2>/dev/null")
    begun = box.post(server, named, "snapshot", {"snapshot_type": "memory"}).json()["snapshot_id"]
    if box.status(server, named) == "snapshotting":
        assert answer(box.post(server, named, "resume")) in ((200, None), (202, None))
    assert box.post(server, named, "suspend").status == 202
    box.reach(server, named, "suspended")
    assert box.settled(server, begun)["status"] == "completed", "it was taken first"
    box.forget(server, [begun])


def test_of_the_unnamed(server, sandbox):
    assert answer(box.post(server, sandbox, "suspend")) == (400, "SANDBOX_EPHEMERAL")
    assert box.post(server, sandbox, "resume").status == 200
    assert box.status(server, sandbox) == "running"


def test_of_the_pending(new_server):
    full = new_server("pending", config={"admission": {"memory_reserve_mb": 10_000_000}})
    made = full.call("POST", "/sandboxes", {"name": box.fresh_name(), "wait": False})
    assert (made.status, made.json()["status"]) == (202, "pending"), made
    sandbox = made.json()["sandbox_id"]
    until(lambda: full.info(sandbox)["pending_reason"] == "no_resources_available", what="no room")
    assert answer(box.post(full, sandbox, "suspend")) == (400, "SANDBOX_NOT_RUNNING")
    assert box.post(full, sandbox, "resume").status == 202
    for what in ("snapshot", "copy"):
        assert answer(box.post(full, sandbox, what)) == (400, "SANDBOX_NOT_RUNNING"), what
    unnamed = full.call("POST", "/sandboxes", {"wait": False}).json()["sandbox_id"]
    assert answer(box.post(full, unnamed, "suspend")) == (400, "SANDBOX_EPHEMERAL")


def test_of_the_suspended(server, named):
    box.suspend(server, named)
    for what in ("snapshot", "copy"):
        assert answer(box.post(server, named, what)) == (400, "SANDBOX_NOT_RUNNING"), what
    assert server.call("DELETE", f"/sandboxes/{named}").status == 200
    ended = box.reach(server, named, "terminated")
    assert ended["outcome"] == "Success(UserTerminated)" and "sandbox_url" not in ended


def test_of_the_terminated(server, sandbox):
    server.delete(sandbox)
    for what in ("suspend", "resume"):
        assert answer(box.post(server, sandbox, what)) == (409, "SANDBOX_TERMINATED"), what
    for what in ("snapshot", "copy"):
        assert box.post(server, sandbox, what).status in (400, 409), what


@pytest.mark.parametrize("what", ["suspend", "resume", "snapshot", "copy"])
def test_of_nobody(server, what):
    for sandbox in ("nobody", "0" * 21):
        assert answer(box.post(server, sandbox, what)) == (404, "SANDBOX_NOT_FOUND")


@pytest.mark.parametrize(
    "query",
    ["suspend?wait_ms=x", "resume?wait_ms=-1", "suspend?wait_ms=1.5", "copy?times=0", "copy?times=x", "copy?times=-1"],
)
def test_bad_queries(server, named, query):
    assert answer(box.post(server, named, query)) == (400, "INVALID_REQUEST")
    assert box.status(server, named) == "running"


def test_too_many_copies(server, named):
    assert answer(box.post(server, named, "copy?times=101")) == (400, "LIMIT_EXCEEDED")


def test_an_idle_named_sandbox_is_suspended_and_an_open_request_keeps_it(server):
    limit, busy = 1, 2
    sandbox = server.create(name=box.fresh_name(), timeout_secs=limit)
    try:
        begun = time.monotonic()
        # Longer than its limit: an open request is activity.
        assert server.run(sandbox, f"sleep {busy}; echo done").out == "done"
        assert time.monotonic() - begun >= busy and box.status(server, sandbox) == "running"
        box.reach(server, sandbox, "suspended", timeout=limit + 5 + 10)
        assert time.monotonic() - begun >= busy + limit
        assert server.run(sandbox, "echo awake").out == "awake"
        box.reach(server, sandbox, "suspended", timeout=limit + 5 + 10)
    finally:
        box.gone(server, [sandbox])


def test_new_settings_hold_after_the_resume(server, named):
    box.suspend(server, named)
    patch = {"exposed_ports": [8080], "auto_resume": False}
    assert server.call("PATCH", f"/sandboxes/{named}", patch).status == 200
    info = server.info(named)
    assert (info["status"], info["exposed_ports"], info["auto_resume"]) == ("suspended", [8080], False)
    box.resume(server, named)
    assert server.info(named)["exposed_ports"] == [8080]


def test_the_command_line(server, named):
    for words, wanted in ((("suspend", "--wait"), "suspended"), (("resume", "--wait"), "running")):
        done = server.command("sandbox", words[0], named, *words[1:])
        assert (done.returncode, done.stdout) == (0, f"{wanted}\n"), done
    made = server.command("snapshot", "create", named, "--memory", "--wait", timeout=120)
    assert made.returncode == 0, made
    snapshot_id = made.stdout.strip()
    assert snapshot_id in server.command("snapshot", "ls").stdout
    copied = server.command("sandbox", "copy", named, "--times", "2", "--wait", timeout=120)
    ids = copied.stdout.split()
    assert copied.returncode == 0 and len(ids) == 2, copied
    box.gone(server, ids)
    assert server.command("snapshot", "rm", snapshot_id).returncode == 0
    again = server.command("snapshot", "get", snapshot_id)
    assert again.returncode == 1 and "SNAPSHOT_NOT_FOUND" in again.stderr, again


def test_the_server_s_restart_forgets_nothing(server, named):
    server.run(named, "echo kept > /dev/shm/kept")
    box.suspend(server, named)
    taken = None
    server.restart()
    assert box.status(server, named) == "suspended"
    box.resume(server, named)
    assert server.run(named, "cat /dev/shm/kept").out == "kept"
    taken = box.snapshot(server, named, "filesystem")
    server.restart(kill=True)
    assert server.call("GET", f"/snapshots/{taken['id']}").json() == taken
    box.forget(server, [taken["id"]])
