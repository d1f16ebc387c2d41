"""The rows of the one table, from the raw samples of every bench.

A row's bound is judged where it is measured. Here it is only found again, by the words that its text begins with.
"""

import re
from dataclasses import dataclass

from report import p50, quantile

_TARGET = re.compile(r"(?:≤|≥|at most)(?:max\([^)]*\)|[^,;(])+")


@dataclass
class Row:
    """One line of the table: medians, unless it says otherwise."""

    what: str
    ours: float | None = None
    # The same client with nothing to do; of a load, without what is beside it.
    floor: float | None = None
    # The bare runtime's own command, or what else does the same without us.
    bare: float | None = None
    # What the text of its check begins with.
    check: str = ""
    target: str = ""
    good: bool | None = None

    @property
    def delta(self) -> float | None:
        beside = self.bare if self.floor is None else self.floor
        return None if self.ours is None or beside is None else self.ours - beside


def of(part: str, raw: dict) -> list[Row]:
    """What a bench found, every check of it among the rows."""
    rows = list(PARTS[part](raw))
    left = [(good, text) for good, text in raw.get("checks", [])]
    for row in rows:
        found = next((check for check in left if row.check and row.check in check[1]), None)
        if found:
            left.remove(found)
            row.good = found[0]
            target = _TARGET.search(found[1])
            row.target = row.target or (target[0].strip() if target else "")
    return rows + [Row(text, good=good) for good, text in left]


def _life(raw: dict):
    floor, sim, ours = (raw["sequential"][name] for name in ("stub", "sim", "gvisor"))
    for what, check in {"create": "", "run": "", "create+run": "gVisor, create → first output", "delete": ""}.items():
        yield Row(f"{what}, cold, ms", p50(ours[what]), p50(floor[what]), check=check)
    yield Row("create+run, simulated runtime, ms", p50(sim["create+run"]), p50(floor["create+run"]), check="create+run on sim")
    for name, samples in (("sim", sim), ("gvisor", ours)):
        cpu = "server CPU"
        yield Row(f"the server's CPU time for a life, {name}, ms", p50(samples[cpu]), p50(floor[cpu]), check=f"{name}: the server's")
    for count, burst in raw["bursts"].items():
        took = {name: samples["create all"][0] for name, samples in burst.items()}
        yield Row(f"{count} creates at once, ms", took["gvisor"], took["stub"], check=f"gVisor, {count} concurrent")
    trips = {name: p50(samples["run true"]) for name, samples in raw["round_trip"].items()}
    yield Row("run `true`, ms", trips["gvisor"], trips["stub"], trips["host"], check="gVisor, `true` over")
    for name, samples in raw["output_mb_s"]["tarn"].items():
        yield Row(f"{name}, MB/s", p50(samples), bare=p50(raw["output_mb_s"]["host"][name]), check=name)
    ((size, samples),) = raw["files_mb_s"].items()
    for name, wire in (("upload", "TCP in"), ("download", "TCP out")):
        yield Row(f"{name} of {size}, MB/s", p50(samples[name]), bare=p50(samples[wire]), check=name)


def _ahead(raw: dict):
    floor, ours, cold = (raw["hits"][name]["create+run"] for name in ("stub", "ahead", "gvisor"))
    yield Row("create+run, started ahead, ms", p50(ours), p50(floor), p50(cold), check="over the floor, p50")
    high = [quantile(samples, 0.95) for samples in (ours, floor, cold)]
    yield Row("create+run, started ahead, p95, ms", *high, check="over the floor, p95")
    yield Row(f"{len(raw['row']['create'])} in a row, create+run, ms", p50(raw["row"]["create+run"]), p50(floor), check="in a row without a pause")
    for name in ("full", "empty") if raw["bursts"] else ():
        burst = raw["bursts"][name]
        took = burst["create all"][0] + burst["run all"][0]
        yield Row(f"{len(burst['create'])} at once to their first output, {name}, ms", took, check=f"first output, {name}")


def _load(raw: dict):
    results = raw["results"]
    if row := results.get("row"):
        allowed = raw["machine"]["cores"] * 1000 / row["bare_life_cpu_ms"]
        yield Row(f"{len(row['samples_ms']['create'])} in a row, lives/s", row["rate"], bare=allowed, check="lives in a row")
    if found := results.get("refill"):
        for what in ("counts/s", "requests/s", "spared p99 ms"):
            yield Row(f"beside a refill, {what}", p50(found["refill"][what]), p50(found["quiet"][what]), check=f"{what} beside a refill")
    if found := results.get("density"):
        title = f"{found['number']} idle sandboxes"
        yield Row(f"{title}, % of a core", found["cpu_percent"], bare=found["bare_cpu_percent"], check=title)
        yield Row(f"beside {title}, a request, ms", p50(found["beside_ms"]), p50(found["alone_ms"]), check="a request to another beside")
    if found := results.get("listed"):
        each = (found["full_bytes"] - found["empty_bytes"]) / found["number"] / 1024
        yield Row(f"{found['number']} sandboxes listed, KiB of the server's each", each, check=f"{found['number']} sandboxes,")


def _steps(raw: dict):
    for title, found in raw["samples_ms"].items():
        (what, values), *steps = found.items()
        yield Row(f"{title}: {what}, ms", p50(values))
        for step, values in steps:
            yield Row(f"{step}, ms", p50(values))


def _state(raw: dict):
    for title, found in raw["samples_ms"].items():
        for what, each in found.items():
            bare = p50(each["bare"]) if each["bare"] else None
            yield Row(f"{title}, {what}, ms", p50(each["tarn"]), bare=bare, check=f"{title}, {what}:")


def _files(raw: dict):
    for what, each in raw["samples_ms"].items():
        yield Row(f"{what}, ms", p50(each["tarn"]), bare=p50(each["host"]))


def _ingress(raw: dict):
    for name in ("plain", "tls"):
        found = raw["results"][name]
        yield Row(f"{name}: beside {found['open']} idle connections, a request on a new one, ms", p50(found["beside"]), p50(found["alone"]))
        yield Row(f"{name}: an idle connection, KiB", found["bytes_each"] / 1024)


def _nginx(raw: dict):
    straight, beside, ours = (raw["results"][name] for name in ("straight", "nginx", "tarn"))
    for what, samples in ours.items():
        yield Row(f"ingress, {what}", p50(samples), p50(straight[what]), p50(beside[what]), check=f"{what}:")


def _gate(raw: dict):
    for build, found in raw["server_cpu_ms"].items():
        for name in ("sim", "gvisor"):
            ours, floor = p50(found[name]), p50(found["stub"])
            what = f"the build {build}, CPU time for a life, {name}, ms"
            target = "" if build == "as it is" else "over the bound: the gate fails"
            yield Row(what, ours, floor, check=f"the build {build}, {name}:", target=target)


PARTS = {
    "life": _life,
    "ahead": _ahead,
    "load": _load,
    "steps": _steps,
    "state": _state,
    "files": _files,
    "ingress": _ingress,
    "nginx": _nginx,
    "gate": _gate,
}
