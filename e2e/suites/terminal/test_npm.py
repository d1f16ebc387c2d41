"""Terminals and tunnels through the npm package 0.5.89 on Node 22."""

import json
import pathlib
import subprocess

import pytest
from harness import env

PROGRAM = pathlib.Path(__file__).with_name("terminal.mjs")


@pytest.fixture(scope="module")
def seen(server):
    variables = {
        "TENSORLAKE_API_URL": server.api,
        "TENSORLAKE_API_KEY": server.key,
        "TARN_NODE_MODULES": env.NODE_MODULES,
        "PATH": "/usr/bin:/bin",
    }
    try:
        run = subprocess.run([env.NODE, str(PROGRAM)], env=variables, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"it did not end; it was at: {late.stderr}")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_terminals(seen):
    assert seen["exit"] == 4
    assert "40 120\r\ngot hello\r\n" in seen["text"]
    assert seen["attached"] == [0, True, True]
    assert "terminated" in seen["killed"]


def test_a_server_that_speaks_first_loses_nothing(seen):
    assert seen["tunnel"] == ["RFB 003.008\n200000  300019"]
    # The client drops what it reads together with the 101. The server waits before its first byte, but a
    # client that does not run for longer than that still loses it.
    assert seen["lost"] <= 1, seen
