"""What a sandbox can reach. Every "cannot" has its "could": the same target
answers from the host, so a hole in the rules would be seen."""

import json
import pathlib
import socket
import subprocess
import threading

import pytest
from harness import host, http
from harness.lab import FORBIDDEN, HOST6, OUTSIDE, PORT, PUBLIC6
from harness.wait import until

SECONDS = 40
TOGETHER = "lab"
PROBE = pathlib.Path(__file__).with_name("probe.py").read_bytes()
GATEWAY = "169.254.77.1"
REFUSED = 5
NXDOMAIN = 3


@pytest.fixture(scope="module")
def listener():
    """A service of the host on every address of it."""
    with socket.socket() as service:
        service.bind(("0.0.0.0", 0))
        service.listen(64)
        threading.Thread(target=_greet, args=(service,), daemon=True).start()
        yield service.getsockname()[1]


def _greet(service):
    while True:
        try:
            connection, _ = service.accept()
        except OSError:
            return
        connection.sendall(b"the host")
        connection.close()


@pytest.fixture(scope="module")
def open_box(server, lab):
    made = _box(server)
    lab.lead_here(host.tag_of(server.data))
    # The server looks for new networks of the host every few seconds; the lab is one.
    until(lambda: probe(server, made, ["tcp", OUTSIDE, PORT])[0].startswith("open"), what="a way to the lab")
    if lab.has_ipv6:
        until(lambda: probe(server, made, ["tcp", PUBLIC6[0], PORT])[0].startswith("open"), what="a way by IPv6")
    return made


@pytest.fixture(scope="module")
def closed_box(server, open_box):
    return _box(server, network={"allow_internet_access": False})


@pytest.fixture(scope="module")
def neighbour(server):
    """Another sandbox, with a server of its own on every address."""
    made = server.create()
    body = {"command": "python3", "args": ["-m", "http.server", "8000"]}
    assert server.sandbox_call(made, "POST", "/api/v1/processes", body).status == 201
    return made


def _box(server, **fields):
    made = server.create(**fields)
    assert server.sandbox_call(made, "PUT", "/api/v1/files?path=/tmp/probe.py", PROBE).status == 204
    return made


def probe(server, box, *calls):
    """Runs the probe inside."""
    result = server.run(box, "exec python3 /tmp/probe.py \"$CALLS\"", env={"CALLS": json.dumps(calls)}, timeout=120)
    assert result.status == 0, result
    return json.loads(result.out)


def cannot(server, box, *calls):
    """Asserts that none of the calls is answered."""
    for call, answer in zip(calls, probe(server, box, *calls), strict=True):
        assert isinstance(answer, str) and not answer.startswith("open"), (call, answer)


def host_addresses() -> list[str]:
    """Every IPv4 address of this host but the loopback and the slots' gateways."""
    shown = json.loads(subprocess.run(["ip", "-j", "-4", "addr"], capture_output=True, text=True).stdout)
    found = [a["local"] for link in shown if link["ifname"] != "lo" for a in link["addr_info"]]
    return sorted({a for a in found if a != GATEWAY})


def slot_addresses(server) -> list[str]:
    """The host-side addresses of this server's sandboxes at which a daemon answers."""
    tag, found = host.tag_of(server.data), []
    for line in subprocess.run(["ip", "-4", "route"], capture_output=True, text=True).stdout.splitlines():
        if tag in line and _connects(line.split()[0], 9501):
            found.append(line.split()[0])
    return found


def _connects(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 2).close()
        return True
    except OSError:
        return False


