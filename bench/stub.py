"""The floor: a server that does nothing but answer the bytes that the client needs.

What the same client takes against it is the client's own time, the kernel's and the wire's; what a
real server takes more is its own. One process, one thread, no parsing beyond the request line.
"""

import asyncio
import sys

SANDBOX = "0123456789abcdefghij0"
EVENTS = (
    b'data: {"handle":1,"pid":42,"started_at":1710000000000}\n\n'
    b'data: {"line":"hi","timestamp":1710000000001,"stream":"stdout"}\n\n'
    b'data: {"exit_code":0,"reason":"exited"}\n\n'
)


def answer(kind: str, body: bytes) -> bytes:
    """A whole answer."""
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


class Stub(asyncio.Protocol):
    """One connection; requests may come in pieces."""

    answers: dict[bytes, bytes] = {}

    def connection_made(self, transport) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            at = head.lower().find(b"content-length:")
            size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + size:
                return
            self.buffer = self.buffer[end + 4 + size :]
            method, path = head.split(b" ", 2)[:2]
            key = b"run" if path.endswith(b"/processes/run") else method
            self.transport.write(self.answers[key])


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Stub, "127.0.0.1", 0, backlog=256)
    port = server.sockets[0].getsockname()[1]
    made = f'{{"sandbox_id":"{SANDBOX}","status":"running","sandbox_url":"http://127.0.0.1:{port}"}}'
    Stub.answers = {
        b"POST": answer("application/json", made.encode()),
        b"run": answer("text/event-stream", EVENTS),
        b"DELETE": answer("application/json", b"{}"),
    }
    print(port, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
