"""The daemon across a memory image: no child is lost, no exit code mixed up, no timer fires in a burst."""

import json
import time

import pytest
from harness.wait import until
from suites.daemon.restored import Restored
from suites.daemon.table import P, T

# Longer than any period of the daemon that is used here, many times over.
GAP_SECONDS = 8
# Counts its own requests, which are the health checks.
WEB = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print("checked", flush=True)
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
"""
CHECK = {"type": "http", "port": 8080, "path": "/", "initial_delay_ms": 1500, "interval_ms": 500, "timeout_ms": 2000, "failure_threshold": 5}


@pytest.fixture(scope="module")
def restored(server):
    """A sandbox with processes of each sort, after its time in an image; the server is not there."""
    sandbox = server.create()

    def start(**fields):
        reply = server.sandbox_call(sandbox, "POST", P, fields)
        assert reply.status == 201, reply
        return reply.json()

    made = {
        "counter": start(command="sh", args=["-c", "while :; do echo tick; sleep 0.1; done"]),
        "web": start(command="python3", args=["-c", WEB], name="web", restart={"policy": "always"}, health_check=CHECK),
        "crasher": start(command="sh", args=["-c", "sleep 1; exit 1"], name="crasher", restart={"policy": "always"}),
        "feeder": start(command="sh", args=["-c", "read line; echo got $line; exit 9"], stdin_mode="pipe"),
        "ending": [start(command="sh", args=["-c", f"sleep {1 + n / 10}; exit {n}"]) for n in range(30)],
        "terminal": server.sandbox_call(sandbox, "POST", T, {"command": "cat"}).json(),
    }
    until(
        lambda: server.sandbox_call(sandbox, "GET", f"{P}/web").json()["managed"]["health_status"] == "healthy",
        what="the first good check",
    )
    server.kill()
    box = Restored(server, sandbox)
    made["before"] = box.call("GET", f"{P}/web").json()
    made["ticks"] = box.call("GET", f"{P}/{made['counter']['pid']}/stdout").json()["line_count"]
    made["checks"] = box.call("GET", f"{P}/web/stdout").json()["line_count"]
    made["crashes"] = box.call("GET", f"{P}/crasher").json()["managed"]["restart_count"]
    box.freeze_to_image()
    went = time.monotonic()
    until(lambda: time.monotonic() - went > GAP_SECONDS, GAP_SECONDS + 5, "the gap", longest_pause=1)
    box.go_on()
    made["back"] = time.monotonic()
    yield box, made
    box.remove()


def test_running_processes_go_on(restored):
    box, made = restored
    pid = made["counter"]["pid"]
    assert box.call("GET", f"{P}/{pid}").json()["status"] == "running"
    until(lambda: box.call("GET", f"{P}/{pid}/stdout").json()["line_count"] > made["ticks"] + 3, what="more ticks")
    box.call("POST", f"{P}/{made['feeder']['pid']}/stdin", b"food\n")
    fed = until(lambda: (p := box.call("GET", f"{P}/{made['feeder']['pid']}").json()).get("ended_at") and p)
    assert fed["exit_code"] == 9
    assert box.call("GET", f"{P}/{made['feeder']['pid']}/stdout").json()["lines"] == ["got food"]


def test_no_exit_is_lost_or_mixed_up(restored):
    box, made = restored
    pids = [process["pid"] for process in made["ending"]]

    def ended():
        found = {p["pid"]: p for p in box.call("GET", P).json()["processes"]}
        return all(found[pid]["status"] == "exited" for pid in pids) and found

    found = until(ended, what="the end of all")
    assert [found[pid]["exit_code"] for pid in pids] == list(range(30))


def test_a_managed_process_is_the_same_and_was_not_restarted(restored):
    box, made = restored
    now = box.call("GET", f"{P}/web").json()
    assert now["pid"] == made["before"]["pid"]
    restarts = [info["managed"]["restart_count"] for info in (made["before"], now)]
    assert restarts[0] == restarts[1] and now["managed"]["health_status"] == "healthy", json.dumps(now)
    until(lambda: box.call("GET", f"{P}/web/stdout").json()["line_count"] > made["checks"] + 2, what="checks go on")
    elapsed = time.monotonic() - made["back"]
    checks = box.call("GET", f"{P}/web/stdout").json()["line_count"] - made["checks"]
    # One every half second since; those of the gap are not made up for.
    assert checks <= elapsed / 0.5 + 3, f"{checks} checks within {elapsed:.1f} s"


def test_restarts_of_the_gap_are_not_made_up_for(restored):
    box, made = restored
    crashes = box.call("GET", f"{P}/crasher").json()["managed"]["restart_count"] - made["crashes"]
    elapsed = time.monotonic() - made["back"]
    assert crashes <= elapsed + 2, f"{crashes} restarts within {elapsed:.1f} s"


def test_new_work_and_terminals(restored):
    box, made = restored
    body = {"command": "sh", "args": ["-c", "echo new; exit 3"]}
    run = box.call("POST", f"{P}/run", body, timeout=20)
    frames = [json.loads(frame.removeprefix("data: ")) for frame in run.body.decode().split("\n\n") if frame.startswith("data:")]
    assert [frame["line"] for frame in frames if "line" in frame] == ["new"] and frames[-1]["exit_code"] == 3
    session = box.call("GET", f"{T}/{made['terminal']['session_id']}").json()
    assert session["is_alive"] is True
    assert box.call("DELETE", f"{T}/{made['terminal']['session_id']}").status == 204
    box.call("DELETE", f"{P}/{made['counter']['pid']}")
    until(lambda: box.call("GET", f"{P}/{made['counter']['pid']}").json()["status"] == "signaled", what="its kill")
