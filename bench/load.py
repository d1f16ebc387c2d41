"""What lasts: many lives without a pause, refills beside a load, many idle sandboxes.

`row`      hundreds of lives by the official SDK, their rate beside what the bare runtime's CPU time per life allows
`refill`   a sandbox that computes and a stream of requests to another, with and without a refill beside them
`density`  memory and CPU time of many idle sandboxes beside as many bare ones, and the requests of another beside them
`listed`   the server's own memory with a thousand sandboxes, on the simulated runtime
"""

import argparse
import bisect
import contextlib
import os
import pathlib
import signal
import socket
import sys
import threading
import time

import measure
import report
from bare import Bare
from harness import env, host
from harness.server import Server, sweep
from harness.wait import until
from ingress import resident
from ours import filled, rest, snapshot
from suites.prestart.ahead import counts
from targets import Target

# After many have begun or ended: what is done behind their last answer is neither a refill nor quiet.
SETTLED_SECS = 3
# As many requests as this brings say what their p99 is.
QUIET_SECS = 20
# A second in which the host gave more than this to others says how they are, not how a refill is.
STOLEN_PERCENT = 1
KEPT = {"kept": 4, "most": 32}
# Counts as fast as it can, and says how far it is when it is asked.
COMPUTE = "import threading\nn=0\ndef f():\n global n\n while 1: n+=1\nthreading.Thread(target=f,daemon=True).start()\nwhile 1:\n input(); print(n,flush=True)"
LINE = b"GET /api/v1/health HTTP/1.1\r\nHost: %s.local\r\nAuthorization: Bearer %s\r\n\r\n"


def main() -> int:
    asked = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sweep()
    bench = Bench(asked)
    parts = {"row": bench.row, "refill": bench.refill, "density": bench.density, "listed": bench.listed}
    for part in asked.only.split(",") if asked.only else parts:
        try:
            parts[part]()
        except (AssertionError, RuntimeError, OSError) as bad:
            # The others are measured all the same.
            bench.complaints.append(f"{part}: {bad!r}")
    print(f"the machine: {bench.place}")
    for good, text in bench.checks:
        print(("pass  " if good else "FAIL  ") + text)
    for text in bench.complaints:
        print(f"FAIL  {text}")
    path = asked.json or env.LOGS.parent / "bench-load.json"
    report.write(path, machine=bench.place, results=bench.results, checks=bench.checks)
    print(f"raw samples: {path}")
    return int(bool(bench.complaints) or (not asked.small and not all(good for good, _ in bench.checks)))


