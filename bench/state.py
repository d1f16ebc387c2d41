"""What state costs: suspend, resume, snapshots, restores and copies, by the memory that was touched, each beside what
the bare runtime takes for the same step in the same run.

Over raw HTTP, held by the server until it is done, so that no client's polling is measured, and each step on a machine
at rest. Run it on a machine that does nothing else: `./x bench state`, or `bench/run-state [--small] [--json FILE]`.
"""

import argparse
import contextlib
import os
import pathlib
import signal
import sys
import time

import bare
import crowd
import ours
import report
import scatter
from bare import Bare
from harness import env
from harness.server import Server, sweep
from harness.wait import until
from ours import Rows, call, end, filled, note, snapshot, standstill, timed
from suites.prestart.ahead import stages


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run-state", description=__doc__)
    report.options(parser, small="few samples, little memory; bounds are not judged")
    parser.add_argument("--only", help="the parts to measure, with commas: warm, cold, copies, scattered, crowd")
    return parser.parse_args()


@contextlib.contextmanager
def pair(server: Server, mib: int):
    """A sandbox in which so much memory is touched, and the bare runtime with another like it."""
    with filled(server, mib) as sandbox:
        model = snapshot(server, sandbox, "memory")
        try:
            with Bare(server, sandbox, model) as beside:
                yield sandbox, beside
        finally:
            call(server, "DELETE", f"/snapshots/{model}")


def snapshots(server: Server, sandbox: str, beside: Bare, kind: str, rows: Rows) -> str:
    """A snapshot of ours and one by hand; returns ours."""
    row = f"snapshot, {kind}"
    before = standstill(server)
    made = timed(rows, row, "tarn", lambda: snapshot(server, sandbox, kind))
    note(rows, f"{row}: standing still", "tarn", standstill(server) - before)

    place, image = beside.first, beside.new_image()
    begun = time.perf_counter()
    place.sync_layer()
    paused = time.perf_counter()
    place.pause()
    if kind == "memory":
        place.write_down(image / "memory", "--leave-running")
    bare.clone(place.image, image / "layer.img")
    place.resume()
    note(rows, f"{row}: standing still", "bare", (time.perf_counter() - paused) * 1e3)
    beside.durable(image)
    note(rows, row, "bare", (time.perf_counter() - begun) * 1e3)
    beside.drop(image)
    return made


def warm_cycle(server: Server, sandbox: str, beside: Bare, rows: Rows) -> None:
    """Suspend and resume where the processes are kept."""
    suspend(server, sandbox, rows, "warm")
    resume(server, sandbox, rows, "warm")
    place, image = beside.first, beside.new_image()
    timed(rows, "suspend, warm", "bare", lambda: bare_suspend(beside, image, "--leave-running"))
    place.pause()
    timed(rows, "resume, warm", "bare", place.resume)
    beside.drop(image)
    wake(server, sandbox, rows, "warm")
    place.pause()
    timed(rows, "wake by a request, warm", "bare", place.resume)


def cold_cycle(server: Server, sandbox: str, beside: Bare, rows: Rows) -> None:
    """The same where they are not."""
    suspend(server, sandbox, rows, "cold")
    resume(server, sandbox, rows, "cold")
    place, image = beside.first, beside.new_image()
    timed(rows, "suspend, cold", "bare", lambda: bare_suspend(beside, image))
    place.end()
    timed(rows, "resume, cold", "bare", lambda: place.restore(image / "memory"))
    wake(server, sandbox, rows, "cold")
    place.end()
    timed(rows, "wake by a request, cold", "bare", lambda: place.restore(image / "memory"))
    beside.drop(image)


def suspend(server: Server, sandbox: str, rows: Rows, how: str) -> None:
    timed(rows, f"suspend, {how}", "tarn", lambda: call(server, "POST", f"/sandboxes/{sandbox}/suspend?wait_ms=120000"))
    assert server.info(sandbox)["status"] == "suspended"
    at_rest(server, sandbox, how)


def at_rest(server: Server, sandbox: str, how: str) -> None:
    """What is left of one without processes is taken down behind the answer, and what its resume is to find is made:
    that is not the resume's time."""
    if how == "cold":
        control = server.data / "runsc/root" / f"runsc-{sandbox}.sock"
        until(lambda: control.exists() and stages(server)["building"] == 0 and stages(server)["ready"], 60, "its stage")


def resume(server: Server, sandbox: str, rows: Rows, how: str) -> None:
    timed(rows, f"resume, {how}", "tarn", lambda: call(server, "POST", f"/sandboxes/{sandbox}/resume?wait_ms=120000"))
    assert server.run(sandbox, "echo here").out.strip() == "here"


