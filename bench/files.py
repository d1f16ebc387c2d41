"""File system speed inside: what agents do with files, in a sandbox and on the host, in turn.

The host's round runs in the same image (chroot), over a layer on the same disk that is mounted in the same way. What
is measured of others than `host` and `tarn` is the bare runtime with one thing changed, on the same layer.
"""

import argparse
import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import tarfile
import tempfile

import bare
import report
from bare import Bare
from harness import env
from harness.server import Server, sweep
from load import bare as bare_of
from ours import rest

HERE = pathlib.Path(__file__).resolve().parent
# Where the work finds what it installs; a sandbox's and a chroot's path alike.
INSIDE = "/opt/bench"
CPUS = 2
LIMIT_SECS = 900
# Flags and mount options that were looked at. A variant changes one thing of the bare runtime.
VARIANTS = {
    "bare": {},
    "dcache": {"flags": ["--dcache=5000"]},
    "lazytime": {"layer": "lazytime"},
    "metacopy": {"root": "metacopy=on"},
    "shared": {"flags": ["--file-access=shared"]},
}
Samples = dict[str, dict[str, list[float]]]


def main() -> int:
    asked = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sweep()
    size = 16384
    server = Server("bench-files", config={"pool": {"initial_mb": size, "max_mb": size}})
    samples: Samples = {}
    complaints: list[str] = []
    try:
        server.start()
        place = report.machine(server.data)
        with contextlib.ExitStack() as stack:
            targets = {"host": None, "tarn": tarn(server)}
            beside = stack.enter_context(bare_of(server))
            beside.first.end()
            targets["host"] = host(beside)
            for name in asked.variants.split(",") if asked.variants else ():
                targets[name] = variant(beside, VARIANTS[name])
            for number in range(asked.rounds):
                for name, work in targets.items():
                    rest()
                    for what, millis in work():
                        samples.setdefault(what, {}).setdefault(name, []).append(millis)
                    print(f"round {number + 1} of {asked.rounds}: {name}", file=sys.stderr)
    finally:
        complaints += server.close()
    print(f"the machine: {place}")
    print(table(samples))
    for text in complaints:
        print(f"FAIL  {text}")
    path = asked.json or env.LOGS.parent / "bench-files.json"
    report.write(path, machine=place, cpus=CPUS, samples_ms=samples)
    print(f"raw samples: {path}")
    return int(bool(complaints))


def table(samples: Samples) -> str:
    """One row a piece of work: the host's time, and everybody else's in times that."""
    names = list(next(iter(samples.values())))
    head = f"{'p50':<32}{'host, ms':>10}" + "".join(f"{name + ', ms':>14}{'× host':>8}" for name in names[1:])
    lines = [head, "-" * len(head)]
    for what, each in samples.items():
        floor = report.p50(each["host"])
        line = f"{what:<32}{floor:>10.0f}"
        for name in names[1:]:
            line += f"{report.p50(each[name]):>14.0f}{report.p50(each[name]) / floor:>8.2f}"
        lines.append(line)
    return "\n".join(lines)


def material() -> pathlib.Path:
    """One archive of all that the work needs."""
    draft = pathlib.Path(tempfile.mkdtemp(prefix="tarn-bench-"), "material.tar")
    with tarfile.open(draft, "w") as archive:
        archive.add(env.MATERIAL, "material")
        archive.add(HERE / "files_work.py", "work.py")
    return draft


def lines_of(text: str) -> list[tuple[str, float]]:
    found = [tuple(json.loads(line)) for line in text.splitlines() if line.startswith("[")]
    assert found, text
    return found


WORK = f"exec python3 {INSIDE}/work.py {INSIDE}/material {INSIDE}/place"
UNPACK = f"mkdir -p {INSIDE} && tar -xf /tmp/material.tar -C {INSIDE} && rm /tmp/material.tar"


def tarn(server: Server):
    """A sandbox of the server's."""
    sandbox = server.create(cpus=CPUS, memory_mb=4096)
    archive = material()
    with archive.open("rb") as file:
        body = file.read()
    path = "/api/v1/files?path=/tmp/material.tar"
    reply = server.sandbox_call(sandbox, "PUT", path, body, timeout=LIMIT_SECS, headers={"Content-Type": "application/octet-stream"})
    assert reply.status in (200, 201, 204), reply
    assert server.run(sandbox, UNPACK, timeout=LIMIT_SECS, user="root").status == 0
    remove(archive)

    def work():
        result = server.run(sandbox, WORK, timeout=LIMIT_SECS, user="root")
        assert result.status == 0, result
        return lines_of(result.out)

    return work


def host(beside: Bare):
    """The host itself, in the root of a place that no sandbox uses."""
    beside.reserve(1)
    root = beside.first.home / "root"
    give(root)
    inner = f"mount --rbind /dev {root}/dev && mount -t proc proc {root}/proc && mount -t tmpfs tmpfs {root}/tmp && "
    inner += f"exec chroot {root} /bin/sh -c {json.dumps(WORK)}"
    command = ["unshare", "--mount", "--propagation", "private", "--fork", "--pid", "--kill-child", "/bin/sh", "-c", inner]

    def work():
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECS, check=False)
        assert done.returncode == 0, done.stderr
        return lines_of(done.stdout)

    return work


def variant(beside: Bare, change: dict):
    """A bare sandbox with one thing changed."""
    saved = bare.LAYER_OPTIONS, bare.ROOT_OPTIONS, beside.flags
    try:
        if "layer" in change:
            bare.LAYER_OPTIONS += "," + change["layer"]
        if "root" in change:
            name = change["root"].split("=")[0]
            kept = [option for option in bare.ROOT_OPTIONS.split(",") if not option.startswith(name)]
            bare.ROOT_OPTIONS = ",".join([*kept, change["root"]])
        # A flag that is given twice counts as it was given last.
        flags = [*beside.flags, *change.get("flags", ())]
        beside.reserve(len(beside.places) + 1)
        place = beside.places[-1]
        give(place.home / "root")
        beside.flags = flags
        place.boot()
    finally:
        bare.LAYER_OPTIONS, bare.ROOT_OPTIONS, beside.flags = saved

    def work():
        command = [beside.program, f"--root={beside.root}", *flags, "exec", place.id, "/bin/sh", "-c", WORK]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECS, check=False)
        assert done.returncode == 0, done.stderr
        return lines_of(done.stdout)

    return work


def give(root: pathlib.Path) -> None:
    """Puts the material into a root from outside, before anything runs there."""
    archive = material()
    target = root / INSIDE[1:]
    target.mkdir(parents=True)
    subprocess.run(["tar", "-xf", archive, "-C", target], check=True, timeout=LIMIT_SECS)
    remove(archive)


def remove(archive: pathlib.Path) -> None:
    archive.unlink()
    archive.parent.rmdir()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run-files", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variants", help=f"others beside, with commas: {', '.join(VARIANTS)}")
    parser.add_argument("--json", type=pathlib.Path, help="where the raw samples go")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
