"""Tunnels through the Python SDK 0.5.163."""

import asyncio
import contextlib
import socket

import pytest
from harness.wait import until
from tensorlake.sandbox import AsyncSandbox

SERVER_INSIDE = """
import socket
s = socket.create_server(("127.0.0.1", 7010))
while True:
    c, _ = s.accept()
    try:
        c.sendall(b"RFB 003.008\\n")
        d = c.recv(100)
        c.sendall(d.upper() + b"x" * 500000)
    except OSError:
        pass
    c.close()
"""


@pytest.fixture(scope="module")
def speaks_first(box):
    box.start_process("python3", args=["-c", SERVER_INSIDE])
    until(lambda: box.run("bash", args=["-c", "exec 3<>/dev/tcp/127.0.0.1/7010; head -c 3 <&3; echo q >&3"]).exit_code == 0)


def converse(port):
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as connection:
        stream = connection.makefile("rb")
        assert stream.read(12) == b"RFB 003.008\n"
        connection.sendall(b"hello")
        assert stream.read() == b"HELLO" + b"x" * 500000


def test_tunnel(box, speaks_first):
    with box.create_tunnel(7010, local_port=0) as tunnel:
        for _ in range(3):
            converse(tunnel.local_port)


def test_tunnel_asynchronous(server, box, speaks_first):
    async def session():
        sandbox = await AsyncSandbox.connect(box.sandbox_id, api_url=server.api, api_key=server.key)
        async with await sandbox.create_tunnel(7010, local_port=0) as tunnel:
            await asyncio.gather(*(asyncio.to_thread(converse, tunnel.local_port) for _ in range(5)))

    asyncio.run(session())
