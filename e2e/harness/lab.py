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
PORT = 80
_TABLE = "213"
_PROGRAM = f"""
import socket, threading
def tcp():
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("0.0.0.0", {PORT})); s.listen(64)
    while True:
        c, who = s.accept()
        try: c.settimeout(2); c.recv(4096); c.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\noutside " + who[0].encode())
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
        self._rule("from", HOST)
        command = ["ip", "netns", "exec", self.name, sys.executable, "-c", _PROGRAM]
        self._server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._server.stdout.readline() == "ready\n"

    def _rule(self, *selector: str) -> None:
        rule = [*selector, "lookup", _TABLE, "priority", "213"]
        if rule in self._rules:
            return
        ip("rule", "add", *rule)
        self._rules.append(rule)

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
        command = ["curl", "-s", "-m", "5", "--interface", HOST, f"http://{address}:{PORT}/"]
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
        for rule in self._rules:
            subprocess.run(["ip", "rule", "del", *rule], capture_output=True)
        subprocess.run(["ip", "route", "flush", "table", _TABLE], capture_output=True)
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


def ip(*arguments: str) -> None:
    """Runs ip(8)."""
    run = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert run.returncode == 0, f"ip {' '.join(arguments)}: {run.stderr}"
