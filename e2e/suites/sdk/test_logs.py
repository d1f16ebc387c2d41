"""Persisted logs through the SDK: every filter, pages, processes, and after the end."""

import pytest
from harness.sdk import value
from harness.wait import until
from tensorlake.sandbox import RemoteAPIError, SandboxError

# More days than the SDK's number can hold.
SERVER = {"config": {"process_logs": {"retention_days": 400}}}
SCRIPT = "for i in $(seq 0 9); do echo out $i; echo err $i >&2; done"


def logs(box, **filters):
    return value(box.get_logs(**filters))


def bodies(box, **filters):
    return [log.body for log in logs(box, **filters).logs]


@pytest.fixture
def printed(sdk):
    """A sandbox whose run, start and discarded start have said what they had to say."""
    box = sdk.create()
    box.run("sh", args=["-c", SCRIPT])
    box.start_process("sh", args=["-c", "echo started; echo 'a b+c%' >&2"])
    box.start_process("sh", args=["-c", "echo never"], stdout_mode="discard", stderr_mode="discard")
    until(lambda: len(bodies(box)) >= 22, what="all lines to be stored")
    return box


def test_records_and_filters(printed):
    page = logs(printed)
    assert page.next_token is None and len(page.logs) == 22
    run, started = value(printed.list_log_processes()).processes
    first = page.logs[0]
    assert (first.body, first.level, first.application, first.retention) == ("out 0", 3, "sandbox", 127)
    assert first.sandbox_id == printed.sandbox_id and len(first.uuid) == 36
    assert abs(first.timestamp - run.first_seen) < 60_000 and first.timestamp > 1_700_000_000_000
    attributes = dict(first.resource_attributes)
    assert attributes["processId"] == run.process_id and attributes["processPid"] == run.process_pid
    assert attributes["processCommand"] == run.process_command == f"sh -c {SCRIPT}"
    assert '"stdout"' in first.log_attributes
    assert len({log.uuid for log in page.logs}) == 22
    assert logs(printed).logs == page.logs, "the same at each reading"
    assert (run.log_count, started.log_count) == (20, 2)
    assert (run.process_managed_id, run.process_managed_name) == ("", "")
    assert run.first_seen <= run.last_seen

    err = [f"err {n}" for n in range(10)]
    assert bodies(printed, levels=["error"], process_ids=[run.process_id]) == err
    assert bodies(printed, levels=["error"]) == [*err, "a b+c%"]
    assert len(bodies(printed, levels=["error", "info"])) == 22
    assert bodies(printed, levels=["warn", "trace", "debug", "fatal"]) == []
    assert sorted(bodies(printed, process_ids=[started.process_id])) == ["a b+c%", "started"]
    assert len(bodies(printed, process_ids=[run.process_id, started.process_id])) == 22
    assert bodies(printed, body="a b+c%") == ["a b+c%"]
    assert sorted(bodies(printed, body=" 7")) == ["err 7", "out 7"]
    assert bodies(printed, levels=["info"], head=2) == ["out 0", "out 1"]
    assert bodies(printed, process_ids=[run.process_id], levels=["info"], tail=2) == ["out 8", "out 9"]
    assert bodies(printed, body="never") == []


def test_bad_asks_are_refused(printed):
    for bad in ({"head": 1, "tail": 1}, {"head": 0}, {"next_token": "nonsense"}, {"process_ids": ["x"]}):
        with pytest.raises(RemoteAPIError) as error:
            printed.get_logs(**bad)
        assert error.value.status_code == 400 and "INVALID_REQUEST" in str(error.value), bad


def test_readable_after_the_end(sdk):
    """What was printed last is there, though nobody waited for it to be stored."""
    box = sdk.create()
    box.run("sh", args=["-c", "echo last words"])
    box.terminate()
    until(lambda: [log.body for log in value(sdk.client.get_logs(box.sandbox_id)).logs] == ["last words"])
    [process] = value(sdk.client.list_log_processes(box.sandbox_id)).processes
    assert process.log_count == 1


def test_pages(sdk):
    box = sdk.create()
    box.run("seq", args=["1", "2500"])
    expected = [str(n) for n in range(1, 2501)]
    until(lambda: bodies(box, tail=1) == ["2500"], what="all lines to be stored")
    seen, token = [], None
    while True:
        page = logs(box, next_token=token)
        assert len(page.logs) <= 1000
        seen += [log.body for log in page.logs]
        token = page.next_token
        if token is None:
            break
    assert seen == expected


def test_an_unknown_sandbox(sdk):
    with pytest.raises(SandboxError):
        sdk.client.get_logs("0" * 21)
