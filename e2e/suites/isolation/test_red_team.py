"""Root inside a sandbox, who knows how tarn works and has a friend next door (docs/threat-model.md).

What each attack aims at truly stands there (`field.py`), and after each something honest is sent by
the same means and arrives. The other attempts, by ordinary sockets, are in test_network.py.
"""

import json
import socket
import struct
import time

import pytest
from harness import packet
from harness.lab import FORBIDDEN, FORBIDDEN6, HOST, HOST6, OUTSIDE, OUTSIDE6, PUBLIC, PUBLIC6
from harness.packet import ARP, ICMP, ICMP6, IPV4, IPV6, TCP, UDP, ethernet, fragments, ipv4, ipv6, tcp, udp
from harness.wait import until
from suites.isolation.field import (
    GATEWAY,
    GATEWAY_MAC,
    GATEWAY6,
    HONEST,
    INSIDE,
    INSIDE6,
    INSIDE_MAC,
    PROTOCOLS,
    Field,
    fresh,
    fresh_port,
    host_addresses,
    run,
)

SECONDS = 60
TOGETHER = "lab"
METADATA = FORBIDDEN[0]
FOREIGN_MAC = packet.mac("02:de:ad:be:ef:77")
EVERYBODY = b"\xff" * 6
WAYS = ("raw", "wire")
BOTH = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(scope="module")
def field(server, lab):
    made = Field(server, lab)
    yield made
    made.close()


def to_host(field) -> list[str]:
    """Every address that the host might take for its own, tricks included."""
    tricks = ["127.0.0.1", "127.1.2.3", "0.0.0.0", "255.255.255.255", "169.254.77.3", "224.0.0.1", "224.0.0.251"]
    return [*host_addresses(), GATEWAY, field.here.address, *tricks]


def ports(field) -> list[int]:
    """Where something of the host's listens, of our server's too."""
    ours = [int(url.rpartition(":")[2]) for url in (field.server.api, field.server.ingress)]
    return [field.host_port, field.host_tcp_port, *ours, 22, 453]


def test_the_witnesses_hear(field):
    """Else they would not have seen anything come."""
    token = fresh()

    def say() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            for address in (OUTSIDE, field.there.address, HOST):
                channel.sendto(token, (address, field.host_port))
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as channel:
            channel.sendto(token, (OUTSIDE6, HONEST))
            channel.sendto(token, (HOST6, field.host_port))
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as channel:
            for protocol in PROTOCOLS:
                channel.sendto(ipv4(HOST, HOST, protocol, token), (HOST, 0))
        return True

    families = lambda: {frame[12:14] for frame in field.lab_ear.heard(token)}  # noqa: E731
    until(lambda: say() and len(families()) == 2, what="the internet's witness, in both families", timeout=60)
    until(lambda: say() and field.neighbour_ear.heard(token), what="the neighbour's witness")
    for ear in field.host_ears[: 1 + len(PROTOCOLS)]:
        until(lambda ear=ear: say() and ear.heard(token), what="a witness of the host")
    in_six = fresh()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as channel:
        channel.sendto(in_six, (HOST6, field.host_port))
    until(lambda: field.host_ears[0].heard(in_six), what="the host's witness in IPv6")
    syn = ipv4(INSIDE, OUTSIDE, TCP, tcp(INSIDE, OUTSIDE, 4004, 80))
    until(lambda: field.strike("raw", [syn]) or field.answers(4004), what="the witness of answers", timeout=60)
    echo = ipv4(INSIDE, OUTSIDE, ICMP, packet.icmp(8, 0, 4005 << 16, b""))
    until(lambda: field.strike("wire", [echo]) or field.answers(4005), what="the witness of echoes", timeout=60)


# --- the host ---


@BOTH
@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_ports_of_the_host(field, way, protocol):
    token, near = fresh(), fresh_port()
    build = {TCP: tcp, UDP: udp}[protocol]
    field.strike(
        way,
        [
            ipv4(INSIDE, address, protocol, build(INSIDE, address, near, port, token))
            for address in to_host(field)
            for port in ports(field)
            # The sandbox's own resolver, which is its to ask.
            if (address, port) != (GATEWAY, 453)
        ],
    )
    field.settle(way)
    field.nothing_came(token, near)


