"""Sandboxes as objects: names, ids, listing, changing, ending."""

import uuid

import pytest
from harness import env
from harness.sdk import IS_NEW, value
from harness.wait import until
from tensorlake.sandbox import (
    CLEAR_NETWORK_POLICY,
    NetworkConfig,
    RemoteAPIError,
    Sandbox,
    SandboxNotFoundError,
    SandboxStatus,
)


def fresh_name() -> str:
    return f"t-{uuid.uuid4().hex[:10]}"


def test_a_name_is_claimed_used_and_freed(sdk):
    name = fresh_name()
    first = sdk.create(name=name)
    assert sdk.client.get(name).sandbox_id == first.sandbox_id
    assert sdk.connect(name).run("echo", args=["hi"]).stdout == "hi"
    assert first.name == name
    with pytest.raises(RemoteAPIError) as error:
        sdk.create(name=name)
    assert error.value.status_code == 409 and "SANDBOX_NAME_TAKEN" in error.value.message
    first.terminate()
    with pytest.raises(SandboxNotFoundError):
        sdk.client.get(name)
    ended = sdk.client.get(first.sandbox_id)
    assert (ended.status, ended.outcome) == (SandboxStatus.TERMINATED, "Success(UserTerminated)")
    assert ended.terminated_at >= ended.created_at
    assert sdk.create(name=name).sandbox_id != first.sandbox_id


def test_info_shows_what_was_asked(sdk):
    made = sdk.create(cpus=0.5, memory_mb=512, disk_mb=2048, timeout_secs=300, entrypoint=["sleep", "1000"])
    info = value(sdk.client.get(made.sandbox_id))
    resources = info.resources
    disk = getattr(resources, "disk_mb", None) or getattr(resources, "ephemeral_disk_mb", None)
    assert (resources.cpus, resources.memory_mb, disk) == (0.5, 512, 2048)
    assert (info.status, info.timeout_secs, info.entrypoint) == (SandboxStatus.RUNNING, 300, ["sleep", "1000"])
    assert info.namespace and info.created_at and not info.terminated_at
    assert info.name is None and info.exposed_ports is None and not info.allow_unauthenticated_access
    assert info.sandbox_url == sdk.server.ingress
    assert made.status == SandboxStatus.RUNNING
    assert len(info.sandbox_id) == 21
    if IS_NEW:
        assert info.runtime == "gvisor" and info.auto_resume is True


def test_the_entrypoint_is_a_process_and_its_end_is_not_the_sandbox_s(sdk):
    made = sdk.create(entrypoint=["sh", "-c", "echo from entrypoint; exit 3"])
    ran = until(lambda: [p for p in made.list_processes() if p.ended_at], what="the entrypoint's end")
    assert ran[0].exit_code == 3
    assert made.get_stdout(ran[0].pid).lines == ["from entrypoint"]
    assert made.run("true").exit_code == 0


def test_list_has_the_live_and_the_dead(sdk):
    live, dead = sdk.create(), sdk.create()
    dead.terminate()
    found = {s.sandbox_id: s.status for s in sdk.list()}
    assert found[live.sandbox_id] == SandboxStatus.RUNNING
    assert found[dead.sandbox_id] == SandboxStatus.TERMINATED


def test_update_name_and_ports(sdk):
    made, name = sdk.create(), fresh_name()
    assert made.update(name=name).name == name
    assert sdk.client.get(name).sandbox_id == made.sandbox_id
    other = sdk.create(name=fresh_name())
    with pytest.raises(RemoteAPIError) as error:
        other.update(name=name)
    assert error.value.status_code == 409
    info = made.update(exposed_ports=[8080, 3000], allow_unauthenticated_access=True)
    assert (sorted(info.exposed_ports), info.allow_unauthenticated_access) == ([3000, 8080], True)
    cleared = made.update(exposed_ports=[], allow_unauthenticated_access=False)
    assert (cleared.exposed_ports or [], cleared.allow_unauthenticated_access) == ([], False)


