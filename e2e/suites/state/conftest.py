"""One server for all modules that do not ask for another: a start and an end cost as much as several tests."""

import os
import pathlib

import pytest
from harness.server import Server
from suites.state import box


@pytest.fixture(scope="package")
def server(names):
    # Processes that share a run each have one; a module is of one of them.
    module = pathlib.Path(os.environ["PYTEST_CURRENT_TEST"].partition("::")[0]).stem
    made = Server(f"state-{module.removeprefix('test_')}-on", dns=names.address, **box.SERVER)
    try:
        yield made.start()
    finally:
        complaints = made.close()
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)
