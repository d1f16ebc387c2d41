"""What state costs: suspend, resume, snapshots, restores and copies, by the memory that was touched.

Over raw HTTP, held by the server until it is done, so that no client's polling is measured. Run it on a machine that
does nothing else: `./x bench state`, or `bench/run-state [--small] [--json FILE]`.
"""

import argparse
import contextlib
import json
import pathlib
import re
import signal
import sys
import time
import uuid

import report
from harness import env
from harness.server import Server, sweep
from harness.wait import until

MIB = 1 << 20
POOL = {"pool": {"initial_mb": 24576}}
FILL = "import sys,time; x=bytearray(b'\\x01')*(int(sys.argv[1])<<20); open('/tmp/full','w').close(); time.sleep(1e6)"
BUDGET = {"X-Tensorlake-Request-Timeout-Ms": "300000"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run-state", description=__doc__)
    parser.add_argument("--small", action="store_true", help="few samples, little memory")
    parser.add_argument("--json", type=pathlib.Path, help="where the raw samples go")
    return parser.parse_args()


def call(server: Server, method: str, path: str, body=None):
    reply = server.call(method, path, body, timeout=310, headers=BUDGET)
    if reply.status not in (200, 202):
        raise RuntimeError(f"{method} {path}: {reply}")
    return reply.json() if reply.body else None


@contextlib.contextmanager
def filled(server: Server, mib: int):
    """A named sandbox in which so much memory is touched."""
    asked = {"name": f"bench-{uuid.uuid4().hex[:8]}", "resources": {"cpus": 1, "memory_mb": mib + 384}, "timeout_secs": 0}
    made = call(server, "POST", "/sandboxes", asked)["sandbox_id"]
    try:
        if mib:
            body = {"command": "python3", "args": ["-c", FILL, str(mib)]}
            assert server.sandbox_call(made, "POST", "/api/v1/processes", body).status == 201
            until(lambda: server.run(made, "ls /tmp/full").out.strip() == "/tmp/full", 60, "the memory being touched")
        yield made
    finally:
        call(server, "DELETE", f"/sandboxes/{made}")


def timed(samples: dict, row: str, work) -> object:
    begun = time.perf_counter()
    result = work()
    samples.setdefault(row, []).append((time.perf_counter() - begun) * 1e3)
    return result


def standstill(server: Server) -> float:
    """All standstills of snapshots so far, in ms."""
    text = server.call("GET", "/metrics").body.decode()
    return float(re.search(r"^tarn_snapshot_standstill_seconds_total (\S+)", text, re.M)[1]) * 1e3


def snapshot(server: Server, sandbox: str, kind: str, samples: dict) -> str:
    def take() -> str:
        made = call(server, "POST", f"/sandboxes/{sandbox}/snapshot", {"snapshot_type": kind})["snapshot_id"]
        while (now := call(server, "GET", f"/snapshots/{made}"))["status"] == "in_progress":
            time.sleep(0.002)
        assert now["status"] == "completed", now
        return made

    before = standstill(server)
    made = timed(samples, f"snapshot, {kind}", take)
    samples.setdefault(f"snapshot, {kind}: standing still", []).append(standstill(server) - before)
    return made


def cycle(server: Server, sandbox: str, samples: dict, how: str) -> None:
    timed(samples, f"suspend, {how}", lambda: call(server, "POST", f"/sandboxes/{sandbox}/suspend?wait_ms=120000"))
    assert server.info(sandbox)["status"] == "suspended"
    timed(samples, f"resume, {how}", lambda: call(server, "POST", f"/sandboxes/{sandbox}/resume?wait_ms=120000"))
    assert server.run(sandbox, "echo here").out.strip() == "here"


def restored(server: Server, snapshot_id: str, samples: dict, kind: str) -> None:
    made = timed(samples, f"restore, {kind}", lambda: call(server, "POST", "/sandboxes", {"snapshot_id": snapshot_id}))
    assert made["status"] == "running", made
    assert server.run(made["sandbox_id"], "echo here").out.strip() == "here"
    call(server, "DELETE", f"/sandboxes/{made['sandbox_id']}")
    until(lambda: not (server.data / "ledger" / made["sandbox_id"]).exists(), 60, "the end of a restored one")


def copies(server: Server, sandbox: str, times: int, samples: dict) -> None:
    made = timed(samples, f"copy, {times}", lambda: call(server, "POST", f"/sandboxes/{sandbox}/copy?times={times}"))
    states = [copy["status"] for copy in made["sandboxes"]]
    assert states == ["running"] * times, made
    for copy in made["sandboxes"]:
        call(server, "DELETE", f"/sandboxes/{copy['sandbox_id']}")
    for copy in made["sandboxes"]:
        until(lambda one=copy: not (server.data / "ledger" / one["sandbox_id"]).exists(), 120, "the end of a copy")


def wake(server: Server, sandbox: str, samples: dict, how: str) -> None:
    call(server, "POST", f"/sandboxes/{sandbox}/suspend?wait_ms=120000")
    timed(samples, f"wake by a request, {how}", lambda: server.run(sandbox, "true"))


def measure(warm: Server, cold: Server, mib: int, rounds: int, fans: list[int]) -> dict:
    samples: dict[str, list[float]] = {}
    with filled(warm, mib) as sandbox:
        for _ in range(rounds):
            cycle(warm, sandbox, samples, "warm")
            wake(warm, sandbox, samples, "warm")
        for kind in ("filesystem", "memory"):
            for _ in range(rounds):
                taken = snapshot(warm, sandbox, kind, samples)
                restored(warm, taken, samples, kind)
                call(warm, "DELETE", f"/snapshots/{taken}")
        for times in fans:
            for _ in range(max(1, rounds // 3)):
                copies(warm, sandbox, times, samples)
    with filled(cold, mib) as sandbox:
        for _ in range(rounds):
            cycle(cold, sandbox, samples, "cold")
            wake(cold, sandbox, samples, "cold")
    return samples


def table(title: str, samples: dict) -> str:
    lines = [f"{title:<44}{'p50':>9}{'p95':>9}{'n':>5}"]
    for row, each in samples.items():
        lines.append(f"{row + ' (ms)':<44}{report.p50(each):>9.1f}{report.quantile(each, 0.95):>9.1f}{len(each):>5}")
    return "\n".join(lines)


def main() -> int:
    asked = arguments()
    sizes, rounds, fans = ([0], 3, [2]) if asked.small else ([0, 200, 1024], 12, [1, 10])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sweep()
    complaints: list[str] = []
    with contextlib.ExitStack() as stack:
        servers = []
        for name, node in (("warm", {}), ("cold", {"keep_warm_secs": 0})):
            server = Server(f"bench-state-{name}", config=POOL | {"node": node})
            stack.callback(lambda one=server: complaints.extend(one.close()))
            servers.append(server.start())
        results = {f"{mib} MiB": measure(*servers, mib, rounds, fans if mib < 1024 else []) for mib in sizes}
        place = report.machine(servers[0].data)
    for size, samples in results.items():
        print("\n" + table(f"{size} touched", samples))
    for text in complaints:
        print(f"FAIL  {text}")
    path = asked.json or env.LOGS.parent / "bench-state.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": place, "samples_ms": results}, indent=1) + "\n")
    print(f"raw samples: {path}")
    return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main())
