"""The name server that sandboxes' queries are forwarded to, so that no test asks a real one."""

import socket
import socketserver
import struct
import threading


class NameServer:
    """Answers `NAME.tarn.test` with an address and all else with "no such name"; counts queries."""

    def __init__(self) -> None:
        self.answer = "203.0.113.2"
        # Names with another address than that.
        self.answers: dict[str, str] = {}
        # Names that have one of IPv6, too.
        self.answers6: dict[str, str] = {}
        self.asked: list[str] = []
        # What was sent, byte by byte.
        self.queries: list[bytes] = []
        self.port = self._bind()
        for server in (self._udp, self._tcp):
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def _bind(self) -> int:
        """Takes one port for both protocols; a free one for UDP may be in use for TCP."""
        while True:
            self._udp = socketserver.ThreadingUDPServer(("127.0.0.1", 0), self._handler(tcp=False))
            port = self._udp.server_address[1]
            try:
                self._tcp = socketserver.ThreadingTCPServer(("127.0.0.1", port), self._handler(tcp=True))
                return port
            except OSError:
                self._udp.server_close()

    @property
    def address(self) -> str:
        """What goes into `[dns] upstream`."""
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stops answering."""
        for server in (self._udp, self._tcp):
            server.shutdown()
            server.server_close()

    def _handler(self, tcp: bool):
        owner = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                if tcp:
                    size = struct.unpack("!H", self.request.recv(2, socket.MSG_WAITALL))[0]
                    reply = owner.reply(self.request.recv(size, socket.MSG_WAITALL))
                    self.request.sendall(struct.pack("!H", len(reply)) + reply)
                else:
                    query, channel = self.request
                    channel.sendto(owner.reply(query), self.client_address)

        return Handler

    def reply(self, query: bytes) -> bytes:
        """Composes the answer to one query."""
        name, end = read_name(query, 12)
        kind = struct.unpack("!H", query[end : end + 2])[0]
        self.asked.append(name)
        self.queries.append(query)
        known = name.endswith(".tarn.test")
        records = b""
        if known and kind == 1:
            records = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 5, 4) + socket.inet_aton(self.answers.get(name, self.answer))
        if kind == 28 and name in self.answers6:
            address = socket.inet_pton(socket.AF_INET6, self.answers6[name])
            records = b"\xc0\x0c" + struct.pack("!HHIH", 28, 1, 5, 16) + address
        head = query[:2] + struct.pack("!HHHHH", 0x8180 if known else 0x8183, 1, int(bool(records)), 0, 0)
        return head + query[12 : end + 4] + records


def read_name(message: bytes, at: int) -> tuple[str, int]:
    """Reads an uncompressed name; returns it with the index after it."""
    labels = []
    while message[at]:
        labels.append(message[at + 1 : at + 1 + message[at]].decode("ascii", "replace"))
        at += 1 + message[at]
    return ".".join(labels).lower(), at + 1
