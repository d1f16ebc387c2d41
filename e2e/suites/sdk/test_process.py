"""Processes that outlive their request: start, look, write, follow, signal, kill."""

import pytest
from harness import env
from harness.sdk import value
from harness.wait import until
from tensorlake.sandbox import OutputMode, ProcessStatus, RemoteAPIError, StdinMode


def status(box, pid):
    return box.get_process(pid).status


def test_life_of_a_process(box):
    started = value(box.start_process("sh", args=["-c", "echo one; echo two >&2; sleep 0.2; exit 4"]))
    assert started.status == ProcessStatus.RUNNING and started.pid > 1 and started.args[0] == "-c"
    ended = until(lambda: (p := value(box.get_process(started.pid))).ended_at and p, what="its end")
    assert (ended.status, ended.exit_code) == (ProcessStatus.EXITED, 4)
    assert ended.started_at <= ended.ended_at
    assert started.pid in [p.pid for p in box.list_processes()], "finished ones stay listed"
    assert box.get_stdout(started.pid).lines == ["one"]
    assert box.get_stderr(started.pid).lines == ["two"]
    assert sorted(box.get_output(started.pid).lines) == ["one", "two"]
    box.kill_process(started.pid)


def test_stdin(box):
    cat = value(box.start_process("cat", stdin_mode=StdinMode.PIPE))
    assert cat.stdin_writable
    box.write_stdin(cat.pid, b"first\nsecond ")
    box.write_stdin(cat.pid, b"half\n")
    box.close_stdin(cat.pid)
    until(lambda: status(box, cat.pid) == ProcessStatus.EXITED, what="the end of cat")
    assert box.get_stdout(cat.pid).lines == ["first", "second half"]
    closed = value(box.start_process("sleep", args=["60"]))
    with pytest.raises(RemoteAPIError) as error:
        box.write_stdin(closed.pid, b"x")
    assert error.value.status_code == 400 and "STDIN_NOT_WRITABLE" in error.value.message
    box.kill_process(closed.pid)


def test_follow_replays_and_ends(box):
    script = "for i in 1 2 3; do echo $i; sleep 0.05; done; echo bad >&2"
    pid = box.start_process("sh", args=["-c", script]).pid
    live = [e.line for e in box.follow_stdout(pid)]
    again = [e.line for e in box.follow_stdout(pid)]
    assert live == again == ["1", "2", "3"]
    merged = list(box.follow_output(pid))
    assert [(e.line, e.stream) for e in merged if e.stream == "stderr"] == [("bad", "stderr")]
    assert all(e.timestamp for e in merged) and len(merged) == 4


def test_discarded_output_is_not_kept(box):
    pid = box.start_process("echo", args=["x"], stdout_mode=OutputMode.DISCARD).pid
    until(lambda: status(box, pid) == ProcessStatus.EXITED)
    assert box.get_stdout(pid).lines == []


def test_signal_reaches_the_group(box):
    script = "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.05; done"
    pid = box.start_process("bash", args=["-c", script]).pid
    until(lambda: box.get_stdout(pid).lines == ["ready"], what="the trap")
    assert box.send_signal(pid, 10).success
    until(lambda: status(box, pid) == ProcessStatus.EXITED, what="its end")
    assert box.get_process(pid).exit_code == 5 and box.get_stdout(pid).lines[-1] == "got"
    with pytest.raises(RemoteAPIError) as error:
        box.send_signal(pid, 10)
    assert "PROCESS_NOT_RUNNING" in error.value.message


def test_kill_takes_the_tree(sdk):
    box = sdk.create()
    script = "setsid sleep 4001 & sleep 4002 & (trap '' TERM INT HUP; sleep 4003) & wait"
    pid = box.start_process("bash", args=["-c", script]).pid
    alive = lambda: box.run("sh", args=["-c", "pgrep -xc sleep || true"]).stdout  # noqa: E731
    until(lambda: alive() == "3", what="three children")
    box.kill_process(pid)
    until(lambda: alive() == "0", timeout=env.scale(15, 2), what="the end of all children")
    ended = until(lambda: (p := value(box.get_process(pid))).status != ProcessStatus.RUNNING and p)
    assert (ended.status, ended.signal) == (ProcessStatus.SIGNALED, 9)


@pytest.mark.parametrize("call", ["get_process", "kill_process", "get_stdout", "follow_stdout", "close_stdin"])
def test_an_unknown_process_is_a_404(box, call):
    with pytest.raises(RemoteAPIError) as error:
        getattr(box, call)(999999)
    assert error.value.status_code == 404 and "PROCESS_NOT_FOUND" in error.value.message


def test_info_counts(sdk):
    fresh = sdk.create()
    before = value(fresh.daemon_info())
    pid = fresh.start_process("sleep", args=["60"]).pid
    after = value(fresh.daemon_info())
    assert after.running_processes == before.running_processes + 1
    assert after.total_processes == before.total_processes + 1
    assert fresh.health().healthy and after.version and after.uptime_secs >= 0
    fresh.kill_process(pid)
