"""The ingress beside nginx: the same requests by the same client to the same process, straight, through
nginx and through the ingress with a key, in turn.

The upstream is a process on this host and not one in a sandbox: nginx has no way into a sandbox, and a
sandbox's own network would be most of what is measured. A server whose runtime isolates nothing has its
sandboxes' ports where the upstream listens, so that both proxies connect to the same address."""

import argparse
import http.client
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager

import report
from harness import env
from harness.server import Server, sweep
from harness.wait import until

WRK_SCRIPT = pathlib.Path(__file__).with_name("wrk.lua")
PROXIES = pathlib.Path(os.environ["TARN_PROXIES"])
PROXIED = os.environ["TARN_PROXIED"]
CONNECTIONS = (1, 64)
MB = 1e6
# A pool of connections, what a WebSocket needs, and that nothing is kept on disk, which would only cost it time.
NGINX = """
user root;
worker_processes 2;
daemon off;
error_log stderr error;
pid {home}/pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    client_max_body_size 0;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    upstream proxied {{
        server 127.0.0.1:{upstream};
        keepalive 128;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://proxied;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
        }}
    }}
}}
"""


class Way:
    """A way to the upstream."""

    def __init__(self, name: str, port: int, host: str = "localhost", key: str = "none") -> None:
        self.name, self.port, self.host, self.key = name, port, host, key
        self.samples: dict[str, list[float]] = {}

    def note(self, what: str, value: float) -> None:
        self.samples.setdefault(what, []).append(value)

    def p50(self, what: str) -> float:
        return report.p50(self.samples[what])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> list[str]:
        return ["-H", f"Host: {self.host}", "-H", f"Authorization: Bearer {self.key}"]


def main() -> int:
    asked = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sweep()
    with ExitStack() as stack:
        upstream = stack.enter_context(started(PROXIED, "serve"))
        port = int(upstream.stdout.readline())
        server = Server("bench-nginx", runtime="sim")
        complaints: list[str] = []
        stack.callback(lambda: complaints.extend(server.close()))
        server.start()
        made = server.create(exposed_ports=[port])
        ingress = int(server.ingress.rpartition(":")[2])
        ways = [
            Way("straight", port),
            Way("nginx", stack.enter_context(nginx(port))),
            Way("tarn", ingress, f"{port}-{made}.localhost", server.key),
        ]
        place = report.machine(server.data)
        print(f"{asked.rounds} rounds; {place}", flush=True)
        for way in ways:
            assert small(way, 1, 1)[4] == 0, f"{way.name} does not answer"
        for number in range(asked.rounds):
            turn = number % len(ways)
            for way in ways[turn:] + ways[:turn]:
                measure(way, asked)
    print(table(ways))
    checks = bounds(*ways)
    for good, text in checks + [(False, text) for text in complaints]:
        print(("pass  " if good else "FAIL  ") + text)
    path = asked.json or env.LOGS.parent / "bench-nginx.json"
    report.write(path, machine=place, results={way.name: way.samples for way in ways}, checks=checks)
    print(f"raw samples: {path}")
    judged = [] if asked.small else checks
    return int(bool(complaints) or not all(good for good, _ in judged))


def measure(way: Way, asked: argparse.Namespace) -> None:
    """Everything once on one way."""
    for connections in CONNECTIONS:
        requests, micros, half, most, failed = small(way, connections, asked.seconds)
        assert failed == 0, f"{way.name}: {failed} of {requests} requests failed"
        way.note(f"requests/s, {connections}", requests / micros * 1e6)
        way.note(f"request p50 ms, {connections}", half / 1e3)
        way.note(f"request p99 ms, {connections}", most / 1e3)
    for connections in CONNECTIONS:
        trips = echoes(way, connections, asked.seconds)
        way.note(f"echoes/s, {connections}", len(trips) / asked.seconds)
        way.note(f"echo p50 ms, {connections}", report.p50(trips))
        way.note(f"echo p99 ms, {connections}", report.quantile(trips, 0.99))
    size = asked.mib << 20
    seconds, _ = curl(way, f"/bytes/{size}", "--output", "/dev/null")
    way.note("download MB/s", size / MB / seconds)
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        file.truncate(size)
        seconds, answer = curl(way, "/sink", "--upload-file", f"/dev/fd/{file.fileno()}", keep=file.fileno())
    assert int(answer) == size, answer
    way.note("upload MB/s", size / MB / seconds)


