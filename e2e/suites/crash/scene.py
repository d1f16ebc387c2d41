"""What the tests of kills share: what a server has, a sandbox whose every state is known, and one with all its kin."""

import http.client
import time

from harness import host
from harness.wait import until
from suites.crash import counters
from suites.crash.test_crash import steady
from suites.state import box

SERVER = {"config": {**box.SERVER["config"]}}
SETTLE = 20
STATUSES_ON_THE_WAY = ("pending", "suspending", "snapshotting")
LOST = (OSError, http.client.HTTPException)


def attempt(server, *arguments, **options):
    """A request's reply, or None when the server died before it was there."""
    try:
        return server.call(*arguments, **options)
    except LOST:
        return None


def of_status(server, *statuses) -> set[str]:
    """The sandboxes that have one of these."""
    return {s["id"] for each in statuses for s in server.call("GET", f"/sandboxes?status={each}").json()["sandboxes"]}


def snapshots(server) -> dict[str, dict]:
    return {s["id"]: s for s in server.call("GET", "/snapshots").json()["snapshots"]}


def captures(server) -> set[str]:
    """What the pool holds of snapshots and suspends, drafts included."""
    return {path.name for path in (server.data / "pool/captures").iterdir()}


def none(find, what: str, timeout: float = SETTLE) -> None:
    """Waits until a search finds nothing; says what it finds still."""
    found = None

    def look():
        nonlocal found
        found = find()
        return not found

    try:
        until(look, timeout)
    except AssertionError:
        raise AssertionError(f"{what}, after {timeout:g} s: {found}") from None


def fill_slots(server, at_once: int = 8) -> None:
    """Has the server keep as many slots as it ever does where so many are in use, so that later ones are no leak."""
    box.gone(server, [server.create(name=box.fresh_name()) for _ in range(at_once)])


def programs(server) -> list[str]:
    """The host's processes of all sandboxes, but for those without a command line: gVisor makes
    them for what runs inside, as many as it likes."""
    return [entry for entry in host.objects(server.data)["process"] if entry.partition(" ")[2]]


def at_rest(server, own: set[str]) -> dict[str, int]:
    """What the host has, once nothing is left of sandboxes but its own and nothing changes."""
    none(lambda: {path.name for path in (server.data / "runsc/bundle").iterdir()} - own, "still on the host")
    return {**steady(server), "process": len(programs(server))}


def more(server, baseline) -> dict:
    """What the host has more of than before, as (now, before)."""
    now = {**host.counts(server.data), "process": len(programs(server))}
    return {kind: (count, baseline.get(kind, 0)) for kind, count in now.items() if count > baseline.get(kind, 0)}


def settle(server) -> None:
    """Nothing is on its way for ever."""

    def moving():
        taken = {s["id"] for s in snapshots(server).values() if s["status"] == "in_progress"}
        return of_status(server, *STATUSES_ON_THE_WAY) | taken

    none(moving, "on the way")


class Witness:
    """A sandbox whose every state is known: one process tree, whatever happens to the server."""

    def __init__(self, server, mib: int) -> None:
        self.server, self.hits, self.round = server, 0, 0
        self.id = box.with_witness(server, mib=mib)
        self.name, self.ports = (server.info(self.id)[key] for key in ("name", "exposed_ports"))
        self.identity = box.ask(server, self.id)
        self.counts = box.ask(server, self.id, "/counts")

    def work(self) -> None:
        """Does what must not be lost: counts on in memory and writes a file."""
        assert box.ask(self.server, self.id, "/hit")["hit"] == self.hits + 1
        self.hits += 1
        self.round += 1
        assert self.server.run(self.id, f"echo {self.round} > /var/tmp/round").status == 0
        self.counts = box.ask(self.server, self.id, "/counts")

    def check(self, allowed=("running", "suspended")) -> str:
        """It is as it was left, awake or asleep, and goes on; returns the status that it had."""
        info = self.server.info(self.id)
        found = info["status"]
        assert found in allowed, info
        assert (info["name"], info["exposed_ports"]) == (self.name, self.ports)
        assert self.server.info(self.name)["id"] == self.id
        if found == "suspended":
            box.resume(self.server, self.id)
        self.goes_on(self.id)
        assert box.ask(self.server, self.id, "/counts")["hits"] == self.hits, "what was counted is counted once"
        assert self.server.run(self.name, "cat /var/tmp/round").out == str(self.round)
        return found

    def goes_on(self, sandbox: str) -> None:
        """The same program, later than it was seen last; a copy of it, too."""
        assert box.ask(self.server, sandbox) == self.identity
        counts = box.ask(self.server, sandbox, "/counts")
        assert all(counts[key] >= self.counts[key] for key in counts), f"set back from {self.counts} to {counts}"
        until(
            lambda: all(box.ask(self.server, sandbox, "/counts")[k] > counts[k] for k in ("thread", "timer")),
            what="thread and timer going on",
        )


