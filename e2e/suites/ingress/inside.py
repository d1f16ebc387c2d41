"""A web server that runs inside a sandbox, for the tests of the ingress. Standard library alone."""

import base64
import hashlib
import http.server
import json
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.__dict__.pop("left", None)
        path = self.path.split("?")[0]
        if path == "/sse":
            return self.events()
        if path == "/page":
            return self.send(200, open("/tmp/page.html", "rb").read(), "text/html")
        if path == "/ws":
            return self.websocket()
        if path.startswith("/download/"):
            return self.download(int(path.rpartition("/")[2]))
        if path.startswith("/status/"):
            return self.send(int(path.rpartition("/")[2]), b'{"mine":true}')
        if path == "/upload":
            return self.upload()
        while self.next_chunk():
            pass  # An unread body would be taken for the next request.
        seen = {"method": self.command, "path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}}
        return self.send(200, json.dumps(seen).encode())

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = answer

    def send(self, status, body, kind="application/json"):
        body = b"" if status == 204 else body
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def events(self):
        """Each event waits for a file, so that the test decides when it is sent."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(3):
            while open("/tmp/allowed").read() < str(number):
                time.sleep(0.01)
            self.chunk(b"data: %d\n\n" % number)
        self.chunk(b"")

    def upload(self):
        """Answers with the digest; tells the size so far in a file."""
        digest, size = hashlib.sha256(), 0
        while data := self.next_chunk():
            digest.update(data)
            size += len(data)
            with open("/tmp/received", "w") as seen:
                seen.write(str(size))
        self.send(200, json.dumps({"size": size, "sha256": digest.hexdigest()}).encode())

    def next_chunk(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            left = getattr(self, "left", int(self.headers.get("Content-Length", 0)))
            data = self.rfile.read(min(left, 65536))
            self.left = left - len(data)
            return data
        size = int(self.rfile.readline().strip(), 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def download(self, size):
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        block = b"0123456789abcdef" * 4096
        while size > 0:
            self.wfile.write(block[:size])
            size -= len(block)

    def websocket(self):
        """Echoes frames of up to 125 bytes."""
        accept = hashlib.sha1((self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode())
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(accept.digest()).decode())
        self.end_headers()
        self.close_connection = True
        while head := self.rfile.read(2):
            size, mask = head[1] & 127, self.rfile.read(4)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(size)))
            self.wfile.write(bytes([head[0], size]) + data)
            if head[0] & 15 == 8:
                return

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
