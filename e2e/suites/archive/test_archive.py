"""Snapshots in an object store: there when it is said, back when the node has lost them, unreadable to
whoever keeps it, gone when they are deleted."""

import json
import pathlib
import shutil
import signal
import tempfile

import pytest
from harness.s3 import ACCESS, SECRET, S3
from harness.sdk import Sdk
from harness.wait import until
from suites.archive import store
from suites.state import box
from tensorlake.sandbox import Sandbox, SnapshotStatus

@pytest.fixture
def root():
    """The directory that is an object store, beside no data directory."""
    home = pathlib.Path(tempfile.mkdtemp(prefix="tarn-e2e-store-", dir="/var/tmp"))
    yield home / "kept"
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def s3():
    gateway = S3()
    yield gateway
    gateway.close()


def at(root: pathlib.Path, **more) -> dict:
    return {"config": {"object_store": {"url": f"file://{root}", **more}}}


def plant(server, sandbox: str, mib: int = 4) -> str:
    """Writes files, and a secret that must not be readable elsewhere; returns their checksums."""
    done = server.run(
        sandbox,
        f"echo {store.PLANTED} > /var/tmp/secret; head -c {mib}M /dev/urandom > /var/tmp/noise; sync; sha256sum /var/tmp/secret /var/tmp/noise",
    )
    assert done.status == 0, done
    return done.out


def sums(server, sandbox: str) -> str:
    return server.run(sandbox, "sha256sum /var/tmp/secret /var/tmp/noise").out


def comes_back(server, source: str, snapshots: list[dict], planted: str, counts: dict) -> None:
    """Restores both kinds after the node has lost the one and damaged the other."""
    box.gone(server, [source])
    assert server.stop() == 0
    lost, damaged = snapshots
    store.lose(server, lost["id"])
    store.damage(server, damaged["id"])
    server.allow("a snapshot cannot be read")
    server.allow("a snapshot is damaged on this node")
    server.start()
    for each in snapshots:
        restored = box.restore(server, each["id"])
        assert sums(server, restored) == planted, each
        if each["snapshot_type"] == "memory":
            now = server.run(restored, "cat /proc/$(cat /tmp/pid)/environ | tr '\\0' '\\n' | grep MARK").out
            assert now == counts["mark"], "its process goes on"
        box.gone(server, [restored])


def started(server, sandbox: str) -> dict:
    """Leaves a process behind that only memory keeps."""
    body = {"command": "sh", "args": ["-c", "echo $$ > /tmp/pid; exec sleep 4242"], "env": {"MARK": "still-here"}}
    assert server.sandbox_call(sandbox, "POST", "/api/v1/processes", body).status == 201
    until(lambda: server.run(sandbox, "test -s /tmp/pid").status == 0, what="the process")
    return {"mark": "MARK=still-here"}


def both(server, sandbox: str) -> list[dict]:
    """Takes a snapshot of each kind; they may be seen `local_ready` before they are `completed`."""
    taken = []
    for kind in ("filesystem", "memory"):
        begun = box.post(server, sandbox, "snapshot", {"snapshot_type": kind}).json()
        assert begun["status"] == "in_progress"
        seen = []
        until(lambda: seen.append(store.status(server, begun["snapshot_id"])) or seen[-1] == "completed", 60, kind, 0.01)
        assert [s for i, s in enumerate(seen) if i == 0 or s != seen[i - 1]] in (
            ["in_progress", "local_ready", "completed"],
            ["local_ready", "completed"],
            # Between two looks.
            ["in_progress", "completed"],
        ), seen
        taken.append(store.completed(server, begun["snapshot_id"]))
        assert taken[-1]["snapshot_type"] == kind
    return taken


