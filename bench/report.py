"""Scales, tables, bounds and the raw samples."""

import argparse
import json
import os
import pathlib
import platform
import re
import statistics
from importlib.metadata import version


def options(parser: argparse.ArgumentParser, small: str) -> None:
    """What every bench can be asked for."""
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--small", action="store_true", help=small)
    scale.add_argument("--short", action="store_true", help="fewer samples, judged all the same: a part of `bench/run-all`")
    parser.add_argument("--json", type=pathlib.Path, help="where the raw samples go")


def scaled(asked: argparse.Namespace, small, short, full):
    """Chooses by the scale that was asked for."""
    return small if asked.small else short if asked.short else full


def quantile(samples: list[float], q: float) -> float:
    """The value that a share `q` of the samples does not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))]


def p50(samples: list[float]) -> float:
    return statistics.median(samples)


def table(title: str, results: dict[str, dict[str, list[float]]]) -> str:
    """One row a phase: the floor, then each target and what it takes more."""
    floor_name, *names = results
    head = f"{title:<22}{floor_name + ' p50':>10}{'p95':>9}"
    head += "".join(f" |{name + ' p50':>11}{'p95':>9}{'Δp50':>9}{'Δp95':>9}" for name in names)
    lines = [head, "-" * len(head)]
    for phase, floor in results[floor_name].items():
        line = f"{phase + ' (ms)':<22}{p50(floor):>10.2f}{quantile(floor, 0.95):>9.2f}"
        for name in names:
            mine = results[name][phase]
            middle, high = p50(mine), quantile(mine, 0.95)
            line += f" |{middle:>11.2f}{high:>9.2f}{middle - p50(floor):>9.2f}{high - quantile(floor, 0.95):>9.2f}"
        lines.append(line)
    return "\n".join(lines)


def rates(results: dict[str, dict[str, list[float]]]) -> str:
    """One row a measurement, in MB/s."""
    lines = [f"{'MB/s':<34}{'p50':>9}{'min':>9}{'max':>9}"]
    for place, samples in results.items():
        for name, each in samples.items():
            lines.append(f"{f'{name} ({place})':<34}{p50(each):>9.0f}{min(each):>9.0f}{max(each):>9.0f}")
    return "\n".join(lines)


def flow_bounds(trips: dict, output: dict, files: dict) -> list[tuple[bool, str]]:
    """What goes through a daemon, against its bounds."""
    floor, ours, host = (p50(trips[name]["run true"]) for name in ("stub", "gvisor", "host"))
    text = f"gVisor, `true` over the floor: {ours - floor:.2f} ms ≤ 7 ms (a spawn on the host: {host:.2f} ms)"
    checks = [(ours - floor <= 7, text)]
    for name, limit in (("output, 80 B lines", 20), ("output, 4096 B lines", 100)):
        rate, beside = p50(output["tarn"][name]), p50(output["host"][name])
        checks.append((rate >= limit, f"{name}: {rate:.0f} MB/s ≥ {limit} MB/s (cat on the host: {beside:.0f})"))
    ((size, samples),) = files.items()

    def share(name: str, wire: str) -> float:
        # Pairwise, since the machine's moods last longer than one of them.
        pairs = zip(samples[name], samples[wire], samples["dd conv=fsync"], strict=True)
        return p50([mine / min(tcp, disk) for mine, tcp, disk in pairs])

    # What a program inside makes of one stream, with neither HTTP nor the ingress between.
    plain = f" (a stream to a file: {share('TCP to a file', 'TCP in'):.2f})"
    for name, wire, beside in (("upload", "TCP in", plain), ("download", "TCP out", "")):
        part = share(name, wire)
        checks.append((part >= 0.5, f"{name} of {size}: {part:.2f} of the slower of {wire} and dd ≥ 0.5{beside}"))
    return checks


# What the server itself may compute for one life, in what the stub computes for one: about a third more than it does.
CPU_GATE = {"sim": 15.0, "gvisor": 70.0}


def gate(sequential: dict) -> list[tuple[bool, str]]:
    """What a slower build fails on any machine, at work or at rest: CPU time, against CPU time of the same run."""
    floor = p50(sequential["stub"]["server CPU"])
    checks = []
    for name, limit in CPU_GATE.items():
        ours = p50(sequential[name]["server CPU"])
        text = f"{name}: the server's CPU time for a life {ours:.2f} ms, {ours / floor:.1f} × the stub's ≤ {limit} ×"
        checks.append((ours <= limit * floor, text))
    return checks


def bounds(sequential: dict, bursts: dict, disk: list[float]) -> list[tuple[bool, str]]:
    """The bounds that the project promises, each with its figure."""
    checks = []
    fsync = p50(disk)
    overhead = p50(sequential["sim"]["create+run"]) - p50(sequential["stub"]["create+run"])
    limit = 3 + 4 * fsync
    text = f"create+run on sim over the floor: {overhead:.2f} ms ≤ 3 ms + 4 × {fsync:.2f} ms = {limit:.2f} ms"
    checks.append((overhead <= limit, text))
    first = p50(sequential["gvisor"]["create+run"])
    checks.append((first <= 200, f"gVisor, create → first output, p50: {first:.1f} ms ≤ 200 ms"))
    if "20" in bursts:
        took = bursts["20"]["gvisor"]["create all"][0]
        checks.append((took <= 2500, f"gVisor, 20 concurrent creates, all running: {took:.0f} ms ≤ 2500 ms"))
    return checks


def machine(directory: pathlib.Path) -> dict:
    """Where the samples were taken."""
    mounts = [line.split() for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()]
    mount = max((m for m in mounts if str(directory).startswith(m[1])), key=lambda m: len(m[1]))
    model = re.search(r"^model name\s*: (.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cores": os.cpu_count(),
        "cpu": model[1] if model else platform.machine(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": platform.release(),
        "load": os.getloadavg(),
        "file_system": mount[2],
        "python": platform.python_version(),
        "sdk": version("tensorlake"),
    }


def write(path: pathlib.Path, **results) -> None:
    """Keeps the raw samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
