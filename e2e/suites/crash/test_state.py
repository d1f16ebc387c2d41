"""kill -9 of the server in the middle of suspends, resumes, snapshots, restores and copies: what was
answered is so, what was not is whole or gone, and nothing of it stays on the host."""

import collections
import http.client
import random
import threading
import time

import pytest
from conftest import maker
from harness import env, host
from harness.wait import until
from suites.crash import counters
from suites.crash.test_crash import steady
from suites.state import box

SECONDS = 60
SERVER = {"config": {**box.SERVER["config"]}}
# In small: in the middle, and at the answer.
KILLS = env.scale(2, 25)
ROUNDS = env.scale(3, 30)
SETTLE = 20
WORKERS = env.scale(3, 4)
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


def fill_slots(server) -> None:
    """Has the server keep as many spare slots as it ever does, so that later ones are no leak."""
    box.gone(server, [server.create(name=box.fresh_name()) for _ in range(5)])


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
            lambda: all((c := box.ask(self.server, sandbox, "/counts"))[k] > counts[k] for k in ("thread", "timer")),
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

    def usual(self, verb: type["Suspend"]) -> float:
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


class Suspend:
    """A verb: how it is prepared and asked for, and what must be true after a kill in its middle."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.server, self.witness = scene, scene.server, scene.witness
        # What was acknowledged.
        self.told: dict = {}

    def prepare(self) -> None:
        pass

    def ask(self) -> None:
        reply = attempt(self.server, "POST", f"/sandboxes/{self.witness.id}/suspend?wait_ms=60000")
        self.tell("suspended", reply, lambda: True)

    def check(self) -> str:
        """What became of it, in a word or two."""
        return self.witness.check(("suspended",) if self.told else ("running", "suspended"))

    def tell(self, what: str, reply, value) -> None:
        if reply is not None:
            # Nothing but the kill may keep it from being done.
            self.told[what] = value() if reply.status in (200, 202) else reply

    def refused(self):
        return [reply for reply in self.told.values() if hasattr(reply, "status")]


class Resume(Suspend):
    def prepare(self) -> None:
        box.suspend(self.server, self.witness.id)

    def ask(self) -> None:
        reply = attempt(self.server, "POST", f"/sandboxes/{self.witness.id}/resume?wait_ms=60000")
        self.tell("running", reply, lambda: True)

    def check(self) -> str:
        return self.witness.check(("running",) if self.told else ("running", "suspended"))


class Snapshot(Suspend):
    kind = ""

    def ask(self) -> None:
        begun = attempt(self.server, "POST", f"/sandboxes/{self.witness.id}/snapshot", {"snapshot_type": self.kind})
        self.tell("begun", begun, lambda: begun.json()["snapshot_id"])
        if "begun" in self.told and not self.refused():
            try:
                self.told["done"] = box.settled(self.server, self.told["begun"])
            except LOST:
                pass

    def check(self) -> str:
        self.witness.check(("running",))
        found = snapshots(self.server)
        made = [found[each] for each in found.keys() - self.scene.kept_ids()]
        assert len(made) <= 1, made
        if "begun" in self.told:
            assert [s["id"] for s in made] == [self.told["begun"]], (self.told, made)
        if "done" in self.told:
            assert self.told["done"]["status"] == "completed" and made == [self.told["done"]], (self.told, made)
        for snapshot in made:
            if snapshot["status"] == "completed":
                self.scene.check_restores(snapshot)
            else:
                assert snapshot["status"] == "failed" and snapshot["error"], snapshot
                reply = self.server.call("POST", "/sandboxes", {"snapshot_id": snapshot["id"]})
                assert reply.status == 400 and reply.code, reply
        return made[0]["status"] if made else "none"


class FilesystemSnapshot(Snapshot):
    kind = "filesystem"


class MemorySnapshot(Snapshot):
    kind = "memory"


class Restore(Suspend):
    kind = ""

    def ask(self) -> None:
        self.name = box.fresh_name()
        fields = {"snapshot_id": self.scene.kept[self.kind]["id"], "name": self.name, "exposed_ports": [box.PORT]}
        reply = attempt(self.server, "POST", "/sandboxes", fields)
        self.tell("restored", reply, lambda: reply.json())

    def check(self) -> str:
        self.witness.check(("running",))
        ended = [s for s in self.server.call("GET", "/sandboxes").json()["sandboxes"] if s["name"] == self.name]
        assert all(s["status"] == "running" for s in ended), f"a restore that nobody was told of is made anew: {ended}"
        reply = self.server.call("GET", f"/sandboxes/{self.name}")
        if self.told:
            assert self.told["restored"]["status"] == "running", self.told
            assert reply.status == 200 and reply.json()["id"] == self.told["restored"]["sandbox_id"], (self.told, reply)
        if reply.status == 404:
            return "none"
        assert reply.json()["status"] == "running" and reply.json()["exposed_ports"] == [box.PORT], reply
        self.scene.check_child(reply.json()["id"], self.kind)
        return "running"


class FilesystemRestore(Restore):
    kind = "filesystem"


class MemoryRestore(Restore):
    kind = "memory"


class Copy(Suspend):
    def ask(self) -> None:
        wait = {"X-Tensorlake-Request-Timeout-Ms": "50000"}
        reply = attempt(self.server, "POST", f"/sandboxes/{self.witness.id}/copy?times=3", headers=wait)
        self.tell("copies", reply, lambda: {c["sandbox_id"] for c in reply.json()["sandboxes"]})

    def check(self) -> str:
        self.witness.check(("running",))
        there = self.scene.others()
        assert there == of_status(self.server, "running") - self.scene.own()
        assert there >= self.told.get("copies", set()), (self.told, there)
        assert len(there) <= 3, there
        assert not snapshots(self.server).keys() - self.scene.kept_ids(), "no snapshot shows of it"
        for copy in there:
            self.witness.goes_on(copy)
        return f"{len(there)} running"


class DeleteSnapshot(Suspend):
    def prepare(self) -> None:
        self.snapshot = box.snapshot(self.server, self.witness.id, "memory")

    def ask(self) -> None:
        reply = attempt(self.server, "DELETE", f"/snapshots/{self.snapshot['id']}")
        self.tell("deleted", reply, lambda: True)

    def check(self) -> str:
        self.witness.check(("running",))
        reply = self.server.call("GET", f"/snapshots/{self.snapshot['id']}")
        if reply.status == 404:
            assert self.snapshot["id"] not in snapshots(self.server)
            return "gone"
        assert not self.told, reply
        assert reply.json() == self.snapshot
        self.scene.check_restores(self.snapshot)
        return "kept"


VERBS = {
    "suspend": Suspend,
    "resume": Resume,
    "filesystem snapshot": FilesystemSnapshot,
    "memory snapshot": MemorySnapshot,
    "filesystem restore": FilesystemRestore,
    "memory restore": MemoryRestore,
    "copy": Copy,
    "delete": DeleteSnapshot,
}
COLD_VERBS = {"suspend": Suspend, "resume": Resume}


def kill_in_the_middle(scene: Scene, verb: type[Suspend], delay: float) -> tuple[str, bool]:
    """One kill, a time after the verb was asked for or at its answer; what became of it, and whether it was told."""
    one = verb(scene)
    scene.witness.work()
    one.prepare()
    answered = threading.Event()

    def ask():
        one.ask()
        answered.set()

    asking = threading.Thread(target=ask)
    asking.start()
    answered.wait(delay)
    scene.server.kill()
    asking.join()
    assert not one.refused(), one.told
    scene.server.start()
    settle(scene.server)
    outcome = one.check()
    scene.check_kept()
    scene.clear()
    return outcome, bool(one.told)


def killed_all_along(scene: Scene, baseline, what: str, verb: type[Suspend]) -> None:
    """Kills over the whole of a verb's usual time, and at its answer; then the host has what it had."""
    took = scene.usual(verb)
    outcomes: collections.Counter = collections.Counter()
    for n in range(KILLS):
        delay = took * (n + 0.3) / (KILLS - 1) if n < KILLS - 1 else SETTLE
        outcome, told = kill_in_the_middle(scene, verb, delay)
        outcomes[f"{outcome}{', answered' if told else ''}"] += 1
    none(lambda: more(scene.server, baseline), "more on the host than before")
    print(f"{what}: {KILLS} kills within {took * 1000:.0f} ms: {dict(outcomes)}")