@BOTH
@pytest.mark.parametrize("kind", [8, 13, 15, 17], ids=["echo", "timestamp", "information", "mask"])
def test_icmp_of_the_host(field, way, kind):
    token, number = fresh(), fresh_port()
    message = packet.icmp(kind, 0, number << 16, token)
    field.strike(way, [ipv4(INSIDE, address, ICMP, message) for address in to_host(field)])
    field.settle(way)
    field.nothing_came(token, number)


@BOTH
@pytest.mark.parametrize("protocol", PROTOCOLS[1:], ids=["igmp", "ipip", "6in4", "gre", "sctp"])
def test_other_protocols_of_the_host(field, way, protocol):
    """Tunnels too: what is inside them must not be let out by the host."""
    token = fresh()
    inner = ipv4(HOST, METADATA, UDP, udp(HOST, METADATA, 1, 53, token))
    inner = {packet.GRE: struct.pack("!HH", 0, IPV4) + inner}.get(protocol, inner)
    field.strike(way, [ipv4(INSIDE, address, protocol, inner) for address in to_host(field)])
    field.settle(way)
    field.nothing_came(token)


@BOTH
def test_a_redirect_moves_no_route_of_the_host(field, way):
    route = lambda: run("ip", "route", "get", OUTSIDE).splitlines()[0]  # noqa: E731
    before = route()
    quoted = ipv4(HOST, OUTSIDE, UDP, udp(HOST, OUTSIDE, 1, 1, b""))
    gateway = struct.unpack("!I", socket.inet_aton(INSIDE))[0]
    redirects = [packet.icmp(5, code, gateway, quoted) for code in (0, 1)]
    sources = (INSIDE, OUTSIDE, GATEWAY)
    field.strike(way, [ipv4(source, HOST, ICMP, redirect) for source in sources for redirect in redirects])
    field.settle(way)
    assert route() == before


# --- other sandboxes ---


@BOTH
@pytest.mark.parametrize("protocol", [TCP, UDP, ICMP], ids=["tcp", "udp", "icmp"])
def test_another_sandbox(field, way, protocol):
    token, near = fresh(), fresh_port()
    target = field.there.address
    if protocol == ICMP:
        bodies = [packet.icmp(8, 0, near << 16, token)]
    else:
        build = {TCP: tcp, UDP: udp}[protocol]
        bodies = [build(INSIDE, target, near, port, token) for port in (9501, 8000, 53, 453)]
    field.strike(way, [ipv4(INSIDE, target, protocol, body) for body in bodies])
    field.settle(way)
    field.nothing_came(token, near)


def test_another_sandbox_by_its_hardware_address(field):
    token = fresh()
    own = ipv4(INSIDE, INSIDE, UDP, udp(INSIDE, INSIDE, 1, 9501, token))
    across = ipv4(INSIDE, field.there.address, UDP, udp(INSIDE, field.there.address, 1, 9501, token))
    for target in (INSIDE_MAC, EVERYBODY, GATEWAY_MAC):
        for body in (own, across):
            field.wire.send(ethernet(target, INSIDE_MAC, IPV4, body))
    field.settle("wire")
    field.nothing_came(token)


# --- metadata and private networks ---


@BOTH
@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_metadata_and_private_networks(field, lab, way, protocol):
    token, near = fresh(), fresh_port()
    build = {TCP: tcp, UDP: udp}[protocol]
    for address in FORBIDDEN:
        assert "outside" in lab.control(address), f"the lab answers at {address}"
    field.strike(
        way,
        [
            ipv4(INSIDE, address, protocol, build(INSIDE, address, near, port, token))
            for address in FORBIDDEN
            for port in (80, 443, HONEST)
        ],
    )
    field.settle(way)
    field.nothing_came(token, near)


