"""Asks a daemon small questions all the while, in a process of its own, and tells how long the answers took.

`probing` is for tests; as a program it is that process: it asks until its standard input ends, then prints JSON.
"""

import http.client
import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

EVERY = 0.02
ROUTES = ("/api/v1/health", "/api/v1/info", "/api/v1/processes", "/api/v1/files/list?path=/etc")


class Answers:
    """Milliseconds, by route."""

    def __init__(self, samples: dict[str, list[float]], failures: list[str]) -> None:
        self.samples, self.failures = samples, failures
        self.all = sorted(ms for each in samples.values() for ms in each)

    def quantile(self, q: float) -> float:
        """The value that a share `q` of the samples does not exceed."""
        return self.all[min(len(self.all) - 1, round(q * (len(self.all) - 1)))]

    def __str__(self) -> str:
        p50, p95, most = (self.quantile(q) for q in (0.5, 0.95, 1))
        return f"{len(self.all)} answers, p50 {p50:.1f} ms, p95 {p95:.1f} ms, max {most:.1f} ms"


@contextmanager
def probing(server, sandbox: str, routes: tuple[str, ...] = ROUTES):
    """Probes for as long as the block lasts; what it found is in the list that it yields."""
    command = [sys.executable, __file__, server.ingress, sandbox, server.key, *routes]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    found: list[Answers] = []
    try:
        assert child.stdout.readline() == "asking\n"
        yield found
        out, _ = child.communicate(timeout=60)
        found.append(Answers(**json.loads(out)))
    finally:
        child.kill()
        child.wait()


def ask(base: str, sandbox: str, key: str, route: str, samples: list, failures: list, end: threading.Event) -> None:
    """Asks one question over one connection, every 20 ms or as often as it is answered."""
    host, _, port = base.removeprefix("http://").partition(":")
    headers = {"Host": f"{sandbox}.local", "Authorization": f"Bearer {key}"}
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    while not end.is_set():
        start = time.perf_counter()
        try:
            connection.request("GET", route, headers=headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                failures.append(f"{route}: {answer.status}")
        except (OSError, http.client.HTTPException) as bad:
            failures.append(f"{route}: {bad!r}")
            connection.close()
        took = time.perf_counter() - start
        samples.append(took * 1e3)
        end.wait(max(0.0, EVERY - took))


def main(base: str, sandbox: str, key: str, *routes: str) -> None:
    samples: dict[str, list[float]] = {route: [] for route in routes}
    failures: list[str] = []
    end = threading.Event()
    threads = [
        threading.Thread(target=ask, args=(base, sandbox, key, route, samples[route], failures, end)) for route in routes
    ]
    for thread in threads:
        thread.start()
    print("asking", flush=True)
    sys.stdin.read()
    end.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"samples": samples, "failures": failures[:20]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
