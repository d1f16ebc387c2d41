"""`run`: what goes in and what comes out."""

import pytest
from harness.sdk import IS_NEW
from tensorlake.sandbox import RemoteAPIError


def sh(box, script, **options):
    return box.run("sh", args=["-c", script], **options)


def test_output_and_exit_code(box):
    result = sh(box, "echo out; echo err >&2; exit 7")
    assert (result.stdout, result.stderr, result.exit_code) == ("out", "err", 7)
    if IS_NEW:
        assert result.reason == "exited"


@pytest.mark.parametrize(
    ("script", "stdout"),
    [
        ("true", ""),
        ("echo", ""),
        ("echo; echo a", "\na"),
        ("printf a", "a"),
        ("printf 'a\\n\\nb\\n'", "a\n\nb"),
        ("printf 'gr\\303\\274n \\377'", "grün \ufffd"),
        ("seq 20000 | tail -n 1; seq 20000 | wc -l", "20000\n20000"),
    ],
)
def test_text_arrives_as_written(box, script, stdout):
    assert sh(box, script).stdout == stdout


def test_much_output_is_whole(box):
    lines = sh(box, "seq 100000").stdout.split("\n")
    assert lines == [str(n) for n in range(1, 100001)]


def test_a_signal_is_a_negative_code(box):
    result = sh(box, "kill -TERM $$")
    assert result.exit_code == -15
    if IS_NEW:
        assert result.reason == "signaled"


def test_timeout_kills_the_whole_tree(box):
    result = sh(box, "echo started; sleep 3600 & sleep 3601", timeout=0.7)
    assert (result.stdout, result.exit_code) == ("started", -9)
    if IS_NEW:
        assert result.timed_out
    assert sh(box, "ps -eo args | grep -c '[s]leep 360' || true").stdout == "0"


def test_env_working_dir_and_user(box):
    result = sh(box, "echo $A-$B; pwd; id -un; echo $HOME", env={"A": "1", "B": "x y"}, working_dir="/workspace")
    assert result.stdout == "1-x y\n/workspace\ntl-user\n/home/tl-user"
    assert sh(box, "id -un; echo $HOME", user="root").stdout == "root\n/root"
    assert sh(box, "id -u; id -g", user="1000:0").stdout == "1000\n0"
    assert sh(box, "id -u", user={"uid": 0}).stdout == "0"


@pytest.mark.parametrize(
    "bad",
    [
        {"command": "no-such-binary"},
        {"command": "ls", "working_dir": "/no/such/dir"},
        {"command": "ls", "user": "nobody-knows"},
    ],
)
def test_a_failed_start_is_an_error_with_its_cause(box, bad):
    with pytest.raises(RemoteAPIError) as error:
        box.run(**bad)
    assert error.value.status_code == 400
    assert "PROCESS_START_FAILED" in error.value.message
    named = next(v for k, v in bad.items() if k != "command" or len(bad) == 1)
    assert named in error.value.message, "the cause names what is wrong"


def test_runs_leave_no_processes_behind(box):
    before = sh(box, "ps -e | wc -l").stdout
    for _ in range(20):
        assert box.run("true").exit_code == 0
    assert sh(box, "ps -e | wc -l").stdout == before
    assert sh(box, "ps -eo stat | grep -c ^Z || true").stdout == "0"