class Scene:
    """A server, a witness, a bystander and two snapshots that every kill must leave alone."""

    def __init__(self, server) -> None:
        self.server = server
        self.times: dict[tuple[str, type], float] = {}
        self.warmth = "warm"
        self.witness = Witness(server, mib=16)
        self.witness.work()
        self.bystander = counters.start(server)
        self.before = counters.read(server, self.bystander)
        self.kept = {kind: box.snapshot(server, self.witness.id, kind) for kind in ("filesystem", "memory")}
        self.kept_counts = self.witness.counts

    def suspend_is(self, warmth: str) -> None:
        """Has a suspend keep the processes, or not."""
        if warmth != self.warmth:
            self.server.configure("node", keep_warm_secs=300 if warmth == "warm" else 0)
            self.server.restart()
            self.warmth = warmth

    def usual(self, verb: type) -> float:
        """How long a verb takes when nobody interferes."""
        if (known := self.times.get((self.warmth, verb))) is not None:
            return known
        one = verb(self)
        one.prepare()
        begun = time.monotonic()
        one.ask()
        took = self.times[self.warmth, verb] = time.monotonic() - begun
        assert one.told and not one.refused(), one.told
        settle(self.server)
        one.check()
        self.clear()
        return took

    def own(self) -> set[str]:
        return {self.witness.id, self.bystander}

    def kept_ids(self) -> set[str]:
        return {snapshot["id"] for snapshot in self.kept.values()}

    def unread(self) -> set[str]:
        """The kept snapshots whose checksums are still to be written."""
        pool = self.server.data / "pool/captures"
        return {each for each in self.kept_ids() if not (pool / each / "checksums.json").exists()}

    def others(self) -> set[str]:
        """What lives and a test has made."""
        return of_status(self.server, "running", "suspended", *STATUSES_ON_THE_WAY) - self.own()

    def check_child(self, sandbox: str, kind: str) -> None:
        """What was restored from a snapshot of the witness works."""
        if kind == "filesystem":
            assert int(self.server.run(sandbox, "cat /var/tmp/round").out) <= self.witness.round
        else:
            assert box.ask(self.server, sandbox) == self.witness.identity
        assert self.server.run(sandbox, "echo works").out == "works"

    def check_restores(self, snapshot: dict) -> None:
        """A completed snapshot can be restored."""
        child = box.restore(self.server, snapshot["id"], exposed_ports=[box.PORT])
        self.check_child(child, snapshot["snapshot_type"])
        box.gone(self.server, [child])

    def check_kept(self) -> None:
        found = snapshots(self.server)
        for snapshot in self.kept.values():
            assert found.get(snapshot["id"]) == snapshot
        now = counters.read(self.server, self.bystander)
        assert now.count > self.before.count and now.longest_pause < 2.0, (self.before, now)
        self.before = now

    def clear(self) -> None:
        """Deletes what a round has made; then there is nothing of it."""
        box.gone(self.server, self.others())
        box.forget(self.server, set(snapshots(self.server)) - self.kept_ids())
        none(self.others, "not ended")
        none(lambda: captures(self.server) ^ self.kept_ids(), f"captures beside or missing of {self.own()}")

    def end(self) -> None:
        """Deletes everything; then there is nothing at all."""
        self.clear()
        for snapshot in self.kept.values():
            self.check_restores(snapshot)
        box.gone(self.server, self.own())
        box.forget(self.server, self.kept_ids())
        none(lambda: of_status(self.server, "running", "suspended", *STATUSES_ON_THE_WAY), "not ended")
        none(lambda: captures(self.server), "captures")
        for sandbox in self.own():
            none(lambda s=sandbox: host.sandbox_processes(self.server.data, s), f"processes of {sandbox}")
