"""What is tested and how much of it, from the environment that `./x test` sets."""

import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOGS = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "test-logs" / "e2e"

TARN = os.environ["TARN_BIN"]
TARND = os.environ["TARND_BIN"]
ASSETS = os.environ["TARN_ASSETS_DIR"]
NODE = os.environ.get("TARN_NODE", "")
# The program of e2e/clients/rust.
RUST_CLIENT = os.environ.get("TARN_TEST_RUST", "")
# An S3 server's program.
VERSITYGW = os.environ.get("TARN_TEST_VERSITYGW", "")
# Where an ACME authority's programs are.
PEBBLE = os.environ.get("TARN_TEST_PEBBLE", "")
# Where a registry and a busybox are unpacked.
REGISTRY = os.environ.get("TARN_TEST_REGISTRY", "")
# What agents install, for one bench.
MATERIAL = os.environ.get("TARN_TEST_MATERIAL", "")
NODE_MODULES = os.environ.get("TARN_NODE_MODULES", "")

# `--full` runs the whole scale.
FULL = bool(os.environ.get("TARN_E2E_FULL"))


def scale(small: int, full: int) -> int:
    """Chooses a count by the scale of this run."""
    return full if FULL else small
