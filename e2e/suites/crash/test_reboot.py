"""The host restarts: the suspended sleep on, those with a name are suspended with their files, the others have ended."""

import uuid

from harness import host, ledger
from suites.crash.scene import SERVER, Witness, captures, none, settle
from suites.state import box

SAID = "host restarted"
# Unmounting writes out what the killed left in memory, by a dozen commands that a busy machine takes its time for.
UNDONE = 60
# A boot counts itself in a file and serves it.
ENTRYPOINT = ["sh", "-c", f"cd /var/tmp; echo boot >> boots; exec python3 -m http.server {box.PORT}"]


def reboot(server) -> None:
    """Does to the host what its reboot does: everything but files is gone, and it has another boot id."""
    server.kill()

    def left():
        # What a process still holds goes once it has died.
        found = host.objects(server.data)
        host.remove(found, found)
        return {kind: names for kind, names in host.objects(server.data).items() if names and kind not in ("file", "rule")}

    none(left, "left", UNDONE)
    for path in ledger.files(server.data):
        ledger.change(path, boot_id=str(uuid.uuid4()))


def said(server, sandbox: str) -> str:
    return server.info(sandbox).get("error_details", {}).get("message", "")


def test_the_suspended_outlive_a_reboot(new_server):
    server = new_server("-reboot", **SERVER)
    asleep = Witness(server, mib=8)
    asleep.work()
    taken = {}
    for kind in ("filesystem", "memory"):
        taken[kind] = box.snapshot(server, asleep.id, kind)
        box.reach(server, asleep.id, "running")
    box.suspend(server, asleep.id)
    reboot(server)
    server.start()
    settle(server)
    assert not said(server, asleep.id)
    assert asleep.check() == "suspended"
    for snapshot in taken.values():
        child = box.restore(server, snapshot["id"], exposed_ports=[box.PORT])
        if snapshot["snapshot_type"] == "memory":
            asleep.goes_on(child)
        box.gone(server, [child])
    # What was resumed is of this boot, and outlives its server, as ever.
    asleep.work()
    server.restart(kill=True)
    assert asleep.check() == "running"
    box.suspend(server, asleep.id)
    reboot(server)
    server.start()
    assert asleep.check() == "suspended"
    box.gone(server, [asleep.id])
    box.forget(server, [snapshot["id"] for snapshot in taken.values()])
    none(lambda: captures(server), "captures")


def boots(server, sandbox: str) -> int:
    return len(server.run(sandbox, "cat /var/tmp/boots").out.split())


def test_the_named_keep_their_files_and_boot_at_the_next_resume(new_server):
    server = new_server("-reboot-named", **SERVER)
    fields = {"exposed_ports": [box.PORT], "timeout_secs": 0, "allow_unauthenticated_access": True}
    named = server.create(name=box.fresh_name(), entrypoint=ENTRYPOINT, network={"allow_internet_access": False}, **fields)
    waked, ended = server.create(name=box.fresh_name(), entrypoint=ENTRYPOINT, **fields), server.create()
    before = server.info(named)
    assert server.run(named, "cd /var/tmp && echo kept > file && ln -s file link && sync").status == 0
    machine = server.run(named, "cat /etc/machine-id").out
    reboot(server)
    server.start()
    settle(server)

    info = server.info(ended)
    assert (info["status"], info["outcome"]) == ("terminated", "Failure(ContainerTerminated(host_restarted))")
    for sandbox in (named, waked):
        assert box.status(server, sandbox) == "suspended"
        assert SAID in said(server, sandbox), server.info(sandbox)
    # Until somebody wants it, that stays so, whatever becomes of the server.
    server.restart(kill=True)
    assert box.status(server, named) == "suspended" and SAID in said(server, named)

    box.resume(server, named)
    assert not said(server, named)
    after = server.info(named)
    same = ("id", "name", "image", "resources", "entrypoint", "network", "exposed_ports", "timeout_secs", "created_at")
    assert {key: after.get(key) for key in same} == {key: before.get(key) for key in same}
    read = server.run(named, "cat /var/tmp/link")
    assert (read.out, read.status) == ("kept", 0), read
    assert server.run(named, "cat /etc/machine-id").out == machine
    assert boots(server, named) == 2, "its entrypoint ran again"

    # A request to a port wakes it, as it wakes any that sleeps.
    reply = server.sandbox_call(waked, "GET", "/boots", host=f"{box.PORT}-{waked}.local", timeout=60)
    assert (reply.status, reply.body.decode().split()) == (200, ["boot", "boot"]), reply
    assert box.status(server, waked) == "running"

    # From here on it is as any other: adopted, suspended with its memory, resumed with it.
    server.restart(kill=True)
    assert (box.status(server, named), boots(server, named)) == ("running", 2)
    box.suspend(server, named)
    box.resume(server, named)
    assert boots(server, named) == 2
    # And the next restart of the host finds it so.
    reboot(server)
    server.start()
    assert box.status(server, named) == "suspended"
    box.resume(server, named)
    assert (server.run(named, "cat /var/tmp/file").out, boots(server, named)) == ("kept", 3)
    box.gone(server, [named, waked])
    none(lambda: [p.name for p in (server.data / "pool/layers").iterdir()], "layers")


def test_a_kill_in_the_middle_of_such_a_boot_loses_nothing(new_server):
    server = new_server("-reboot-kill", **SERVER)
    sandbox = server.create(name=box.fresh_name(), timeout_secs=0)
    assert server.run(sandbox, "echo kept > /var/tmp/file && sync").status == 0
    reboot(server)
    server.start()
    for hold_ms in (0, 20, 60, 120):
        assert box.post(server, sandbox, f"resume?wait_ms={hold_ms}").status in (200, 202)
        server.restart(kill=True)
        settle(server)
        box.resume(server, sandbox)
        assert server.run(sandbox, "cat /var/tmp/file").out == "kept"
        reboot(server)
        server.start()
    box.gone(server, [sandbox])
    none(lambda: [p.name for p in (server.data / "pool/layers").iterdir()], "layers")