class Bench:
    """The parts, and what they found."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.results: dict = {}
        self.checks: list[tuple[bool, str]] = []
        self.complaints: list[str] = []
        self.place: dict = {}

    @contextlib.contextmanager
    def server(self, name: str, **config):
        size = report.scaled(self.asked, 2048, 8192, 16384)
        config = {"pool": {"initial_mb": size, "max_mb": size}, "admission": {"cpu_overcommit": 512}, **config}
        server = Server(f"bench-load-{name}", config=config)
        try:
            server.start()
            self.place = self.place or report.machine(server.data)
            yield server
        finally:
            self.complaints += server.close()

    def row(self) -> None:
        lives, bare_lives = report.scaled(self.asked, (10, 3), (150, 15), (300, 40))
        with self.server("row", prestart=KEPT) as server:
            with bare(server) as beside:
                millis = bare_life(beside, bare_lives)
            until(lambda: counts(server)["ready"] >= KEPT["kept"], timeout=60, what="some to be ready")
            rest()
            target = Target("tarn", server.api, server.key, server.process.pid)
            samples: measure.Samples = {}
            before, began = counts(server), time.perf_counter()
            for _ in range(lives):
                measure.life(target, samples)
            rate = lives / (time.perf_counter() - began)
            now = counts(server)
        found = {name: now[name] - before[name] for name in ("hit", "joined", "miss")}
        allowed = (os.cpu_count() or 1) * 1000 / millis
        first = samples["create+run"]
        text = f"{lives} lives in a row: create → first output p50 {report.p50(first):.1f}, "
        text += f"p95 {report.quantile(first, 0.95):.1f} ms; {found}; {rate:.1f} lives/s ≥ 0.7 × {allowed:.1f}, "
        text += f"what {millis:.0f} ms of CPU time a bare life allow"
        self.results["row"] = {"samples_ms": samples, "rate": rate, "found": found, "bare_life_cpu_ms": millis}
        self.checks.append((rate >= 0.7 * allowed, text))

    def refill(self) -> None:
        rounds, number, per_second = report.scaled(self.asked, (1, 3, 200), (3, 30, 1000), (10, 30, 1000))
        found: dict[str, dict[str, list[float]]] = {"quiet": {}, "refill": {}}
        with self.server("refill", prestart={"kept": number, "most": max(number, 32)}) as server:
            # All rounds together take longer than the time limit that one has by itself.
            computing, serving = (server.create(timeout_secs=3600) for _ in range(2))
            with computer(server, computing) as count, Stream(server, serving, per_second) as stream:
                for _ in range(rounds):
                    refilled(server, number)
                    claimed = [server.create() for _ in range(number)]
                    time.sleep(SETTLED_SECS)
                    lasted = observe(found["refill"], count, stream, lambda: refilled(server, number))
                    for sandbox in claimed:
                        server.delete(sandbox)
                    until(lambda: not set(claimed) & groups(server), timeout=120, what="the claimed ones to be gone")
                    time.sleep(SETTLED_SECS)
                    seconds = min(lasted, QUIET_SECS)
                    observe(found["quiet"], count, stream, lambda seconds=seconds: time.sleep(seconds))
        self.results["refill"] = found
        assert all("spared p99 ms" in each for each in found.values()), "the host gave our processors to others all the time"
        middle = {state: {what: report.p50(values) for what, values in each.items()} for state, each in found.items()}
        for what, sign, limit in (("counts/s", -1, 5), ("requests/s", -1, 5), ("spared p99 ms", 1, 25)):
            quiet, refill = middle["quiet"][what], middle["refill"][what]
            change = 100 * sign * (refill - quiet) / quiet
            text = f"{what} beside a refill of {number}: {refill:.4g} against {quiet:.4g}, {sign * change:+.1f} %, at most {sign * limit:+} %"
            if what == "spared p99 ms":
                all_of = [f"{middle[state]['p99 ms']:.4g} ({middle[state]['stolen %']:.2g} %)" for state in found]
                text += f"; with the seconds in which the host gave our processors to others {all_of[1]} against {all_of[0]}"
            self.checks.append((change <= limit, text))

    def density(self) -> None:
        number, seconds = report.scaled(self.asked, (5, 3), (60, 20), (200, 60))
        with self.server("density", prestart={"kept": 0, "most": 0}) as server:
            other = server.create()
            alone = asked_of(server, other)
            idle = [server.create(cpus=0.25, memory_mb=256) for _ in range(number)]
            rest()
            before = {group: cpu_micros(server, group) for group in idle}
            ours = busy_percent(seconds)
            inside = sum(cpu_micros(server, group) - before[group] for group in idle) / 1e4 / seconds
            memory = sorted(resident_mib(server, group) for group in idle)
            beside = asked_of(server, other)
            for sandbox in idle:
                server.delete(sandbox)
            until(lambda: not set(idle) & groups(server), timeout=240, what="the idle ones to be gone")
            with bare(server) as floor:
                floor.reserve(number)
                for place in floor.places[1:]:
                    place.boot()
                rest()
                theirs = busy_percent(seconds)
        self.results["density"] = {
            "number": number, "cpu_percent": ours, "bare_cpu_percent": theirs, "cpu_percent_in_sandboxes": inside,
            "memory_mib": memory, "alone_ms": alone, "beside_ms": beside,
        }  # fmt: skip
        limit = 1.3 * theirs + 0.5
        text = f"{number} idle sandboxes: the whole machine uses {ours:.2f} % of a core ({inside:.2f} within them) "
        text += f"≤ 1.3 × {theirs:.2f} (as many bare) + 0.5 = {limit:.2f}; "
        text += f"memory each p50 {report.p50(memory):.1f} MiB, most {memory[-1]:.1f}"
        self.checks.append((ours <= limit, text))
        one, two = report.p50(alone), report.p50(beside)
        text = f"a request to another beside them: p50 {two:.2f} ms, alone {one:.2f} ms"
        self.checks.append((two <= 1.25 * one + 0.1, text))

    def listed(self) -> None:
        number = report.scaled(self.asked, 50, 500, 1000)
        server = Server("bench-load-listed", runtime="sim", config={"admission": {"cpu_overcommit": 4096}})
        try:
            server.start()
            empty = resident(server)
            for _ in range(number):
                server.create(cpus=0.25, memory_mb=256)
            found, path = 0, "/sandboxes?limit=100"
            while path:
                page = server.call("GET", path).json()
                found += len(page["sandboxes"])
                path = (cursor := page.get("next_cursor")) and f"/sandboxes?limit=100&cursor={cursor}"
            full = resident(server)
        finally:
            self.complaints += server.close()
        each = (full - empty) / number / 1024
        self.results["listed"] = {"number": number, "empty_bytes": empty, "full_bytes": full}
        text = f"{number} sandboxes, {found} listed: the server has {full / 2**20:.1f} MiB, {empty / 2**20:.1f} without any, {each:.1f} KiB each"
        self.checks.append((found >= number and each <= 64, text))


@contextlib.contextmanager
def bare(server: Server):
    """The bare runtime with a bundle like those of the server."""
    with filled(server, 0) as sandbox:
        model = snapshot(server, sandbox, "memory")
        with Bare(server, sandbox, model) as beside:
            yield beside


def bare_life(beside: Bare, count: int) -> float:
    """The CPU time of everything on the machine for one bare life, in ms."""
    place, spent = beside.first, 0
    place.end()
    for _ in range(count):
        rest()
        before = busy_ticks()
        place.boot()
        # Until it idles; that costs nothing.
        time.sleep(0.2)
        place.runsc("delete", "--force", place.id)
        spent += busy_ticks() - before
        place.end()
    return spent * 10 / count


def ticks() -> list[int]:
    """What the processors did since the start of the machine, in hundredths of a second; `proc_stat(5)` says in which order."""
    return [int(field) for field in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def busy_ticks() -> int:
    """Hundredths of a second that the processors were not idle."""
    fields = ticks()
    return sum(fields) - fields[3] - fields[4]


def stolen_ticks() -> int:
    return ticks()[7]


def busy_percent(seconds: float) -> float:
    """What the machine does by itself, in percent of one core."""
    before, began = busy_ticks(), time.perf_counter()
    time.sleep(seconds)
    return (busy_ticks() - before) / (time.perf_counter() - began)


@contextlib.contextmanager
def computer(server: Server, sandbox: str):
    """A program that computes without a pause; yields what says how far it is."""
    body = {"command": "python3", "args": ["-c", COMPUTE], "stdin_mode": "pipe"}
    made = server.sandbox_call(sandbox, "POST", "/api/v1/processes", body)
    assert made.status == 201, made
    path = f"/api/v1/processes/{made.json()['pid']}"
    seen = 0

    def count() -> int:
        nonlocal seen
        seen += 1
        assert server.sandbox_call(sandbox, "POST", f"{path}/stdin", b"\n").status < 300
        lines: list[str] = []

        def answered() -> bool:
            lines[:] = server.sandbox_call(sandbox, "GET", f"{path}/output").json()["lines"]
            return len(lines) >= seen

        until(answered, timeout=60, what="the count")
        return int(lines[seen - 1])

    yield count


class Stream:
    """Requests to one sandbox at an even rate, over one connection for each that is late."""

    def __init__(self, server: Server, sandbox: str, per_second: int) -> None:
        self._request = LINE % (sandbox.encode(), server.key.encode())
        self._server, self._pause = server, 4 / per_second
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._taken: list[tuple[float, float]] = []
        self._threads = [threading.Thread(target=self._run, args=(n * self._pause / 4,), daemon=True) for n in range(4)]

    def __enter__(self) -> "Stream":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def take(self) -> list[tuple[float, float]]:
        """When each one since the last call was due, and its time from then on in ms."""
        with self._lock:
            taken, self._taken = self._taken, []
        return taken

    def _run(self, offset: float) -> None:
        # A client is on another machine, and does not wait for this one's processors.
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        with self._server.dial() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            due = time.perf_counter() + offset
            while not self._ended.is_set():
                time.sleep(max(0.0, due - time.perf_counter()))
                connection.sendall(self._request)
                answer = b""
                while not answer.endswith(b"}"):
                    part = connection.recv(4096)
                    assert part, f"ended after {answer!r}"
                    answer += part
                assert answer.startswith(b"HTTP/1.1 200"), answer
                now = time.perf_counter()
                with self._lock:
                    self._taken.append((due, (now - due) * 1e3))
                due = max(due + self._pause, now - 1)


class Stolen:
    """When others on the host had processors that this machine would have used (`steal` of `/proc/stat`)."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._began = 0.0
        self._at: list[float] = []
        self._ticks = [stolen_ticks()]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Stolen":
        self._began = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join()

    def percent(self) -> float:
        """Of all processors' time until now."""
        lasted = time.perf_counter() - self._began
        return (stolen_ticks() - self._ticks[0]) / lasted / (os.cpu_count() or 1)

    def spared(self, moment: float) -> bool:
        """Whether the machine had its processors in the second of a moment and in the one before."""
        second = bisect.bisect_left(self._at, moment)
        first, last = max(0, second - 1), min(second + 1, len(self._at))
        return self._ticks[last] - self._ticks[first] <= STOLEN_PERCENT * (os.cpu_count() or 1) * (last - first)

    def _run(self) -> None:
        while not self._ended.wait(1):
            self._at.append(time.perf_counter())
            self._ticks.append(stolen_ticks())


