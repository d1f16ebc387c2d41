"""One server for all modules that do not ask for another: a start and an end cost as much as several tests."""

import pytest
from harness.server import Server
from suites.state import box


@pytest.fixture(scope="package")
def server(names):
    made = Server("state", dns=names.address, **box.SERVER)
    try:
        yield made.start()
    finally:
        complaints = made.close()
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)