def test_a_directory(new_server, root):
    server = new_server("-file", **at(root, gc_every_secs=1))
    assert f"Snapshots go to file://{root}" in server.log_text()
    sandbox = server.create()
    planted, counts = plant(server, sandbox), started(server, sandbox)
    taken = both(server, sandbox)
    assert all(pathlib.Path(each["snapshot_uri"].removeprefix("file://")).exists() for each in taken), taken
    secrets = [store.PLANTED, *store.tokens(server), (server.data / "master.key").read_bytes()]
    assert store.readable(server.data / "ledger", *secrets), "the search finds what is there"
    assert store.readable(root, *secrets) == []
    assert (server.data / "master.key").stat().st_mode & 0o777 == 0o600
    assert store.metric(server, 'tarn_object_store_transfers_total{direction="upload"}') == 2
    comes_back(server, sandbox, taken, planted, counts)
    assert store.metric(server, 'tarn_object_store_transfers_total{direction="fetch"}') == 2
    # What is deleted is gone at once, and what it needed with the next collection.
    kept = store.size(root)
    for each in taken:
        assert server.call("DELETE", f"/snapshots/{each['id']}").status == 200
        manifest = pathlib.Path(each["snapshot_uri"].removeprefix("file://"))
        until(lambda path=manifest: not path.exists(), 10, f"the end of {manifest}")
    store.age(root)
    until(lambda: store.size(root) < min(kept // 20, 1 << 16), 15, f"a collection ({store.files(root)[:9]})")
    # The files go before they are counted.
    until(lambda: store.metric(server, "tarn_object_store_chunks_removed_total") > 0, 15, "the count of what is gone")


def test_s3(new_server, s3):
    server = new_server("-s3", config={"object_store": s3.config("tarn")})
    sandbox = server.create()
    planted, counts = plant(server, sandbox), started(server, sandbox)
    made = server.command("snapshot", "create", sandbox, "--memory", "--wait=completed", timeout=120)
    assert made.returncode == 0, made
    files = Sandbox.connect(sandbox, **Sdk(server).where).checkpoint(wait_until="completed")
    assert files.status == SnapshotStatus.COMPLETED and files.snapshot_uri.startswith("s3://snapshots/tarn/"), files
    taken = [store.completed(server, each) for each in (made.stdout.strip(), files.snapshot_id)]
    secrets = [store.PLANTED, *store.tokens(server)]
    assert store.readable(s3.bucket, *secrets) == []
    comes_back(server, sandbox, taken, planted, counts)
    box.forget(server, [each["id"] for each in taken])
    until(lambda: not any(each["id"] in str(p) for each in taken for p in store.files(s3.bucket)), 10, "their end")
    doctor = server.command("doctor", "--json", timeout=120)
    finding = next(each for each in json.loads(doctor.stdout) if each["name"] == "object store")
    assert finding["ok"] and "s3://snapshots/tarn" in finding["detail"], finding
    # One that was used before may be away at a start: sandboxes do not wait for it.
    s3.process.kill()
    server.restart(kill=True)
    assert "the object store cannot be used now" in server.log_text()
    assert SECRET not in server.log_text() + doctor.stdout and ACCESS not in server.log_text()


def test_it_is_away_for_a_while(new_server, root):
    """Snapshots stay restorable from the node, say why they wait, and complete by themselves."""
    server = new_server("-away", **at(root))
    sandbox = server.create()
    planted = plant(server, sandbox)
    away = root.with_name("away")
    root.rename(away)
    root.write_text("no directory")
    taken = box.settled(server, box.post(server, sandbox, "snapshot").json()["snapshot_id"])
    assert taken["status"] == "local_ready" and "snapshot_uri" not in taken and "error" not in taken, taken
    until(lambda: store.transfers(server)["troubles"], 40, "its trouble")
    trouble = store.transfers(server)["troubles"][0]
    assert (trouble["snapshot_id"], trouble["attempt"]) == (taken["id"], "upload"), trouble
    restored = box.restore(server, taken["id"])
    assert sums(server, restored) == planted
    # A kill changes nothing about it.
    root.unlink()
    away.rename(root)
    server.restart(kill=True)
    store.completed(server, taken["id"])
    assert store.transfers(server)["troubles"] == []
    box.gone(server, [sandbox, restored])


def test_kill_in_the_middle_of_an_upload(new_server, root):
    server = new_server("-kill", **at(root))
    sandbox = server.create()
    planted = plant(server, sandbox, mib=160)
    taken = box.post(server, sandbox, "snapshot").json()["snapshot_id"]
    until(lambda: store.status(server, taken) != "in_progress", 60, "the capture", 0.01)
    # Some of it is there, and not all.
    until(lambda: store.size(root) > 16 << 20, 60, "the upload", 0.01)
    server.kill()
    assert not any(taken in str(path) for path in store.files(root)), "it was done already: make it larger"
    server.start()
    store.completed(server, taken)
    # One that is deleted in the middle never comes to be there.
    assert server.run(sandbox, "head -c 64M /dev/urandom > /var/tmp/more; sync").status == 0
    deleted = box.settled(server, box.post(server, sandbox, "snapshot").json()["snapshot_id"])["id"]
    assert server.call("DELETE", f"/snapshots/{deleted}").status == 200
    until(lambda: not store.transfers(server)["transfers"], 30, "the end of the upload")
    assert not any(deleted in str(path) for path in store.files(root))
    assert server.stop() == 0
    store.lose(server, taken)
    server.start()
    restored = box.restore(server, taken)
    assert sums(server, restored) == planted
    box.gone(server, [sandbox, restored])


def refuses(server, said: str) -> str:
    """Starts it, and waits for it to end with an error that says something. Returns all that it said."""
    process = server.process = server.spawn()
    try:
        assert process.wait(100) == 1
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
    text = server.log_text()
    assert said in text, text[-800:]
    return text


def test_another_key_or_an_empty_directory_ends_the_start(new_server, root):
    server = new_server("-mark", **at(root))
    sandbox = server.create()
    planted = plant(server, sandbox)
    taken = store.completed(server, box.settled(server, box.post(server, sandbox, "snapshot").json()["snapshot_id"])["id"])
    box.gone(server, [sandbox])
    assert server.stop() == 0
    key = server.data / "master.key"
    right = key.read_bytes()
    key.unlink()
    refuses(server, "Bring the file back")
    assert not key.exists(), "no new key is made"
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    refuses(server, "encrypted with another key")
    key.write_bytes(right)
    away = root.with_name("away")
    root.rename(away)
    root.mkdir()
    refuses(server, "its disk is mounted")
    shutil.rmtree(root)
    away.rename(root)
    server.start()
    restored = box.restore(server, taken["id"])
    assert sums(server, restored) == planted
    box.gone(server, [restored])


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"url": "ftp://nowhere/at-all"}, "object_store.url"),
        ({"url": "s3://b", "access_key": "a", "secret_key": "hush-hush"} | {"endpoint": "http://127.0.0.1:1"}, "allow_http"),
        (
            {"url": "s3://b", "access_key": "a", "secret_key": "hush-hush", "endpoint": "http://127.0.0.1:1", "allow_http": True},
            "object_store.url",
        ),
        ({"bucket": "b", "secret_key": "hush-hush"}, "bucket"),
    ],
)
def test_a_wrong_one_ends_the_start_and_says_which_key(new_server, section, said):
    server = new_server("-wrong", start=False, config={"object_store": section})
    text = refuses(server, said)
    assert "hush" not in text, text[-800:]
