"""The npm package 0.5.89 on Node 22."""

import json
import pathlib
import subprocess

import pytest
from harness import env

PROGRAM = pathlib.Path(__file__).with_name("main_path.mjs")


@pytest.fixture(scope="module")
def seen(server):
    variables = {
        "TENSORLAKE_API_URL": server.api,
        "TENSORLAKE_API_KEY": server.key,
        "TARN_NODE_MODULES": env.NODE_MODULES,
        "PATH": "/usr/bin:/bin",
    }
    run = subprocess.run([env.NODE, str(PROGRAM)], env=variables, capture_output=True, text=True, timeout=90)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_run(seen):
    assert seen["run"] == [3, "out 1\n/workspace\ntl-user", "err"]
    assert seen["root"] == "root"
    assert seen["timeout"] == -9


def test_files(seen):
    assert seen["file"] == 1_000_000
    assert ["a b.txt", False, 1_000_000] in seen["listing"]
    assert seen["missing"]["status"] == 404


def test_processes(seen):
    assert seen["follow"] == ["one", "two"]
    assert seen["process"] == 0
    assert seen["listed"]


def test_lifecycle(seen):
    assert seen["info"] == ["running", True, 1, 1024]
    assert seen["health"] and seen["inList"]
    assert seen["byName"] == "twin"
    assert (seen["taken"]["status"], "SANDBOX_NAME_TAKEN" in seen["taken"]["text"]) == (409, True)
    assert seen["ports"] == [[8080], True]


def test_the_end(seen):
    assert seen["after"] == "terminated"
    assert seen["gone"]["name"] == "SandboxNotFoundError"
