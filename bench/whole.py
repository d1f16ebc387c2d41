"""Every bench in its short form, one after the other, and one table of all that they found.

What each found is kept as it ends. A run that was cut, or had no time left, goes on with the next call, as long as the
program is the same; one that is whole begins anew.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import report
import rows
from harness import env

HERE = pathlib.Path(__file__).resolve().parent
# All of them together, in seconds.
BUDGET = 900
# Less than this is no time to begin another in.
LEAST = 30
STOP_SECS = 60
# By name: the bench, how it is asked, and the seconds that it may take at most.
PARTS = {
    "life": ("main.py", ["--short"], 150),
    "ahead": ("ahead.py", ["--short"], 150),
    "load": ("load.py", ["--short"], 300),
    "state": ("state.py", ["--short"], 240),
    "steps": ("steps.py", ["--short"], 150),
    "nginx": ("nginx.py", ["--short"], 120),
    "ingress": ("ingress.py", ["--connections", "2000"], 90),
    "gate": ("gate.py", [], 90),
    "files": ("files.py", ["--rounds", "1"], 240),
}


def main() -> int:
    asked = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen = asked.only.split(",") if asked.only else list(PARTS)
    run = Run(asked.into, chosen, fresh=asked.fresh)
    deadline = time.monotonic() + asked.budget
    for part in chosen:
        run.measure(part, deadline - time.monotonic())
    table = [(part, row) for part in chosen if run.found(part) for row in rows.of(part, run.found(part))]
    print("\n" + text_of(table))
    missing = {part: run.state[part]["status"] for part in chosen if not run.found(part)}
    for part, why in missing.items():
        print(f"not measured: {part}: {why}; see {run.place / part}.log, and call it again to go on")
    path = asked.json or env.LOGS.parent / "bench-all.json"
    raw = {part: run.state[part] | {"raw": run.found(part)} for part in chosen}
    listed = [{"part": part, **dataclasses.asdict(row), "delta": row.delta} for part, row in table]
    report.write(path, machine=report.machine(run.place), program=run.program, parts=raw, rows=listed)
    missed = [row for _, row in table if row.good is False]
    judged = sum(row.good is not None for _, row in table)
    print(f"{len(table)} rows; {judged - len(missed)} of {judged} bounds are kept; raw samples: {path}")
    return int(bool(missed or missing))


class Run:
    """What was measured, in a directory that outlives us."""

    def __init__(self, place: pathlib.Path, chosen: list[str], *, fresh: bool) -> None:
        self.place = place
        place.mkdir(parents=True, exist_ok=True)
        with open(env.TARN, "rb") as program:
            self.program = hashlib.file_digest(program, "sha256").hexdigest()
        self.state: dict[str, dict] = {}
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
            before = json.loads((place / "parts.json").read_text())
            if before["program"] == self.program and not fresh:
                self.state = before["parts"]
        if all(self.found(part) for part in chosen):
            for part in chosen:
                del self.state[part]

    def found(self, part: str) -> dict | None:
        """The raw samples of a part that is done."""
        if self.state.get(part, {}).get("status") != "done":
            return None
        return json.loads((self.place / f"{part}.json").read_text())

    def measure(self, part: str, left: float) -> None:
        """Runs a bench, unless it was; it has its limit and what is left."""
        if self.found(part):
            print(f"{part}: taken from the run that was cut", flush=True)
            return
        program, words, limit = PARTS[part]
        began, limit = time.monotonic(), min(limit, left)
        status = self._run(part, [program, *words], limit) if limit >= LEAST else "no time was left"
        seconds = time.monotonic() - began
        self.state[part] = {"status": status, "seconds": round(seconds, 1), "load": os.getloadavg()}
        (self.place / "parts.json").write_text(json.dumps({"program": self.program, "parts": self.state}))
        print(f"{part}: {status} ({seconds:.0f} s)", flush=True)

    def _run(self, part: str, words: list[str], limit: float) -> str:
        raw, log = self.place / f"{part}.json", self.place / f"{part}.log"
        raw.unlink(missing_ok=True)
        command = [sys.executable, HERE / words[0], *words[1:], "--json", raw]
        with log.open("wb") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                end(process)
                return f"it took more than {limit:.0f} s"
            except BaseException:
                end(process)
                raise
        # It ends with 1 if a bound is not kept, and has measured all the same.
        return "done" if raw.exists() else f"it ended with {process.returncode}"


def end(process: subprocess.Popen) -> None:
    """Has a bench take down what it made."""
    process.terminate()
    try:
        process.wait(STOP_SECS)
    except subprocess.TimeoutExpired:
        process.kill()


def text_of(table: list[tuple[str, rows.Row]]) -> str:
    width = 2 + max((len(row.what) for _, row in table if row.ours is not None), default=0)
    head = f"{'':<{width}}{'floor':>10}{'ours':>10}{'delta':>10}{'bare':>10}  target"
    lines, before = [head, "-" * (len(head) + 24)], ""
    for part, row in table:
        if part != before:
            lines.append(f"[{part}]")
            before = part
        # A long text is a check without figures of its own.
        figures = "" if row.ours is None else "".join(map(figure, (row.floor, row.ours, row.delta, row.bare)))
        verdict = {True: "pass", False: "MISS", None: ""}[row.good]
        lines.append(f"{row.what:<{width}}{figures}  {row.target:<34}{verdict}".rstrip())
    return "\n".join(lines)


def figure(value: float | None) -> str:
    if value is None:
        return f"{'':>10}"
    return f"{value:>10.4g}" if abs(value) < 1000 else f"{value:>10.0f}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run-all", description=__doc__)
    parser.add_argument("--only", help=f"the parts to measure, with commas: {', '.join(PARTS)}")
    parser.add_argument("--fresh", action="store_true", help="measures again what a run that was cut has measured")
    parser.add_argument("--budget", type=int, default=BUDGET, help="the seconds for all of them (%(default)s)")
    parser.add_argument("--into", type=pathlib.Path, default=env.LOGS.parent / "bench-all", help="where each part's samples and log are kept")
    parser.add_argument("--json", type=pathlib.Path, help="where all of it goes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
