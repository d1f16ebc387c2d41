"""A sandbox that stood still finds its managed processes as they were: no burst, no restart."""

import time

from harness import host
from harness.wait import until

from . import inside

STANDSTILL = 6
# Writes when it was asked.
WEB = """
import http.server, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print(f"{time.monotonic():.3f}", flush=True)
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", 8125), Handler).serve_forever()
"""


def test_a_frozen_sandbox_goes_on_as_it_was(server, sandbox):
    check = {
        "type": "http",
        "port": 8125,
        "initial_delay_ms": 1000,
        "interval_ms": 200,
        "timeout_ms": 200,
        # One failure that was none would do.
        "failure_threshold": 1,
    }
    started = inside.start(server, sandbox, "python3", "-c", WEB, name="web", health_check=check)
    inside.wait_managed(server, sandbox, "web", health_status="healthy")
    pause = {"policy": "always", "initial_backoff_ms": 2500, "max_backoff_ms": 2500}
    inside.shell(server, sandbox, "exit 0", name="job", restart=pause)
    inside.wait_managed(server, sandbox, "job", status="backing_off")
    stamps = lambda: [float(line) for line in inside.lines(server, sandbox, "web")]  # noqa: E731
    until(lambda: len(stamps()) > 5, what="some checks")

    for _ in range(3):
        seen = len(stamps())
        with host.frozen(server.data, sandbox):
            time.sleep(STANDSTILL / 3)
        until(lambda seen=seen: len(stamps()) >= seen + 8, what="checks after the standstill")
        after = inside.get(server, sandbox, "web")
        assert after["pid"] == started["pid"] and after["managed"]["restart_count"] == 0
        assert (after["managed"]["health_status"], after["managed"]["consecutive_health_failures"]) == ("healthy", 0)
        checks = stamps()[seen - 1 :]
        gaps = [b - a for a, b in zip(checks, checks[1:])]
        assert max(gaps) > STANDSTILL / 3 - 1, f"it stood still: {gaps}"
        assert min(gaps) > 0.15, f"no burst: {gaps}"
    starts = sorted(p["started_at"] for p in inside.listed(server, sandbox) if p["args"] == ["-c", "exit 0"])
    assert len(starts) > 2 and min(b - a for a, b in zip(starts, starts[1:])) >= 2500, f"none made up for: {starts}"
    inside.kill(server, sandbox, "job")
