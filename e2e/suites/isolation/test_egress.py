"""Egress lists on every way a sandbox comes to run (spec 07). What each policy opens is a table of
`crates/hostnet`; this is that it holds from the first instruction on, wherever that is."""

import json
import pathlib

import pytest
from harness import host
from harness.lab import FORBIDDEN, FORBIDDEN6, OUTSIDE, PORT, PUBLIC, PUBLIC6
from harness.wait import until
from suites.prestart.ahead import counts, settle
from tensorlake.sandbox import CLEAR_NETWORK_POLICY, NetworkConfig

SECONDS = 40
TOGETHER = "lab"
SERVER = {"config": {"pool": {"initial_mb": 4096, "max_mb": 12288}, "prestart": {"kept": 1, "most": 1}}}
PROBE = pathlib.Path(__file__).with_name("probe.py").read_bytes()
GATEWAY = "169.254.77.1"
REFUSED, AAAA, ANY, TXT = 5, 28, 255, 16
ALLOWED, SHUT, NEAR, DENIED = PUBLIC
NAMED6, SHUT6, NEAR6, DENIED6 = PUBLIC6
POLICY = {
    "allow_internet_access": True,
    "allow_out": [ALLOWED, "198.51.100.16/29:443", "Web.tarn.test", "10.0.0.0/8", "2001:db8:214::10/124", "six.tarn.test", "fd00::/8"],
    "deny_out": [DENIED, DENIED6, "bad.tarn.test"],
}
# Tries for as long as it lives, from the first instruction on, what no policy here allows.
WATCH = f"""
import socket, threading
pause = threading.Event()
while True:
    for address in ("{SHUT}", "{SHUT6}"):
        try:
            socket.create_connection((address, {PORT}), 1).close()
            open("/tmp/opens", "a").write(address)
        except OSError:
            pass
    open("/tmp/tries", "a").write(".")
    pause.wait(0.02)
"""


@pytest.fixture(scope="module")
def source(server, lab, names):
    """A sandbox under the policy, in which somebody keeps trying."""
    names.answers["bad.tarn.test"] = DENIED
    names.answers6["six.tarn.test"] = NAMED6
    watch = ["python3", "-c", WATCH]
    # Another shape than what is started ahead.
    made = server.create(network=POLICY, entrypoint=watch, timeout_secs=0, name="egress", resources={"cpus": 0.9})
    lab.lead_here(host.tag_of(server.data))
    assert server.sandbox_call(made, "PUT", "/api/v1/files?path=/tmp/probe.py", PROBE).status == 204
    # The server looks for new networks of the host every few seconds; the lab is one.
    until(lambda: reached(server, made, ALLOWED, *six(lab, NEAR6)), what="a way to the lab")
    return made


def six(lab, *addresses):
    """Those addresses of IPv6, if this host can have it."""
    return addresses if lab.has_ipv6 else ()


def probe(server, box, *calls):
    """Runs the probe inside."""
    result = server.run(box, 'exec python3 /tmp/probe.py "$CALLS"', env={"CALLS": json.dumps(calls)}, timeout=60)
    assert result.status == 0, result
    return json.loads(result.out)


def reached(server, box, *addresses) -> bool:
    """Whether all addresses are reached."""
    return all(answer.startswith("open") for answer in probe(server, box, *(["tcp", a, PORT] for a in addresses)))


def holds(server, lab, box) -> None:
    """Checks that the policy is in force, and was at each moment so far."""
    lab.lead_here(host.tag_of(server.data))
    shut = [SHUT, DENIED, *FORBIDDEN, *six(lab, SHUT6, DENIED6, *FORBIDDEN6)]
    for address in shut:
        assert "outside" in lab.control(address), f"the lab answers at {address}"
    answers = probe(
        server,
        box,
        ["dns", GATEWAY, "web.tarn.test"],
        ["dns", GATEWAY, "WEB.tarn.test", 1, True],
        *(["dns", GATEWAY, name] for name in ("other.tarn.test", "bad.tarn.test", "x.web.tarn.test")),
        ["dns", GATEWAY, "other.tarn.test", TXT],
        ["dns", GATEWAY, "web.tarn.test", ANY],
    )
    assert answers == [[0, OUTSIDE]] * 2 + [[REFUSED, None]] * 5
    # Asked for by name, as by every program; without IPv6 the name has no such address.
    ((code, found),) = probe(server, box, ["dns", GATEWAY, "six.tarn.test", AAAA])
    assert (code, bool(found)) == (0, lab.has_ipv6)
    assert reached(server, box, ALLOWED, NEAR, OUTSIDE, *six(lab, NAMED6, NEAR6))
    calls = [["tcp", address, PORT] for address in shut]
    for call, answer in zip(calls, probe(server, box, *calls), strict=True):
        assert not answer.startswith("open"), (call, answer)
    tries = lambda: int(server.run(box, "wc -c < /tmp/tries").out)  # noqa: E731
    before = tries()
    until(lambda: tries() > before, what="somebody who keeps trying")
    assert server.run(box, "cat /tmp/opens 2>/dev/null || true").out == "", "never open"


def test_a_cold_start(server, lab, source):
    holds(server, lab, source)
    assert server.info(source)["network_policy"] == POLICY, "as it was written"


def test_a_claim_of_one_that_was_started_ahead(server, lab, source):
    settle(server, 1)
    lab.lead_here(host.tag_of(server.data))
    hits = counts(server)["hit"]
    claimed = server.create(network=POLICY, entrypoint=["python3", "-c", WATCH])
    assert counts(server)["hit"] == hits + 1
    assert server.sandbox_call(claimed, "PUT", "/api/v1/files?path=/tmp/probe.py", PROBE).status == 204
    holds(server, lab, claimed)
    server.delete(claimed)


