"""Fixtures of all suites, and who runs which module.

A module's `SERVER = {...}` says how its server is made, `ALONE = True` that it measures and nothing
may run beside it, `SECONDS = N` about how long it takes, if that is long: such modules begin first,
so that the last ones to end are short; and `TOGETHER = "word"` that it needs something of which the
host has one: modules with the same word are one process's, so that no other waits for them.
"""

import contextlib
import itertools
import json
import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import server as servers  # noqa: E402
from harness.dns import NameServer  # noqa: E402
from harness.sdk import Sdk  # noqa: E402

# `timeout` and CI end a run with SIGTERM; an interrupt lets every fixture clean up the host.
signal.signal(signal.SIGTERM, signal.default_int_handler)
# Suites whose sandboxes are claimed as often as not, as a user's are.
PRESTARTED = {"sdk", "sdk_new", "npm", "raw"}
_counts = {"passed": 0, "failed": 0}
_ours: set[str] = set()


@pytest.fixture(scope="session", autouse=True)
def clean_start():
    """Removes what a killed run left."""
    servers.sweep()


@pytest.fixture(scope="session")
def names():
    """The name server behind every tarn server of this run."""
    server = NameServer()
    yield server
    server.close()


@contextlib.contextmanager
def maker(request, names):
    """Makes servers and ends them; what they leave on the host, or say in error, is a failure."""
    made = []

    def make(label: str = "", start: bool = True, **options):
        name = request.module.__name__.removeprefix("suites.").replace(".test_", "-") + label
        server = servers.Server(name, dns=names.address, **options)
        made.append(server)
        return server.start() if start else server

    try:
        yield make
    finally:
        complaints = [f"{server.name}: {text}" for server in made for text in server.close()]
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


@pytest.fixture
def new_server(request, names):
    """Makes servers of a test's own."""
    with maker(request, names) as make:
        yield make


@pytest.fixture(scope="module")
def server(request, names):
    """The module's server."""
    options = dict(getattr(request.module, "SERVER", {}))
    if request.module.__name__.split(".")[1] in PRESTARTED:
        options["config"] = {"prestart": {"kept": 1, "most": 2}, **options.get("config", {})}
    with maker(request, names) as make:
        yield make(**options)


@pytest.fixture
def sdk(server):
    """The official Python SDK on the module's server; ends what the test created with it."""
    kit = Sdk(server)
    yield kit
    kit.close()


@pytest.fixture(scope="module")
def box(server):
    """A sandbox for tests that do not harm it, through the SDK."""
    kit = Sdk(server)
    yield kit.create()
    kit.close()


@pytest.fixture
def sandbox(server):
    """The id of a sandbox of the test's own, without an SDK."""
    made = server.create()
    yield made
    server.delete(made)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Puts the long modules first, and leaves those to measure to a run of their own."""
    if alone := os.environ.get("TARN_E2E_ALONE"):
        items[:] = [item for item in items if bool(getattr(item.module, "ALONE", False)) == (alone == "1")]
    items.sort(key=lambda item: -getattr(item.module, "SECONDS", 0))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    """Runs modules as long as there are some that no other process of this run has claimed."""
    claims = os.environ.get("TARN_E2E_CLAIMS")
    if not claims or session.config.option.collectonly or session.testsfailed:
        return None
    os.makedirs(claims, exist_ok=True)
    ours = (item for _, module in itertools.groupby(session.items, lambda item: item.module) for item in claimed(claims, module))
    item = next(ours, None)
    while item is not None:
        # The next one is claimed before this one runs: it says which fixtures must end.
        following = next(ours, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following
    return True


def claimed(claims, module):
    """The tests of a module if this process is the first to ask for it, or for its like, else none."""
    tests = list(module)
    name = getattr(tests[0].module, "TOGETHER", tests[0].module.__name__)
    if name not in _ours:
        try:
            os.close(os.open(os.path.join(claims, name), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        _ours.add(name)
    yield from tests


def pytest_runtest_logreport(report):
    """Counts a test once, and an error of a fixture as a failure."""
    if report.failed:
        _counts["failed"] += 1
    elif report.when == "call" and report.passed:
        _counts["passed"] += 1


def pytest_sessionfinish(session, exitstatus):
    """Tells e2e/run the counts; errors of collection are failures."""
    if path := os.environ.get("TARN_E2E_COUNTS"):
        broken = exitstatus in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERRUPTED)
        _counts["failed"] += int(broken and not _counts["failed"])
        Path(path).write_text(json.dumps(_counts))