def test_expose_and_unexpose(sdk):
    sandbox = sdk.create().sandbox_id
    sdk.client.expose_ports(sandbox, [5000])
    sdk.client.expose_ports(sandbox, [4000, 5000], allow_unauthenticated_access=True)
    access = value(sdk.client.get_port_access(sandbox))
    assert (sorted(access.exposed_ports), access.allow_unauthenticated_access) == ([4000, 5000], True)
    sdk.client.unexpose_ports(sandbox, [5000])
    assert value(sdk.client.get_port_access(sandbox)).exposed_ports == [4000]


def test_update_network(sdk):
    made = sdk.create()
    made.update(network=NetworkConfig(allow_internet_access=False))
    # On the wire, because 0.5.113 reads the policy from a key that no server sends.
    assert sdk.server.info(made.sandbox_id)["network_policy"]["allow_internet_access"] is False
    made.update(network=CLEAR_NETWORK_POLICY)
    cleared = sdk.server.info(made.sandbox_id)["network_policy"]
    assert cleared is None or cleared["allow_internet_access"]


def test_timeout_ends_an_unnamed_sandbox(sdk):
    made = sdk.create(timeout_secs=2)
    ended = until(
        lambda: (i := value(sdk.client.get(made.sandbox_id))).status == SandboxStatus.TERMINATED and i,
        timeout=2 + env.scale(15, 5),
        what="its end within 5 s of the limit",
    )
    assert ended.outcome == "Success(Timeout)"
    assert (ended.terminated_at - ended.created_at).total_seconds() >= 2


def test_a_named_sandbox_is_suspended_by_its_limit_and_not_ended(sdk):
    named, unnamed = sdk.create(name=fresh_name(), timeout_secs=2), sdk.create(timeout_secs=4)
    until(lambda: sdk.client.get(unnamed.sandbox_id).status == SandboxStatus.TERMINATED, timeout=10)
    until(lambda: named.status == SandboxStatus.SUSPENDED, timeout=10, what="its sleep")
    assert named.run("true").exit_code == 0, "traffic wakes it"


def test_the_context_manager_terminates(sdk):
    with sdk.create() as made:
        assert made.run("true").exit_code == 0
    assert sdk.client.get(made.sandbox_id).status == SandboxStatus.TERMINATED
    with sdk.create() as owner, sdk.connect(owner.sandbox_id) as guest:
        guest.close()
        assert owner.status == SandboxStatus.RUNNING, "a connected handle does not own it"


def test_terminate_twice(sdk):
    made = sdk.create()
    made.terminate()
    sdk.client.delete(made.sandbox_id)


def test_errors_are_the_sdk_s_exceptions(sdk):
    with pytest.raises(SandboxNotFoundError):
        sdk.client.get("no-such-sandbox")
    with pytest.raises(SandboxNotFoundError):
        sdk.client.delete("z" * 21)
    for bad, status, code in [
        ({"image": "no/such:image"}, 404, "IMAGE_NOT_FOUND"),
        ({"memory_mb": 10}, 400, "LIMIT_EXCEEDED"),
        ({"name": "Bad_Name"}, 400, "INVALID_REQUEST"),
        ({"snapshot_id": "x" * 21}, 404, "SNAPSHOT_NOT_FOUND"),
    ]:
        with pytest.raises(RemoteAPIError) as error:
            sdk.create(**bad)
        assert error.value.status_code == status and code in error.value.message, error.value
    with pytest.raises(RemoteAPIError) as error:
        Sandbox.create(api_url=sdk.server.api, api_key="tl_apiKey_wrong")
    assert error.value.status_code == 401 and "UNAUTHENTICATED" in error.value.message


def test_a_handle_of_a_dead_sandbox_says_so_at_once(sdk):
    made = sdk.create()
    twin = sdk.connect(made.sandbox_id)
    made.terminate()
    with pytest.raises(RemoteAPIError) as error:
        twin.run("true")
    assert error.value.status_code == 503 and "SANDBOX_NOT_RUNNING" in error.value.message
