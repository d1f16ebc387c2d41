"""Secrets: where they are named and nowhere else; set anew, deleted, restored, copied, over a new key."""

import hashlib
import os
import pathlib
import subprocess
import uuid

import pytest
from harness import env
from harness.wait import until

SECONDS = 20
SHAPE = {"cpus": 0.25, "memory_mb": 256, "disk_mb": 1024}
API = "/platform/v1/secrets"
SHOW = 'printf "%s|%s" "${API_KEY-none}" "${OTHER-none}"'


def put(server, **values: str) -> None:
    secrets = [{"name": name, "value": value} for name, value in values.items()]
    reply = server.call("PUT", API, secrets)
    assert reply.status == 200, reply
    assert [made["name"] for made in reply.json()] == list(values)


def ids(server) -> dict[str, str]:
    return {item["name"]: item["id"] for item in server.call("GET", f"{API}?pageSize=100").json()["items"]}


def create(server, *names: str, **fields) -> str:
    return server.create(resources=SHAPE, secret_names=list(names), **fields)


def shown(server, sandbox: str, **fields) -> str:
    return server.run(sandbox, SHOW, **fields).out


def holders(data: pathlib.Path, needle: str) -> str:
    """The files below a directory that hold a text; disks and what is mounted are not looked into."""
    files = ["find", str(data), "-xdev", "-type", "f", "-size", "-64M", "-print0"]
    found = subprocess.run(files, capture_output=True, timeout=60).stdout
    grep = ["xargs", "-0", "-r", "grep", "-laF", "-e", needle]
    return subprocess.run(grep, input=found, capture_output=True, timeout=60).stdout.decode()


