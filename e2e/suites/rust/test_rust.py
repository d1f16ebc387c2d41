"""The official Rust SDK: e2e/clients/rust calls it as its owner would, one part after the other."""

import subprocess

from harness import env

PARTS = [
    "processes",
    "files and terminals",
    "lifecycle",
    "snapshots and copies",
    "network and resources",
    "images",
    "pools",
    "secrets",
    "errors",
]


def test_each_part_of_the_crate(server):
    variables = {"TENSORLAKE_API_URL": server.api, "TENSORLAKE_API_KEY": server.key, "RUST_BACKTRACE": "0"}
    run = subprocess.run([env.RUST_CLIENT], env=variables, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    assert run.stdout.splitlines() == [f"ok {part}" for part in PARTS]
