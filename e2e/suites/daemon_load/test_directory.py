"""Large directories: listed whole, and nobody waits for it."""

import json
import time

from harness import env
from suites.daemon_load.probe import probing

# Its time is judged.
ALONE = True
ENTRIES = env.scale(10_000, 100_000)


def test_many_entries(server, sandbox):
    script = "mkdir /tmp/many && cd /tmp/many && mkdir zz && seq -f f%06g $COUNT | xargs touch"
    assert server.run(sandbox, script, env={"COUNT": str(ENTRIES)}, timeout=170).status == 0
    with probing(server, sandbox) as found:
        start = time.perf_counter()
        reply = server.sandbox_call(sandbox, "GET", "/api/v1/files/list?path=/tmp/many")
        took = time.perf_counter() - start
    assert reply.status == 200, reply
    entries = json.loads(reply.body)["entries"]
    assert len(entries) == ENTRIES + 1
    assert entries[0]["name"] == "zz" and entries[0]["is_dir"] and entries[0]["size"] is None
    assert [e["name"] for e in entries[1:]] == [f"f{n:06}" for n in range(1, ENTRIES + 1)]
    print(f"{ENTRIES} entries in {took:.2f} s, {len(reply.body) >> 10} KiB; others meanwhile: {found[0]}")
    assert took < ENTRIES / 10_000, "100 µs an entry"