@BOTH
@pytest.mark.parametrize("option", [131, 137], ids=["loose", "strict"])
def test_a_source_route(field, way, option):
    """A router named in the packet would take it where it may not go itself."""
    token, packets = fresh(), []
    for via in (OUTSIDE, GATEWAY, HOST):
        for target in (METADATA, field.there.address, FORBIDDEN[1]):
            route = bytes([option, 7, 4]) + socket.inet_aton(target) + b"\0"
            packets.append(ipv4(INSIDE, via, UDP, udp(INSIDE, via, 1, HONEST, token), options=route))
    field.strike(way, packets)
    field.settle(way)
    field.nothing_came(token)


# --- who one is ---


@BOTH
def test_foreign_addresses_do_not_leave(field, way):
    token, packets = fresh(), []
    sources = [
        field.here.address,
        field.there.address,
        HOST,
        GATEWAY,
        OUTSIDE,
        "169.254.77.3",
        "198.51.100.99",
        "10.1.2.3",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
    ]
    # A raw socket fills in the address of who sends it if it is none.
    sources += ["0.0.0.0"] if way == "wire" else []
    for source in sources:
        for target in (OUTSIDE, field.there.address, HOST, GATEWAY):
            for port in (HONEST, field.host_port, 53):
                packets.append(ipv4(source, target, UDP, udp(source, target, 1, port, token)))
    field.strike(way, packets)
    field.settle(way)
    field.nothing_came(token)


def test_the_sandbox_s_kernel_takes_no_frames(field):
    token = fresh()
    honest = ipv4(INSIDE, OUTSIDE, UDP, udp(INSIDE, OUTSIDE, 4000, HONEST, token))
    (answer,) = field.inside("frame", ethernet(GATEWAY_MAC, INSIDE_MAC, IPV4, honest).hex())
    assert answer != "sent", answer
    field.settle("raw")
    field.nothing_came(token)


def test_lies_about_hardware_addresses_change_nothing(field, server):
    """ARP and frames with a foreign address: the host keeps what it knows of everybody else."""
    lies = [INSIDE, GATEWAY, OUTSIDE, HOST, field.there.address, *host_addresses()]
    before = neighbours(field)
    for address in lies:
        for operation in (1, 2):
            for target_mac, target in ((EVERYBODY, address), (GATEWAY_MAC, GATEWAY), (GATEWAY_MAC, HOST)):
                lie = packet.arp(operation, FOREIGN_MAC, address, target_mac, target)
                for to in (EVERYBODY, GATEWAY_MAC):
                    field.wire.send(ethernet(to, FOREIGN_MAC, ARP, lie))
    field.settle("wire")
    assert neighbours(field) == before
    believed = [entry for entry in json.loads(run("ip", "-j", "neigh")) if entry.get("lladdr") == FOREIGN_MAC.hex(":")]
    assert not [entry for entry in believed if entry["dev"] != field.here.link], "of others"
    assert server.run(field.attacker, "echo alive").out == "alive"
    assert server.run(field.neighbour, "echo alive").out == "alive"


def neighbours(field) -> list[tuple]:
    """What the host has fixed about both sandboxes, and what it knows of the lab."""
    slots, lab = (field.here.link, field.there.link), (f"{field.lab.name}h", OUTSIDE)
    return sorted(
        (entry["dev"], entry["dst"], entry.get("lladdr", ""))
        for entry in json.loads(run("ip", "-j", "neigh"))
        if (entry["dev"] in slots and "PERMANENT" in entry["state"]) or (entry["dev"], entry["dst"]) == lab
    )


def test_a_foreign_hardware_address_is_no_other_identity(field):
    """The frame counts as the attacker's, whatever it says: what is honest otherwise passes as its own."""
    token = fresh()
    for source, to in ((INSIDE, OUTSIDE), (field.there.address, OUTSIDE), (INSIDE, field.there.address)):
        body = ipv4(source, to, UDP, udp(source, to, 4001, HONEST, token))
        field.wire.send(ethernet(GATEWAY_MAC, FOREIGN_MAC, IPV4, body))
        for target in (FOREIGN_MAC, EVERYBODY):
            field.wire.send(ethernet(target, INSIDE_MAC, IPV4, body))
    field.settle("wire")
    (passed,) = field.lab_ear.heard(token)
    assert FOREIGN_MAC not in passed and passed[26:30] == socket.inet_aton(HOST), "masqueraded, from the host"
    assert not field.neighbour_ear.heard(token)


