"""What a server has on the host: every object that carries its tag or lies in its directory."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess

from . import env

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
Objects = dict[str, list[str]]


def tag_of(data: pathlib.Path) -> str:
    """The mark that a server derives from its data directory's real path."""
    digest = hashlib.sha256(os.fsencode(os.path.realpath(data))).digest()
    return "".join(_ALPHABET[byte % 36] for byte in digest[:6])


def objects(data: pathlib.Path) -> Objects:
    """Lists everything of a data directory's server, by kind."""
    tag, path = tag_of(data), os.path.realpath(data)
    return {
        "process": processes(tag, path),
        "mount": [line for line in _mountinfo() if path in line or f"tarn-{tag}" in line],
        "loop": loops(path),
        "netns": [n for n in _names("/run/netns", "/var/run/tarn/netns") if tag in n],
        "link": [n for n in _names("/sys/class/net") if tag in n],
        "nft": nft(tag),
        "rule": [line for line in _lines("ip", "rule") + _lines("ip", "route", "show", "table", "all") if tag in line],
        "cgroup": cgroups(tag),
        "file": files(data),
    }


def counts(data: pathlib.Path) -> dict[str, int]:
    """How many of each kind; files by the directory that holds them."""
    found = objects(data)
    numbers = {kind: len(names) for kind, names in found.items() if kind != "file"}
    for name in found["file"]:
        where = f"file {_generic(os.path.dirname(name))}"
        numbers[where] = numbers.get(where, 0) + 1
    return numbers


def processes(tag: str, path: str) -> list[str]:
    """Processes of sandboxes and helpers, not the server itself nor this test."""
    members = set()
    for group in cgroups(tag):
        members |= set(_read(f"{group}/cgroup.procs").split())
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        line = _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
        ours = pid in members or path in line or f"tarn-{tag}" in line
        if ours and " up " not in line and int(pid) != os.getpid():
            found.append(f"{pid} {line[:120]}")
    return found


def servers(data: pathlib.Path) -> list[int]:
    """The servers that run over a data directory."""
    wanted = f"\0up\0--data-dir\0{os.path.realpath(data)}\0"
    return [int(pid) for pid in filter(str.isdigit, os.listdir("/proc")) if wanted in _read(f"/proc/{pid}/cmdline")]


def loops(path: str) -> list[str]:
    """Loop devices over files in the directory, deleted ones included."""
    found = []
    for device in pathlib.Path("/sys/block").glob("loop*"):
        backing = _read(device / "loop/backing_file").strip()
        if backing.startswith(path):
            found.append(f"{device.name} {backing}")
    return found


# Sets of what the host itself has: ways out, networks, families. They come and go with others' work on it.
OF_THE_HOST = ("guarded", "guarded6", "near6", "families")


def nft(tag: str) -> list[str]:
    """Tables, chains, rules and set elements with the tag, and reservations whose owner it is."""
    listing = json.loads("".join(_lines("nft", "-j", "list", "ruleset")) or '{"nftables": []}')["nftables"]
    found, tables = [], set()
    for item in listing:
        (kind, body), *_ = item.items()
        if tag in json.dumps(body.get("name", "")):
            tables.add(body.get("table", body.get("name")))
    for item in listing:
        (kind, body), *_ = item.items()
        table = body.get("table", body.get("name") if kind == "table" else None)
        if table in tables:
            found.append(f"{kind} {table} {body.get('name', body.get('handle'))}")
            counted = kind in ("set", "map") and body["name"] not in OF_THE_HOST
            found += [f"element {table} {body['name']} {e}" for e in body.get("elem", [])] if counted else []
    return found


def cgroups(tag: str) -> list[str]:
    """Control groups with the tag in their path."""
    found = set()
    for top, dirs, _ in os.walk("/sys/fs/cgroup"):
        if tag in top:
            found.add(os.path.realpath(top))
        if top.count("/") > 9:
            dirs.clear()
    return sorted(found)


def files(data: pathlib.Path) -> list[str]:
    """Files of the directory and of the pool mounted in it, not what sandboxes keep inside theirs."""
    skipped = {_mount_point(line) for line in _mountinfo() if _mount_kind(line) not in ("xfs", "btrfs", "tmpfs")}
    found = []
    for top, dirs, names in os.walk(data):
        # What the ledger keeps for the next sandboxes is nobody's.
        dirs[:] = [d for d in dirs if os.path.join(top, d) not in skipped and not d.startswith(".spare-")]
        here = os.path.relpath(top, data)
        found += [os.path.join(here, name) for name in names]
        found += [os.path.join(here, name) + "/" for name in dirs]
    return found


