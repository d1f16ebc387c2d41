"""The piece of internet that the modules of this suite look out on."""

import pytest
from harness.lab import Lab


@pytest.fixture(scope="module")
def lab():
    made = Lab()
    yield made
    made.close()