def test_the_internet_is_reached_when_allowed(server, lab, names, open_box):
    tcp, name, missing, by_tcp = probe(
        server,
        open_box,
        ["tcp", OUTSIDE, PORT],
        ["dns", GATEWAY, "a.tarn.test"],
        ["dns", GATEWAY, "no.example"],
        ["dns", GATEWAY, "b.tarn.test", 1, True],
    )
    assert tcp.startswith("open") and "outside" in tcp, tcp
    assert name == by_tcp == [0, OUTSIDE] and missing == [NXDOMAIN, None]
    assert {"a.tarn.test", "b.tarn.test", "no.example"} <= set(names.asked)
    result = server.run(open_box, f"curl -s http://web.tarn.test:{PORT}/")
    assert "outside" in result.out, result
    if lab.has_ipv6:
        # A name that has both leads to either, and one that has IPv6 alone there.
        names.answers6["six.tarn.test"] = PUBLIC6[0]
        result = server.run(open_box, f"curl -s -6 http://six.tarn.test:{PORT}/ && curl -s http://six.tarn.test:{PORT}/")
        assert result.out.count("outside") == 2 and f"outside {HOST6}" in result.out, result


def test_no_internet_means_nothing_and_refused(server, lab, names, closed_box):
    cannot(server, closed_box, ["tcp", OUTSIDE, PORT], ["udp", OUTSIDE, 53], ["tcp", GATEWAY, 80])
    names.asked.clear()
    answers = probe(server, closed_box, ["dns", GATEWAY, "a.tarn.test"], ["dns", GATEWAY, "a.tarn.test", 1, True])
    assert answers == [[REFUSED, None]] * 2
    assert names.asked == [], "nothing was forwarded"
    assert server.run(closed_box, "echo alive").out == "alive", "its daemon is still reached"


def test_another_resolver_is_closed(server, lab, open_box):
    assert lab.control_udp(OUTSIDE) == b"outside"
    cannot(server, open_box, ["udp", OUTSIDE, 53], ["tcp", OUTSIDE, 53])


@pytest.mark.parametrize("kind", ["open_box", "closed_box"])
def test_private_and_metadata_addresses_are_closed(server, lab, request, kind):
    box = request.getfixturevalue(kind)
    for address in FORBIDDEN:
        assert "outside" in lab.control(address), f"the lab answers at {address}"
        assert lab.control_udp(address) == b"outside"
    cannot(server, box, *(["tcp", address, PORT] for address in FORBIDDEN))
    cannot(server, box, *(["udp", address, 53] for address in FORBIDDEN))


@pytest.mark.parametrize("kind", ["open_box", "closed_box"])
def test_the_host_is_closed(server, listener, request, lab, kind):
    box = request.getfixturevalue(kind)
    api, ingress = (int(url.rpartition(":")[2]) for url in (server.api, server.ingress))
    addresses = host_addresses()
    assert addresses
    for address in [*addresses, GATEWAY]:
        assert _connects(address, listener), f"the host answers at {address}:{listener}"
    targets = [(a, p) for a in [*addresses, GATEWAY, "127.0.0.1"] for p in (listener, api, ingress, 22, 453)]
    cannot(server, box, *(["tcp", address, port, 0.7] for address, port in targets))


@pytest.mark.parametrize("kind", ["open_box", "closed_box"])
def test_other_sandboxes_are_closed(server, neighbour, request, kind):
    box = request.getfixturevalue(kind)
    addresses = slot_addresses(server)
    assert len(addresses) >= 2, "the host itself reaches the daemons"
    cannot(server, box, *(["tcp", address, port] for address in addresses for port in (9501, 8000)))


def test_the_switch_works_on_a_running_sandbox(server, lab, open_box):
    box = _box(server)
    reach = lambda: probe(server, box, ["tcp", OUTSIDE, PORT])[0]  # noqa: E731
    assert reach().startswith("open")
    assert server.call("PATCH", f"/sandboxes/{box}", {"network": {"allow_internet_access": False}}).status == 200
    assert not reach().startswith("open")
    assert probe(server, box, ["dns", GATEWAY, "a.tarn.test"]) == [[REFUSED, None]]
    assert server.call("PATCH", f"/sandboxes/{box}", {"network": None}).status == 200
    assert reach().startswith("open")


def test_a_public_service_sees_the_host_not_the_sandbox(server, lab, open_box):
    answer = probe(server, open_box, ["tcp", OUTSIDE, PORT])[0]
    assert answer.endswith("outside 203.0.113.1"), "masqueraded"


def test_the_api_still_answers_the_host(server):
    assert http.request(server.api + "/healthz").status == 200
