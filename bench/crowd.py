"""More copies than the machine has room for: each is answered with its state and a reason, and nothing is harmed."""

import collections
import pathlib
import re
import threading

from harness.server import Server
from ours import call, end, filled
from suites.crash import counters

BUDGET_SECS = 60


class Watch:
    """The least memory that was available while something else went on."""

    def __init__(self) -> None:
        self.least_mib = 1 << 30
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.05):
            self.least_mib = min(self.least_mib, number("/proc/meminfo", "MemAvailable:") >> 10)


def number(file: str, key: str) -> int:
    return int(re.search(rf"^{key}\s+(\d+)", pathlib.Path(file).read_text(), re.M)[1])


def checks(server: Server, times: int, mib: int) -> list[tuple[bool, str]]:
    """Asks for the copies, and says what became of everybody."""
    bystander = counters.start(server)
    before = counters.read(server, bystander)
    killed = number("/proc/vmstat", "oom_kill")
    with filled(server, mib) as source, Watch() as watch:
        made = call(server, "POST", f"/sandboxes/{source}/copy?times={times}", budget=BUDGET_SECS)["sandboxes"]
        states = collections.Counter(copy["status"] for copy in made)
        reasons = collections.Counter(copy.get("reason") for copy in made if copy["status"] != "running")
        running = [copy["sandbox_id"] for copy in made if copy["status"] == "running"]
        alive = [s for s in [source, *running] if server.run(s, "echo here").out == "here"]
        # Who waits first, else it takes the place of who ends.
        others = [copy["sandbox_id"] for copy in made if copy["status"] == "pending"]
        end(server, others)
        end(server, running)
        well = server.run(source, "echo here").out == "here"
    after = counters.read(server, bystander)
    server.delete(bystander)
    what = f"{times} copies of {mib} MiB: {dict(states)}"
    said = f"{what}; the others say {dict(reasons)}"
    harmed = number("/proc/vmstat", "oom_kill") - killed
    return [
        (len(made) == times and None not in reasons, f"{said}: a state each, and a reason unless it runs"),
        (len(alive) == len(running) + 1 and well, f"{what}: {len(alive) - 1} copies and the source answer"),
        (
            after.count > before.count and not harmed,
            f"{what}: a bystander goes on (stood still for {after.longest_pause:.1f} s at most), nobody was killed for "
            f"memory ({harmed}), at least {watch.least_mib} MiB were available",
        ),
    ]
