"""Suspend, resume, checkpoints, restore and copies through the Python SDK."""

import uuid

import pytest
from harness.sdk import IS_NEW, value
from tensorlake.sandbox import CheckpointType, RemoteAPIError, Sandbox, SandboxStatus, SnapshotStatus

SERVER = {"config": {"pool": {"initial_mb": 4096, "max_mb": 12288}}}
MEMORY, FILES = CheckpointType.MEMORY, CheckpointType.FILESYSTEM


def fresh_name() -> str:
    return f"t-{uuid.uuid4().hex[:10]}"


def text(sandbox, path: str) -> str:
    return sandbox.run("cat", args=[path]).stdout.strip()


@pytest.fixture
def named(sdk):
    made = sdk.create(name=fresh_name(), timeout_secs=0)
    made.run("sh", args=["-c", "echo file > /var/tmp/kept; echo memory > /dev/shm/kept"])
    return made


def test_suspend_and_resume(sdk, named):
    sleeper = named.start_process("sleep", args=["4242"])
    for _ in range(2):
        named.suspend()
        assert value(sdk.client.get(named.sandbox_id)).status == SandboxStatus.SUSPENDED
        named.suspend()
        named.resume()
        assert value(sdk.client.get(named.sandbox_id)).status == SandboxStatus.RUNNING
        named.resume()
        assert text(named, "/dev/shm/kept") == "memory"
        assert sleeper.pid in [process.pid for process in named.list_processes()]


def test_fire_and_return(sdk, named):
    named.suspend(wait=False)
    named.resume()
    assert text(named, "/dev/shm/kept") == "memory"


def test_a_sleeping_handle_is_woken_by_its_use(sdk, named):
    named.suspend()
    assert text(named, "/dev/shm/kept") == "memory"
    named.suspend()
    assert text(sdk.connect(named.name), "/var/tmp/kept") == "file"


def test_an_unnamed_one_cannot_be_suspended(sdk):
    with pytest.raises(RemoteAPIError) as error:
        sdk.create().suspend()
    assert error.value.status_code == 400 and "SANDBOX_EPHEMERAL" in error.value.message


def test_checkpoints_and_restores(sdk, named):
    files = named.checkpoint(checkpoint_type=FILES, wait_until="completed")
    memory = named.checkpoint(checkpoint_type=MEMORY)
    for snapshot, kind in ((files, "filesystem"), (memory, "memory")):
        assert snapshot.status in (SnapshotStatus.COMPLETED, SnapshotStatus.LOCAL_READY)
        assert (snapshot.snapshot_type.value, snapshot.sandbox_id) == (kind, named.sandbox_id)
        assert snapshot.size_bytes > 0 and snapshot.created_at and snapshot.base_image
        assert Sandbox.get_snapshot(snapshot.snapshot_id, **sdk.where).snapshot_id == snapshot.snapshot_id
    listed = [snapshot.snapshot_id for snapshot in named.list_snapshots()]
    assert listed == [memory.snapshot_id, files.snapshot_id]
    assert set(listed) <= {snapshot.snapshot_id for snapshot in sdk.client.list_snapshots()}
    named.terminate()
    cold = sdk.create(snapshot_id=files.snapshot_id, cpus=0.5)
    assert (text(cold, "/var/tmp/kept"), cold.run("test", args=["-e", "/dev/shm/kept"]).exit_code) == ("file", 1)
    warm = sdk.create(snapshot_id=memory.snapshot_id)
    assert (text(warm, "/var/tmp/kept"), text(warm, "/dev/shm/kept")) == ("file", "memory")
    with pytest.raises(RemoteAPIError) as error:
        sdk.create(snapshot_id=memory.snapshot_id, cpus=0.5)
    assert error.value.status_code == 400 and "SNAPSHOT_OVERRIDE_FORBIDDEN" in error.value.message
    for snapshot in (files, memory):
        Sandbox.delete_snapshot(snapshot.snapshot_id, **sdk.where)
        with pytest.raises(RemoteAPIError) as error:
            Sandbox.get_snapshot(snapshot.snapshot_id, **sdk.where)
        assert error.value.status_code == 404
    assert text(warm, "/dev/shm/kept") == "memory"


def test_the_default_checkpoint_is_of_the_files(sdk, named):
    taken = named.checkpoint()
    assert taken.snapshot_type.value == "filesystem"
    sdk.client.delete_snapshot(taken.snapshot_id)


def test_copies(sdk, named):
    copied = value(named.copy(times=2))
    sdk._made += [copy.sandbox_id for copy in copied.sandboxes]
    assert copied.source_sandbox_id == named.sandbox_id
    assert [copy.status for copy in copied.sandboxes] == ["running", "running"]
    for copy in copied.sandboxes:
        twin = sdk.connect(copy.sandbox_id)
        assert text(twin, "/dev/shm/kept") == "memory"
        twin.run("sh", args=["-c", f"echo {copy.sandbox_id} > /dev/shm/kept"])
        assert text(twin, "/dev/shm/kept") == copy.sandbox_id
    assert text(named, "/dev/shm/kept") == "memory"


@pytest.mark.skipif(not IS_NEW, reason="0.5.113 has no get_or_create")
def test_get_or_create_resumes_what_sleeps(sdk):
    name = fresh_name()
    outcomes = []
    for asleep in (False, False, True):
        if asleep:
            sdk.connect(name).suspend()
        made = Sandbox.get_or_create(name, **sdk.where)
        sdk._made.append(made.sandbox_id)
        outcomes.append(made.bind_outcome)
        made.run("true")
    assert outcomes == ["created", "attached", "resumed"]