@pytest.fixture(scope="module")
def stage(request, names):
    """A scene, with what its server has on the host at rest."""
    with maker(request, names) as make:
        scene = Scene(make(**SERVER))
        # One that was restored has a file more than one that was not.
        box.suspend(scene.server, scene.witness.id)
        scene.server.restart(kill=True)
        scene.witness.check(("suspended",))
        fill_slots(scene.server)
        none(scene.unread, "snapshots that nobody has read yet")
        yield scene, at_rest(scene.server, scene.own())
        scene.end()


@pytest.mark.parametrize("what", VERBS)
def test_killed_in_the_middle(stage, what):
    stage[0].suspend_is("warm")
    killed_all_along(*stage, what, VERBS[what])


@pytest.mark.parametrize("what", COLD_VERBS)
def test_killed_in_the_middle_without_warmth(stage, what):
    stage[0].suspend_is("cold")
    killed_all_along(*stage, f"cold {what}", COLD_VERBS[what])


class Worker:
    """Does one thing after the other with a witness of its own, and knows what was acknowledged."""

    def __init__(self, server, number: int, up: threading.Event) -> None:
        self.server, self.up, self.rng = server, up, random.Random(number)
        self.witness = Witness(server, mib=2)
        self.witness.work()
        self.status, self.steps, self.kept, self.child = "running", 0, [], None
        # What was asked for and not answered.
        self.begun = self.asked_name = self.dropped = None
        self.done: collections.Counter = collections.Counter()
        self.failure: BaseException | None = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                verb = self.rng.choice(self.choices())
                try:
                    verb()
                    self.done[verb.__name__] += 1
                except LOST:
                    self.done[f"{verb.__name__}, unanswered"] += 1
                    assert self.up.wait(60)
                    self.look_again()
                self.steps += 1
        except BaseException as failure:  # noqa: BLE001 - told by the test
            self.failure = failure

    def choices(self) -> list:
        able = [self.suspend, self.snapshot, self.work] if self.status == "running" else [self.resume, self.wake]
        able += [self.restore, self.forget] if self.kept else []
        return able + [self.drop if self.child else self.create]

    def ask(self, *arguments, **options):
        reply = self.server.call(*arguments, timeout=90, **options)
        assert reply.status in (200, 202), (arguments, reply, self.done)
        return reply.json() if reply.body else None

    def suspend(self) -> None:
        self.status = "unknown"
        self.ask("POST", f"/sandboxes/{self.witness.id}/suspend?wait_ms=60000")
        self.status = "suspended"

    def resume(self) -> None:
        self.status = "unknown"
        self.ask("POST", f"/sandboxes/{self.witness.id}/resume?wait_ms=60000")
        self.status = "running"

    def wake(self) -> None:
        self.status = "unknown"
        assert box.ask(self.server, self.witness.id) == self.witness.identity
        self.status = "running"

    def work(self) -> None:
        self.witness.hits += 1
        hit = box.ask(self.server, self.witness.id, "/hit")["hit"]
        assert hit == self.witness.hits, "an acknowledged one is lost"

    def snapshot(self) -> None:
        fields = {"snapshot_type": self.rng.choice(["filesystem", "memory"])}
        self.begun = self.ask("POST", f"/sandboxes/{self.witness.id}/snapshot", fields)["snapshot_id"]
        taken = box.settled(self.server, self.begun)
        if taken["status"] == "failed" and "restarted" in taken["error"]:
            raise ConnectionResetError("the kill came between two looks")
        assert taken["status"] == "completed", taken["error"]
        self.begun = None
        self.kept.append(taken)
        # Its source is free a moment after.
        box.reach(self.server, self.witness.id, "running")

    def forget(self) -> None:
        self.dropped = self.kept.pop(0)["id"]
        self.ask("DELETE", f"/snapshots/{self.dropped}")
        assert self.server.call("GET", f"/snapshots/{self.dropped}").status == 404
        self.dropped = None

    def create(self) -> None:
        self.make({})

    def restore(self) -> None:
        self.make({"snapshot_id": self.rng.choice(self.kept)["id"]})

    def make(self, fields: dict) -> None:
        """Creates a sandbox, in place of the one before."""
        if self.child:
            self.drop()
        self.asked_name = box.fresh_name()
        made = self.ask("POST", "/sandboxes", {"name": self.asked_name, **fields})
        assert made["status"] == "running", self.server.info(made["sandbox_id"])
        self.child, self.asked_name = made["sandbox_id"], None

    def drop(self) -> None:
        child, self.child = self.child, None
        self.ask("DELETE", f"/sandboxes/{child}")

    def look_again(self) -> None:
        """After a restart: all that was acknowledged is there, all that was not is one or the other."""
        none(lambda: (i := self.server.info(self.witness.id))["status"] in STATUSES_ON_THE_WAY and i, "on the way")
        hits = self.witness.hits
        allowed = ("running", "suspended") if self.status == "unknown" else (self.status,)
        if (status := box.status(self.server, self.witness.id)) == "suspended":
            assert "suspended" in allowed, f"a running one is {status}"
            box.resume(self.server, self.witness.id)
        # One that was asked for may have been counted, and its answer lost.
        self.witness.hits = box.ask(self.server, self.witness.id, "/counts")["hits"]
        assert self.witness.hits in (hits - 1, hits), (self.witness.hits, hits)
        self.witness.check(("running",) if status == "suspended" else allowed)
        self.status = "running"
        self.look_at_snapshots()
        self.look_at_children()

    def look_at_snapshots(self) -> None:
        if self.begun:
            found = box.settled(self.server, self.begun, SETTLE)
            assert found["status"] == "completed" or (found["status"] == "failed" and found["error"]), found
            self.server.call("DELETE", f"/snapshots/{self.begun}")
            self.begun = None
        if self.dropped:
            assert self.server.call("DELETE", f"/snapshots/{self.dropped}").status in (200, 404)
            self.dropped = None
        for snapshot in self.kept:
            assert self.server.call("GET", f"/snapshots/{snapshot['id']}").json() == snapshot

    def look_at_children(self) -> None:
        if self.child:
            assert self.server.info(self.child)["status"] == "running"
            assert self.server.run(self.child, "echo works").out == "works"
        if self.asked_name:
            reply = self.server.call("DELETE", f"/sandboxes/{self.asked_name}")
            assert reply.status in (200, 404), reply
            self.asked_name = None

    def end(self) -> None:
        """Ends its witness, child and snapshots; every snapshot that it was told of can be restored."""
        if self.status == "suspended":
            box.resume(self.server, self.witness.id)
        self.witness.check(("running",))
        for snapshot in self.kept:
            child = box.restore(self.server, snapshot["id"], exposed_ports=[box.PORT])
            if snapshot["snapshot_type"] == "memory":
                assert box.ask(self.server, child) == self.witness.identity
            box.gone(self.server, [child])


