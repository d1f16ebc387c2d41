"""Create → first output through the official SDK, and what goes through a daemon: the floor, tarn without a
runtime, tarn on gVisor, and the bare host."""

import argparse
import signal
import sys

import flow
import measure
import report
from harness import env
from harness.server import sweep
from targets import Targets


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    report.options(parser, small="few samples; reports the bounds on time without failing on them")
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    count, sizes = report.scaled(asked, (10, [5]), (20, [20]), (50, [5, 20]))
    quick, short, full = (50, 2, 16 << 20, 64 << 20), (100, 3, 64 << 20, 256 << 20), (200, 5, 256 << 20, 1 << 30)
    runs, rounds, stream, file = report.scaled(asked, quick, short, full)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sweep()
    with Targets() as targets:
        disk = measure.Disk(targets.servers["sim"].data)
        for _ in range(20):
            disk.probe()
        place = report.machine(targets.servers["sim"].data)
        print(f"{count} lives in a row, bursts of {sizes}; {place}", flush=True)
        sequential = measure.sequential(targets.all, count, disk.probe)
        measure.burst(targets.all[0], max(sizes))  # The client's own threads and sockets, once.
        bursts = {str(n): {t.name: measure.burst(t, n) for t in targets.all} for n in sizes}
        gvisor = targets.servers["gvisor"]
        trips = flow.round_trip([t for t in targets.all if t.name != "sim"], runs)
        with flow.sandbox(gvisor) as made:
            output = flow.output(gvisor, made, rounds, stream)
        with flow.sandbox(gvisor) as made:
            files = flow.files(gvisor, made, rounds, file)
    print("\n" + report.table(f"{count} in a row", sequential))
    for size, result in bursts.items():
        print("\n" + report.table(f"{size} at once", result))
    print("\n" + report.table(f"{runs} in a row", trips))
    print("\n" + report.rates(output) + "\n" + report.rates(files))
    print(f"\nfsync of 4 KiB: p50 {report.p50(disk.samples):.2f} ms, p95 {report.quantile(disk.samples, 0.95):.2f} ms")
    checks = report.bounds(sequential, bursts, disk.samples) + report.flow_bounds(trips, output, files)
    gate = report.gate(sequential)
    for good, text in checks + gate:
        print(("pass  " if good else "FAIL  ") + text)
    for text in targets.complaints:
        print(f"FAIL  {text}")
    path = asked.json or env.LOGS.parent / "bench.json"
    flows = {"round_trip": trips, "output_mb_s": output, "files_mb_s": files}
    report.write(path, machine=place, sequential=sequential, bursts=bursts, fsync=disk.samples, checks=checks + gate, **flows)
    print(f"raw samples: {path}")
    judged = gate if asked.small else gate + checks
    return int(bool(targets.complaints) or not all(good for good, _ in judged))


if __name__ == "__main__":
    sys.exit(main())
