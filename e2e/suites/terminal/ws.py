"""A WebSocket client that sees every frame and can misbehave. Standard library alone."""

import os
import struct

BINARY, TEXT, CLOSE, PING, PONG = 2, 1, 8, 9, 10
READY = b"\x02"


class WebSocket:
    """One connection through the ingress, addressed by Host as the SDKs do."""

    def __init__(self, server, host, path, headers=None, key=None, timeout=60):
        self.socket = server.dial(timeout)
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {server.key if key is None else key}"]
        lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Extensions: permessage-deflate"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.stream = self.socket.makefile("rb")
        self.status = int(self.stream.readline().split()[1])
        self.headers = {}
        for line in iter(lambda: self.stream.readline().strip().decode(), ""):
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()
        self.body = b""
        if self.status != 101:
            self.body = self.stream.read(int(self.headers.get("content-length", 0)))
            self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, payload, opcode=BINARY, first=None):
        """Sends one masked frame."""
        mask = os.urandom(4)
        head = bytes([0x80 | opcode if first is None else first])
        size = len(payload)
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 1 << 16:
            head += struct.pack(">BH", 0x80 | 126, size)
        else:
            head += struct.pack(">BQ", 0x80 | 127, size)
        pattern = (mask * (size // 4 + 1))[:size]
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(pattern, "big")).to_bytes(size, "big")
        self.socket.sendall(head + mask + masked)

    def type(self, text):
        """Types at a terminal."""
        self.send(b"\0" + text.encode())

    def close(self, code=1000, reason=b"client disconnect"):
        """Sends a close frame."""
        self.send(struct.pack(">H", code) + reason, CLOSE)

    def next(self):
        """The next frame: its opcode and payload; (None, b"") at the end of the connection."""
        head = self.stream.read(2)
        if len(head) < 2:
            return None, b""
        assert head[0] & 0xF0 == 0x80 and not head[1] & 0x80, head
        size = head[1]
        if size == 126:
            size = struct.unpack(">H", self.stream.read(2))[0]
        elif size == 127:
            size = struct.unpack(">Q", self.stream.read(8))[0]
        return head[0] & 15, self.stream.read(size)

    def until(self, text):
        """Reads terminal output until it holds a text."""
        seen = b""
        while text.encode() not in seen:
            opcode, payload = self.next()
            assert opcode in (BINARY, PING, PONG), (opcode, payload, seen[-300:])
            if opcode == BINARY:
                assert payload[0] == 0, payload
                seen += payload[1:]
        return seen.decode(errors="replace")

    def rest(self):
        """Reads to the end: the binary messages, the close code (None without) and its reason."""
        messages = []
        while True:
            opcode, payload = self.next()
            if opcode == BINARY:
                messages.append(payload)
            elif opcode == CLOSE:
                return messages, struct.unpack(">H", payload[:2])[0], payload[2:].decode()
            elif opcode is None:
                return messages, None, ""


def terminal(server, sandbox, script, **fields):
    """Makes a terminal; returns its id and token."""
    body = {"command": "bash", "args": ["-c", script], **fields}
    reply = server.sandbox_call(sandbox, "POST", "/api/v1/pty", body)
    assert reply.status == 201, reply
    made = reply.json()
    return made["session_id"], made["token"]


def attach(server, sandbox, made, ready=True):
    """Attaches to a terminal."""
    socket = WebSocket(server, f"{sandbox}.local", f"/api/v1/pty/{made[0]}/ws", {"X-PTY-Token": made[1]})
    assert socket.status == 101, (socket.status, socket.body)
    if ready:
        socket.send(READY)
    return socket


def tunnel(server, sandbox, port):
    """Opens a tunnel."""
    return WebSocket(server, f"{sandbox}.local", f"/api/v1/tunnels/tcp?port={port}")
