"""Runs inside a sandbox and holds every sort of state that a memory image must bring back: random
memory, a file that has no name any more, a pipe with bytes in it, a timer, a thread, a listening
socket, an established connection to itself. Tells about all of it over HTTP on port 8000."""

import hashlib
import http.server
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time

MIB = int(sys.argv[1]) if len(sys.argv) > 1 else 32
memory = bytearray(os.urandom(MIB << 20))
nonce = os.urandom(16).hex()
unnamed = tempfile.TemporaryFile(dir="/var/tmp")
unnamed.write(os.urandom(1 << 20))
unnamed.flush()
pipe_out, pipe_in = os.pipe()
os.write(pipe_in, b"in the pipe")
listener = socket.create_server(("127.0.0.1", 0))
near = socket.create_connection(listener.getsockname())
far, _ = listener.accept()
near.sendall(b"on the way")
entropy = open("/dev/urandom", "rb", buffering=0)
counts = {"thread": 0, "timer": 0, "hits": 0}
lock = threading.Lock()


def thread():
    while True:
        counts["thread"] += 1
        time.sleep(0.01)


def timer(*_):
    counts["timer"] += 1


def digest(data):
    return hashlib.sha256(data).hexdigest()


def unnamed_bytes():
    return os.pread(unnamed.fileno(), 1 << 21, 0)


def take_pipe():
    """Reads what is in the pipe and puts it back."""
    data = os.read(pipe_out, 100)
    os.write(pipe_in, data)
    return data.decode()


def take_socket():
    data = far.recv(100)
    near.sendall(data)
    return data.decode()


def take_connection():
    """Whether the socket that listens still takes a connection, and nobody else's."""
    with socket.create_connection(listener.getsockname(), 5) as caller:
        called, address = listener.accept()
        called.close()
        return address == caller.getsockname()


def draws():
    """What the kernel gives as random, 16 bytes at a time: by a descriptor that is older than any copy, and anew."""
    return [entropy.read(16).hex() for _ in range(8)] + [os.urandom(16).hex() for _ in range(8)]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/hit":
            with lock:
                counts["hits"] += 1
                answer = {"hit": counts["hits"]}
        elif self.path == "/now":
            answer = {"now": time.time(), "monotonic": time.monotonic()}
        elif self.path == "/counts":
            answer = dict(counts)
        elif self.path == "/random":
            answer = {"random": draws()}
        else:
            answer = {
                "pid": os.getpid(),
                "nonce": nonce,
                "memory": digest(memory),
                "unnamed": digest(unnamed_bytes()),
                "pipe": take_pipe(),
                "socket": take_socket(),
                "listens": take_connection(),
            }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


signal.signal(signal.SIGALRM, timer)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
threading.Thread(target=thread, daemon=True).start()
http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
