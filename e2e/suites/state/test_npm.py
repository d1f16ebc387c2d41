"""State through the npm package 0.5.89 on Node 22."""

import json
import pathlib
import subprocess

import pytest
from harness import env
from suites.state import box

SERVER = box.SERVER
PROGRAM = pathlib.Path(__file__).with_name("state.mjs")


@pytest.fixture(scope="module")
def seen(server):
    variables = {
        "TENSORLAKE_API_URL": server.api,
        "TENSORLAKE_API_KEY": server.key,
        "TARN_NODE_MODULES": env.NODE_MODULES,
        "PATH": "/usr/bin:/bin",
    }
    run = subprocess.run([env.NODE, str(PROGRAM)], env=variables, capture_output=True, text=True, timeout=150)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_suspend_and_resume(seen):
    assert (seen["suspended"], seen["resumed"]) == ("suspended", "running")
    assert (seen["alive"], seen["memory"], seen["woken"]) == ("running", "memory", "memory")
    assert seen["ephemeral"]["status"] == 400 and "no name" in seen["ephemeral"]["text"]


def test_snapshots(seen):
    assert seen["snapshots"] == [["completed", "filesystem", True], ["completed", "memory", True]]
    assert seen["listed"] and seen["all"]
    assert seen["deleted"]["status"] == 404


def test_restore(seen):
    assert seen["cold"].split() == ["file", "0"]
    assert seen["warm"].split()[0] == "memory" and int(seen["warm"].split()[1]) >= 1
    assert seen["override"]["status"] == 400 and "SNAPSHOT_OVERRIDE_FORBIDDEN" in seen["override"]["text"]


def test_copies(seen):
    assert seen["copied"] == ["running", "running"]
    assert seen["twin"] == "memory"