def observe(found: dict[str, list[float]], count, stream: Stream, meanwhile) -> float:
    """Notes what the two sandboxes do while something is done; returns the seconds that it took."""
    stream.take()
    before, began = count(), time.perf_counter()
    with Stolen() as stolen:
        meanwhile()
    after, lasted = count(), time.perf_counter() - began
    taken = stream.take()
    times = [millis for _, millis in taken]
    spared = [millis for due, millis in taken if stolen.spared(due)]
    for what, value in (
        ("counts/s", (after - before) / lasted),
        ("requests/s", len(times) / lasted),
        ("p99 ms", report.quantile(times, 0.99)),
        *([("spared p99 ms", report.quantile(spared, 0.99))] if spared else []),
        ("spared %", 100 * len(spared) / len(times)),
        ("stolen %", stolen.percent()),
        ("seconds", lasted),
    ):
        found.setdefault(what, []).append(value)
    return lasted


def refilled(server: Server, number: int) -> None:
    there = lambda: (c := counts(server))["ready"] >= number and not c["building"]  # noqa: E731
    until(there, timeout=300, what=f"{number} to be ready")


def groups(server: Server) -> set[str]:
    """The sandboxes that have cgroups."""
    return {group.rsplit("/", 1)[1] for group in host.cgroups(host.tag_of(server.data))}