def bare_suspend(beside: Bare, image: pathlib.Path, *flags: str) -> None:
    """An image, and everything on disk. What the layer has in memory is written out as well."""
    beside.first.write_down(image / "memory", *flags)
    beside.first.sync_layer()
    beside.durable(image)
    bare.sync(beside.first.image)


def wake(server: Server, sandbox: str, rows: Rows, how: str) -> None:
    call(server, "POST", f"/sandboxes/{sandbox}/suspend?wait_ms=120000")
    at_rest(server, sandbox, how)
    reply = timed(rows, f"wake by a request, {how}", "tarn", lambda: server.sandbox_call(sandbox, "GET", "/api/v1/health"))
    assert reply.status == 200, reply


def restores(server: Server, snapshot_id: str, beside: Bare, kind: str, rows: Rows) -> None:
    row = f"restore, {kind}"
    made = timed(rows, row, "tarn", lambda: call(server, "POST", "/sandboxes", {"snapshot_id": snapshot_id}))
    assert made["status"] == "running", made
    assert server.run(made["sandbox_id"], "echo here").out.strip() == "here"
    end(server, [made["sandbox_id"]])
    beside.reserve(2)
    place = beside.places[1]
    step = place.boot if kind == "filesystem" else lambda: place.restore(beside.capture / "memory")
    timed(rows, row, "bare", step)
    place.end()


def copies(server: Server, sandbox: str, beside: Bare, times: int, rows: Rows) -> None:
    row = f"copy, {times}"
    made = timed(rows, row, "tarn", lambda: call(server, "POST", f"/sandboxes/{sandbox}/copy?times={times}"))
    states = [copy["status"] for copy in made["sandboxes"]]
    assert states == ["running"] * times, made
    end(server, [copy["sandbox_id"] for copy in made["sandboxes"]])
    beside.reserve(times + 1)
    image = beside.new_image()
    places = beside.places[1 : times + 1]
    timed(rows, row, "bare", lambda: bare_copies(beside, places, image))
    for place in places:
        place.end()
    beside.drop(image)


def bare_copies(beside: Bare, places: list, image: pathlib.Path) -> None:
    beside.first.write_down(image / "memory", "--leave-running")
    beside.restore_all(places, image / "memory")


