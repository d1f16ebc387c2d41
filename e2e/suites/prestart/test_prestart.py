"""Sandboxes that are started before anybody asks: like any other once claimed, never used twice, and
gone when the server is."""

import contextlib
import difflib
import pathlib
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import env, host
from harness.wait import until
from suites.crash.scene import fill_slots
from suites.crash.test_crash import steady
from suites.prestart.ahead import counts, settle, waiting

KEPT = 3
SERVER = {"config": {"prestart": {"kept": KEPT, "most": KEPT}}}
SECONDS = 30
# What programs inside can see of where they are.
FACTS = r"""
id; hostname; pwd; umask; env | grep -v TARN_PROCESS_ID | sort; ulimit -a | grep -v ^memory; nproc; free -m | awk '/Mem/ {print $2}'
cat /proc/mounts /etc/hosts /etc/resolv.conf; tr '\0' ' ' < /proc/1/cmdline; cat /proc/1/status | grep -v '^Vm\|Rss\|ctxt\|^State'
ls -la / /tmp /workspace /dev > /tmp/ls; grep -v '^total' /tmp/ls | sed 's/ [A-Z][a-z][a-z] .[0-9] [0-9:]* / /'; df -m / | awk 'NR > 1 {print $2, $4}'
ip addr 2>/dev/null; cat /proc/sys/kernel/random/boot_id | wc -c; ps -e -o comm= > /tmp/ps; sort /tmp/ps | uniq -c
test $(($(date +%s) - $(cut -d. -f1 /proc/uptime))) -gt 1700000000 && echo clock
"""


@pytest.fixture(scope="module")
def cold(request, names):
    """A server that starts nothing ahead."""
    from conftest import maker

    with maker(request, names) as make:
        yield make("-cold", config={"prestart": {"most": 0}})


def limits(server, sandbox):
    """What the host's groups say of a sandbox."""
    found = {}
    for group in host.cgroups(host.tag_of(server.data)):
        for name in ("cpu.shares", "cpu.weight", "cpu.idle", "cpu.cfs_quota_us", "cpu.max", "memory.limit_in_bytes", "memory.high", "pids.max"):
            with contextlib.suppress(FileNotFoundError):
                if group.endswith(sandbox):
                    found[name] = pathlib.Path(group, name).read_text().strip()
    return found


def test_a_claimed_one_looks_like_any_other(server, cold):
    settle(server, KEPT)
    before, ids = counts(server), waiting(server)
    assert len(ids) == KEPT
    idle = {limits(server, name).get("cpu.idle", "1") for name in ids}
    assert idle == {"1"}, "they take no CPU from anybody"
    fields = {"timeout_secs": 100, "entrypoint": ["sh", "-c", "echo begun > /tmp/entrypoint"]}
    claimed, other = server.create(**fields), cold.create(**fields)
    assert claimed in ids and counts(server)["hit"] == before["hit"] + 1
    for s, made in ((server, claimed), (cold, other)):
        until(lambda s=s, made=made: s.run(made, "cat /tmp/entrypoint").out == "begun", what="the entrypoint")
        until(lambda s=s, made=made: "sh" not in s.run(made, "exec ps -e -o comm=").out.split(), what="its end")
    seen = [server.run(claimed, FACTS), cold.run(other, FACTS)]
    assert seen[0].status == 0 and len(seen[0].out) > 1000, seen[0]
    differ = [line for line in difflib.ndiff(*(it.out.splitlines() for it in seen)) if line[0] in "-+"]
    assert not differ, differ
    assert limits(server, claimed) == limits(cold, other) and limits(server, claimed)
    shown = [{k: v for k, v in s.info(m).items() if k not in ("id", "sandbox_id")} for s, m in ((server, claimed), (cold, other))]
    assert shown[0].keys() == shown[1].keys()
    assert shown[0]["resources"] == shown[1]["resources"]
    server.delete(claimed)
    cold.delete(other)
    settle(server, KEPT)
    until(lambda: claimed not in waiting(server), timeout=30, what="its end: it is never used again")


def test_another_shape_and_a_bad_entrypoint(server):
    settle(server, KEPT)
    before = counts(server)
    half = server.create(resources={"cpus": 0.5})
    assert counts(server)["miss"] == before["miss"] + 1
    reply = server.call("POST", "/sandboxes", {"entrypoint": ["/no/such"]})
    assert (reply.status, reply.json()["status"]) == (200, "terminated"), reply
    assert reply.json()["termination_reason"] == "ConfigurationError"
    assert "/no/such" in reply.json()["error_details"]["message"]
    server.delete(half)