def killed_under_load(server, workers: list[Worker], up: threading.Event) -> None:
    chance = random.Random(7)
    for _ in range(ROUNDS):
        before = [worker.steps for worker in workers]
        until(
            lambda: all(w.failure or w.steps >= b + 2 for w, b in zip(workers, before, strict=True)),
            60,
            "every worker to get on",
        )
        # The moment is what is tested: any.
        threading.Event().wait(chance.uniform(0, 0.4))
        up.clear()
        server.restart(kill=True)
        up.set()
        assert not any(worker.failure for worker in workers)


def test_killed_again_and_again_under_load(new_server):
    server = new_server("-load", **SERVER)
    fill_slots(server)
    baseline, up = at_rest(server, set()), threading.Event()
    up.set()
    workers = [Worker(server, number, up) for number in range(WORKERS)]
    try:
        killed_under_load(server, workers, up)
    finally:
        for worker in workers:
            worker.stop.set()
        for worker in workers:
            worker.thread.join(100)
        if failures := [worker.failure for worker in workers if worker.failure]:
            raise failures[0]
    server.restart(kill=True)
    settle(server)
    for worker in workers:
        worker.end()
    done = sum((worker.done for worker in workers), collections.Counter())
    print(f"{ROUNDS} kills under load: {dict(sorted(done.items()))}")
    box.gone(server, of_status(server, "running", "suspended"))
    box.forget(server, snapshots(server))
    none(lambda: of_status(server, "running", "suspended", *STATUSES_ON_THE_WAY), "not ended")
    none(lambda: captures(server), "captures")
    none(lambda: more(server, baseline), "more on the host than before")
