"""A tarn server of the test's own: its data directory, its ports, its log, and its end."""

import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import urllib.parse

from . import env, host, http
from .wait import until

PARENT = pathlib.Path("/var/tmp")
PREFIX = "tarn-e2e-"
START_TIMEOUT = 90
STOP_TIMEOUT = 30
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_BAD_LINE = re.compile(r"\bERROR\b|panicked at")


class Server:
    """Runs `tarn up` over a data directory that only this test uses."""

    def __init__(
        self,
        name: str,
        *,
        runtime: str = "gvisor",
        dns: str = "",
        config: dict | None = None,
        assets: str = env.ASSETS,
        flags: list[str] | None = None,
    ) -> None:
        self.name = name
        self.assets = assets
        self.flags = flags or []
        self.runtime = runtime
        # Short, because control sockets lie below it and their paths are limited to 107 bytes.
        self.home = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX, dir=PARENT))
        self.data = self.home / "data"
        (self.home / "owner").write_text(f"{os.getpid()} {host.start_time(os.getpid())}")
        env.LOGS.mkdir(parents=True, exist_ok=True)
        self.log = env.LOGS / f"{name}-py{os.path.basename(os.path.dirname(os.path.dirname(os.sys.executable)))}.log"
        self.log.write_bytes(b"")
        self.allowed: list[str] = []
        self.process: subprocess.Popen | None = None
        self._listen = ("127.0.0.1:0", "127.0.0.1:0")
        self._dns, self._config = dns, config or {}
        self.api = self.ingress = self.key = ""
        # What is trusted, where the server speaks TLS.
        self.context: ssl.SSLContext | None = None

    # --- life ---

    def start(self, timeout: float = START_TIMEOUT) -> "Server":
        """Starts it and returns when it said `ready`; later starts take the same ports again."""
        self.process = self.spawn()
        seen: dict[str, str] = {}
        ready = threading.Event()
        threading.Thread(target=_read_exports, args=(self.process.stdout, seen, ready), daemon=True).start()
        until(lambda: ready.is_set() or self.process.poll() is not None, timeout, f"start of {self.name}")
        assert ready.is_set(), f"tarn ended with {self.process.returncode}:\n{self.tail()}"
        self.api, self.key = seen["TENSORLAKE_API_URL"], seen["TENSORLAKE_API_KEY"]
        addresses = json.loads((self.data / "run/addresses.json").read_text())
        self.ingress = addresses["ingress"]
        if (self.data / "ca.pem").exists():
            self.context = ssl.create_default_context(cafile=self.data / "ca.pem")
        self._listen = tuple(url.split("//", 1)[1] for url in (addresses["api"], addresses["ingress"]))
        return self

    def spawn(self, config: str | None = None) -> subprocess.Popen:
        """Starts the process alone, for tests that expect it to refuse."""
        toml = self.home / "tarn.toml"
        toml.write_text(self.config_text() if config is None else config)
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C is for the test, which then ends the server.
            return subprocess.Popen(
                [env.TARN, "up", "--data-dir", str(self.data), "--assets-dir", self.assets]
                + ["--tarnd", env.TARND, "--config", str(toml)]
                + (["--allow-simulated-runtime"] if self.runtime == "sim" else [])
                + self.flags,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                text=True,
            )

    def config_text(self) -> str:
        """The tarn.toml of this server."""
        api, ingress = self._listen
        sections = {
            "api": {"listen": api},
            "ingress": {"listen": ingress},
            "node": {"runtime": self.runtime},
            # Really allocated, and several servers live at once.
            "pool": {"initial_mb": 2048, "max_mb": 3072},
            # Where it is what is tested, a module asks for it.
            "prestart": {"most": 0, "restores": 0},
            # An unknown name is no reason to ask the internet.
            "images": {"pull": False},
            "dns": {"upstream": [self._dns or "127.0.0.1:9"]},
        }
        for name, keys in self._config.items():
            sections.setdefault(name, {}).update(keys)
        # JSON's texts, numbers and lists are TOML's, too.
        tables = (
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
            for name, keys in sections.items()
        )
        return "\n".join(tables)

    def kill(self) -> None:
        """Ends it as a crash does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(STOP_TIMEOUT)

    def stop(self) -> int:
        """Asks it to end; its sandboxes go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT)

    def configure(self, section: str, **keys) -> None:
        """Says what the next start reads."""
        self._config = {**self._config, section: {**self._config.get(section, {}), **keys}}

    def restart(self, kill: bool = False) -> "Server":
        """Ends and starts it."""
        self.kill() if kill else self.stop()
        return self.start()

    def close(self) -> list[str]:
        """Ends it and removes all it made; returns what went wrong or stayed on the host."""
        complaints = []
        if self.process is not None and self.process.poll() is None:
            try:
                if status := self.stop():
                    complaints.append(f"SIGTERM ended the server with status {status}")
            except subprocess.TimeoutExpired:
                complaints.append("the server did not end on SIGTERM")
                self.kill()
        complaints += self.bad_lines()
        complaints += dispose(self.home)
        return complaints

    # --- what it says ---

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def log_text(self) -> str:
        """Its log without colours."""
        return _ANSI.sub("", self.log.read_text(errors="replace"))

    def bad_lines(self) -> list[str]:
        """Lines that no test expected."""
        bad = [line for line in self.log_text().splitlines() if _BAD_LINE.search(line)]
        return [f"log: {line}" for line in bad if not any(re.search(p, line) for p in self.allowed)][:10]

    def allow(self, pattern: str) -> None:
        """Expects an ERROR line."""
        self.allowed.append(pattern)

    # --- asking it ---

    def call(self, method: str, path: str, body=None, *, key: str | None = None, **options) -> http.Reply:
        """Sends a request to the API; a body that is no text or bytes goes as JSON."""
        headers = {"Authorization": f"Bearer {self.key if key is None else key}", **options.pop("headers", {})}
        if body is not None and not isinstance(body, (str, bytes)):
            body = json.dumps(body)
        return http.request(self.api + path, method, headers=headers, body=body, context=self.context, **options)

    def sandbox_call(self, sandbox: str, method: str, path: str, body=None, *, key=None, **options) -> http.Reply:
        """Sends a request through the ingress, addressed by Host as the SDKs do."""
        headers = {"Authorization": f"Bearer {self.key if key is None else key}", **options.pop("headers", {})}
        host_name = options.pop("host", f"{sandbox}.local")
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        options = {"headers": headers, "body": body, "context": self.context, **options}
        return http.request(self.ingress + path, method, host=host_name, **options)

    def dial(self, timeout: float = 60) -> socket.socket:
        """A connection to the ingress, with TLS where that speaks TLS."""
        parts = urllib.parse.urlsplit(self.ingress)
        connection = socket.create_connection((parts.hostname, parts.port), timeout=timeout)
        return self.context.wrap_socket(connection, server_hostname=parts.hostname) if self.context else connection

    def create(self, **fields) -> str:
        """Creates a running sandbox without an SDK; returns its id."""
        reply = self.call("POST", "/sandboxes", fields)
        assert reply.status == 200 and reply.json()["status"] == "running", reply
        return reply.json()["sandbox_id"]

    def delete(self, sandbox: str) -> None:
        """Terminates a sandbox."""
        reply = self.call("DELETE", f"/sandboxes/{sandbox}")
        assert reply.status == 200, reply

    def info(self, sandbox: str) -> dict:
        """The sandbox as the API shows it."""
        reply = self.call("GET", f"/sandboxes/{sandbox}")
        assert reply.status == 200, reply
        return reply.json()

    def run(self, sandbox: str, script: str, timeout: float = 60, **fields) -> "Result":
        """Runs a shell script inside, without an SDK."""
        body = {"command": "sh", "args": ["-c", script], **fields}
        accept = {"Accept": "text/event-stream"}
        reply = self.sandbox_call(sandbox, "POST", "/api/v1/processes/run", body, headers=accept, timeout=timeout)
        assert reply.status == 200, reply
        return Result.parse(reply.body)

    def running(self) -> set[str]:
        """The ids of all sandboxes that run."""
        return {s["id"] for s in self.call("GET", "/sandboxes?status=running").json()["sandboxes"]}

    def command(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess:
        """Runs the command line over this server's data directory."""
        return command(self.data, *arguments, timeout=timeout)


class Result:
    """What `processes/run` streamed."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self.exit: dict = {}

    @classmethod
    def parse(cls, stream: bytes) -> "Result":
        result = cls()
        for line in stream.decode().splitlines():
            event = json.loads(line[5:]) if line.startswith("data:") else {}
            if "line" in event:
                result.lines[event["stream"]].append(event["line"])
            elif "exit_code" in event or "signal" in event:
                result.exit = event
        return result

    @property
    def out(self) -> str:
        return "\n".join(self.lines["stdout"])

    @property
    def err(self) -> str:
        return "\n".join(self.lines["stderr"])

    @property
    def status(self) -> int | None:
        return self.exit.get("exit_code")

    def __repr__(self) -> str:
        return f"<{self.exit} out={self.out[-400:]!r} err={self.err[-400:]!r}>"


def command(data: pathlib.Path, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess:
    """Runs `tarn ARGUMENTS` over a data directory."""
    variables = dict(os.environ, TARN_DATA_DIR=str(data), TARN_ASSETS_DIR=env.ASSETS)
    return subprocess.run([env.TARN, *arguments], env=variables, capture_output=True, text=True, timeout=timeout)


def dispose(home: pathlib.Path) -> list[str]:
    """Removes what a server left, by its own command; what that leaves is a defect, and removed too."""
    complaints = []
    data = home / "data"
    if data.exists():
        left = host.objects(data)
        try:
            purge = command(data, "purge", "--yes", timeout=120)
            if purge.returncode:
                complaints.append(f"tarn purge failed: {purge.stderr.strip()[-600:]}")
        except (subprocess.TimeoutExpired, OSError) as bad:
            complaints.append(f"tarn purge: {bad}")
        after = host.objects(data)
        if stayed := {kind: names for kind, names in after.items() if names and kind != "file"}:
            complaints.append(f"left on the host after purge: {stayed}")
            host.remove(left, after)
    if not host.mounts_below(home):
        shutil.rmtree(home, ignore_errors=True)
    return complaints


def sweep() -> None:
    """Removes what an earlier run left that was killed before it could clean up."""
    parent = os.open(PARENT, os.O_RDONLY)
    try:
        # Several processes of a run start at once.
        fcntl.flock(parent, fcntl.LOCK_EX)
        _sweep()
    finally:
        os.close(parent)


def _sweep() -> None:
    for owner in PARENT.glob(f"{PREFIX}*/owner"):
        pid, started = owner.read_text().split()
        if host.start_time(int(pid)) != int(started):
            # Servers are sessions of their own, so this one outlived its test.
            for server in host.servers(owner.parent / "data"):
                os.kill(server, signal.SIGKILL)
            until(lambda home=owner.parent: not host.servers(home / "data"), what="the end of a left server")
            dispose(owner.parent)


def _read_exports(stream, seen: dict[str, str], ready: threading.Event) -> None:
    for line in stream:
        if match := re.fullmatch(r"export (\w+)=(.*)", line.strip()):
            seen[match[1]] = match[2].strip("'\"")
        if line.strip() == "ready":
            ready.set()
