"""What is asked for when the server is killed, and what may have become of it then."""

from suites.crash.scene import LOST, Scene, attempt, of_status, snapshots
from suites.state import box


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