def sandbox_processes(data: pathlib.Path, sandbox: str) -> list[int]:
    """The host's processes of one sandbox."""
    tag, found = tag_of(data), set()
    for group in cgroups(tag):
        if sandbox in group:
            found |= {int(pid) for pid in _read(f"{group}/cgroup.procs").split()}
    for entry in processes(tag, os.path.realpath(data)):
        pid, _, line = entry.partition(" ")
        if sandbox in line:
            found.add(int(pid))
    return sorted(found)


@contextlib.contextmanager
def frozen(data: pathlib.Path, sandbox: str):
    """Has a sandbox stand still, by the commands that the runtime uses (docs/decisions/0001)."""
    _runsc(data, "pause", sandbox)
    try:
        yield
    finally:
        _runsc(data, "resume", sandbox)


def _runsc(data: pathlib.Path, verb: str, sandbox: str) -> None:
    home = pathlib.Path(env.ASSETS, "runsc")
    program = home / _read(home / "current").strip() / "runsc"
    subprocess.run([program, f"--root={data}/runsc/root", "--ignore-cgroups", verb, sandbox], check=True)


def cpu_seconds(data: pathlib.Path, sandbox: str) -> float:
    """The CPU time that a sandbox's group has used on the host."""
    for group in cgroups(tag_of(data)):
        if sandbox in group:
            if usage := _read(f"{group}/cpuacct.usage"):
                return int(usage) / 1e9
            if match := re.search(r"usage_usec (\d+)", _read(f"{group}/cpu.stat")):
                return int(match[1]) / 1e6
    raise AssertionError(f"no CPU accounting of {sandbox}")


def start_time(pid: int) -> int:
    """When a process began, in ticks since boot; 0 when there is none."""
    stat = _read(f"/proc/{pid}/stat")
    return int(stat.rpartition(")")[2].split()[19]) if stat else 0


def mounts_below(path: pathlib.Path) -> list[str]:
    """Mount points below a directory."""
    return [p for p in map(_mount_point, _mountinfo()) if p.startswith(f"{path}/")]


def remove(before: Objects, after: Objects) -> None:
    """The last resort, when `tarn purge` left something: nothing of a test may stay on a host."""
    for entry in after["process"]:
        if entry in before["process"]:
            # The end of one may be the end of another.
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(entry.split()[0]), signal.SIGKILL)
    for line in reversed(after["mount"]):
        _unmount(_mount_point(line))
    for line in after["loop"]:
        _lines("losetup", "--detach", f"/dev/{line.split()[0]}")
    for name in after["netns"]:
        _lines("ip", "netns", "delete", name)
    for name in after["link"]:
        _lines("ip", "link", "delete", name)
    for table in {line.split()[1] for line in after["nft"]}:
        for family in ("inet", "ip", "ip6", "netdev"):
            _lines("nft", "delete", "table", family, table)
    for group in sorted(after["cgroup"], key=len, reverse=True):
        _lines("rmdir", group)


def _unmount(point: str) -> None:
    """Unmounts, also in every other mount namespace: where `/` is private, one that somebody made meanwhile
    (`ip netns exec` does) has a copy of its own, and that keeps the loop device below. The kernel takes the
    copies away with their mount point, so that goes and comes back."""
    _lines("umount", "--lazy", point)
    # What is no empty directory, or is mounted over once more, stays.
    with contextlib.suppress(OSError):
        mode = os.stat(point).st_mode & 0o7777
        os.rmdir(point)
        os.mkdir(point)
        os.chmod(point, mode)


def _generic(path: str) -> str:
    """A path with what differs from sandbox to sandbox taken out."""
    return re.sub(r"[0-9a-z]{21}|\d+", "*", path)


def _mountinfo() -> list[str]:
    return _read("/proc/self/mountinfo").splitlines()


def _mount_point(line: str) -> str:
    return line.split()[4].replace("\\040", " ")


def _mount_kind(line: str) -> str:
    return line.rpartition(" - ")[2].split()[0]


def _names(*directories: str) -> list[str]:
    return [name for d in directories if os.path.isdir(d) for name in os.listdir(d)]


def _read(path: str | pathlib.Path) -> str:
    try:
        return pathlib.Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _lines(*arguments: str) -> list[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=30).stdout.splitlines()
