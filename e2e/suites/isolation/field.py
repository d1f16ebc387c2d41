"""Where the red team plays: an attacker, a neighbour, and witnesses wherever an attack aims at.

Each attack carries a token and is followed, by the same means, by something honest that must arrive
at the lab. So a witness that saw the second would have seen the first.
"""

import contextlib
import json
import pathlib
import re
import secrets
import socket
import subprocess
import threading

from harness import host, packet
from harness.lab import OUTSIDE, PUBLIC6
from harness.netns import Ear, frames, within
from harness.wait import until

ATTACK = pathlib.Path(__file__).with_name("attack.py").read_bytes()
MARK = b"red-team"
GATEWAY, INSIDE = "169.254.77.1", "169.254.77.2"
GATEWAY_MAC, INSIDE_MAC = packet.mac("02:00:00:00:77:01"), packet.mac("02:00:00:00:77:02")
# Where the honest packets go: nobody listens there, but the lab's witness sees them.
HONEST = 9999
# What every sandbox has inside in IPv6, and its way out.
INSIDE6, GATEWAY6 = "fd74:6172:6e00:77::2", "fd74:6172:6e00:77::1"
# What the host takes in beside TCP.
PROTOCOLS = (packet.ICMP, packet.IGMP, packet.IPIP, packet.SIX_IN_FOUR, packet.GRE, packet.SCTP)


class Slot:
    """The place of a sandbox on the host, as the server's log tells it."""

    def __init__(self, server, sandbox: str) -> None:
        pattern = rf"network slot opened\b.*\bslot=(\d+).*\bsandbox\.id={sandbox}\b.*\baddress=([\d.]+)"
        number, self.address = re.findall(pattern, server.log_text())[-1]
        self.link = f"t{host.tag_of(server.data)}{int(number):03x}"
        self.address6 = f"fd74:6172:6e00:1::{self.address}"
        self.netns = pathlib.Path(server.data, "run/netns", self.link)


