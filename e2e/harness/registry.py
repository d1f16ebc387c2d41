"""A registry of the test's own, and a front before it that spoils what passes."""

import base64
import contextlib
import http.client
import http.server
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading

from . import env, image
from .s3 import _free_port as free_port
from .wait import until

USER, PASSWORD = "tarn-test", "pass-of-the-test"
# bcrypt of the password at the least cost.
_HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuuMPWiKBEYUwA.RgAcKyeNGutet1WhjJ.\n"
LONGEST_HOLD = 120


class Registry:
    """Debian's docker-registry over an empty directory, on loopback; private ones want a password."""

    def __init__(self, *, private: bool = False) -> None:
        program = pathlib.Path(env.REGISTRY, "usr/bin/docker-registry")
        assert os.access(program, os.X_OK), f"no {program} (TARN_TEST_REGISTRY): ./x setup --test"
        self.private = private
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="tarn-e2e-registry-", dir="/var/tmp"))
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        lines = ["version: 0.1", "log: {level: warn}", f"http: {{addr: '{self.address}'}}"]
        lines.append(f"storage: {{filesystem: {{rootdirectory: '{self.home}/root'}}}}")
        if private:
            (self.home / "htpasswd").write_text(_HTPASSWD)
            lines.append(f"auth: {{htpasswd: {{realm: test, path: '{self.home}/htpasswd'}}}}")
        (self.home / "config.yml").write_text("\n".join(lines) + "\n")
        env.LOGS.mkdir(parents=True, exist_ok=True)
        self.log = env.LOGS / f"registry-{self.port}.log"
        with self.log.open("wb") as log:
            command = [str(program), "serve", str(self.home / "config.yml")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until(self._answers, 30, "docker-registry")
        except BaseException:
            self.close()
            raise

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text(errors="replace")
        with contextlib.suppress(OSError):
            return self._call("GET", "/v2/")[0] == 200
        return False

    def _call(self, method: str, path: str, body: bytes = b"", kind: str = "application/octet-stream"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": kind}
        if self.private:
            pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheader("Location") or "", answer.read()
        finally:
            connection.close()

    def push(self, made: image.Image, name: str) -> str:
        """Pushes an image under `repository:tag`; returns its whole reference."""
        repository, tag = name.rsplit(":", 1)
        for digest, content in made.blobs.items():
            status, location, said = self._call("POST", f"/v2/{repository}/blobs/uploads/")
            assert status == 202, said
            path = location.split(self.address, 1)[-1]
            status, _, said = self._call("PUT", f"{path}&digest={digest}", content)
            assert status == 201, said
        for reference in (tag, made.digest):
            self._manifest(repository, reference, made.manifest, image.MANIFEST)
        return f"{self.address}/{name}"

    def push_index(self, made: bytes, name: str) -> str:
        """Pushes a list of images that are there already."""
        repository, tag = name.rsplit(":", 1)
        self._manifest(repository, tag, made, image.INDEX)
        return f"{self.address}/{name}"

    def _manifest(self, repository: str, reference: str, body: bytes, kind: str) -> None:
        status, _, said = self._call("PUT", f"/v2/{repository}/manifests/{reference}", body, kind)
        assert status == 201, said

    def close(self) -> None:
        """Ends it and removes what it kept."""
        self.process.kill()
        self.process.wait(10)
        shutil.rmtree(self.home, ignore_errors=True)


class Front:
    """Stands before a registry. What a layer does on its way is said by `rule(path, body) -> Spoilt`."""

    def __init__(self, behind: Registry) -> None:
        self.behind = behind
        self.requests: list[tuple[str, str]] = []
        # Of a layer no more than these bytes pass, until `gate` is open.
        self.cut_at: int | None = None
        self.corrupt = False
        self.gate = threading.Event()
        self.held = threading.Event()
        front = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                front._serve(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def _serve(self, request: http.server.BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range", "")
        self.requests.append((request.path, wanted))
        connection = http.client.HTTPConnection("127.0.0.1", self.behind.port, timeout=60)
        try:
            passed = {key: value for key, value in request.headers.items() if key.lower() not in ("host", "connection")}
            connection.request("GET", request.path, headers=passed)
            answer = connection.getresponse()
            body = answer.read()
            headers = [(key, value) for key, value in answer.getheaders() if key.lower() not in ("connection", "transfer-encoding", "content-length")]
        finally:
            connection.close()
        large = "/blobs/" in request.path and len(body) > 100_000
        if large and self.corrupt:
            body = body[:-1] + bytes([body[-1] ^ 1])
        request.send_response(answer.status)
        for key, value in headers:
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        with contextlib.suppress(OSError):
            if large and self.cut_at is not None and not self.gate.is_set():
                request.wfile.write(body[: self.cut_at])
                request.wfile.flush()
                self.held.set()
                self.gate.wait(LONGEST_HOLD)
                # The rest never comes on this connection.
                request.close_connection = True
                return
            request.wfile.write(body)

    def blobs(self, digest: str) -> list[str]:
        """The ranges in which a blob was asked for."""
        return [wanted for path, wanted in self.requests if path.endswith(f"/blobs/{digest}")]

    def close(self) -> None:
        """Ends it; whoever it holds up goes on."""
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)