def test_a_claimed_one_has_its_secrets(server):
    reply = server.call("PUT", "/platform/v1/secrets", {"name": "API_KEY", "value": "told at the claim"})
    assert reply.status == 200, reply
    settle(server, KEPT)
    ids, before = waiting(server), counts(server)
    made = server.create(secret_names=["API_KEY"])
    assert made in ids and counts(server)["hit"] == before["hit"] + 1
    assert server.run(made, "echo $API_KEY").out == "told at the claim"
    server.delete(made)


def test_many_at_once_each_get_their_own(server):
    settle(server, KEPT)
    before = counts(server)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: server.create(), range(8)))
        assert len(set(made)) == 8
        names = list(pool.map(lambda m: server.run(m, f"echo {m} > /tmp/own; cat /tmp/own").out, made))
    assert names == made
    now = counts(server)
    assert now["hit"] - before["hit"] >= KEPT
    assert sum(now[k] - before[k] for k in ("hit", "joined", "miss")) == 8
    for sandbox in made:
        server.delete(sandbox)
    settle(server, KEPT)
    until(lambda: len(waiting(server)) == KEPT, timeout=30, what="nothing but those that wait")


def test_the_network_is_closed_until_it_is_claimed_and_then_as_asked(server, names):
    settle(server, KEPT)
    asks = "import socket\ntry: print(socket.getaddrinfo('web.tarn.test', 80)[0][4][0])\nexcept OSError as e: print(e.errno)"
    answers = []
    for allowed in (True, False):
        made = server.create(network={"allow_internet_access": allowed})
        answers.append(server.run(made, 'python3 -c "$ASKS"', env={"ASKS": asks}).out)
        server.delete(made)
    assert answers[0].count(".") == 3 and answers[1].count(".") == 0, answers


def test_a_server_that_stops_leaves_none(new_server):
    own = new_server("-stop", **SERVER)
    settle(own, KEPT)
    mine = own.create()
    assert own.stop() == 0
    until(lambda: waiting_without(own) == {mine}, timeout=10, what="nothing but the claimed one")
    own.start()
    assert own.running() == {mine}
    assert own.run(mine, "echo on").out == "on"
    own.delete(mine)


def waiting_without(server) -> set[str]:
    """The sandboxes on the host of a server that does not run."""
    groups = host.cgroups(host.tag_of(server.data))
    return {g.rsplit("/", 1)[1] for g in groups if len(g.rsplit("/", 1)[1]) == 21}


def test_killed_at_any_moment_nothing_is_handed_out_twice_or_left(new_server):
    own = new_server("-kill", **SERVER)
    settle(own, KEPT)
    fill_slots(own, 12)
    settle(own, KEPT)
    before = steady(own)
    rng = random.Random(8)
    for _ in range(env.scale(1, 25)):
        accepted: list[str] = []

        def ask(accepted=accepted):
            with contextlib.suppress(OSError):
                reply = own.call("POST", "/sandboxes", {"wait": False}, timeout=5)
                if reply.status == 200:
                    accepted.append(reply.json()["sandbox_id"])

        threads = [threading.Thread(target=ask) for _ in range(KEPT + 2)]
        for thread in threads:
            thread.start()
        threads[0].join(rng.uniform(0, 0.15))
        own.kill()
        for thread in threads:
            thread.join()
        own.start()
        assert len(set(accepted)) == len(accepted)
        for sandbox in accepted:
            until(lambda s=sandbox: own.info(s)["status"] == "running", timeout=60, what=f"{sandbox} to run")
            assert own.run(sandbox, "test ! -e /tmp/used && touch /tmp/used && echo mine").out == "mine"
        until(lambda: not end_all(own), timeout=60, what="the end of all, those whose answer was lost, too")
        settle(own, KEPT)
    until(lambda: not more(own, before), timeout=60, what="nothing more than before")


def end_all(server) -> list[str]:
    """Ends every sandbox that has not ended, and returns those."""
    alive = [s["id"] for s in server.call("GET", "/sandboxes").json()["sandboxes"] if s["status"] != "terminated"]
    for sandbox in alive:
        server.delete(sandbox)
    return alive


def more(server, before) -> dict:
    """What the host has more of."""
    now = host.counts(server.data)
    return {kind: (before.get(kind, 0), count) for kind, count in now.items() if count > before.get(kind, 0)}