class Field:
    """Attacker, neighbour, host and lab."""

    def __init__(self, server, lab) -> None:
        self.server, self.lab = server, lab
        self._stack = contextlib.ExitStack()
        self.attacker, self.neighbour = self.box(), self.box()
        self.here, self.there = Slot(server, self.attacker), Slot(server, self.neighbour)
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def box(self, **fields) -> str:
        """Makes a sandbox with the attacker's program."""
        made = self.server.create(**fields)
        assert self.server.sandbox_call(made, "PUT", "/api/v1/files?path=/tmp/attack.py", ATTACK).status == 204
        return made

    def _build(self) -> None:
        inner = f"{self.lab.name}n"
        lab_netns = f"/run/netns/{self.lab.name}"
        self.wire = self._kept(within(self.here.netns, lambda: frames("eth0")))
        self.neighbour_wire = self._kept(within(self.there.netns, lambda: frames("eth0")))
        self.lab_ear = self._ear(within(lab_netns, lambda: frames(inner)))
        self.neighbour_ear = self._ear(within(self.there.netns, lambda: frames("eth0")))
        # What comes to the attacker, by which an answer shows.
        self.own_ear = self._ear(within(self.here.netns, lambda: frames("eth0")), b"")
        udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        udp.bind(("::", 0))
        self.host_port = udp.getsockname()[1]
        service = self._kept(socket.create_server(("", 0), backlog=64))
        self.host_tcp_port = service.getsockname()[1]
        threading.Thread(target=_greet, args=(service,), daemon=True).start()
        raw = [socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) for protocol in PROTOCOLS]
        raw.append(socket.socket(socket.AF_INET6, socket.SOCK_RAW, packet.ICMP6))
        self.host_ears = [self._ear(channel) for channel in [udp, *raw]]
        for port in (53, 443, 853):
            listener = self._kept(within(lab_netns, lambda port=port: socket.create_server(("", port), backlog=64)))
            threading.Thread(target=_greet, args=(listener,), daemon=True).start()
        self.lab.lead_here(host.tag_of(self.server.data))
        # The server looks for new networks of the host every few seconds; the lab is one.
        until(lambda: self._honest("raw") and self._honest("wire"), what="a way to the lab", timeout=60)
        if self.lab.has_ipv6:
            self.settle("wire", PUBLIC6[0])

    def _kept(self, channel: socket.socket) -> socket.socket:
        return self._stack.enter_context(channel)

    def _ear(self, channel: socket.socket, mark: bytes = MARK) -> Ear:
        return self._stack.enter_context(contextlib.closing(Ear(channel, mark)))

    def close(self) -> None:
        """Ends the witnesses."""
        self._stack.close()

    # --- means ---

    def inside(self, verb: str, *arguments: str, box: str | None = None):
        """Runs the attacker's program inside."""
        command = " ".join(["exec python3 /tmp/attack.py", verb, *arguments])
        result = self.server.run(box or self.attacker, command, timeout=120, user="root")
        assert result.status == 0, result
        return json.loads(result.out)

    def strike(self, way: str, packets: list[bytes], box: str | None = None) -> None:
        """Sends packets of IPv4 or, by the wire alone, of IPv6.

        `raw` is root inside with a raw socket. `wire` is the sandbox's end of its link: what somebody
        could send who has got hold of the sandbox's kernel.
        """
        if way == "raw":
            self.inside("send", *(data.hex() for data in packets), box=box)
            return
        for data in packets:
            kind = packet.IPV6 if data[0] >> 4 == 6 else packet.IPV4
            self.wire.send(packet.ethernet(GATEWAY_MAC, INSIDE_MAC, kind, data))

    def _honest(self, way: str, target: str = OUTSIDE, box: str | None = None) -> bool:
        token = fresh()
        source, build = (INSIDE6, packet.ipv6) if ":" in target else (INSIDE, packet.ipv4)
        datagram = packet.udp(source, target, 4000, HONEST, token)
        self.strike(way, [build(source, target, packet.UDP, datagram)], box)
        with contextlib.suppress(AssertionError):
            return bool(until(lambda: self.lab_ear.heard(token), timeout=2))
        return False

    def settle(self, way: str, target: str = OUTSIDE, box: str | None = None) -> None:
        """Returns when something honest has arrived by a way, and so what went before has or never will."""
        until(lambda: self._honest(way, target, box), what=f"an honest packet by {way}", timeout=60)

    # --- what it came to ---

    def nothing_came(self, token: bytes, port: int | None = None) -> None:
        """Asserts that nobody has heard a token, and nobody has answered to a port."""
        assert not self.lab_ear.heard(token), "it reached the internet"
        assert not self.neighbour_ear.heard(token), "it reached another sandbox"
        assert not [ear for ear in self.host_ears if ear.heard(token)], "it reached the host"
        if port:
            assert not self.answers(port), "somebody answered"

    def answers(self, port: int) -> list[bytes]:
        """What came back to a port, or to an echo's number, but refusals."""
        return [data for data in self.own_ear.heard(b"") if is_answer(data, port)]


def is_answer(frame: bytes, port: int) -> bool:
    """Whether a frame is an answer to a port or an echo's number, and no reset."""
    if frame[12:14] != b"\x08\0":
        return False
    protocol, rest = frame[23], frame[14 + 4 * (frame[14] & 15) :]
    number = port.to_bytes(2, "big")
    if protocol == packet.TCP:
        return rest[2:4] == number and not rest[13] & 4
    if protocol == packet.ICMP:
        return rest[0] in (0, 14, 16, 18) and rest[4:6] == number
    return protocol == packet.UDP and rest[2:4] == number


def fresh() -> bytes:
    """A token that was never seen."""
    return MARK + b"-" + secrets.token_hex(6).encode()


def fresh_port() -> int:
    """A port that nobody else of this test uses."""
    return 20000 + secrets.randbelow(10000)


def run(*command: str) -> str:
    """Runs a command of the host."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def host_addresses() -> list[str]:
    """Every IPv4 address of this host but the loopback."""
    shown = json.loads(run("ip", "-j", "-4", "addr"))
    return sorted({a["local"] for link in shown if link["ifname"] != "lo" for a in link["addr_info"]})


def _greet(service: socket.socket) -> None:
    while True:
        try:
            connection, _ = service.accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"outside")