class Run:
    """All parts, with the results of each."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.small = asked, asked.small
        self.rounds, ours.patience_secs = report.scaled(asked, (2, 0), (4, 1), (12, 3))
        self.sizes = report.scaled(asked, [0], [0, 200], [0, 200, 1024])
        # By the memory that is touched, how many at once.
        self.fans = report.scaled(asked, {0: [2]}, {0: [1, 10]}, {0: [1, 10, 50], 100: [1, 10, 50], 200: [10]})
        self.results: dict[str, Rows] = {}
        self.checks: list[tuple[bool, str]] = []
        self.complaints: list[str] = []
        self.place: dict = {}

    @contextlib.contextmanager
    def server(self, name: str, initial_mb: int, **config):
        """A server of a part's own, with a pool that does not grow meanwhile."""
        size = report.scaled(self.asked, 2048, min(initial_mb, 6144), initial_mb)
        pool = {"initial_mb": size, "max_mb": size}
        # Fifty copies are more CPUs than are promised by default.
        admission = {"cpu_overcommit": 64, **config.pop("admission", {})}
        ahead = {"prestart": {"most": 0, "restores": 8}}
        server = Server(f"bench-state-{name}", config={"pool": pool, "admission": admission, **ahead, **config})
        try:
            server.start()
            room = os.statvfs(server.data / "pool")
            if room.f_blocks * room.f_frsize >> 20 < size * 9 // 10:
                raise RuntimeError(f"the disk has no room for a pool of {size} MiB")
            yield server
            self.place = self.place or report.machine(server.data)
        finally:
            self.complaints += server.close()

    def rows(self, mib: int) -> Rows:
        return self.results.setdefault(f"{mib} MiB", {})

    def warm(self) -> None:
        with self.server("warm", 12288) as server:
            for mib in self.sizes:
                rows = self.rows(mib)
                with pair(server, mib) as (sandbox, beside):
                    for _ in range(self.rounds):
                        warm_cycle(server, sandbox, beside, rows)
                    for kind in ("filesystem", "memory"):
                        for _ in range(self.rounds):
                            taken = snapshots(server, sandbox, beside, kind, rows)
                            restores(server, taken, beside, kind, rows)
                            call(server, "DELETE", f"/snapshots/{taken}")
            if self.small:
                # A server less takes two seconds less.
                self.fan_out(server)
                self.scatter(server)
                server.configure("node", keep_warm_secs=0)
                self.chill(server.restart())

    def cold(self) -> None:
        if not self.small:
            with self.server("cold", 12288, node={"keep_warm_secs": 0}) as server:
                self.chill(server)

    def chill(self, server: Server) -> None:
        for mib in self.sizes:
            with pair(server, mib) as (sandbox, beside):
                for _ in range(self.rounds):
                    cold_cycle(server, sandbox, beside, self.rows(mib))

    def copies(self) -> None:
        if not self.small:
            with self.server("copies", 12288) as server:
                self.fan_out(server)

    def fan_out(self, server: Server) -> None:
        for mib, fans in self.fans.items():
            with pair(server, mib) as (sandbox, beside):
                for times in fans:
                    # What the host gives this machine's memory for the first time is nobody's row.
                    copies(server, sandbox, beside, times, {})
                    for _ in range(self.rounds if times <= 10 else max(1, self.rounds // 2)):
                        copies(server, sandbox, beside, times, self.rows(mib))

    def scattered(self) -> None:
        if not self.small:
            with self.server("scattered", 26624) as server:
                self.scatter(server)

    def scatter(self, server: Server) -> None:
        found = scatter.measure(server, scatter.SMALL if self.small else scatter.FULL)
        self.results["scattered writes"] = found.rows
        self.checks += found.checks

    def crowd(self) -> None:
        if not self.small:
            with self.server("crowd", 8192, admission={"memory_reserve_mb": 4096}) as server:
                self.checks += crowd.checks(server, 50, 1024)


def bound(row: str, ours: float, floor: float) -> tuple[float, str]:
    """What a row's median may be, and why."""
    if row == "resume, warm":
        return 30, "30 ms"
    if row.startswith("suspend"):
        return 1.2 * floor + 30, "1.2 × bare + 30 ms"
    return floor + max(40, 0.1 * floor), "bare + max(40 ms, 10 %)"


def judged(results: dict[str, Rows]) -> list[tuple[bool, str]]:
    """Every row that has a bound, with its figure."""
    checks = []
    for title, rows in results.items():
        for row, each in rows.items():
            if not each["bare"] or title == "scattered writes":
                continue
            ours, floor = report.p50(each["tarn"]), report.p50(each["bare"])
            limit, why = bound(row, ours, floor)
            text = f"{title}, {row}: {ours:.1f} ms ≤ {why} = {limit:.1f} ms (bare: {floor:.1f} ms)"
            checks.append((ours <= limit, text))
    return checks


def table(title: str, rows: Rows) -> str:
    """One line a row: ours, the bare runtime's, and how they compare by their medians."""
    head = f"{title + ' (ms)':<38}{'tarn p50':>9}{'p95':>9} |{'bare p50':>9}{'p95':>9} |{'ratio':>6}{'Δp50':>8}{'n':>4}"
    lines = [head, "-" * len(head)]
    for row, each in rows.items():
        ours, floor = each["tarn"], each["bare"]
        line = f"{row:<38}{report.p50(ours):>9.1f}{report.quantile(ours, 0.95):>9.1f} |"
        if floor:
            delta = report.p50(ours) - report.p50(floor)
            line += f"{report.p50(floor):>9.1f}{report.quantile(floor, 0.95):>9.1f} |"
            line += f"{report.p50(ours) / report.p50(floor):>6.2f}{delta:>8.1f}"
        else:
            line += f"{'':>18} |{'':>14}"
        lines.append(line + f"{len(ours):>4}")
    return "\n".join(lines)


def main() -> int:
    asked = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sweep()
    run, before = Run(asked), os.getloadavg()
    parts = {part: getattr(run, part) for part in ("warm", "cold", "copies", "scattered", "crowd")}
    if asked.short:
        # A pool of 26 GiB, and memory until there is none, have their own time.
        del parts["scattered"], parts["crowd"]
    for part in asked.only.split(",") if asked.only else parts:
        try:
            parts[part]()
        except (AssertionError, RuntimeError) as bad:
            # The others are measured all the same.
            run.complaints.append(f"{part}: {bad!r}")
    place = run.place | {"load_before": before}
    print(f"the machine: {place}")
    for title, rows in run.results.items():
        print("\n" + table(title if title.startswith("sc") else f"{title} touched", rows))
    checks = judged(run.results) + run.checks
    print()
    for good, text in checks:
        print(("pass  " if good else "FAIL  ") + text)
    for text in run.complaints:
        print(f"FAIL  {text}")
    path = asked.json or env.LOGS.parent / "bench-state.json"
    report.write(path, machine=place, samples_ms=run.results, checks=checks)
    print(f"raw samples: {path}")
    return int(bool(run.complaints) or (not asked.small and not all(good for good, _ in checks)))


if __name__ == "__main__":
    sys.exit(main())
