"""What the tests of the object store look at: its files, and what goes to it."""

import contextlib
import json
import os
import pathlib
import shutil
import time

from harness import ledger
from harness.wait import until

# Names that tests plant in sandboxes; nothing of the kind may be readable in the object store.
PLANTED = "planted-secret-5e1f-of-the-tenant"


def files(root: pathlib.Path) -> list[pathlib.Path]:
    """Everything that is kept; a directory may go away meanwhile, as the keeper removes empty ones."""
    return [pathlib.Path(top, name) for top, _, names in os.walk(root) for name in names]


def size(root: pathlib.Path) -> int:
    total = 0
    for path in files(root):
        # One that is being written has another name a moment later.
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def readable(root: pathlib.Path, *needles: str | bytes) -> list[str]:
    """The needles that are found in any file, or in the name of one."""
    found = []
    for path in files(root):
        content = path.read_bytes() + str(path.relative_to(root)).encode()
        bare = (needle if isinstance(needle, bytes) else needle.encode() for needle in needles)
        found += [f"{needle!r} in {path}" for needle in bare if needle in content]
    return found


def tokens(server) -> list[str]:
    """The daemons' tokens, as the ledger has them."""
    return [ledger.newest(path.read_bytes())["token"] for path in ledger.files(server.data)]


def age(root: pathlib.Path, days: int = 3) -> None:
    """Makes everything older: the object store tells the files' times."""
    then = time.time() - days * 24 * 3600
    for path in files(root):
        with contextlib.suppress(FileNotFoundError):
            os.utime(path, (then, then))


def transfers(server) -> dict:
    done = server.command("snapshot", "transfers", "--json")
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def status(server, snapshot_id: str) -> str:
    return server.call("GET", f"/snapshots/{snapshot_id}").json()["status"]


def completed(server, snapshot_id: str, timeout: float = 60) -> dict:
    """Waits until a snapshot is in the object store; returns it."""
    until(lambda: status(server, snapshot_id) == "completed", timeout, f"the upload ({transfers(server)})")
    info = server.call("GET", f"/snapshots/{snapshot_id}").json()
    assert info["size_bytes"] > 0 and snapshot_id in info["snapshot_uri"], info
    return info


def lose(server, snapshot_id: str) -> None:
    """Removes a snapshot from the node's disk behind the server's back."""
    capture = server.data / "pool/captures" / snapshot_id
    assert capture.is_dir(), list(capture.parent.iterdir())
    shutil.rmtree(capture)


def damage(server, snapshot_id: str) -> None:
    """Cuts a snapshot on the node's disk short behind the server's back."""
    layer = next((server.data / "pool/captures" / snapshot_id).rglob("layer.img"))
    os.truncate(layer, layer.stat().st_size // 2)


def metric(server, name: str) -> float:
    text = server.call("GET", "/metrics").body.decode()
    return next(float(line.split()[1]) for line in text.splitlines() if line.split()[0] == name)
