"""An S3 server of the test's own: versitygw over a directory, on loopback."""

import os
import pathlib
import shutil
import socket
import subprocess
import tempfile

from . import env
from .wait import until

ACCESS, SECRET = "tarn-test", "s3-secret-of-the-test"
BUCKET = "snapshots"


class S3:
    """Serves one empty bucket. A machine without the program fails the tests; they are not skipped."""

    def __init__(self) -> None:
        assert os.access(env.VERSITYGW, os.X_OK), f"no versitygw at {env.VERSITYGW or '(TARN_TEST_VERSITYGW)'}: ./x setup --test"
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="tarn-e2e-s3-", dir="/var/tmp"))
        (self.home / "root" / BUCKET).mkdir(parents=True)
        (self.home / "meta").mkdir()
        self.port = _free_port()
        self.log = env.LOGS / "versitygw.log"
        env.LOGS.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            command = [env.VERSITYGW, "--quiet", "--port", f"127.0.0.1:{self.port}"]
            command += ["posix", "--sidecar", str(self.home / "meta"), str(self.home / "root")]
            keys = {"ROOT_ACCESS_KEY": ACCESS, "ROOT_SECRET_KEY": SECRET}
            self.process = subprocess.Popen(command, env={**os.environ, **keys}, stdout=log, stderr=log)
        try:
            until(self._answers, 15, "versitygw")
        except BaseException:
            self.close()
            raise

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text(errors="replace")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def config(self, prefix: str) -> dict:
        """The section `[object_store]` of a server that keeps its snapshots here."""
        return {
            "url": f"s3://{BUCKET}/{prefix}",
            "endpoint": f"http://127.0.0.1:{self.port}",
            "allow_http": True,
            "access_key": ACCESS,
            "secret_key": SECRET,
        }

    @property
    def bucket(self) -> pathlib.Path:
        """The directory that holds the bucket's objects as files."""
        return self.home / "root" / BUCKET

    def close(self) -> None:
        """Ends it and removes what it kept."""
        self.process.kill()
        self.process.wait(10)
        shutil.rmtree(self.home, ignore_errors=True)


def _free_port() -> int:
    """A port below those that the kernel gives away, so that nobody gets it before the server does."""
    for n in range(10_000):
        port = 20_000 + (os.getpid() + n) % 10_000
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise AssertionError("no port is free")
