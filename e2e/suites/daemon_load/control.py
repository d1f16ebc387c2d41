"""The smallest program that answers, in the same sandbox as the daemon and probed as it is.

The processes of a sandbox share its processors: what this program takes while hundreds of others want them, no
program inside can do without, and the daemon is judged by what it takes beyond that.
"""

from harness.wait import until
from suites.daemon_load.probe import probing

PORT = 7000
PROGRAM = f"""
import socket
listener = socket.create_server(("0.0.0.0", {PORT}))
while True:
    with listener.accept()[0] as peer:
        while peer.recv(65536):
            peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
"""


def start(server, sandbox: str) -> None:
    """Starts it in a sandbox that exposes its port."""
    body = {"command": "python3", "args": ["-c", PROGRAM]}
    assert server.sandbox_call(sandbox, "POST", "/api/v1/processes", body).status == 201
    headers = {"Connection": "close"}
    up = lambda: server.sandbox_call(f"{PORT}-{sandbox}", "GET", "/", headers=headers).status == 200  # noqa: E731
    until(up, what="the control")


def probing_it(server, sandbox: str):
    """Probes it as `probing` does the daemon."""
    return probing(server, f"{PORT}-{sandbox}", ("/",))
