"""Pools through the npm package 0.5.89."""

import json
import pathlib
import subprocess

from harness import env

PROGRAM = pathlib.Path(__file__).with_name("pools.mjs")


def test_pools(server):
    variables = {
        "TENSORLAKE_API_URL": server.api,
        "TENSORLAKE_API_KEY": server.key,
        "TARN_NODE_MODULES": env.NODE_MODULES,
        "PATH": "/usr/bin:/bin",
    }
    run = subprocess.run([env.NODE, str(PROGRAM)], env=variables, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == {
        "idle": ["string", "string", None],
        "ran": "hello",
        "claimed": [True, True],
        "info": [True],
        "list": [[True, "tensorlake/ubuntu-minimal", 256, 1024]],
        "updated": [True, 0, 2, 200],
        "cold": "running",
        "inUse": "PoolInUseError",
        "gone": "PoolNotFoundError",
    }