def group_number(server: Server, sandbox: str, *files: str) -> int:
    """A number of a sandbox's cgroup, from the first of the files that is there."""
    for group in host.cgroups(host.tag_of(server.data)):
        for path in (pathlib.Path(group) / file for file in files if group.endswith(sandbox)):
            if path.exists():
                return int(path.read_text())
    raise RuntimeError(f"{sandbox} has no {files}")


def cpu_micros(server: Server, sandbox: str) -> float:
    return group_number(server, sandbox, "cpuacct.usage") / 1e3


def resident_mib(server: Server, sandbox: str) -> float:
    return group_number(server, sandbox, "memory.usage_in_bytes", "memory.current") / (1 << 20)


def asked_of(server: Server, sandbox: str, count: int = 300) -> list[float]:
    """The times of requests to a sandbox's daemon, one after the other, in ms."""
    request, times = LINE % (sandbox.encode(), server.key.encode()), []
    with server.dial() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            began, answer = time.perf_counter(), b""
            connection.sendall(request)
            while not answer.endswith(b"}"):
                answer += connection.recv(4096)
            times.append((time.perf_counter() - began) * 1e3)
    return times


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run-load", description=__doc__)
    report.options(parser, small="few samples; reports the bounds without failing on them")
    parser.add_argument("--only", help="the parts to measure, with commas: row, refill, density, listed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
