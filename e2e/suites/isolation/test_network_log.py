"""What an operator sees of a sandbox's network (docs/network.md, ADR 24)."""

import json
import pathlib

import pytest
from harness import host
from harness.lab import FORBIDDEN, OUTSIDE, PORT, PUBLIC
from harness.wait import until

SECONDS = 10
TOGETHER = "lab"
PROBE = pathlib.Path(__file__).with_name("probe.py").read_bytes()
GATEWAY = "169.254.77.1"
NAME, OTHER = "seen.tarn.test", "unseen.tarn.test"
FLOOD = f"""
import socket
channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in range(1000, 6000):
    try:
        channel.sendto(b"x", ("{FORBIDDEN[1]}", port))
    except OSError:
        pass
"""


@pytest.fixture(scope="module")
def box(server, lab):
    made = server.create(network={"allow_out": [NAME]})
    assert server.sandbox_call(made, "PUT", "/api/v1/files?path=/tmp/probe.py", PROBE).status == 204
    lab.lead_here(host.tag_of(server.data))
    # The server looks for new networks of the host every few seconds; the lab is one.
    reached = lambda: probe(server, made, ["dns", GATEWAY, NAME], ["tcp", NAME, PORT])[1].startswith("open")  # noqa: E731
    until(reached, what="a way to the lab")
    return made


def probe(server, box, *calls):
    """Runs the probe inside."""
    result = server.run(box, 'exec python3 /tmp/probe.py "$CALLS"', env={"CALLS": json.dumps(calls)}, timeout=60)
    assert result.status == 0, result
    return json.loads(result.out)


def network(server, box, *options) -> str:
    """What the command line prints."""
    printed = server.command("sandbox", "network", box, *options)
    assert printed.returncode == 0, printed
    return printed.stdout


def log(server, box, *options) -> dict:
    return json.loads(network(server, box, "--json", *options))


def refusal(server, box) -> str:
    """What it says where there is nothing to print."""
    printed = server.command("sandbox", "network", box)
    assert printed.returncode == 1 and printed.stdout == "", printed
    return printed.stderr


def entries(log: dict, address: str | None, name: str | None = None) -> list[dict]:
    return [e for e in log["entries"] if e["address"] == address and name in (None, e["name"])]


def test_where_it_went_and_what_was_denied(server, box):
    answers = probe(
        server, box, ["tcp", PUBLIC[0], PORT], ["tcp", FORBIDDEN[0], PORT], ["dns", GATEWAY, OTHER], ["dns", GATEWAY, NAME]
    )
    assert not any(answer.startswith("open") for answer in answers[:2]) and answers[2:] == [[5, None], [0, OUTSIDE]]
    seen = log(server, box)
    allowed = entries(seen, OUTSIDE)
    assert allowed and {(e["name"], e["port"], e["protocol"], e["verdict"]) for e in allowed} == {(NAME, PORT, "tcp", "allowed")}
    assert sum(e["bytes_sent"] for e in allowed) > 0 and max(e["bytes_received"] for e in allowed) > 0
    for address, name, reason in [(PUBLIC[0], None, "not_in_allow_out"), (FORBIDDEN[0], None, "closed"), (None, OTHER, "not_in_allow_out")]:
        found = entries(seen, address, name)
        assert found and {(e["verdict"], e["reason"]) for e in found} == {("denied", reason)}, (address, found)
    counters = seen["counters"]
    assert counters["connections"] >= 1 and counters["packets_denied"] >= 2, counters
    assert counters["bytes_received"] > 0 and counters["dns_answered"] >= 1 and counters["dns_refused"] >= 1, counters


def test_what_was_denied_is_one_command_with_advice(server, box):
    text = network(server, box, "--denied", "--since", "1h")
    assert f"add `{PUBLIC[0]}:{PORT}` to `allow_out`" in text, text
    assert f"add `{OTHER}` to `allow_out`" in text and "no policy opens it" in text, text
    assert OUTSIDE not in text, "what was allowed is not asked for"
    assert log(server, box, "--since", "0s")["entries"] == [], "nothing happens now"


def test_a_flood_is_bounded_and_counted(server, box):
    assert server.run(box, 'exec python3 -c "$FLOOD"', env={"FLOOD": FLOOD}).status == 0
    seen = log(server, box)
    assert len(seen["entries"]) <= 1000
    assert seen["lost"]["rate"] + seen["lost"]["room"] > 0, seen["lost"]
    assert entries(seen, OUTSIDE) and entries(seen, None, OTHER), "other kinds are not pushed out"
    assert "not all of it is shown" in network(server, box)


def test_nobody_else_is_told(server, box):
    stranger = server.command("key", "create", "--project", "stranger").stdout.strip()
    for key in (None, stranger):
        assert server.call("GET", f"/tarn/v1/sandboxes/{box}/network", key=key).status == 404, key
    assert "SANDBOX_NOT_FOUND" in refusal(server, "nobody")


def test_a_log_is_kept_beyond_the_end_and_not_beyond_the_server(server, box):
    ended = server.create(network={"allow_internet_access": False})
    assert server.sandbox_call(ended, "PUT", "/api/v1/files?path=/tmp/probe.py", PROBE).status == 204
    probe(server, ended, ["tcp", PUBLIC[1], PORT])
    assert log(server, ended)["until"] is None
    server.delete(ended)
    until(lambda: log(server, ended)["until"] is not None, what="the end of its log")
    assert [e["reason"] for e in entries(log(server, ended), PUBLIC[1])] == ["internet_off"]
    began = log(server, box)["since"]
    server.restart()
    assert "SANDBOX_TERMINATED" in (said := refusal(server, ended)) and "no network log" in said
    seen = log(server, box)
    assert seen["since"] > began and entries(seen, OUTSIDE) == [], "it begins anew"
    probe(server, box, ["dns", GATEWAY, NAME], ["tcp", NAME, PORT])
    assert entries(log(server, box), OUTSIDE)
