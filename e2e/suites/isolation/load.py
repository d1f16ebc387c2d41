"""What a sandbox does to the network, much of it. Prints one line of JSON.

hold HOST PORT N        opens N connections and keeps them: how many were open and how many refused
ring HOST PORT N        opens and resets N connections, one after the other: how many, in how long
ask HOST PORT N         asks N times for a byte, on new connections: how long each took
pull HOST PORT N        takes N bytes over one connection: in how long
push HOST PORT N        gives them
flood SECONDS           new connections, datagrams and questions without end
keep HOST PORT FILE     echoes over one connection for ever; says how often in a file
"""

import json
import socket
import struct
import sys
import threading
import time

RESOLVER = ("169.254.77.1", 53)
GO_AT_ONCE = struct.pack("ii", 1, 0)


def hold(host, port, count):
    held, ends = [], {"open": 0}
    for _ in range(int(count)):
        channel = socket.socket()
        channel.settimeout(30)
        try:
            channel.connect((host, int(port)))
            held.append(channel)
            ends["open"] += 1
        except OSError as error:
            channel.close()
            ends[str(error)] = ends.get(str(error), 0) + 1
    return ends


def ring(host, port, count):
    began, reached = time.monotonic(), 0
    for _ in range(int(count)):
        with socket.socket() as channel:
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, GO_AT_ONCE)
            channel.settimeout(0.2)
            try:
                channel.connect((host, int(port)))
                reached += 1
            except OSError:
                pass
    return [reached, time.monotonic() - began]


def ask(host, port, count):
    took = []
    for _ in range(int(count)):
        began = time.monotonic()
        with socket.create_connection((host, int(port)), 60) as channel:
            channel.sendall(b"d" + struct.pack("!Q", 1))
            assert channel.recv(1) == b"x"
        took.append(time.monotonic() - began)
    return took


def pull(host, port, count):
    left = int(count)
    with socket.create_connection((host, int(port)), 60) as channel:
        channel.sendall(b"d" + struct.pack("!Q", left))
        began = time.monotonic()
        while left:
            left -= len(channel.recv(min(left, 1 << 18)))
        return time.monotonic() - began


def push(host, port, count):
    left = int(count)
    with socket.create_connection((host, int(port)), 60) as channel:
        channel.sendall(b"u" + struct.pack("!Q", left))
        began = time.monotonic()
        while left:
            left -= channel.send(b"x" * min(left, 1 << 18))
        assert channel.recv(1) == b"."
        return time.monotonic() - began


def flood(seconds):
    end = time.monotonic() + float(seconds)
    counts = {"tcp": 0, "udp": 0, "dns": 0}

    def again(name, work):
        while not counts[name] or time.monotonic() < end:
            try:
                work()
                counts[name] += 1
            except OSError:
                pass

    def tcp():
        with socket.socket() as channel:
            channel.setblocking(False)
            channel.connect_ex(("203.0.113.2", 80))

    def udp():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            for _ in range(8):
                channel.sendto(b"x" * 1200, ("203.0.113.2", 9999))

    def dns():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            channel.sendto(b"\0\1\1\0\0\1\0\0\0\0\0\0\5flood\4tarn\4test\0\0\1\0\1", RESOLVER)

    threads = [threading.Thread(target=again, args=it) for it in (("tcp", tcp), ("udp", udp), ("dns", dns))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


def keep(host, port, path):
    with socket.create_connection((host, int(port)), 60) as channel, open(path, "ab", buffering=0) as told:
        channel.sendall(b"e" + struct.pack("!Q", 0))
        pause = threading.Event()
        while True:
            channel.sendall(b"x")
            assert channel.recv(1) == b"x"
            told.write(b".")
            pause.wait(0.02)


verb, *rest = sys.argv[1:]
work = {"hold": hold, "ring": ring, "ask": ask, "pull": pull, "push": push, "flood": flood, "keep": keep}[verb]
print(json.dumps(work(*rest)))
