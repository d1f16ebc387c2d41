"""Many commands: nothing grows, and as many at once as anybody wants."""

import time
from concurrent.futures import ThreadPoolExecutor

from harness import env
from harness.wait import until
from suites.daemon_load import client

RUNS = env.scale(150, 1000)
AT_ONCE = 50

# As long as the ingress keeps a connection to a daemon that no request takes, and time to see it.
KEPT_SECS = 60 + 20


def test_runs_in_a_row_leave_nothing(server, sdk):
    box = sdk.create()
    for _ in range(300):  # As many as are remembered.
        box.run("true")
    before = client.daemon(server, box.sandbox_id)
    start = time.perf_counter()
    for number in range(RUNS):
        assert box.run("echo", args=[str(number)]).stdout == str(number)
    took = time.perf_counter() - start
    after = client.daemon(server, box.sandbox_id)
    print(f"{RUNS} runs, {took / RUNS * 1e3:.1f} ms each\nbefore {before}\nafter  {after}")
    assert after["processes"] <= before["processes"]
    assert after["rss_kb"] <= before["rss_kb"] + 512

    # The ingress may keep one connection more: a request that came as the last answer ended found none ready.
    def no_more():
        return client.daemon(server, box.sandbox_id)["descriptors"] <= before["descriptors"]

    until(no_more, timeout=KEPT_SECS, what=f"no more descriptors than {before['descriptors']}")


def test_many_at_once(server, sandbox):
    def one(number):
        return server.run(sandbox, f"echo {number}; sleep 0.2; echo {number} >&2")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(one, range(AT_ONCE)))
    for number, result in enumerate(results):
        assert (result.out, result.err, result.status) == (str(number), str(number), 0), result