# --- fragments ---


def cut(target, port, token, cuts, number, protocol=UDP) -> list[bytes]:
    """A datagram in pieces, the token whole in the last."""
    build = {TCP: tcp, UDP: udp}[protocol]
    whole = build(INSIDE, target, 4002, port, b"." * 24 + token)
    return fragments(INSIDE, target, protocol, whole, cuts, number=number)


@BOTH
def test_an_honest_datagram_in_fragments_arrives(field, way):
    for number, turned in ((101, 1), (102, -1)):
        token = fresh()
        pieces = cut(OUTSIDE, HONEST, token, [8, 24], number)[::turned]
        arrived = lambda p=pieces, t=token: field.strike(way, p) or field.lab_ear.heard(t)  # noqa: E731
        until(arrived, what="the datagram", timeout=60)


@BOTH
@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
@pytest.mark.parametrize("cuts", [[8], [8, 16, 24], [16]], ids=["tiny", "many", "two"])
def test_what_is_closed_stays_so_in_fragments(field, way, protocol, cuts):
    token, packets = fresh(), []
    closed = [(OUTSIDE, 53), (OUTSIDE, 853), (METADATA, 80), (field.there.address, 9501), (HOST, field.host_port)]
    for number, (target, port) in enumerate([*closed, (GATEWAY, field.host_port)]):
        for turned in (1, -1):
            packets += cut(target, port, token, cuts, 200 + 2 * number + (turned > 0), protocol)[::turned]
    field.strike(way, packets)
    field.settle(way)
    field.nothing_came(token)


@BOTH
def test_overlapping_fragments(field, way):
    """The first says an open port, another laid over it a closed one."""
    token, packets = fresh(), []
    data = b"." * 24 + token
    for number, (first, second) in enumerate(((HONEST, 53), (53, HONEST))):
        shown, hidden = (udp(INSIDE, OUTSIDE, 4003, port, data) for port in (first, second))
        head = dict(number=300 + number)
        packets += [
            ipv4(INSIDE, OUTSIDE, UDP, shown[:16], more=True, **head),
            ipv4(INSIDE, OUTSIDE, UDP, hidden[:24], more=True, **head),
            ipv4(INSIDE, OUTSIDE, UDP, hidden[8:32], offset=8, more=True, **head),
            ipv4(INSIDE, OUTSIDE, UDP, hidden[24:], offset=24, **head),
        ]
    field.strike(way, packets)
    field.settle(way)
    seen = field.lab_ear.heard(token)
    assert not [frame for frame in seen if frame[36:38] == struct.pack("!H", 53)], "an overlap reached a closed port"
    assert not seen, "an overlap arrived"


def test_fragments_of_two_sandboxes_are_never_joined(field):
    """Every sandbox has the same address inside, so only who sent them tells their fragments apart."""
    for number, turned in ((401, 1), (402, -1)):
        token = fresh()
        pieces = cut(OUTSIDE, HONEST, token, [24], number)
        frames = [ethernet(GATEWAY_MAC, INSIDE_MAC, IPV4, piece) for piece in pieces]
        for channel, frame in list(zip((field.wire, field.neighbour_wire), frames, strict=True))[::turned]:
            channel.send(frame)
        field.settle("wire")
        field.nothing_came(token)
        # Only their being one sandbox's was missing.
        own = lambda f=frames, t=token: [field.wire.send(frame) for frame in f] and field.lab_ear.heard(t)  # noqa: E731
        until(own, what="the attacker's own datagram")


# --- IPv6 ---


def extended(kind: str, source: str, target: str, body: bytes, following: int) -> list[bytes]:
    """A packet of IPv6 with headers between."""
    padding = b"\1\4\0\0\0\0"
    if kind == "plain":
        return [ipv6(source, target, following, body)]
    if kind == "fragments":
        parts = (body[:16], body[16:])
        heads = (struct.pack("!BBHI", following, 0, place, 9) for place in (1, 16))
        return [ipv6(source, target, 44, head + part) for head, part in zip(heads, parts, strict=True)]
    number = {"hop-by-hop": 0, "routing": 43, "destination": 60}[kind]
    if kind == "routing":
        # Type 0 (RFC 5095) and 2, by way of the target to somebody else.
        stops = [socket.inet_pton(socket.AF_INET6, via) for via in (OUTSIDE6, HOST6)]
        heads = [bytes([following, 2, type_, 1]) + b"\0" * 4 + stop for type_ in (0, 2) for stop in stops]
        return [ipv6(source, target, number, head + body) for head in heads]
    return [ipv6(source, target, number, bytes([following, 0]) + padding + body)]


