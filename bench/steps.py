"""Where the time of a start goes: each step by the server's own log, beside the whole as a client waits for it."""

import argparse
import re
import signal
import sys
import time

import ours
import report
from harness import env
from harness.server import Server, sweep
from harness.wait import until
from ours import call, end, rest, snapshot
from suites.prestart.ahead import counts

STEP = re.compile(r'a step of a start sandbox\.id=(\w+) step="([^"]+)" duration_us=(\d+)')
KEPT = {"kept": 4, "most": 32}
Found = dict[str, list[float]]
# How many steps of a sandbox were read.
seen: dict[str, int] = {}


def main() -> int:
    asked = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sweep()
    rounds, ours.patience_secs = report.scaled(asked, (2, 0), (8, 1.5), (30, 3))
    results: dict[str, Found] = {}
    config = {"log": {"filter": "info,tarn_node=debug"}, "node": {"keep_warm_secs": 0}, "pool": {"initial_mb": 4096, "max_mb": 8192}}
    server = Server("bench-steps", config={"prestart": KEPT, **config})
    try:
        server.start()
        place = report.machine(server.data)
        source = named(server)
        seen[source] = len([one for one, _, _ in STEP.findall(server.log_text()) if one == source])
        models = {kind: snapshot(server, source, kind) for kind in ("filesystem", "memory")}
        for number in range(rounds):
            until(lambda: counts(server)["ready"] >= KEPT["kept"], timeout=60, what="some to be ready")
            begin(server, results, "one that was started ahead", {})
            # Nobody has asked for this shape yet, so none of it is ready.
            begin(server, results, "from the image", {"resources": {"memory_mb": 1100 + number}})
            for kind, model in models.items():
                begin(server, results, f"from a snapshot of its {'files' if kind == 'filesystem' else kind}", {"snapshot_id": model})
            resume(server, results, source)
        end(server, [source])
    finally:
        complaints = server.close()
    print(f"the machine: {place}")
    for title, found in results.items():
        print("\n" + table(title, found))
    for text in complaints:
        print(f"FAIL  {text}")
    path = asked.json or env.LOGS.parent / "bench-steps.json"
    report.write(path, machine=place, samples_ms=results)
    print(f"raw samples: {path}")
    return int(bool(complaints))


def named(server: Server) -> str:
    return call(server, "POST", "/sandboxes", {"name": "steps", "timeout_secs": 0})["sandbox_id"]


def begin(server: Server, results: dict[str, Found], title: str, asked: dict) -> None:
    """Creates one and ends it; notes what it took."""
    rest()
    began = time.perf_counter()
    made = call(server, "POST", "/sandboxes", asked)["sandbox_id"]
    note(server, results, title, made, (time.perf_counter() - began) * 1e3, "create, as the client waits for it")
    end(server, [made])


def resume(server: Server, results: dict[str, Found], source: str) -> None:
    """Suspends the named one until its processes are gone, and resumes it."""
    call(server, "POST", f"/sandboxes/{source}/suspend?wait_ms=60000")
    rest()
    began = time.perf_counter()
    call(server, "POST", f"/sandboxes/{source}/resume?wait_ms=60000")
    note(server, results, "a resume", source, (time.perf_counter() - began) * 1e3, "resume, as the client waits for it")


def note(server: Server, results: dict[str, Found], title: str, sandbox: str, whole: float, what: str) -> None:
    """Takes the steps of a start from the log; only those that it has not taken yet."""
    found = results.setdefault(title, {})
    of_it = [(step, int(micros) / 1e3) for one, step, micros in STEP.findall(server.log_text()) if one == sandbox]
    # One that is resumed has the steps of its earlier starts there, too.
    steps = of_it[seen.get(sandbox, 0) :]
    seen[sandbox] = len(of_it)
    found.setdefault(what, []).append(whole)
    for step, millis in steps:
        found.setdefault(f"  {step}", []).append(millis)
    found.setdefault("  all else: API, store, placing, network", []).append(whole - sum(millis for _, millis in steps))


def table(title: str, found: Found) -> str:
    head = f"{title + ' (ms)':<48}{'p50':>8}{'p95':>8}{'n':>5}"
    lines = [head, "-" * len(head)]
    for step, values in found.items():
        lines.append(f"{step:<48}{report.p50(values):>8.2f}{report.quantile(values, 0.95):>8.2f}{len(values):>5}")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run-steps", description=__doc__)
    report.options(parser, small="few samples")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
