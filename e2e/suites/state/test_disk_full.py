"""A full pool fails what needs room in it, and says so; everybody else goes on, and so does what was refused, without
a restart, once there is room again."""

import os
import threading

import pytest
from conftest import maker
from harness import env
from harness.wait import until
from suites.crash import counters
from suites.state import box

POOL_MB = 2048
# Nobody is frozen: who runs shows what a full pool does to them. Processes are not kept: a resume needs room, too.
POOL = {"initial_mb": POOL_MB, "max_mb": POOL_MB, "freeze_below_mb": 0}
SERVER = {"config": {"pool": POOL, "node": {"keep_warm_secs": 0}}}
# A tenth of the pool is kept for those who run.
BELOW_RESERVE_MB = POOL_MB * 3 // 40
MEMORY_MB = 200
# How often room is taken in the middle of a capture until it is taken in time.
ATTEMPTS = 5
NO_ROOM = "free disk space or enlarge the pool"


@pytest.fixture(scope="module")
def server(request, names):
    with maker(request, names) as make:
        made = make(**SERVER)
        # A copy is one request, and its failure is one of the server's.
        made.allow("was not copied, and runs on: (begin: the snapshot needs|checkpoint of sandbox .* no space left on device)")
        yield made


class Ballast:
    """Takes room in the pool, as files of others do on a disk that they share."""

    def __init__(self, pool) -> None:
        self.pool, self.file = pool, pool / "ballast"

    def free_mb(self) -> int:
        stat = os.statvfs(self.pool)
        return stat.f_bavail * stat.f_frsize >> 20

    def leave(self, mib: int) -> None:
        """Takes all but so much."""
        file = os.open(self.file, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.posix_fallocate(file, 0, self.free_mb() - mib << 20)
        finally:
            os.close(file)

    def drop(self) -> None:
        """Gives it back. XFS does so a moment later."""
        if self.file.exists():
            size = self.file.stat().st_size >> 20
            before = self.free_mb()
            self.file.unlink()
            until(lambda: self.free_mb() > before + size // 2, what="room in the pool")


@pytest.fixture
def ballast(server):
    made = Ballast(server.data / "pool")
    yield made
    made.drop()


@pytest.fixture(scope="module")
def bystander(server):
    """It writes all the time."""
    made = counters.start(server)
    yield made
    server.delete(made)


@pytest.fixture(autouse=True)
def everybody_else(server, bystander):
    before = counters.read(server, bystander)
    yield
    after = until(lambda: (r := counters.read(server, bystander)).count > before.count and r, what="the bystander")
    assert after.longest_pause < 2.0, after
    assert server.run(bystander, "echo written > /var/tmp/file && sync && cat /var/tmp/file").out == "written"


@pytest.fixture
def witness(server):
    made = box.with_witness(server, mib=8)
    yield made
    box.gone(server, [made])


def failed(server, sandbox: str, kind: str) -> dict:
    """Takes a snapshot that fails."""
    begun = box.post(server, sandbox, "snapshot", {"snapshot_type": kind})
    assert begun.status == 202, begun
    taken = box.settled(server, begun.json()["snapshot_id"])
    assert taken["status"] == "failed", taken
    reply = server.call("POST", "/sandboxes", {"snapshot_id": taken["id"]})
    assert (reply.status, reply.code) == (400, "SNAPSHOT_NOT_READY"), reply
    box.forget(server, [taken["id"]])
    return taken


def drafts(server) -> list[str]:
    return [path.name for path in (server.data / "pool/captures").iterdir() if path.name.startswith(".draft-")]


def nothing_left(server) -> None:
    until(lambda: not drafts(server) and not any((server.data / "pool/trash").iterdir()), what="the end of drafts")


@pytest.mark.parametrize("kind", ["filesystem", "memory"])
def test_a_snapshot(server, ballast, witness, kind):
    before = box.ask(server, witness)
    ballast.leave(BELOW_RESERVE_MB)
    taken = failed(server, witness, kind)
    assert NO_ROOM in taken["error"] and "reserve" in taken["error"], taken
    box.reach(server, witness, "running")
    assert box.ask(server, witness) == before
    nothing_left(server)
    ballast.drop()
    box.forget(server, [box.snapshot(server, witness, kind)["id"]])


def test_a_suspend(server, ballast, witness):
    before = box.ask(server, witness)
    ballast.leave(BELOW_RESERVE_MB)
    assert box.post(server, witness, "suspend").status == 202
    info = until(lambda: (i := server.info(witness))["status"] == "running" and i.get("error_details") and i)
    assert NO_ROOM in str(info["error_details"]), info
    assert box.ask(server, witness) == before
    nothing_left(server)
    ballast.drop()
    box.suspend(server, witness)
    box.resume(server, witness)
    assert box.ask(server, witness) == before


def test_a_resume(server, ballast, witness):
    before = box.ask(server, witness)
    box.suspend(server, witness)
    ballast.leave(BELOW_RESERVE_MB)
    assert box.post(server, witness, "resume?wait_ms=300").status == 202
    info = until(lambda: (i := server.info(witness)).get("pending_reason") and i, what="why it does not go on")
    assert (info["status"], info["pending_reason"]) == ("suspended", "no_resources_available"), info
    ballast.drop()
    box.reach(server, witness, "running")
    assert box.ask(server, witness) == before


@pytest.mark.parametrize("kind", ["filesystem", "memory", None])
def test_a_create(server, ballast, witness, kind):
    """From a snapshot and from an image."""
    fields = {"snapshot_id": box.snapshot(server, witness, kind)["id"]} if kind else {}
    ballast.leave(BELOW_RESERVE_MB)
    made = server.call("POST", "/sandboxes", {"wait": False, **fields})
    assert (made.status, made.json()["status"]) == (202, "pending"), made
    sandbox = made.json()["sandbox_id"]
    until(lambda: server.info(sandbox)["pending_reason"] == "no_resources_available", what="why it waits")
    ballast.drop()
    box.reach(server, sandbox, "running")
    assert server.run(sandbox, "echo works").out == "works"
    box.gone(server, [sandbox])
    box.forget(server, fields.values())


def test_copies(server, ballast, witness):
    before = box.ask(server, witness)
    ballast.leave(BELOW_RESERVE_MB)
    reply = box.post(server, witness, "copy?times=2")
    assert reply.status >= 400 and NO_ROOM in reply.json()["error"], reply
    box.reach(server, witness, "running")
    assert box.ask(server, witness) == before
    ballast.drop()
    copies = box.copy(server, witness, 2)
    assert [box.ask(server, copy) for copy in copies] == [before] * 2
    box.gone(server, copies)


def lacks_room(server, sandbox: str) -> str | None:
    """What is said of a sandbox that runs and was to be suspended."""
    info = server.info(sandbox)
    said = str(info.get("error_details"))
    return said if info["status"] == "running" and "no space left" in said.lower() else None


class Thief(threading.Thread):
    """Takes what is free as soon as a capture is being written."""

    def __init__(self, server, ballast: Ballast, leave_mb: int) -> None:
        super().__init__(daemon=True)
        self.server, self.ballast, self.leave_mb = server, ballast, leave_mb
        self.struck, self._stop_now = False, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._stop_now.is_set():
            for draft in drafts(self.server):
                memory = self.server.data / "pool/captures" / draft / "memory"
                if any(memory.glob("pages.img")):
                    self.ballast.leave(self.leave_mb)
                    self.struck = True
                    return

    def end(self) -> None:
        self._stop_now.set()
        self.join()


def fails(server, sandbox: str, what: str) -> str | None:
    """What is said of the failure; nothing if the capture was done before the room was taken."""
    if what == "snapshot":
        begun = box.post(server, sandbox, "snapshot", {"snapshot_type": "memory"})
        assert begun.status == 202, begun
        taken = box.settled(server, begun.json()["snapshot_id"])
        box.forget(server, [taken["id"]])
        return taken.get("error")
    if what == "suspend":
        assert box.post(server, sandbox, "suspend").status == 202
        ended = lambda: lacks_room(server, sandbox) or server.info(sandbox)["status"] == "suspended"  # noqa: E731
        said = until(ended, what="an end of the suspend")
        return None if said is True else said
    reply = box.post(server, sandbox, "copy?times=2", timeout=120)
    if reply.status >= 400:
        return reply.json()["error"]
    box.gone(server, [copy["sandbox_id"] for copy in reply.json()["sandboxes"]])
    return None


def fails_in_the_middle(server, ballast: Ballast, sandbox: str, what: str) -> str:
    """The same, until the thief had its turn in time: on a busy host it may not have."""
    for _ in range(ATTEMPTS):
        thief = Thief(server, ballast, leave_mb=MEMORY_MB // 4)
        try:
            said = fails(server, sandbox, what)
        finally:
            thief.end()
        if said is not None:
            assert thief.struck, said
            return said
        ballast.drop()
        if what == "suspend":
            box.resume(server, sandbox)
    raise AssertionError(f"the {what} was done {ATTEMPTS} times before the room was taken")


@pytest.mark.parametrize("what", ["snapshot", "suspend", "copy"] if env.FULL else ["suspend"])
def test_in_the_middle(server, ballast, what):
    """The room that was there at the beginning is taken while memory is being written."""
    large = box.with_witness(server, mib=MEMORY_MB)
    try:
        before = box.ask(server, large)
        said = fails_in_the_middle(server, ballast, large, what)
        assert "no space left on device" in said.lower(), said
        # The runtime adds what it was writing, which is the sandbox's memory, and where it was in its own code.
        assert len(said) < 500 and "goroutine" not in said, said
        ballast.drop()
        nothing_left(server)
        box.reach(server, large, "running")
        assert box.ask(server, large) == before
        box.suspend(server, large)
        box.resume(server, large)
        assert box.ask(server, large) == before
    finally:
        box.gone(server, [large])


def test_a_layer(server):
    """Its own disk is full, and the pool is not: that is nobody else's matter, and the sandbox's as long as it is."""
    made = server.create(name=box.fresh_name(), resources={"disk_mb": 1024}, timeout_secs=0)
    try:
        fill = server.run(made, "cat /dev/zero > /var/tmp/big; echo status $?", timeout=120)
        assert "No space left on device" in fill.err and fill.out == "status 1", fill
        # Full as it is, all of it works.
        taken = [box.snapshot(server, made, kind) for kind in ("filesystem", "memory")]
        box.suspend(server, made)
        box.resume(server, made)
        children = [box.restore(server, each["id"]) for each in taken]
        for sandbox in [made, *children]:
            assert "No space left" in server.run(sandbox, "head -c 9999999 /dev/zero > /var/tmp/more").err
            assert server.run(sandbox, "rm /var/tmp/big && echo more > /var/tmp/more && cat /var/tmp/more").out == "more"
        box.gone(server, children)
        box.forget(server, [each["id"] for each in taken])
    finally:
        box.gone(server, [made])
