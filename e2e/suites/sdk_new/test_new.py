"""What only 0.5.163 can say."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from tensorlake.sandbox import RemoteAPIError, Sandbox, SandboxClient, SandboxError, SandboxStatus


def test_wait_false_then_ready(sdk):
    pending = Sandbox.create(**sdk.where, wait=False)
    assert pending.sandbox_id and pending.status().status in (SandboxStatus.PENDING, SandboxStatus.RUNNING)
    ready = pending.ready(timeout=30, poll_interval=0.05)
    assert ready.run("echo", args=["late"]).stdout == "late"
    ready.terminate()


def test_wait_false_does_not_wait(sdk):
    """The answer comes when the request is durable, not when the sandbox runs."""
    blocking, queued = [], []
    for number in range(5):
        start = time.perf_counter()
        # Of a size that nobody asked for before: none was started ahead.
        made = sdk.create(memory_mb=700 + number)
        blocking.append(time.perf_counter() - start)
        made.terminate()
        start = time.perf_counter()
        pending = Sandbox.create(**sdk.where, wait=False)
        queued.append(time.perf_counter() - start)
        pending.ready(timeout=30, poll_interval=0.05).terminate()
    assert min(queued) < min(blocking) / 2, (queued, blocking)


def test_get_or_create(sdk):
    name = f"g-{uuid.uuid4().hex[:10]}"
    made = Sandbox.get_or_create(name, **sdk.where)
    again = Sandbox.get_or_create(name, **sdk.where)
    assert (made.bind_outcome, again.bind_outcome) == ("created", "attached")
    assert made.sandbox_id == again.sandbox_id
    made.terminate()
    third = Sandbox.get_or_create(name, **sdk.where)
    assert third.bind_outcome == "created" and third.sandbox_id != made.sandbox_id
    sdk.client.delete(third.sandbox_id)


def test_an_error_carries_its_code(sdk):
    with pytest.raises(RemoteAPIError) as error:
        sdk.create(memory_mb=1 << 30)
    assert "LIMIT_EXCEEDED" in error.value.message and error.value.code == "LIMIT_EXCEEDED"


def test_auto_resume_needs_a_name(sdk):
    with pytest.raises(RemoteAPIError) as error:
        sdk.create(auto_resume=False)
    assert error.value.code == "SANDBOX_EPHEMERAL"
    assert sdk.create(auto_resume=True).run("true").exit_code == 0


def test_a_failed_start_names_its_cause(sdk):
    with pytest.raises(SandboxError) as error:
        sdk.create(entrypoint=["/no/such/program"])
    assert error.value.reason == "ConfigurationError"
    assert "/no/such/program" in str(error.value)


def test_ports_at_create(sdk):
    made = sdk.create(exposed_ports=[9000, 8000, 9000], allow_unauthenticated_access=True)
    info = made.info()
    assert (info.exposed_ports, info.allow_unauthenticated_access) == ([8000, 9000], True)
    port = sdk.server.ingress.rpartition(":")[2]
    assert info.url_for_port(8000) == f"http://8000-{made.sandbox_id}.localhost:{port}"
    assert info.url_for_port() == sdk.server.ingress


def test_not_yet_supported_is_said_so(sdk):
    with pytest.raises(RemoteAPIError) as error:
        sdk.create(gpus=1)
    assert error.value.code == "NO_SUCH_GPU"


def test_a_flat_lifecycle_base(sdk, monkeypatch):
    """TENSORLAKE_SANDBOX_API_URL makes this SDK use the paths without a namespace."""
    monkeypatch.setenv("TENSORLAKE_SANDBOX_API_URL", sdk.server.api)
    client = SandboxClient(**sdk.where, _internal=True)
    made = client.create()
    assert client.get(made.sandbox_id).status == SandboxStatus.RUNNING
    client.delete(made.sandbox_id)


def test_archived_list_is_there(sdk):
    assert sdk.client.list_archived(limit=10).sandboxes == []


def test_two_runs_at_once_do_not_wait_for_each_other(sdk):
    """Here and not for both SDKs, because 0.5.113 holds Python's lock during a run."""
    box = sdk.create()
    assert box.run("mkfifo", args=["/tmp/meet"]).exit_code == 0
    with ThreadPoolExecutor(2) as pool:
        reader = pool.submit(box.run, "cat", ["/tmp/meet"], timeout=20)
        writer = pool.submit(box.run, "sh", ["-c", "echo together > /tmp/meet"], timeout=20)
        assert reader.result().stdout == "together" and writer.result().exit_code == 0
