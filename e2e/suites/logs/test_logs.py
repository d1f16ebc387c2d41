"""Persisted logs under stress: a killed server, a flood, other projects, small caps."""

import json
import os
import stat
import threading
import time

from harness import env
from harness.wait import until

SECONDS = 40
COUNTER = "i=0; while [ $i -lt 400 ]; do echo $i; i=$((i+1)); sleep 0.02; done; sleep 3000"


def start(server, sandbox, script, **fields):
    body = {"command": "sh", "args": ["-c", script], **fields}
    reply = server.sandbox_call(sandbox, "POST", "/api/v1/processes", body)
    assert reply.status == 201, reply
    return reply.json()


def read(server, sandbox, query="", key=None):
    """Every record, over all pages."""
    logs, token = [], None
    while True:
        more = f"&nextToken={token}" if token else ""
        reply = server.call("GET", f"/sandboxes/{sandbox}/logs?{query}{more}", key=key)
        assert reply.status == 200, reply
        page = reply.json()
        logs += page["logs"]
        token = page.get("nextToken")
        if not token:
            return logs


def bodies(server, sandbox, query=""):
    return [log["body"] for log in read(server, sandbox, query)]


def tail(server, sandbox):
    return bodies(server, sandbox, "tail=1")


def counters(server):
    text = server.call("GET", "/metrics").body.decode()
    lines = [line.split() for line in text.splitlines() if line.startswith("tarn_log_")]
    return {name: int(value) for name, value in lines}


def test_no_line_is_lost_or_doubled_over_a_kill(new_server):
    server = new_server("-kill")
    made = server.create(timeout_secs=0)
    start(server, made, COUNTER)
    for stop in (100, 200, 300):
        until(lambda s=stop: (t := tail(server, made)) and int(t[0]) >= s, timeout=60, what=f"line {stop}")
        server.restart(kill=True)
    until(lambda: tail(server, made) == ["399"], timeout=60, what="the last line")
    assert bodies(server, made) == [str(n) for n in range(400)]
    [process] = server.call("GET", f"/sandboxes/{made}/processes").json()["processes"]
    assert process["logCount"] == 400
    server.restart()
    assert bodies(server, made, "level=3&head=3") == ["0", "1", "2"]
    server.delete(made)
    server.restart()
    assert len(bodies(server, made)) == 400, "after the end and another start"


def test_the_file_is_private(server):
    for path in (server.data / "store").glob("logs.sqlite*"):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600, path
    assert (server.data / "store/logs.sqlite").exists()


def test_every_start_is_logged_and_an_entrypoint_too(server):
    made = server.create(entrypoint=["sh", "-c", "echo entrypoint; sleep 3000"])
    server.run(made, "printf 'no newline'")
    for n in range(300):
        # More than the daemon remembers.
        if n % 30 == 0:
            server.run(made, "; ".join(f"sh -c 'echo {m}'" for m in range(n, n + 30)))
    until(lambda: len(bodies(server, made)) >= 302, timeout=30, what="all lines")
    seen = bodies(server, made)
    assert sorted(seen[2:], key=int) == [str(n) for n in range(300)]
    assert set(seen[:2]) == {"entrypoint", "no newline"}
    server.delete(made)


def test_another_project_sees_nothing(server):
    made = server.create()
    server.run(made, "echo secret")
    until(lambda: bodies(server, made) == ["secret"], what="the line")
    key = server.command("key", "create", "--project", "stranger").stdout.strip()
    assert key.startswith("tl_apiKey_")
    for route in ("logs", "processes"):
        reply = server.call("GET", f"/sandboxes/{made}/{route}", key=key)
        assert (reply.status, reply.code) == (404, "SANDBOX_NOT_FOUND"), reply
    server.delete(made)
    until(lambda: server.info(made)["status"] == "terminated", what="the end")
    assert server.call("GET", f"/sandboxes/{made}/logs", key=key).status == 404
    assert bodies(server, made) == ["secret"]


def test_a_flood_is_bounded_and_harms_nobody(new_server):
    caps = {"rate_kb_per_sec": 1024, "burst_kb": 2048, "sandbox_max_mb": 4, "total_max_mb": 64}
    server = new_server("-flood", config={"process_logs": caps})
    loud, quiet = server.create(), server.create()
    flood = start(server, loud, "yes 0123456789012345678901234567890123456789012345678901234567890123456789")
    until(lambda: tail(server, loud), what="the first lines of the flood")
    slowest = 0.0
    for n in range(20):
        begun = time.monotonic()
        assert server.run(quiet, f"echo {n}").out == str(n)
        assert server.call("GET", "/sandboxes").status == 200
        slowest = max(slowest, time.monotonic() - begun)
    begun = time.monotonic()
    server.delete(server.create())
    created = time.monotonic() - begun
    print(f"under a flood: slowest run and list {slowest * 1000:.0f} ms, create and delete {created * 1000:.0f} ms")
    assert slowest < env.scale(20, 5) and created < env.scale(20, 10)
    until(lambda: bodies(server, quiet) == [str(n) for n in range(20)], timeout=30, what="the quiet one's lines")
    first = lambda: read(server, loud, "head=1")[0]  # noqa: E731
    until(lambda: first()["level"] == 4, timeout=60, what="the cap to be reached")
    note = first()
    assert note["body"] == f"[tarn: {json.loads(note['logAttributes'])['dropped']} earlier lines dropped]", note
    dropped = read(server, loud, "body=earlier lines dropped&level=3".replace(" ", "+"))
    assert any(log["level"] == 3 for log in dropped), "what the sandbox could not hold is told in its place"
    size = sum(path.stat().st_size for path in (server.data / "store").glob("logs.sqlite*"))
    assert size < 40 << 20, size
    counted = lambda: counters(server)["tarn_log_lines_dropped_by_store_total"] > 0  # noqa: E731
    until(counted, what="what the cap let go to be counted, which is after it is stored")
    values = counters(server)
    assert values["tarn_log_lines_dropped_by_sandbox_total"] > 0, values
    assert values["tarn_log_failures_total"] == 0, values
    begun = time.monotonic()
    server.delete(loud)
    assert time.monotonic() - begun < env.scale(8, 2), "the end does not wait for the flood"
    assert flood["pid"] > 0


def test_many_sandboxes_print_at_once(server):
    made = [server.create() for _ in range(4)]
    threads = [threading.Thread(target=server.run, args=(m, f"seq {n}000 {n}999")) for n, m in enumerate(made, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, sandbox in enumerate(made, 1):
        until(lambda s=sandbox, n=n: tail(server, s) == [f"{n}999"], timeout=30, what="the last line")
        assert bodies(server, sandbox) == [str(line) for line in range(n * 1000, n * 1000 + 1000)]
        server.delete(sandbox)


def test_lines_expire(new_server):
    """Old lines go at the next start; the clock of the machine cannot be moved, so theirs is."""
    import sqlite3

    server = new_server("-expire")
    made = server.create()
    server.run(made, "echo old")
    until(lambda: bodies(server, made) == ["old"], what="the line")
    server.delete(made)
    until(lambda: server.info(made)["status"] == "terminated", what="the end")
    server.stop()
    with sqlite3.connect(server.data / "store/logs.sqlite") as db:
        db.execute("UPDATE log_chunk SET stored_at = stored_at - 8 * 86400000")
        db.execute("UPDATE log_sandbox SET appended_at = appended_at - 8 * 86400000")
    db.close()
    server.start()
    until(lambda: bodies(server, made) == [], what="the line to be gone")
    assert server.call("GET", f"/sandboxes/{made}/processes").json() == {"processes": []}
