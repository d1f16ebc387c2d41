"""What a server says of sandboxes that it starts ahead of requests."""

import re

from harness import host
from harness.wait import until

_STAGES = re.compile(r'^tarn_stage\w*(?:\{\w+="(\w+)"\})? ([\d.]+)$', re.MULTILINE)
_ROW = re.compile(r'^tarn_prestart\w*(?:\{\w+="(\w+)"\})? ([\d.]+)$', re.MULTILINE)


def counts(server) -> dict[str, int]:
    """ready, building, hit, joined, miss, built, failed."""
    text = server.call("GET", "/metrics").body.decode()
    return {name: int(value) for name, value in _ROW.findall(text) if name}


def stages(server) -> dict[str, int]:
    """The same of what is made ready for restores."""
    text = server.call("GET", "/metrics").body.decode()
    return {name: int(value) for name, value in _STAGES.findall(text) if name}


def settle_stages(server, *ready: int) -> None:
    """Waits until so much, or one of several numbers, is ready and nothing is being made."""
    there = lambda: (c := stages(server))["ready"] in ready and c["building"] == 0  # noqa: E731
    until(there, timeout=60, what=f"{ready} to be ready")


def wait_for_stage(server, before: dict[str, int]) -> None:
    """Waits until one more is ready than were built before, and nothing is being made."""
    there = lambda: (c := stages(server))["built"] > before["built"] and c["building"] == 0  # noqa: E731
    until(there, timeout=60, what="one more to be ready")


def settle(server, ready: int) -> None:
    """Waits until so many are ready and nothing is being built."""
    there = lambda: (c := counts(server))["ready"] == ready and c["building"] == 0  # noqa: E731
    until(there, timeout=60, what=f"{ready} to be ready")


def waiting(server) -> set[str]:
    """The ids of those that wait, by what the host has."""
    ids = {group.rsplit("/", 1)[1] for group in host.cgroups(host.tag_of(server.data))}
    return {name for name in ids if re.fullmatch(r"[a-z0-9]{21}", name)} - server.running()
