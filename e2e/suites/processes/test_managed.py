"""Managed processes through the official SDK, and what only raw HTTP can say."""

import asyncio
import time

import pytest
from harness import env
from harness.sdk import value
from harness.wait import until
from tensorlake.sandbox import (
    AsyncSandbox,
    ManagedProcessHealthStatus,
    ManagedProcessStatus,
    ProcessHealthCheck,
    ProcessStatus,
    RemoteAPIError,
    RestartPolicy,
    RestartPolicyConfig,
)

from . import inside

WEB = "exec python3 -u -m http.server {port} --bind {bind} --directory /tmp"
LISTEN = """
import socket, time
kept = socket.create_server(("::", 8124), family=socket.AF_INET6, dualstack_ipv6=True)
time.sleep(600)
"""
QUICK = {"initial_backoff_ms": 50, "max_backoff_ms": 200}


def code(call, *arguments, **options) -> tuple[int, str]:
    with pytest.raises(RemoteAPIError) as error:
        call(*arguments, **options)
    return error.value.status_code, error.value.message


def test_life_of_a_service(box):
    restart = RestartPolicyConfig(policy=RestartPolicy.ALWAYS, **QUICK)
    check = ProcessHealthCheck(type="http", port=8123, initial_delay_ms=100, interval_ms=100, failure_threshold=50)
    script = WEB.format(port=8123, bind="127.0.0.1")
    first = value(box.start_process("sh", args=["-c", script], name="my web", restart=restart, health_check=check))
    assert first.managed.id == first.managed.name == "my web"
    assert first.managed.restart == restart
    assert (first.managed.health_check.timeout_ms, first.managed.health_check.failure_threshold) == (500, 50)
    assert first.managed.health_status == ManagedProcessHealthStatus.STARTING

    healthy = ManagedProcessHealthStatus.HEALTHY
    until(lambda: value(box.get_process("my web")).managed.health_status == healthy, what="health")
    assert [p.managed.id for p in box.list_processes() if p.managed] == ["my web"]

    box.send_signal("my web", 9)
    second = until(
        lambda: (p := value(box.get_process("my web"))).pid != first.pid and p, what="the run after the crash"
    )
    assert (second.managed.restart_count, second.managed.last_exit.signal) == (1, 9)
    assert second.managed.last_exit.oom_killed is False and second.managed.last_exit.ended_at
    assert value(box.get_process(first.pid)).managed is None
    until(lambda: value(box.get_process("my web")).managed.health_status == healthy, what="health after the crash")

    third = value(box.restart_process("my web"))
    assert third.pid not in (first.pid, second.pid) and third.managed.restart_count == 2
    assert third.status == ProcessStatus.RUNNING and third.managed.status == ManagedProcessStatus.RUNNING

    status, text = code(box.start_process, "true", name="my web")
    assert status == 409 and "PROCESS_NAME_TAKEN" in text
    box.kill_process("my web")
    stopped = value(box.get_process("my web"))
    assert stopped.managed.status == ManagedProcessStatus.STOPPED and stopped.status == ProcessStatus.SIGNALED
    again = value(box.start_process("sleep", args=["600"], name="my web"))
    assert value(box.get_process("my web")).pid == again.pid
    box.kill_process("my web")


def test_output_and_input_by_name(box):
    first = value(box.start_process("sh", args=["-c", "echo hello; echo oops >&2; exec sleep 600"], name="50% é", restart={"policy": "never"}))
    name = first.managed.name
    until(lambda: box.get_output(name).line_count == 2, what="its output")
    assert (box.get_stdout(name).lines, box.get_stderr(name).lines) == (["hello"], ["oops"])
    assert box.send_signal(name, 15).success
    until(lambda: value(box.get_process(name)).managed.status == ManagedProcessStatus.STOPPED, what="its end")
    assert [e.line for e in box.follow_stdout(name)] == ["hello"]
    assert code(box.send_signal, name, 15)[0] == 400


def test_health_checks_restart_what_hangs(box):
    check = {"type": "tcp", "port": 8124, "initial_delay_ms": 500, "interval_ms": 100, "failure_threshold": 5}
    # Listens once, then never again.
    script = f"test -e /tmp/seen && exec sleep 600; touch /tmp/seen; exec python3 -c '{LISTEN}'"
    box.start_process("sh", args=["-c", script], name="once", restart=QUICK, health_check=check)
    until(lambda: value(box.get_process("once")).managed.health_status == "healthy", what="health")
    pid = value(box.get_process("once")).pid
    box.send_signal("once", 9)
    until(lambda: value(box.get_process("once")).pid != pid, what="a second run")
    seen = until(lambda: (p := value(box.get_process("once"))).managed.restart_count > 2 and p, what="restarts")
    assert "health check failed" in seen.managed.last_error and "connection refused" in seen.managed.last_error
    box.kill_process("once")
    assert value(box.get_process("once")).managed.status == ManagedProcessStatus.STOPPED


