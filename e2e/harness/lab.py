"""A piece of internet of our own: a network namespace with a server that answers on public, private
and metadata addresses, so that a leak in the isolation ends there and nowhere else."""

import fcntl
import os
import pathlib
import socket
import subprocess
import sys

from .wait import until

HOST, OUTSIDE = "203.0.113.1", "203.0.113.2"
# Addresses that a sandbox must never reach. Each would truly answer: see `Lab.control`.
FORBIDDEN = ["169.254.169.254", "10.213.7.1", "172.31.213.1", "192.168.213.1", "100.100.213.1"]
# More of the internet, for policies that tell one address from the next.
PUBLIC = ["198.51.100.7", "198.51.100.8", "198.51.100.16", "198.51.100.17"]
# The same in IPv6: the lab's own network, of which host and lab are neighbours, what lies behind it, and
# what a sandbox must never reach there.
HOST6, OUTSIDE6 = "2001:db8:213::1", "2001:db8:213::2"
PUBLIC6 = ["2001:db8:214::7", "2001:db8:214::8", "2001:db8:214::10", "2001:db8:214::11"]
FORBIDDEN6 = [OUTSIDE6, "fd00:213::9", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"]
PORT = 80
_IPV6 = pathlib.Path("/proc/sys/net/ipv6/conf/all")
_TABLE = "213"
_PROGRAM = f"""
import socket, threading
def tcp():
    six = socket.has_dualstack_ipv6()
    s = socket.create_server(("", {PORT}), backlog=64, dualstack_ipv6=six, family=socket.AF_INET6 if six else socket.AF_INET)
    while True:
        c, who = s.accept()
        try: c.settimeout(2); c.recv(4096); c.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\noutside " + who[0].removeprefix("::ffff:").encode())
        except OSError: pass
        c.close()
def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("0.0.0.0", 53))
    while True:
        data, who = s.recvfrom(4096); s.sendto(b"outside", who)
threading.Thread(target=udp, daemon=True).start()
print("ready", flush=True)
tcp()
"""


class Lab:
    """The namespace, its server, and the routes that lead to it for the packets under test only."""

    def __init__(self) -> None:
        # One at a time on a host: the addresses are fixed.
        self._lock = open("/var/tmp/tarn-e2e-lab.lock", "w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.name = f"e2e{os.getpid()}"
        self._rules: list[list[str]] = []
        # Whether sandboxes have IPv6 on this host, once there is a way out: the lab is one.
        forwards = (_IPV6 / "force_forwarding").exists() or _read(_IPV6 / "forwarding") == "1"
        self.has_ipv6 = forwards and _read(_IPV6 / "disable_ipv6") == "0"
        self._server: subprocess.Popen | None = None
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        outer, inner = f"{self.name}h", f"{self.name}n"
        ip("netns", "add", self.name)
        ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", self.name)
        ip("addr", "add", f"{HOST}/30", "dev", outer)
        ip("link", "set", outer, "up")
        for address in [f"{OUTSIDE}/30", *(f"{a}/32" for a in FORBIDDEN + PUBLIC)]:
            ip("-n", self.name, "addr", "add", address, "dev", inner)
        ip("-n", self.name, "link", "set", inner, "up")
        ip("-n", self.name, "route", "add", "default", "via", HOST)
        for address in FORBIDDEN + PUBLIC:
            ip("route", "add", f"{address}/32", "via", OUTSIDE, "table", _TABLE)
        if self.has_ipv6:
            self._build_ipv6(outer, inner)
        self._rule("from", HOST)
        command = ["ip", "netns", "exec", self.name, sys.executable, "-c", _PROGRAM]
        self._server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._server.stdout.readline() == "ready\n"

    def _build_ipv6(self, outer: str, inner: str) -> None:
        ip("addr", "add", f"{HOST6}/64", "dev", outer, "nodad")
        for address in [f"{OUTSIDE6}/64", *(f"{a}/128" for a in PUBLIC6 + FORBIDDEN6[1:])]:
            ip("-n", self.name, "addr", "add", address, "dev", inner, "nodad")
        for address in PUBLIC6 + FORBIDDEN6[1:]:
            ip("-6", "route", "add", f"{address}/128", "via", OUTSIDE6, "table", _TABLE)

    def _rule(self, *selector: str) -> None:
        rule = [*selector, "lookup", _TABLE, "priority", "213"]
        families = ["-4", "-6"] if self.has_ipv6 else ["-4"]
        for family in families:
            six = [HOST6 if word == HOST else word for word in rule] if family == "-6" else rule
            if [family, "rule", *six] in self._rules:
                continue
            ip(family, "rule", "add", *six)
            self._rules.append([family, "rule", *six])

    def lead_here(self, tag: str) -> None:
        """Routes what leaves this server's sandboxes for an address of the lab to it.

        Without it such a packet would die for want of a route, whatever the rules say. Called again
        it adds the sandboxes that came since.
        """
        links = [name for name in os.listdir("/sys/class/net") if tag in name]
        assert links, "a sandbox has a link on the host"
        for link in links:
            self._rule("iif", link)

    def control(self, address: str) -> str:
        """Asks an address from the host itself: the proof that the lab answers there."""
        host, where = (HOST6, f"[{address}]") if ":" in address else (HOST, address)
        command = ["curl", "-s", "-m", "5", "--interface", host, f"http://{where}:{PORT}/"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout

    def control_udp(self, address: str) -> bytes:
        """The same for a datagram."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            channel.settimeout(5)
            channel.bind((HOST, 0))
            channel.sendto(b"x", (address, 53))
            return channel.recv(100)

    def close(self) -> None:
        """Removes all of it."""
        for family, _, *rule in self._rules:
            subprocess.run(["ip", family, "rule", "del", *rule], capture_output=True)
        for family in ("-4", "-6"):
            subprocess.run(["ip", family, "route", "flush", "table", _TABLE], capture_output=True)
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        # By itself, because the namespace's death takes it along only when the kernel finds time.
        subprocess.run(["ip", "link", "delete", f"{self.name}h"], capture_output=True)
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True)
        try:
            until(lambda: not pathlib.Path(f"/sys/class/net/{self.name}h").exists(), what="the end of the lab's link")
        finally:
            self._lock.close()


def _read(path: pathlib.Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def ip(*arguments: str) -> None:
    """Runs ip(8)."""
    run = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert run.returncode == 0, f"ip {' '.join(arguments)}: {run.stderr}"
