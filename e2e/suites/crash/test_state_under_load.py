"""kill -9 of the server again and again, while several do one thing after the other with it."""

import collections
import random
import threading

from harness import env
from harness.wait import until
from suites.crash.scene import (
    LOST,
    SERVER,
    SETTLE,
    STATUSES_ON_THE_WAY,
    Witness,
    at_rest,
    captures,
    fill_slots,
    more,
    none,
    of_status,
    settle,
    snapshots,
)
from suites.state import box

SECONDS = 20
ROUNDS = env.scale(2, 30)
WORKERS = env.scale(3, 4)


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
    # Two sandboxes of each worker's, and a stage for each of those.
    fill_slots(server, 4 * WORKERS)
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
