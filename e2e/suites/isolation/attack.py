"""What root inside a sandbox does against everybody else. Prints one line of JSON, or listens.

send HEX...     sends packets with their heads, by a raw socket
frame HEX...    sends frames on eth0, by a packet socket
ask HEX...      sends DNS questions to the resolver and lists the answers' codes
flood N SUFFIX  asks for N different names below a suffix as fast as it can
listen FILE     writes down whatever raw and packet sockets hear that carries the mark
"""

import json
import socket
import struct
import sys

MARK = b"red-team"
RESOLVER = ("169.254.77.1", 53)


def tried(work, items):
    """What became of each item."""
    answers = []
    for item in items:
        try:
            answers.append(work(bytes.fromhex(item)))
        except OSError as error:
            answers.append(error.strerror or str(error))
    return answers


def send(items):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as channel:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        to = lambda packet: (socket.inet_ntoa(packet[16:20]), 0)  # noqa: E731
        return tried(lambda packet: channel.sendto(packet, to(packet)) and "sent", items)


def frame(items):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as channel:
        channel.bind(("eth0", 3))
        return tried(lambda data: channel.send(data) and "sent", items)


def ask(items):
    def one(query):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            channel.settimeout(3)
            channel.sendto(query, RESOLVER)
            return channel.recv(4096)[3] & 15

    return tried(one, items)


def flood(count, suffix):
    tail = b"".join(bytes([len(label)]) + label.encode() for label in suffix.split(".")) + b"\0\0\x01\0\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        for number in range(int(count)):
            label = b"%d" % number
            head = struct.pack("!HHHHHH", number & 0xFFFF, 0x0100, 1, 0, 0, 0)
            channel.sendto(head + bytes([len(label)]) + label + tail, RESOLVER)
    return "sent"


def listen(path):
    import select

    raw = [socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) for protocol in (1, 6, 17)]
    whole = [socket.socket(socket.AF_PACKET, kind, socket.htons(3)) for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM)]
    with open(path, "ab", buffering=0) as heard:
        heard.write(b"ready\n")
        while True:
            for channel in select.select(raw + whole, [], [])[0]:
                data = channel.recv(65535)
                if MARK in data:
                    heard.write(channel.family.name.encode() + b" " + data.hex().encode() + b"\n")


verb, *rest = sys.argv[1:]
if verb == "listen":
    listen(*rest)
else:
    work = {"send": send, "frame": frame, "ask": ask}.get(verb)
    print(json.dumps(work(rest) if work else flood(*rest)))
