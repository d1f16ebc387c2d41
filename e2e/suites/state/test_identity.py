"""What a restored sandbox must not share with its source (spec 02 §4)."""

import time

import pytest
from harness import env, http, ledger
from suites.state import box

SERVER = box.SERVER
CLOCK_TOLERANCE = 0.05
COPIES = env.scale(3, 50)


@pytest.fixture(scope="module")
def family(server):
    """A sandbox and copies of it, made at once."""
    source = box.with_witness(server, mib=4, resources={"cpus": 0.5})
    copies = box.copy(server, source, COPIES)
    yield [source, *copies]
    box.gone(server, [source, *copies])


def distinct(values):
    assert len(set(values)) == len(values), values
    assert all(values), values


def test_machine_ids(server, family):
    distinct([server.run(sandbox, "cat /etc/machine-id").out for sandbox in family])


def test_random_bytes(server, family):
    distinct([draw for sandbox in family for draw in box.ask(server, sandbox, "/random")["random"]])
    distinct([server.run(sandbox, "head -c 16 /dev/urandom | od -An -tx1").out for sandbox in family])


def test_clocks(server, family):
    most = 0.0
    for sandbox in family:
        # The answer's way is part of what is measured, so the shortest of some tells most.
        offs = []
        for _ in range(10):
            before = time.time()
            inside = box.ask(server, sandbox, "/now")["now"]
            after = time.time()
            offs.append(max(before - inside, inside - after, 0))
        assert min(offs) < CLOCK_TOLERANCE, f"{sandbox} is off by {offs}"
        most = max(most, min(offs))
    print(f"clocks of {len(family)} are off by {most * 1000:.1f} ms at most")


def test_clock_after_a_sleep(server, family):
    source = family[0]
    box.suspend(server, source)
    box.resume(server, source)
    before = time.time()
    inside = box.ask(server, source, "/now")["now"]
    assert before - CLOCK_TOLERANCE < inside < time.time() + CLOCK_TOLERANCE


def test_tokens(server, family):
    """The daemon of each knows its own token alone; asked around the ingress, as the node does."""
    entries = [ledger.entry(server.data, sandbox) for sandbox in family]
    distinct([entry["token"] for entry in entries])
    distinct([entry["started"]["daemon"] for entry in entries])
    for asked in entries:
        for given in entries:
            url = f"http://{asked['started']['daemon']}/api/v1/processes"
            reply = http.request(url, headers={"X-Tarn-Token": given["token"]})
            assert reply.status == (200 if asked is given else 401), reply


def test_files_are_private(server, family):
    for n, sandbox in enumerate(family):
        server.run(sandbox, f"echo {n} > /var/tmp/mine")
    assert [server.run(s, "cat /var/tmp/mine").out for s in family] == [str(n) for n in range(len(family))]


def test_the_end_of_one_is_not_the_end_of_another(server, family):
    *rest, last = family
    box.gone(server, [last])
    box.reach(server, last, "terminated")
    for sandbox in rest:
        assert server.run(sandbox, "echo well").out == "well"
