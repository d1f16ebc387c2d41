"""Connections to the ingress that sit idle: what each takes of the server's memory, whether others are
served beside them, and what happens when there are more than the process may have open.

No sandbox is needed: a request with no key is read, judged and answered, and leaves its connection open."""

import argparse
import pathlib
import re
import resource
import socket
import ssl
import sys
import time

import report
from harness import env
from harness.server import Server, sweep

REQUEST = b"GET / HTTP/1.1\r\nHost: nobody.local\r\n\r\n"
FRESH = 200
# What a server may have open in the second part.
FEW_FILES = 2048


def main() -> int:
    asked = arguments()
    sweep()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The bench itself holds the other end of every connection.
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    checks, results = [], {}
    for name, tls in [("plain", "off"), ("tls", "local_ca")]:
        server = start(f"bench-ingress-{name}", tls)
        try:
            place = report.machine(server.data)
            found = results[name] = idle(server, asked.connections)
        finally:
            complaints = server.close()
        checks += [(False, text) for text in complaints]
        print(f"{name}: {found['open']} idle connections, {found['bytes_each']} bytes each; beside them ", end="")
        print(f"a new connection's request p50 {report.p50(found['beside']):.2f} ms, alone {report.p50(found['alone']):.2f} ms")
        checks.append((found["open"] >= asked.connections, f"{name}: {found['open']} of {asked.connections} stayed open"))
        checks.append((found["failed"] == 0, f"{name}: {found['failed']} of {FRESH} new ones failed beside them"))
    results["few_files"] = found = beyond(asked.connections)
    print(f"{FEW_FILES} files: of {found['tried']} connections {found['answered']} were answered, {found['open']} are open, ", end="")
    print(f"{found['given_up']} gave way, {found['turned_away']} were turned away; accepting failed {found['failures']} times")
    checks.append((found["answered"] == found["tried"], "with few files every new connection is answered"))
    checks.append((found["open"] < FEW_FILES, "with few files no more are open than may be"))
    for good, text in checks:
        print(("pass  " if good else "FAIL  ") + text)
    path = asked.json or env.LOGS.parent / "bench-ingress.json"
    report.write(path, machine=place, connections=asked.connections, results=results, checks=checks)
    print(f"raw samples: {path}")
    return 0 if all(good for good, _ in checks) else 1


def start(name: str, tls: str) -> Server:
    return Server(name, runtime="sim", config={"tls": {"mode": tls}}).start()


def idle(server: Server, count: int) -> dict:
    """Opens connections that have had an answer and sit idle."""
    alone, _ = fresh(server)
    before = resident(server)
    held = [ask(server) for _ in range(count)]
    each = (resident(server) - before) / count
    beside, failed = fresh(server)
    found = {"bytes_each": round(each), "alone": alone, "beside": beside, "failed": failed, "open": alive(held)}
    for connection in held:
        connection.close()
    return found


def beyond(count: int) -> dict:
    """Opens more connections than the server may have files."""
    server = Server("bench-ingress-few", runtime="sim")
    limited = server.home / "limited"
    limited.write_text(f'#!/bin/sh\nulimit -n {FEW_FILES}\nexec {env.TARN} "$@"\n')
    limited.chmod(0o755)
    whole, env.TARN = env.TARN, str(limited)
    try:
        server.start()
    finally:
        env.TARN = whole
    try:
        held, answered = [], 0
        for _ in range(count):
            try:
                held.append(ask(server))
                answered += 1
            except OSError:
                pass
        found = {"tried": count, "answered": answered, "open": alive(held)}
        for short, name in [("given_up", "given_up_total"), ("turned_away", "turned_away_total")]:
            found[short] = metric(server, f"tarn_ingress_connections_{name}")
        found["failures"] = server.log.read_text(errors="replace").count("cannot accept connections")
        for connection in held:
            connection.close()
    finally:
        server.close()
    return found


def ask(server: Server) -> socket.socket:
    """Sends a request on a new connection and returns that with the answer read."""
    connection = server.dial(timeout=30)
    connection.sendall(REQUEST)
    answer = b""
    while b"}" not in answer:
        part = connection.recv(4096)
        if not part:
            raise ConnectionError(f"ended after {answer!r}")
        answer += part
    return connection


def fresh(server: Server) -> tuple[list[float], int]:
    """The time of a new connection's request, in ms; how many failed."""
    samples, failed = [], 0
    for _ in range(FRESH):
        began = time.perf_counter()
        try:
            ask(server).close()
            samples.append(1000 * (time.perf_counter() - began))
        except OSError:
            failed += 1
    return samples, failed


def alive(held: list[socket.socket]) -> int:
    """How many are still open."""
    count = 0
    for connection in held:
        connection.setblocking(False)
        try:
            # TLS may have tickets to read first; an end reads as nothing.
            count += connection.recv(4096) != b""
        except (BlockingIOError, ssl.SSLWantReadError):
            count += 1
        except OSError:
            pass
    return count


def resident(server: Server) -> int:
    """The server's memory in bytes."""
    rollup = pathlib.Path(f"/proc/{server.process.pid}/smaps_rollup").read_text()
    return int(re.search(r"^Rss:\s+(\d+) kB", rollup, re.MULTILINE)[1]) * 1024


def metric(server: Server, name: str) -> int:
    text = server.call("GET", "/metrics").body.decode()
    return int(float(re.search(rf"^{name} (\S+)", text, re.MULTILINE)[1]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--json", type=pathlib.Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
