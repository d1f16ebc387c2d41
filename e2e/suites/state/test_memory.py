"""A memory image brings everything back, byte for byte: restore, suspend and resume, copies."""

import time

import pytest
from harness import env
from harness.wait import until
from suites.state import box

SERVER = box.SERVER
MIB = env.scale(32, 200)
CYCLES = env.scale(5, 50)
# Every so many cycles the server is started anew, which drops the processes.
COLD_EVERY = env.scale(4, 5)
COPIES = env.scale(3, 10)
SLEEP = 1.5


@pytest.fixture(scope="module")
def witness(server):
    sandbox = box.with_witness(server, mib=MIB)
    yield sandbox
    box.gone(server, [sandbox])


def check(server, sandbox, before, counts):
    """The same program with the same bytes, whose thread and timer go on."""
    now = box.ask(server, sandbox)
    assert now == before
    assert (now["pipe"], now["socket"], now["listens"]) == ("in the pipe", "on the way", True)
    later = until(
        lambda: all((c := box.ask(server, sandbox, "/counts"))[k] > counts[k] for k in ("thread", "timer")) and c,
        what="thread and timer going on",
    )
    return later


def test_a_restored_one_goes_on_and_so_does_its_source(server, witness):
    before, counts = box.ask(server, witness), box.ask(server, witness, "/counts")
    taken = box.snapshot(server, witness, "memory")
    assert taken["size_bytes"] > MIB << 20, "random memory cannot be made smaller"
    check(server, witness, before, counts)
    restored = [box.restore(server, taken["id"], exposed_ports=[box.PORT]) for _ in range(2)]
    try:
        for sandbox in restored:
            check(server, sandbox, before, counts)
            assert server.run(sandbox, "echo new work").out == "new work"
        check(server, witness, before, counts)
    finally:
        box.gone(server, restored)
        box.forget(server, [taken["id"]])


def test_suspended_and_resumed_again_and_again(server, witness):
    """Warm, from the processes that were kept, and now and then cold, from the image."""
    before = box.ask(server, witness)
    for cycle in range(1, CYCLES + 1):
        counts = box.ask(server, witness, "/counts")
        box.suspend(server, witness)
        if cold := cycle % COLD_EVERY == 0:
            server.restart(kill=bool(cycle // COLD_EVERY % 2))
        seen = box.resumes(server, witness)
        box.resume(server, witness)
        assert box.resumes(server, witness) == [*seen, "cold" if cold else "warm"]
        check(server, witness, before, counts)


def test_nothing_runs_while_it_is_suspended(server, witness):
    begun = time.monotonic()
    counts, clock = box.ask(server, witness, "/counts"), box.ask(server, witness, "/now")
    box.suspend(server, witness)
    slept_from = time.monotonic()
    until(lambda: time.monotonic() - slept_from > SLEEP, 10, "some sleep", longest_pause=1)
    woken = time.monotonic()
    box.resume(server, witness)
    after = box.ask(server, witness, "/counts")
    awake = time.monotonic() - begun - (woken - slept_from)
    ticks = (after["timer"] - counts["timer"]) * 0.05
    assert ticks < awake + SLEEP / 2, "no burst of the ticks that were slept through"
    assert box.ask(server, witness, "/now")["monotonic"] >= clock["monotonic"]


def test_copies_go_on_and_so_does_their_source(server, witness):
    before, counts = box.ask(server, witness), box.ask(server, witness, "/counts")
    snapshots = server.call("GET", "/snapshots").json()["snapshots"]
    copies = box.copy(server, witness, COPIES)
    try:
        for sandbox in [*copies, witness]:
            check(server, sandbox, before, counts)
        assert server.call("GET", "/snapshots").json()["snapshots"] == snapshots, "no snapshot shows of it"
        source = server.info(witness)
        for sandbox in copies:
            info = server.info(sandbox)
            for key in ("image", "resources", "exposed_ports", "timeout_secs", "network_policy"):
                assert info[key] == source[key], key
            assert info["name"] is None and info["id"] != source["id"]
        hits = [box.ask(server, sandbox, "/hit")["hit"] for sandbox in copies]
        assert len(set(hits)) == 1, "each counts for itself"
    finally:
        box.gone(server, copies)


def test_a_restored_one_can_be_snapshotted_and_suspended(server, witness):
    before, counts = box.ask(server, witness), box.ask(server, witness, "/counts")
    first = box.snapshot(server, witness, "memory")
    child = box.restore(server, first["id"], name=box.fresh_name(), exposed_ports=[box.PORT])
    made = [child]
    try:
        box.suspend(server, child)
        box.resume(server, child)
        check(server, child, before, counts)
        second = box.snapshot(server, child, "memory")
        made.append(box.restore(server, second["id"], exposed_ports=[box.PORT]))
        check(server, made[-1], before, counts)
        box.forget(server, [second["id"]])
    finally:
        box.gone(server, made)
        box.forget(server, [first["id"]])
