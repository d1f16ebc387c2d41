"""Processes of a sandbox over raw HTTP."""

import urllib.parse

from harness.wait import until

PROCESSES = "/api/v1/processes"
FINISHED_KEPT = 256


def path(key: int | str, rest: str = "") -> str:
    """The path of a process; a name is percent-encoded, a blank as %20."""
    return f"{PROCESSES}/{urllib.parse.quote(str(key), safe='')}{rest}"


def start(server, sandbox: str, command: str, *args: str, **fields) -> dict:
    """Starts a process."""
    reply = server.sandbox_call(sandbox, "POST", PROCESSES, {"command": command, "args": list(args), **fields})
    assert reply.status == 201, reply
    return reply.json()


def shell(server, sandbox: str, script: str, **fields) -> dict:
    """Starts a script."""
    return start(server, sandbox, "bash", "-c", script, **fields)


def get(server, sandbox: str, key: int | str) -> dict:
    """Describes a process."""
    reply = server.sandbox_call(sandbox, "GET", path(key))
    assert reply.status == 200, reply
    return reply.json()


def listed(server, sandbox: str) -> list[dict]:
    """Describes all."""
    return server.sandbox_call(sandbox, "GET", PROCESSES).json()["processes"]


def lines(server, sandbox: str, key: int | str, stream: str = "stdout") -> list[str]:
    """The output so far."""
    return server.sandbox_call(sandbox, "GET", path(key, f"/{stream}")).json()["lines"]


def kill(server, sandbox: str, key: int | str) -> None:
    """Kills, or stops a managed one."""
    reply = server.sandbox_call(sandbox, "DELETE", path(key))
    assert reply.status == 204, reply


def restart(server, sandbox: str, key: int | str):
    """Asks for a new run."""
    return server.sandbox_call(sandbox, "POST", path(key, "/restart"))


def wait_end(server, sandbox: str, key: int | str, timeout: float = 30) -> dict:
    """Waits until a process has ended."""
    return until(
        lambda: (p := get(server, sandbox, key))["status"] != "running" and p, timeout, f"the end of {key}"
    )


def wait_managed(server, sandbox: str, key: int | str, timeout: float = 30, **fields) -> dict:
    """Waits until `managed` says so."""

    def look():
        seen = get(server, sandbox, key)
        return seen if all(seen["managed"].get(k) == v for k, v in fields.items()) else None

    return until(look, timeout, f"{fields} of {key}")


def strangers(server, sandbox: str) -> list[str]:
    """Everybody inside but PID 1 and those who look; zombies, too."""
    script = r"""
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    if int(pid) in (1, os.getpid()):
        continue
    try:
        line = open(f"/proc/{pid}/cmdline").read().replace("\0", " ").strip()
        state = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
    except OSError:
        continue
    print(pid, state, line)
"""
    reply = server.sandbox_call(
        sandbox, "POST", f"{PROCESSES}/run", {"command": "python3", "args": ["-c", script], "timeout": 60}
    )
    from harness.server import Result

    return Result.parse(reply.body).lines["stdout"]
