"""The measurements. Every sample is kept; nothing is averaged away here."""

import os
import pathlib
import threading
import time
from collections.abc import Callable

from targets import Target
from tensorlake.sandbox import Sandbox

Samples = dict[str, list[float]]
PHASES = ("create", "run", "delete")


def timed(samples: Samples, phase: str, call: Callable):
    """Calls, and notes the milliseconds it took."""
    start = time.perf_counter()
    result = call()
    samples.setdefault(phase, []).append((time.perf_counter() - start) * 1e3)
    return result


def create(target: Target, **asked) -> Sandbox:
    """What a user writes."""
    return Sandbox.create(api_url=target.api_url, api_key=target.api_key, **asked)


def run(box: Sandbox) -> None:
    """The first command; its output is checked, so that no error is ever measured as speed."""
    result = box.run("echo", args=["hi"])
    if (result.stdout, result.exit_code) != ("hi", 0):
        raise RuntimeError(f"run answered {result}")


def life(target: Target, samples: Samples) -> None:
    """One whole life, phase by phase."""
    box = timed(samples, "create", lambda: create(target))
    timed(samples, "run", lambda: run(box))
    samples.setdefault("create+run", []).append(samples["create"][-1] + samples["run"][-1])
    timed(samples, "delete", box.terminate)


def sequential(targets: list[Target], count: int, probe: Callable[[], None]) -> dict[str, Samples]:
    """Lives one after the other, the targets in turn, so that the machine's moods meet all alike.

    The disk is probed before each, because a flush costs more or less with what else goes on.
    """
    samples: dict[str, Samples] = {target.name: {} for target in targets}
    for target in targets:
        life(target, {})  # Connections, caches and first-use costs are not what is measured.
    for number in range(count):
        turn = number % len(targets)
        for target in targets[turn:] + targets[:turn]:
            probe()
            before = target.cpu_ms()
            life(target, samples[target.name])
            target.settle()
            samples[target.name].setdefault("server CPU", []).append(target.cpu_ms() - before)
    return samples


def burst(target: Target, count: int, **asked) -> Samples:
    """That many users at the same moment, phase by phase; `… all` is from the first's start to the last's end."""
    samples: Samples = {}
    boxes: list = [None] * count
    steps = {
        "create": lambda n: boxes.__setitem__(n, create(target, **asked)),
        "run": lambda n: run(boxes[n]),
        "delete": lambda n: boxes[n].terminate(),
    }
    for phase in PHASES:
        took = together(count, lambda n, step=steps[phase], phase=phase: timed(samples, phase, lambda: step(n)))
        samples[f"{phase} all"] = [took]
    target.settle()
    return samples


def together(count: int, call: Callable[[int], None]) -> float:
    """Calls from many threads at once; returns the milliseconds until the last one is done."""
    start, failures = threading.Barrier(count + 1), []

    def one(number: int) -> None:
        start.wait()
        try:
            call(number)
        except Exception as bad:
            failures.append(bad)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    took = (time.perf_counter() - began) * 1e3
    if failures:
        raise RuntimeError(f"{len(failures)} of {count} failed, the first with: {failures[0]}")
    return took


class Disk:
    """The cost of making a small write durable where the server keeps its store."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._file = os.open(directory / "fsync-probe", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self.samples: list[float] = []

    def probe(self) -> None:
        """One append of 4 KiB and its fsync, which is what the store calls."""
        start = time.perf_counter()
        os.write(self._file, b"x" * 4096)
        os.fsync(self._file)
        self.samples.append((time.perf_counter() - start) * 1e3)
