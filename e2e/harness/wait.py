"""Waiting on a level, never on time alone."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    predicate: Callable[[], T], timeout: float = 15.0, what: str = "the condition", longest_pause: float = 0.2
) -> T:
    """Returns the predicate's first true value; fails with its last value after the timeout."""
    end = time.monotonic() + timeout
    pause = 0.005
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true within {timeout:g} s; last seen: {value!r}")
        time.sleep(pause)
        pause = min(pause * 1.5, longest_pause)