def command_lines() -> str:
    lines = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                lines.append(pathlib.Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace"))
            except OSError:
                pass
    return "\n".join(lines)


def snapshot(server, sandbox: str, kind: str) -> str:
    reply = server.call("POST", f"/sandboxes/{sandbox}/snapshot", {"snapshot_type": kind})
    assert reply.status == 202, reply
    made = reply.json()["snapshot_id"]
    ready = ("local_ready", "completed")
    until(lambda: server.call("GET", f"/snapshots/{made}").json()["status"] in ready, 120, f"snapshot {made}")
    return made


def test_they_are_where_they_are_named_and_nowhere_else(server):
    value = f"hush-{uuid.uuid4().hex}"
    put(server, API_KEY=value, OTHER="second")
    # What is printed is kept, so a sum of it is printed.
    summed = f"{SHOW} | sha256sum | cut -c 1-64"

    def has(sandbox: str, expected: str, **fields) -> None:
        assert server.run(sandbox, summed, **fields).out == hashlib.sha256(expected.encode()).hexdigest()

    with_both = create(server, "API_KEY", "OTHER", entrypoint=["sh", "-c", f"{summed} > /tmp/sum"])
    without = create(server)
    has(with_both, f"{value}|second")
    has(with_both, f"{value}|second", user="root")
    has(with_both, "mine|second", env={"API_KEY": "mine"})
    has(without, "none|none")
    of_entrypoint = f"test \"$(cat /tmp/sum)\" = \"$({summed})\" && echo same"
    until(lambda: server.run(with_both, of_entrypoint).out == "same", 60, "what the entrypoint has")
    named = create(server, "API_KEY", name=f"keeps-{uuid.uuid4().hex[:8]}")
    has(named, f"{value}|none")
    assert value not in command_lines()
    for path in ("/sandboxes", f"/sandboxes/{with_both}", API, f"{API}/{ids(server)['API_KEY']}", "/metrics"):
        reply = server.call("GET", path)
        assert reply.status == 200 and value.encode() not in reply.body, path
    assert holders(server.data, value) == ""
    assert value not in server.log_text()
    assert holders(server.data, "API_KEY") != "", "it looks where the name is"
    assert (server.data / "secrets.key").stat().st_mode & 0o777 == 0o600
    for sandbox in (with_both, without, named):
        server.delete(sandbox)


def test_a_changed_value_reaches_what_boots_later(server):
    put(server, API_KEY="old", OTHER="x")
    before = create(server, "API_KEY", name=f"old-{uuid.uuid4().hex[:8]}")
    put(server, API_KEY="new")
    after = create(server, "API_KEY")
    assert (shown(server, before), shown(server, after)) == ("old|none", "new|none")
    for verb, goal in (("suspend", "suspended"), ("resume", "running")):
        server.call("POST", f"/sandboxes/{before}/{verb}?wait_ms=30000", timeout=60)
        until(lambda goal=goal: server.info(before)["status"] == goal, 60, goal)
    assert shown(server, before) == "old|none", "it goes on as it was"
    reply = server.call("DELETE", f"{API}/{ids(server)['API_KEY']}")
    assert reply.status == 200, reply
    assert shown(server, before) == "old|none", "what runs is left alone"
    reply = server.call("POST", "/sandboxes", {"secret_names": ["OTHER", "API_KEY"]})
    assert (reply.status, reply.code) == (400, "SECRET_NOT_FOUND") and "API_KEY" in reply.json()["error"], reply
    for sandbox in (before, after):
        server.delete(sandbox)


@pytest.mark.parametrize("kind", ["filesystem", "memory"])
def test_a_restore_has_those_of_the_matrix(server, kind):
    put(server, API_KEY="old", OTHER="x")
    source = create(server, "API_KEY")
    made = snapshot(server, source, kind)
    put(server, API_KEY="new")
    restored = server.create(snapshot_id=made)
    assert shown(server, restored) == ("old|none" if kind == "memory" else "new|none")
    server.delete(restored)
    for names, expected in ((["OTHER"], "none|x"), ([], "none|none")):
        reply = server.call("POST", "/sandboxes", {"snapshot_id": made, "secret_names": names}, timeout=120)
        if kind == "memory":
            assert (reply.status, reply.code) == (400, "SNAPSHOT_OVERRIDE_FORBIDDEN"), reply
            continue
        assert reply.json()["status"] == "running", reply
        assert shown(server, reply.json()["sandbox_id"]) == expected
        server.delete(reply.json()["sandbox_id"])
    server.call("DELETE", f"{API}/{ids(server)['API_KEY']}")
    reply = server.call("POST", "/sandboxes", {"snapshot_id": made}, timeout=120)
    if kind == "memory":
        assert shown(server, reply.json()["sandbox_id"]) == "old|none"
        server.delete(reply.json()["sandbox_id"])
        copies = server.call("POST", f"/sandboxes/{source}/copy?times=1", timeout=120).json()["sandboxes"]
        until(lambda: server.info(copies[0]["sandbox_id"])["status"] == "running", 60, "the copy")
        assert shown(server, copies[0]["sandbox_id"]) == "old|none"
        server.delete(copies[0]["sandbox_id"])
    else:
        assert (reply.status, reply.code) == (400, "SECRET_NOT_FOUND"), reply
    server.delete(source)


def test_the_command_line_and_a_new_key(server):
    def called(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess:
        tarn = [env.TARN, "secret", *arguments, "--data-dir", str(server.data)]
        return subprocess.run(tarn, input=stdin, capture_output=True, text=True, timeout=60)

    def run(*arguments: str, stdin: str = "") -> str:
        done = called(*arguments, stdin=stdin)
        assert done.returncode == 0, done
        return done.stdout

    made = run("set", "API_KEY", stdin="from stdin\n").strip()
    assert ids(server)["API_KEY"] == made
    empty = called("set", "API_KEY")
    assert empty.returncode == 4 and "stdin is empty" in empty.stderr, "nothing takes the place of what was"
    assert made in run("list") and "from stdin" not in run("list", "--json")
    key = (server.data / "secrets.key").read_bytes()
    run("rotate-key")
    assert (server.data / "secrets.key").read_bytes() != key
    assert not (server.data / "secrets.key.next").exists()
    server.restart(kill=True)
    sandbox = create(server, "API_KEY")
    assert shown(server, sandbox) == "from stdin|none"
    server.delete(sandbox)
    run("rm", made)
    assert "API_KEY" not in ids(server)


def test_a_lost_key_is_said_at_the_start_and_not_replaced(server):
    put(server, API_KEY="x")
    server.stop()
    path = server.data / "secrets.key"
    kept = path.read_bytes()
    path.unlink()
    process = server.spawn()
    process.wait(60)
    assert process.returncode != 0
    assert "is not the key that the secrets of" in server.tail()
    path.write_bytes(kept)
    path.chmod(0o600)
    server.start()
    assert "API_KEY" in ids(server)
