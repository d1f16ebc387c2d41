"""Servers beside each other, and in each other's way."""

import json
import os
import pathlib
import socket
import subprocess

from harness import host
from harness.wait import until


def ended(process: subprocess.Popen) -> int:
    """Waits for the end of a server that must refuse."""
    try:
        return process.wait(30)
    finally:
        process.kill()
        process.wait()


def test_a_second_server_on_the_same_directory_is_refused(server):
    made = server.create()
    second = server.spawn(server.config_text().replace(server.api.rpartition("//")[2], "127.0.0.1:0"))
    assert ended(second) != 0
    said = server.tail(3)
    assert str(server.process.pid) in said and str(server.data) in said and "another --data-dir" in said, said
    assert server.run(made, "echo undisturbed").out == "undisturbed"
    server.delete(made)


def test_purge_is_refused_while_a_server_runs(server):
    made = server.create()
    purge = server.command("purge", "--yes")
    assert purge.returncode != 0 and str(server.process.pid) in purge.stderr, purge
    assert purge.stderr.endswith("stop that one\n"), "no advice for a start"
    assert server.run(made, "echo undisturbed").out == "undisturbed"
    server.delete(made)


def test_a_busy_port_is_named_with_its_owner(new_server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = new_server("-busy", start=False)
        config = other.config_text().replace('[api]\nlisten = "127.0.0.1:0"', f'[api]\nlisten = "127.0.0.1:{port}"')
        assert ended(other.spawn(config)) != 0
        said = other.log_text()
        assert str(port) in said and str(os.getpid()) in said, said
    other.start()


def test_bad_configuration_is_refused(new_server):
    other = new_server("-config", start=False)
    for text, words in [
        ('[api]\nlissten = "127.0.0.1:0"', ["lissten"]),
        ('[api]\nlisten = "0.0.0.0:0"', ["0.0.0.0", "--insecure-http"]),
        ('[node]\nruntime = "magic"', ["runtime", "magic"]),
        ('[node]\nruntime = "sim"', ["sim"]),
        ("nonsense", ["tarn.toml"]),
    ]:
        before = len(other.log_text())
        assert ended(other.spawn(text)) != 0, text
        said = other.log_text()[before:]
        assert all(word in said for word in words), said
        assert "panicked" not in said


def test_the_doctor_finds_a_bad_configuration_once(server):
    path = server.home / "bad.toml"
    path.write_text("nonsense")
    doctor = server.command("doctor", "--config", str(path), "--json")
    missing = [each["name"] for each in json.loads(doctor.stdout) if not each["ok"] and not each["optional"]]
    assert doctor.returncode == 1 and missing == ["configuration"], doctor


def test_two_servers_side_by_side(new_server):
    one, two = new_server("-one"), new_server("-two")
    mine, yours = one.create(name="same"), two.create(name="same")
    assert host.tag_of(one.data) != host.tag_of(two.data)
    assert one.running() == {mine} and two.running() == {yours}
    assert one.run(mine, "hostname").out == two.run(yours, "hostname").out == "tl-sbx"
    assert one.call("GET", "/sandboxes", key=two.key).status == 401, "keys are not shared"
    one.restart(kill=True)
    one.delete(mine)
    until(lambda: not host.sandbox_processes(one.data, mine), what="the end of one's sandbox")
    one.stop()
    assert one.command("purge", "--yes").returncode == 0
    left = {kind: names for kind, names in host.objects(one.data).items() if names}
    assert not left, left
    assert two.run(yours, "echo undisturbed").out == "undisturbed"
    assert two.create()


def test_the_same_key_every_time(server):
    first = server.key
    server.restart()
    assert server.key == first == (server.data / "default.key").read_text().strip()


def test_a_revoked_default_key_is_replaced(new_server):
    own = new_server("-revoked", runtime="sim")
    old = own.key
    identity = own.call("POST", "/platform/v1/keys/introspect").json()["id"]
    revoked = own.command("key", "revoke", identity)
    assert revoked.returncode == 0, revoked.stderr
    own.restart()
    path = own.data / "default.key"
    assert own.key != old and own.key == path.read_text().strip()
    assert path.stat().st_mode & 0o777 == 0o600
    assert "the default key was revoked" in own.log_text()
    assert old not in own.log_text() and own.key not in own.log_text()
    assert own.call("GET", "/sandboxes").status == 200
    assert own.call("GET", "/sandboxes", key=old).status == 401
    replacement = own.key
    assert own.restart().key == replacement


def test_a_directory_made_beforehand_is_closed_to_others(new_server):
    own = new_server("-open", start=False)
    own.data.mkdir()
    own.data.chmod(0o755)
    os.chown(own.data, 12345, -1)
    assert ended(own.spawn()) != 0
    assert "belongs to user 12345" in own.tail(3) and "chown 0" in own.tail(3), own.tail(3)
    os.chown(own.data, 0, -1)
    own.start()
    assert own.data.stat().st_mode & 0o7777 == 0o700
    assert "was open to other users" in own.log_text()
    image = own.data / "pool.img"
    assert not image.exists() or image.stat().st_mode & 0o777 == 0o600

    made = own.create()
    places = [f"{own.data.resolve()}/pool/layers/{made}/{name}" for name in ("layer", "root")]
    mounts = [line.split() for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()]
    options = {fields[4]: fields[5].split(",") for fields in mounts if fields[4] in places}
    assert len(options) == 2 and all("nosuid" in words for words in options.values()), options
    # Inside, such a file is what it is anywhere.
    install = 'install -D -m 4755 "$(command -v id)" /opt/own/id'
    assert own.run(made, install, user="root").status == 0
    assert own.run(made, "id -u; /opt/own/id -u").out == "1000\n0"