@pytest.mark.parametrize("kind", ["plain", "hop-by-hop", "routing", "destination", "fragments"])
def test_what_is_closed_is_closed_by_ipv6(field, kind):
    """Foreign sources nowhere, the own one nowhere that is closed, and with headers between nowhere at all."""
    token, near = fresh(), fresh_port()
    targets = [*FORBIDDEN6, HOST6, "::1", "::ffff:169.254.169.254", "ff02::1", "ff05::2", "ff02::fb"]
    targets += [GATEWAY6, field.here.address6, field.there.address6]
    # The host's end of the link, of the neighbour's link, and of the lab's.
    targets += ["fe80::ff:fe00:7701", "fe80::ff:fe00:7702", *link_local(f"{field.lab.name}h")]
    foreign = ["fe80::ff:fe00:7702", "2001:db8:213::66", "fd00::66", HOST6, field.here.address6, field.there.address6]
    everywhere = [(source, target, port) for source in foreign for target in [*targets, PUBLIC6[0]] for port in (HONEST, 53)]
    own = [(INSIDE6, target, port) for target in targets for port in (HONEST, field.host_port, 53)]
    own += [(INSIDE6, PUBLIC6[0], port) for port in (53, 853)]
    own += [(INSIDE6, PUBLIC6[0], HONEST)] if kind != "plain" else []
    for source, target, port in everywhere + own:
        for protocol, build in ((UDP, udp), (TCP, tcp)):
            data = build(source, target, near, port, b"." * 8 + token)
            for body in extended(kind, source, target, data, protocol):
                for to in (GATEWAY_MAC, b"\x33\x33\0\0\0\1"):
                    field.wire.send(ethernet(to, INSIDE_MAC, IPV6, body))
    field.settle("wire")
    if field.lab.has_ipv6:
        field.settle("wire", PUBLIC6[0])
    field.nothing_came(token)


def link_local(link: str) -> list[str]:
    """The addresses of IPv6 that a link has of itself."""
    shown = json.loads(run("ip", "-j", "-6", "addr", "show", "dev", link))
    return [a["local"] for entry in shown for a in entry.get("addr_info", []) if a.get("scope") == "link"]