def small(way: Way, connections: int, seconds: int) -> list[int]:
    """Requests, µs in all, p50 and p99 in µs, and failures, by wrk."""
    program = PROXIES / "usr/bin/wrk"
    options = [f"-c{connections}", "-t1", f"-d{seconds}s", "-s", WRK_SCRIPT, *way.headers]
    libraries = dict(os.environ, LD_LIBRARY_PATH=str(PROXIES / "usr/lib/x86_64-linux-gnu"))
    done = subprocess.run([program, *options, f"{way.url}/small"], env=libraries, capture_output=True, text=True, check=True)
    (numbers,) = [line for line in done.stdout.splitlines() if line.startswith("numbers ")]
    return [int(number) for number in numbers.split()[1:]]


def echoes(way: Way, connections: int, seconds: int) -> list[float]:
    """The round trips of WebSocket frames, in ms."""
    address = way.url.removeprefix("http://")
    command = [PROXIED, "echo", address, str(connections), str(seconds), way.host, way.key]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(line) / 1e3 for line in done.stdout.split()]


def curl(way: Way, path: str, *options: str, keep: int | None = None) -> tuple[float, str]:
    """The seconds that curl took, and what it printed of the answer."""
    options = ("--silent", "--fail", "--header", "Expect:", "--write-out", "\n%{time_total}", *options)
    done = subprocess.run(
        ["curl", *options, *way.headers, way.url + path],
        pass_fds=() if keep is None else (keep,),
        capture_output=True,
        text=True,
        check=True,
    )
    answer, _, seconds = done.stdout.rpartition("\n")
    return float(seconds), answer


@contextmanager
def started(*command: str, **options):
    """A process that ends with what it is for."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@contextmanager
def nginx(upstream: int):
    """nginx before the upstream; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="tarn-bench-nginx-", dir="/var/tmp") as home:
        config = pathlib.Path(home, "nginx.conf")
        config.write_text(NGINX.format(home=home, upstream=upstream, port=port))
        command = [PROXIES / "usr/sbin/nginx", "-p", home, "-e", "stderr", "-c", config]
        # A session of its own, as our server has: Linux shares the processors out by session first.
        with started(*command, start_new_session=True) as process:
            until(lambda: answers(port) or process.poll() is not None, what="nginx")
            assert process.poll() is None, f"nginx ended with {process.returncode}"
            yield port


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/small")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def table(ways: list[Way]) -> str:
    """Medians, and what ours are of nginx's."""
    straight, beside, ours = ways
    lines = ["", f"{'p50 of the rounds':<22}" + "".join(f"{way.name:>12}" for way in ways) + f"{'tarn/nginx':>12}"]
    for what in straight.samples:
        shown = "".join(f"{way.p50(what):>12.{3 if ' ms' in what else 0}f}" for way in ways)
        lines.append(f"{what:<22}{shown}{ours.p50(what) / beside.p50(what):>12.2f}")
    return "\n".join(lines)


def bounds(straight: Way, beside: Way, ours: Way) -> list[tuple[bool, str]]:
    """Rates beside nginx's of the same round, and what the detour adds where nobody waits for a core."""
    checks = []
    for what in straight.samples:
        if "/s" in what:
            # Pairwise, since the machine's moods last longer than a round.
            share = report.p50([mine / its for mine, its in zip(ours.samples[what], beside.samples[what], strict=True)])
            text = f"{what}: {ours.p50(what):.0f}, {share:.2f} of nginx's {beside.p50(what):.0f} ≥ 0.8"
            checks.append((share >= 0.8, text))
    for what in ("request p50 ms, 1", "echo p50 ms, 1"):
        added, its = (way.p50(what) - straight.p50(what) for way in (ours, beside))
        checks.append((added <= 0.3, f"{what}: {added:.3f} added ≤ 0.3 (nginx adds {its:.3f})"))
    return checks


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run-nginx", description=__doc__)
    report.options(parser, small="one short round; reports the bounds without failing on them")
    parser.add_argument("--rounds", type=int)
    asked = parser.parse_args()
    asked.rounds = asked.rounds or report.scaled(asked, 1, 2, 5)
    asked.seconds, asked.mib = report.scaled(asked, (1, 64), (1, 256), (3, 1024))
    return asked


if __name__ == "__main__":
    sys.exit(main())
