"""Secrets under a KMS: a program that seals, fails and lies; there and back to the file."""

import pytest
from suites.secrets.test_secrets import SHAPE, put

# Seals with openssl, by a key of its own for each name.
KMS = """#!/bin/sh
set -e
echo "$@" >> {home}/calls
if [ -e {home}/down ]; then echo "the vault is sealed" >&2; exit 4; fi
if [ -e {home}/wrong ]; then head -c 64 /dev/urandom | base64; exit; fi
case "$1" in wrap) way= ;; unwrap) way=-d ;; esac
base64 -d | openssl enc $way -aes-256-cbc -pbkdf2 -iter 10 -pass "file:{home}/$2.key" | base64
"""


@pytest.fixture
def kms(tmp_path):
    program = tmp_path / "kms"
    program.write_text(KMS.format(home=tmp_path))
    program.chmod(0o700)
    (tmp_path / "first.key").write_text("of the first key")
    return tmp_path


def made(server, *names: str):
    return server.call("POST", "/sandboxes", {"resources": SHAPE, "secret_names": list(names)})


def test_to_a_kms_and_back(new_server, kms):
    server = new_server(runtime="sim")
    put(server, API_KEY="value")
    section = {"kms_command": [str(kms / "kms")], "kms_key": "first", "kms_cache_secs": 0}
    server.configure("secrets", master="kms", **section)
    server.restart()
    assert "`tarn secret rotate-key` does that" in server.log_text()
    assert made(server, "API_KEY").status == 200, "the file still opens what it sealed"
    assert server.command("secret", "rotate-key").returncode == 0
    (server.data / "secrets.key").unlink()
    server.restart()
    assert made(server, "API_KEY").status == 200
    assert not (server.data / "secrets.key").exists()
    calls = {tuple(line.split()) for line in (kms / "calls").read_text().splitlines()}
    assert calls == {("wrap", "first"), ("unwrap", "first")}, "no value is ever an argument"

    # A wrong answer, and none.
    (kms / "wrong").touch()
    refused = made(server, "API_KEY")
    assert refused.status == 503 and "key service" in refused.json()["error"], refused
    (kms / "wrong").unlink()
    assert made(server, "API_KEY").status == 200
    (kms / "down").touch()
    refused = made(server, "API_KEY")
    assert refused.status == 503 and refused.json()["code"] == "UNAVAILABLE", refused
    assert made(server).status == 200, "nothing else is concerned"
    refused = server.call("PUT", "/platform/v1/secrets", [{"name": "OTHER", "value": "v"}])
    assert refused.status == 503, refused
    assert "the vault is sealed" in server.log_text()

    # A start asks nobody; what is away is said by who tries it.
    server.configure("secrets", master="file")
    server.restart()
    (kms / "down").unlink()
    assert server.command("secret", "rotate-key").returncode == 0
    server._config["secrets"] = {}
    server.restart()
    assert made(server, "API_KEY").status == 200
    assert (server.data / "secrets.key").exists()
