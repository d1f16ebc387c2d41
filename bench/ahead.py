"""Create → first output where a sandbox was started ahead, beside a server that starts none and the
floor: the same client against an empty stub, in the same run."""

import argparse
import signal
import sys
import time

import measure
import report
from harness import env
from harness.server import Server, sweep
from harness.wait import until
from suites.prestart.ahead import counts
from targets import Target, Targets

# What a server does that nobody has configured.
DEFAULT = {"kept": 4, "most": 32}
BURST = 20


def main() -> int:
    asked = arguments()
    few, row = report.scaled(asked, (5, 15), (20, 100), (50, 100))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sweep()
    with Targets(["gvisor"]) as targets:
        ahead = Server("bench-ahead", config={"prestart": DEFAULT, "pool": {"initial_mb": 4096, "max_mb": 8192}})
        targets.callback(lambda: targets.complaints.extend(ahead.close()))
        ahead.start()
        mine = Target("ahead", ahead.api, ahead.key, ahead.process.pid)
        stub, cold = targets.all
        place = report.machine(ahead.data)
        print(f"{few} hits, {row} in a row, bursts of {BURST}; {place}", flush=True)
        hits = sequential([stub, cold, mine], ahead, few)
        before, began = counts(ahead), time.perf_counter()
        lives: measure.Samples = {}
        for _ in range(row):
            measure.life(mine, lives)
        rate = row / (time.perf_counter() - began)
        found = since(ahead, before)
        bursts = {}
        if not asked.small:
            measure.burst(mine, BURST)  # After it so many are kept.
            refilled(ahead)
            before = counts(ahead)
            bursts = {"full": measure.burst(mine, BURST), "burst": since(ahead, before)}
            refilled(ahead)
            before = counts(ahead)
            # Nobody has asked for this shape yet, so none of it is ready.
            bursts |= {"empty": measure.burst(mine, BURST, memory_mb=1111), "misses": since(ahead, before)}
    print("\n" + report.table(f"{few} in turn", hits))
    first = lives["create+run"]
    print(f"\n{row} in a row without a pause: create → first output p50 {report.p50(first):.1f} ms, ", end="")
    print(f"p95 {report.quantile(first, 0.95):.1f} ms; {rate:.1f} lives/s; {found}")
    checks = bounds(hits, first, bursts)
    for good, text in checks:
        print(("pass  " if good else "FAIL  ") + text)
    for text in targets.complaints:
        print(f"FAIL  {text}")
    path = asked.json or env.LOGS.parent / "bench-ahead.json"
    report.write(path, machine=place, hits=hits, row=lives, rate=rate, found=found, bursts=bursts, checks=checks)
    print(f"raw samples: {path}")
    return int(bool(targets.complaints) or (not asked.small and not all(good for good, _ in checks)))


def sequential(targets: list[Target], ahead: Server, count: int) -> dict[str, measure.Samples]:
    """Lives in turn; each finds the server at rest and as many ready as are kept."""
    samples: dict[str, measure.Samples] = {target.name: {} for target in targets}
    for number in range(count + 1):
        for target in targets:
            until(lambda: (c := counts(ahead))["ready"] >= DEFAULT["kept"] and not c["building"], timeout=60, what="rest")
            # The first is for connections and caches.
            measure.life(target, samples[target.name] if number else {})
            target.settle()
    return samples


def refilled(server: Server) -> None:
    """Waits until as many are ready as came at once, and the machine is at rest."""
    until(
        lambda: (c := counts(server))["ready"] >= BURST and not c["building"], timeout=60, what=f"{BURST} to be ready"
    )


def since(server: Server, before: dict[str, int]) -> dict[str, int]:
    """What requests found meanwhile."""
    now = counts(server)
    return {name: now[name] - before[name] for name in ("hit", "joined", "miss")}


def bounds(hits: dict, row: list[float], bursts: dict) -> list[tuple[bool, str]]:
    """The bounds that the project promises, each with its figure."""
    floor, mine = hits["stub"]["create+run"], hits["ahead"]["create+run"]
    middle = report.p50(mine) - report.p50(floor)
    high = report.quantile(mine, 0.95) - report.quantile(floor, 0.95)
    checks = [
        (middle <= 30, f"a hit, create → first output over the floor, p50: {middle:.1f} ms ≤ 30 ms"),
        (high <= 60, f"a hit, create → first output over the floor, p95: {high:.1f} ms ≤ 60 ms"),
        (report.p50(row) <= 80, f"in a row without a pause, p50: {report.p50(row):.1f} ms ≤ 80 ms"),
    ]
    for name, limit in (("full", 600), ("empty", 1600)) if bursts else ():
        took = bursts[name]["create all"][0] + bursts[name]["run all"][0]
        checks.append((took <= limit, f"{BURST} at once to their first output, {name}: {took:.0f} ms ≤ {limit} ms"))
    return checks


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run-ahead", description=__doc__)
    report.options(parser, small="few samples; reports the bounds without failing on them")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