def test_a_refusal_is_said_at_once(server, source):
    # Where there is no IPv6, too.
    for address in (SHUT, SHUT6):
        assert probe(server, source, ["tcp", address, PORT]) == ["Connection refused"], address


def test_a_suspend_and_resume(server, lab, source):
    for what in ("suspend", "resume"):
        reply = server.call("POST", f"/sandboxes/{source}/{what}?wait_ms=60000", timeout=70)
        assert reply.status == 200, reply
    holds(server, lab, source)


def test_a_change_while_suspended(server, lab, source):
    """It is in force before the next instruction; so is the way back."""
    suspend, resume = (f"/sandboxes/{source}/{what}?wait_ms=60000" for what in ("suspend", "resume"))
    assert server.call("POST", suspend, timeout=70).status == 200
    tight = {"allow_internet_access": False, "allow_out": [NEAR], "deny_out": []}
    assert server.call("PATCH", f"/sandboxes/{source}", {"network": tight}).status == 200
    assert server.call("POST", resume, timeout=70).status == 200
    assert reached(server, source, NEAR) and not reached(server, source, ALLOWED)
    assert server.call("PATCH", f"/sandboxes/{source}", {"network": POLICY}).status == 200
    holds(server, lab, source)


def test_a_copy(server, lab, source):
    reply = server.call("POST", f"/sandboxes/{source}/copy?times=1", timeout=120)
    assert reply.status == 200, reply
    (copy,) = (c["sandbox_id"] for c in reply.json()["sandboxes"])
    assert server.info(copy)["network_policy"] == POLICY, "the source's"
    holds(server, lab, copy)
    server.delete(copy)


def test_a_restore(server, lab, source):
    taken = server.call("POST", f"/sandboxes/{source}/snapshot", {"snapshot_type": "memory"}).json()["snapshot_id"]
    until(lambda: server.call("GET", f"/snapshots/{taken}").json()["status"] == "completed", what="the snapshot")
    held = server.create(snapshot_id=taken, network=POLICY)
    holds(server, lab, held)
    free = server.create(snapshot_id=taken)
    assert server.info(free)["network_policy"] is None, "its own, not the source's"
    lab.lead_here(host.tag_of(server.data))
    until(lambda: server.run(free, "cat /tmp/opens 2>/dev/null || true").out, what="an open way")
    for made in (held, free):
        server.delete(made)
    server.call("DELETE", f"/snapshots/{taken}")


def test_a_restart_of_the_server(server, lab, source):
    server.restart(kill=True)
    holds(server, lab, source)


def test_live_changes_by_the_sdk(server, sdk, lab, source):
    lists = {"allow_out": [ALLOWED], "deny_out": [SHUT]}
    made = sdk.create(**lists)
    lab.lead_here(host.tag_of(server.data))
    box = made.sandbox_id
    assert server.sandbox_call(box, "PUT", "/api/v1/files?path=/tmp/probe.py", PROBE).status == 204
    assert server.info(box)["network_policy"] == {"allow_internet_access": True, **lists}
    assert reached(server, box, ALLOWED) and not reached(server, box, NEAR)
    for network, opened, closed in [
        (NetworkConfig(deny_out=[ALLOWED]), NEAR, ALLOWED),
        (NetworkConfig(deny_out=["bad.tarn.test"]), ALLOWED, DENIED),
        (NetworkConfig(allow_out=[NEAR, ALLOWED], deny_out=[NEAR]), ALLOWED, NEAR),
        (NetworkConfig(allow_internet_access=False, allow_out=["web.tarn.test"]), OUTSIDE, ALLOWED),
        (CLEAR_NETWORK_POLICY, ALLOWED, "10.213.7.1"),
        (NetworkConfig(allow_internet_access=False), None, ALLOWED),
    ]:
        made.update(network=network)
        assert opened is None or reached(server, box, opened), network
        assert not reached(server, box, closed), network
    made.update(name="egress-other")
    assert server.info(box)["network_policy"]["allow_internet_access"] is False, "an absent key keeps it"


def test_dns_goes_off_with_the_resolver(server, lab, source):
    for lists, answers in [
        ({"deny_out": ["169.254.0.0/16"]}, False),
        ({"deny_out": ["10.0.0.0/8"]}, True),
        ({"allow_out": ["web.tarn.test"], "allow_internet_access": False}, False),
        ({"allow_out": ["web.tarn.test", GATEWAY], "allow_internet_access": False}, True),
        ({"allow_out": ["web.tarn.test", GATEWAY], "deny_out": [GATEWAY]}, False),
    ]:
        assert server.call("PATCH", f"/sandboxes/{source}", {"network": lists}).status == 200
        expected = [0, OUTSIDE] if answers else [REFUSED, None]
        assert probe(server, source, ["dns", GATEWAY, "web.tarn.test"]) == [expected], lists


def test_what_is_no_entry_is_refused_and_changes_nothing(server, source):
    before = server.info(source)["network_policy"]
    for lists, code, word in [
        ({"allow_out": [ALLOWED, "a b"]}, "INVALID_REQUEST", "network.allow_out[1]"),
        ({"deny_out": ["*.tarn.test"]}, "INVALID_REQUEST", "network.deny_out[0]"),
        ({"deny_out": ["1.1.1.0/33"]}, "INVALID_REQUEST", "network.deny_out[0]"),
        ({"deny": []}, "INVALID_REQUEST", "network.deny"),
        ({"deny_out": [ALLOWED] * 257}, "LIMIT_EXCEEDED", "network.deny_out"),
    ]:
        reply = server.call("PATCH", f"/sandboxes/{source}", {"network": lists})
        assert (reply.status, reply.json()["code"]) == (400, code) and word in reply.json()["error"], reply
    assert server.info(source)["network_policy"] == before
