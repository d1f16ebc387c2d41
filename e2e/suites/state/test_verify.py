"""A snapshot whose files change on the disk: found by reading it, named, never restored; all else runs on."""

import os
import pathlib
import time

from harness.wait import until
from suites.state import box

DAMAGED = "a snapshot is damaged and can no longer be restored"


def flip(path: pathlib.Path) -> None:
    """Changes one bit of a file's content."""
    with path.open("r+b") as file:
        # The first block that is not a hole, well into it.
        at = os.lseek(file.fileno(), 0, os.SEEK_DATA) + 4096 + 17
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1]), at)
        os.fsync(file.fileno())


def verify(server, snapshot: str):
    return server.command("snapshot", "verify", snapshot)


def files(server, snapshot: str) -> pathlib.Path:
    return server.data / "pool/captures" / snapshot


def test_a_flipped_bit_is_found_named_and_never_restored(new_server):
    server = new_server("-verify", **box.SERVER)
    server.allow(DAMAGED)
    source = box.with_witness(server, mib=48)
    taken = {}
    for what, kind in (("layer", "filesystem"), ("memory", "memory"), ("sound", "memory")):
        taken[what] = box.snapshot(server, source, kind)["id"]
        box.reach(server, source, "running")
    for snapshot in taken.values():
        done = verify(server, snapshot)
        assert done.returncode == 0 and done.stdout.startswith("ok, "), done
    flip(files(server, taken["layer"]) / "layer.img")
    largest = max((files(server, taken["memory"]) / "memory").iterdir(), key=lambda file: file.stat().st_size)
    flip(largest)
    for what, name in (("layer", "layer.img"), ("memory", f"memory/{largest.name}")):
        found = verify(server, taken[what])
        assert found.returncode == 1 and name in found.stderr and "damaged" in found.stderr, found
        info = server.call("GET", f"/snapshots/{taken[what]}").json()
        assert info["status"] == "failed" and info["error"].startswith("damaged: ") and name in info["error"], info
        refused = server.call("POST", "/sandboxes", {"snapshot_id": taken[what]})
        assert (refused.status, refused.json()["code"]) == (400, "SNAPSHOT_NOT_READY"), refused
        assert name in refused.json()["error"], refused
    doctor = server.command("doctor").stdout
    assert all(taken[what] in doctor for what in ("layer", "memory")) and taken["sound"] not in doctor, doctor
    metrics = server.call("GET", "/metrics").body.decode()
    for line in ('outcome="sound"} 3', 'outcome="damaged"} 2', 'outcome="unread"} 0'):
        assert f"tarn_snapshot_verifications_total{{{line}" in metrics, metrics

    # It stays known, and is kept, over a restart; the others work, and so does the source.
    server.restart(kill=True)
    assert files(server, taken["layer"]).exists() and files(server, taken["memory"]).exists()
    assert server.call("POST", "/sandboxes", {"snapshot_id": taken["layer"]}).status == 400
    assert verify(server, taken["sound"]).returncode == 0
    child = box.restore(server, taken["sound"], exposed_ports=[box.PORT])
    assert box.ask(server, child) == box.ask(server, source)
    box.gone(server, [child, source])
    box.forget(server, taken.values())
    until(lambda: not list((server.data / "pool/captures").iterdir()), 20, "no captures")


def test_the_background_finds_it_too(new_server):
    config = {**box.SERVER["config"], "pool": {**box.SERVER["config"]["pool"], "scrub_interval_secs": 2}}
    server = new_server("-scrub", config=config)
    server.allow(DAMAGED)
    source = server.create()
    good, bad = (box.snapshot(server, source, "filesystem")["id"] for _ in range(2) if box.reach(server, source, "running"))
    until(lambda: 'outcome="sound"} 0' not in metrics(server), 30, "the first reading")
    # What it was is known from here on, and its layer stays where it lies.
    assert verify(server, bad).returncode == 0
    flip(files(server, bad) / "layer.img")
    until(lambda: server.call("GET", f"/snapshots/{bad}").json()["status"] == "failed", 30, "the damage being found")
    begun = time.monotonic()
    until(lambda: time.monotonic() > begun + 3, what="another round")
    assert server.call("GET", f"/snapshots/{good}").json()["status"] == "completed"
    assert 'tarn_snapshot_verifications_total{outcome="damaged"} 1' in metrics(server)
    assert server.run(source, "echo works").out == "works"
    box.gone(server, [source])
    box.forget(server, [good, bad])


def metrics(server) -> str:
    return server.call("GET", "/metrics").body.decode()
