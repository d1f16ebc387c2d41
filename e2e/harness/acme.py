"""An authority of the test's own: pebble, and the name server that it asks, on loopback."""

import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import tempfile

from . import env, http
from .wait import until

# The account that it has given out, and its key in base64url.
KEY_ID, KEY = "account-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
# What certificates can be asked for, by how many seconds they last.
PROFILES = {"ordinary": 90 * 24 * 3600, "short": 5}


class Authority:
    """Issues for every name that leads to this machine. A machine without it fails the tests."""

    def __init__(self, tls_port: int) -> None:
        programs = {name: os.path.join(env.PEBBLE, name) for name in ("pebble", "pebble-challtestsrv")}
        for program in programs.values():
            assert os.access(program, os.X_OK), f"no {program} (TARN_TEST_PEBBLE): ./x setup --test"
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="tarn-e2e-acme-", dir="/var/tmp"))
        self.processes: list[subprocess.Popen] = []
        directory, management, dns, self.zone = ports(4)
        self.directory = f"https://127.0.0.1:{directory}/dir"
        self.management = f"https://127.0.0.1:{management}"
        self.ca, key = self.home / "ca.pem", self.home / "ca.key"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-days", "2", "-subj", "/CN=pebble", "-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", str(key), "-out", str(self.ca)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        config = {
            "listenAddress": f"127.0.0.1:{directory}",
            "managementListenAddress": f"127.0.0.1:{management}",
            "certificate": str(self.ca),
            "privateKey": str(key),
            "httpPort": 1,
            "tlsPort": tls_port,
            "externalAccountBindingRequired": True,
            "externalAccountMACKeys": {KEY_ID: KEY},
            "profiles": {name: {"description": name, "validityPeriod": life} for name, life in PROFILES.items()},
        }
        (self.home / "pebble.json").write_text(json.dumps({"pebble": config}))
        try:
            names = ["-dnsserver", f"127.0.0.1:{dns}", "-management", f"127.0.0.1:{self.zone}", "-defaultIPv6", ""]
            names += [word for unused in ("http01", "https01", "tlsalpn01", "doh") for word in (f"-{unused}", "")]
            self._run([programs["pebble-challtestsrv"], *names], self.zone)
            command = [programs["pebble"], "-config", "pebble.json", "-dnsserver", f"127.0.0.1:{dns}", "-strict"]
            self._run(command, management)
            # What its certificates are to be verified with.
            self.root = self.home / "root.pem"
            self.root.write_bytes(http.request(f"{self.management}/roots/0", context=self.context(self.ca)).body)
        except BaseException:
            self.close()
            raise

    def _run(self, command: list[str], port: int) -> None:
        """Starts a program and waits until it listens."""
        env.LOGS.mkdir(parents=True, exist_ok=True)
        variables = os.environ | {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_AUTHZREUSE": "0"}
        with (env.LOGS / f"{os.path.basename(command[0])}.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=self.home, env=variables, stdout=log, stderr=log)
        self.processes.append(process)

        def answers() -> bool:
            assert process.poll() is None, pathlib.Path(log.name).read_text(errors="replace")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(answers, 15, command[0])

    def context(self, trusted: pathlib.Path | None = None) -> ssl.SSLContext:
        """Trusts what it issues."""
        return ssl.create_default_context(cafile=trusted or self.root)

    def hook(self) -> pathlib.Path:
        """A program that changes the zone, unless a file `locked` lies beside it."""
        path = self.home / "hook"
        path.write_text(
            "#!/bin/sh\nset -e\n"
            f'echo "$@" >> {self.home}/calls\n'
            f'[ ! -e {self.home}/locked ] || {{ echo "the zone is locked" >&2; exit 3; }}\n'
            'case "$1" in set) verb=set-txt ;; unset) verb=clear-txt ;; esac\n'
            f'curl -fsS -d "{{\\"host\\":\\"$2.\\",\\"value\\":\\"$3\\"}}" http://127.0.0.1:{self.zone}/$verb\n'
        )
        path.chmod(0o700)
        return path

    def advise(self, certificate: str, start: str, end: str) -> None:
        """Says when one that it has issued is to be renewed."""
        window = json.dumps({"suggestedWindow": {"start": start, "end": end}})
        body = json.dumps({"certificate": certificate, "ariResponse": window}).encode()
        # It answers nobody without a name.
        named, context = {"User-Agent": "tarn-e2e"}, self.context(self.ca)
        reply = http.request(f"{self.management}/set-renewal-info/", "POST", headers=named, body=body, context=context)
        assert reply.status == 200, reply

    def calls(self) -> list[list[str]]:
        """What the hook was called with, in order."""
        path = self.home / "calls"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def close(self) -> None:
        """Ends it and removes what it kept."""
        for process in self.processes:
            process.kill()
            process.wait(15)
        shutil.rmtree(self.home, ignore_errors=True)


def ports(count: int) -> list[int]:
    """Ports below those that the kernel gives away, so that nobody gets them before they are taken."""
    found: list[socket.socket] = []
    try:
        for n in range(10_000):
            try:
                found.append(socket.create_server(("127.0.0.1", 20_000 + (os.getpid() * 7 + n) % 10_000)))
            except OSError:
                continue
            if len(found) == count:
                return [each.getsockname()[1] for each in found]
    finally:
        for each in found:
            each.close()
    raise AssertionError("no free port")
