"""Whether the gate on CPU time (`bench/run --small`, in `./x test`) can fail: it must pass the build as it is, and fail the same
build slowed down.

What slows is `slower.c`, loaded into the unchanged program: it computes before every fsync. The product has no mode for it.
"""

import argparse
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import measure
import report
from harness import env
from harness.server import sweep
from targets import Targets

HERE = pathlib.Path(__file__).resolve().parent
# For each fsync of the server's, of which a life has several: far more than a gate's slack, on any machine.
SLOWER_MICROS = 20_000
LIVES = 10


def main() -> int:
    asked = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sweep()
    checks, results = [], {}
    for build in ("as it is", "slowed down"):
        with slowed() if build == "slowed down" else contextlib.nullcontext(), Targets() as targets:
            place = report.machine(targets.servers["sim"].data)
            found = measure.sequential(targets.all, LIVES, lambda: None)
        results[build] = {name: samples["server CPU"] for name, samples in found.items()}
        for good, text in report.gate(found):
            said = f"the build {build}, {text} (the gate {'passes' if good else 'fails'})"
            checks.append((good is (build == "as it is"), said))
        checks += [(False, text) for text in targets.complaints]
    for good, text in checks:
        print(("pass  " if good else "FAIL  ") + text)
    path = asked.json or env.LOGS.parent / "bench-gate.json"
    report.write(path, machine=place, server_cpu_ms=results, slower_micros=SLOWER_MICROS, checks=checks)
    failed = sum(not good for good, _ in checks)
    print(f"raw samples: {path}\n{len(checks) - failed} passed, {failed} failed")
    return int(failed > 0)


@contextlib.contextmanager
def slowed():
    """Has every server be started slowed down."""
    whole = env.TARN
    with tempfile.TemporaryDirectory(prefix="tarn-bench-") as home:
        library, program = pathlib.Path(home, "slower.so"), pathlib.Path(home, "tarn")
        subprocess.run([os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", "-o", library, HERE / "slower.c"], check=True)
        program.write_text(f'#!/bin/sh\nexec env LD_PRELOAD={library} SLOWER_MICROS={SLOWER_MICROS} {whole} "$@"\n')
        program.chmod(0o755)
        env.TARN = str(program)
        try:
            yield
        finally:
            env.TARN = whole


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run-gate", description=__doc__)
    parser.add_argument("--json", type=pathlib.Path, help="where the raw samples go")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