def test_max_restarts_and_backoff(box):
    restart = {"policy": "on_failure", "max_restarts": 3, "initial_backoff_ms": 200, "max_backoff_ms": 400}
    value(box.start_process("sh", args=["-c", "exit 3"], name="loser", restart=restart))
    stopped = until(
        lambda: (p := value(box.get_process("loser"))).managed.status == "stopped" and p, what="the end of trying"
    )
    assert (stopped.managed.restart_count, stopped.managed.last_exit.exit_code) == (3, 3)
    runs = [p for p in box.list_processes() if p.args == ["-c", "exit 3"]]
    starts = sorted(p.started_at for p in runs)
    gaps = [(b - a).total_seconds() for a, b in zip(starts, starts[1:])]
    assert all(gap >= least for gap, least in zip(gaps, (0.2, 0.4, 0.4), strict=True)), gaps
    assert [p.managed is not None for p in runs].count(True) == 1


def test_what_is_refused(box):
    plain = value(box.start_process("sleep", args=["600"]))
    status, text = code(box.restart_process, plain.pid)
    assert status == 400 and "PROCESS_NOT_MANAGED" in text
    assert code(box.restart_process, "nobody")[0] == 404
    status, text = code(box.start_process, "true", restart={"initial_backoff_ms": 0})
    assert status == 400 and "INVALID_REQUEST" in text and "restart.initial_backoff_ms" in text
    status, text = code(box.start_process, "true", health_check={"type": "tcp", "port": 70000})
    assert status == 400 and "health_check.port" in text
    status, text = code(box.start_process, "no-such-program", name="never")
    assert status == 400 and "PROCESS_START_FAILED" in text and "command not found" in text
    assert code(box.get_process, "never")[0] == 404
    box.kill_process(plain.pid)


def test_the_asynchronous_sdk(server):
    async def main():
        async with await AsyncSandbox.create(api_url=server.api, api_key=server.key) as box:
            started = value(await box.start_process("sleep", args=["600"], name="job", restart=QUICK))
            assert value(await box.get_process("job")).pid == started.pid
            restarted = value(await box.restart_process("job"))
            assert restarted.pid != started.pid and restarted.managed.restart_count == 1
            assert [p.pid for p in await box.list_processes() if p.managed] == [restarted.pid]
            await box.kill_process("job")
            assert value(await box.get_process("job")).managed.status == ManagedProcessStatus.STOPPED

    asyncio.run(main())


NAMES = ["run", "%41", "a?b#c&d", "é ☃", "a+b", "-1", "+1", "...", "a\tb", "x" * 255]


@pytest.mark.parametrize("name", NAMES, ids=[repr(n)[:12] for n in NAMES])
def test_names_survive_the_path(server, sandbox, name):
    started = inside.start(server, sandbox, "sleep", "600", name=name)
    assert inside.get(server, sandbox, name)["pid"] == started["pid"]
    assert inside.restart(server, sandbox, name).json()["pid"] != started["pid"]
    inside.kill(server, sandbox, name)
    assert inside.get(server, sandbox, name)["managed"]["status"] == "stopped"


def test_a_stop_waits_for_the_grace(server, sandbox):
    script = "trap '' TERM; setsid -f sleep 600; echo up; while :; do sleep 0.1; done"
    inside.shell(server, sandbox, script, name="stubborn", restart={"policy": "always"})
    until(lambda: inside.lines(server, sandbox, "stubborn") == ["up"], what="its trap")
    began = time.monotonic()
    inside.kill(server, sandbox, "stubborn")
    ended = inside.wait_managed(server, sandbox, "stubborn", status="stopped")
    took = time.monotonic() - began
    assert ended["signal"] == 9 and 9.5 < took < env.scale(30, 13), (took, ended)
    assert ended["managed"]["restart_count"] == 0
    until(lambda: not inside.strangers(server, sandbox), what="nobody")


def test_partial_objects_are_completed(server, sandbox):
    fields = {"restart": {"policy": "always"}, "health_check": {"type": "http", "port": 80, "path": "/h"}}
    managed = inside.start(server, sandbox, "sleep", "600", **fields)["managed"]
    assert managed["restart"] == {"policy": "always", "initial_backoff_ms": 500, "max_backoff_ms": 30000}
    assert managed["health_check"] == {
        "type": "http",
        "port": 80,
        "path": "/h",
        "initial_delay_ms": 5000,
        "interval_ms": 1000,
        "timeout_ms": 500,
        "failure_threshold": 3,
    }
    assert "name" not in managed and managed["id"]