@pytest.mark.parametrize("kind", [133, 134, 135, 136, 137, 128], ids=["rs", "ra", "ns", "na", "redirect", "echo"])
def test_neighbour_discovery_changes_nothing(field, kind):
    token, own = fresh(), INSIDE6
    known = set(believed())
    options = bytes([2 if kind in (134, 136) else 1, 1]) + FOREIGN_MAC
    for target in ("ff02::1", "ff02::2", HOST6, "fe80::ff:fe00:7701", GATEWAY6):
        address = socket.inet_pton(socket.AF_INET6, OUTSIDE6)
        prefix = bytes([3, 4, 64, 0xC0]) + b"\xff" * 8 + b"\0" * 4 + socket.inet_pton(socket.AF_INET6, "2001:db8:bad::")
        body = {
            128: struct.pack("!I", 1),
            133: b"\0" * 4 + options,
            134: struct.pack("!BBHII", 64, 0x08, 1800, 0, 0) + options + prefix,
            135: b"\0" * 4 + address + options,
            136: struct.pack("!I", 0xE0000000) + address + options,
            137: b"\0" * 4 + socket.inet_pton(socket.AF_INET6, own) + address + options,
        }[kind]
        # The mark is an option that nobody knows, which is to be passed over (RFC 4861 §4.6).
        mark = bytes([253, (len(token) + 2 + 7) // 8]) + token
        mark += b"\0" * (-len(mark) % 8)
        for source in (own, "fe80::ff:fe00:7702", "fe80::1", GATEWAY6):
            for to in (GATEWAY_MAC, b"\x33\x33\0\0\0\1"):
                data = ipv6(source, target, ICMP6, packet.icmp6(source, target, kind, body + mark))
                field.wire.send(ethernet(to, FOREIGN_MAC, IPV6, data))
    field.settle("wire")
    if field.lab.has_ipv6:
        field.settle("wire", PUBLIC6[0])
    field.nothing_came(token)
    assert field.here.link not in run("ip", "-6", "route", "show", "default"), "a router of the attacker's"
    assert set(believed()) == known
    assert "2001:db8:bad:" not in run("ip", "-6", "addr")


def believed() -> list[str]:
    """What the host holds the foreign hardware address for, in IPv6."""
    return [e["dst"] for e in json.loads(run("ip", "-j", "-6", "neigh")) if e.get("lladdr") == FOREIGN_MAC.hex(":")]


# --- listening ---


def test_raw_sockets_hear_nobody_else(field, server):
    body = {"command": "python3", "args": ["/tmp/attack.py", "listen", "/tmp/heard"], "user": "root"}
    started = server.sandbox_call(field.attacker, "POST", "/api/v1/processes", body)
    assert started.status == 201, started
    heard = lambda: server.run(field.attacker, "cat /tmp/heard 2>/dev/null || true").out  # noqa: E731
    until(lambda: "ready" in heard(), what="the listener inside", timeout=60)
    out, to_neighbour, own = fresh(), fresh(), fresh()
    honest = ipv4(INSIDE, OUTSIDE, UDP, udp(INSIDE, OUTSIDE, 4000, HONEST, out))
    until(
        lambda: field.inside("send", honest.hex(), box=field.neighbour) and field.lab_ear.heard(out),
        what="what the neighbour sends",
        timeout=60,
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.sendto(to_neighbour, (field.there.address, HONEST))
        until(lambda: field.neighbour_ear.heard(to_neighbour), what="what the neighbour is sent")
        until(
            lambda: channel.sendto(own, (field.here.address, HONEST)) and own.hex() in heard(),
            what="what the attacker itself is sent",
            timeout=60,
        )
    said = heard()
    assert "AF_PACKET" in said and "AF_INET" in said, "both kinds listen"
    assert out.hex() not in said and to_neighbour.hex() not in said
    # The same at the sandbox's end of the link.
    assert not field.own_ear.heard(out) + field.own_ear.heard(to_neighbour)
    server.run(field.attacker, f"kill {started.json()['pid']}", user="root")


# --- the daemon ---


def test_the_own_daemon_wants_its_token(field, server):
    """At every address that leads to it; what each route answers is in the suite `daemon`."""
    for address in ("127.0.0.1", "127.9.9.9", INSIDE, "localhost", "[::1]"):
        for headers in ("", "-H 'Authorization: Bearer x'", "-H 'Authorization: Bearer'"):
            for path in ("health", "processes", "files?path=/etc/passwd"):
                url = f"http://{address}:9501/api/v1/{path}"
                command = f"curl -s -o /dev/null -w '%{{http_code}}' -m 10 {headers} '{url}' || true"
                said = server.run(field.attacker, command, user="root").out
                # Not every address has a listener; what answers, refuses.
                refused = ("401",) if address in ("127.0.0.1", INSIDE, "localhost") else ("401", "000")
                assert said in refused, (address, headers, path, said)


# --- names ---


LISTED = {"allow_out": [PUBLIC[0], "web.tarn.test"]}
REFUSED, FORMAT = 5, 1


@pytest.fixture(scope="module")
def listed(field):
    """Another sandbox, that may reach one address and one name."""
    made = field.box(network=LISTED)
    field.lab.lead_here(field.here.link[1:7])
    return made


def query(labels: list[bytes], kind=1, extra=b"", count=0) -> bytes:
    """A question; `extra` are further records."""
    head = struct.pack("!HHHHHH", 4711, 0x0100, 1, 0, 0, count)
    return head + b"".join(bytes([len(label)]) + label for label in labels) + b"\0" + struct.pack("!HH", kind, 1) + extra


@pytest.mark.parametrize("kind", [1, 2, 5, 6, 10, 12, 13, 15, 16, 28, 33, 35, 48, 64, 65, 99, 251, 252, 255, 65280])
def test_no_name_outside_the_list_carries_anything(field, names, listed, kind):
    token = fresh()
    names.queries.clear()
    long = [token.ljust(63, b"x")] + [b"y" * 63] * 2 + [b"z" * 40]
    tails = [[b"tarn", b"test"], [b"web", b"tarn", b"test"], [b"example", b"com"], [b"web", b"tarn", b"test", b"evil"]]
    questions = [query([token, *tail], kind) for tail in tails] + [query([*long, b"tarn", b"test"], kind)]
    answers = field.inside("ask", *(q.hex() for q in questions), box=listed)
    assert answers == [REFUSED] * len(questions)
    assert not [sent for sent in names.queries if token.lower() in sent.lower()], "it was passed on"


def test_an_allowed_name_carries_nothing_beside_it(field, names, listed):
    """Options, further records and what lies behind them are not passed on; odd shapes are refused."""
    token = fresh()
    names.queries.clear()
    web = [b"web", b"tarn", b"test"]
    option = b"\0" + struct.pack("!HHIH", 41, 4096, 0, 4 + len(token)) + struct.pack("!HH", 65001, len(token)) + token
    record = b"\xc0\x0c" + struct.pack("!HHIH", 16, 1, 0, 1 + len(token)) + bytes([len(token)]) + token
    questions = [query(web, 1, option, 1), query(web, 1, record, 1), query(web, 1, token)]
    field.inside("ask", *(q.hex() for q in [*questions, query(web)]), box=listed)
    until(lambda: [sent for sent in names.queries if b"\3web" in sent.lower()], what="the question itself")
    assert not [sent for sent in names.queries if token in sent], "it was passed on"


def test_questions_are_bounded_in_rate(field, names):
    """A tunnel by names has no speed; how fast it is asked does not matter."""
    token = fresh().decode()
    suffix = f"{token}.tarn.test"
    began = time.monotonic()
    assert field.inside("flood", "3000", suffix) == "sent"
    until(lambda: [name for name in names.asked if token in name], what="the first of them")
    # One more than the rest, by a question of its own that is answered.
    until(lambda: field.inside("ask", query([b"a", b"tarn", b"test"]).hex()) == [0], what="an answer", timeout=60)
    took = time.monotonic() - began
    passed = len({name for name in names.asked if token in name})
    assert passed <= 1000 + 200 * took + 50, (passed, took)


@pytest.mark.parametrize("port", [53, 853, 443], ids=["dns", "dot", "doh"])
@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_no_other_resolver(field, listed, port, protocol):
    """Plain and over TLS nowhere; over HTTPS at no address outside of an allow list."""
    token, near = fresh(), fresh_port()
    build = {TCP: tcp, UDP: udp}[protocol]
    target = PUBLIC[1]
    question = ipv4(INSIDE, target, protocol, build(INSIDE, target, near, port, token))
    field.strike("raw", [question], listed)
    field.settle("raw", PUBLIC[0], listed)
    assert not field.lab_ear.heard(token)
    # Without the list the last one is an address like any other.
    open_token = fresh()
    question = ipv4(INSIDE, target, protocol, build(INSIDE, target, near, port, open_token))
    field.strike("raw", [question])
    field.settle("raw")
    assert bool(field.lab_ear.heard(open_token)) == (port == 443)
    with socket.create_connection((OUTSIDE, port), 5) as connection:
        assert connection.recv(16) == b"outside", "somebody is there"


def test_a_name_does_not_lead_to_metadata(field, names, listed):
    for address in FORBIDDEN:
        names.answers["rebind.tarn.test"] = address
        assert field.inside("ask", query([b"rebind", b"tarn", b"test"]).hex()) == [REFUSED], address
        names.answers["web.tarn.test"] = address
        assert field.inside("ask", query([b"web", b"tarn", b"test"]).hex(), box=listed) == [REFUSED], address
    del names.answers["rebind.tarn.test"], names.answers["web.tarn.test"]
