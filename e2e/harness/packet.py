"""Packets byte by byte, wrong ones too (RFC 791, 768, 793, 792, 826, 8200, 4861)."""

import socket
import struct

ICMP, IGMP, IPIP, TCP, UDP, SIX_IN_FOUR, GRE, ICMP6, SCTP = 1, 2, 4, 6, 17, 41, 47, 58, 132
SYN = 2
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD


def checksum(data: bytes) -> int:
    """The sum of the internet (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def mac(text: str) -> bytes:
    """A hardware address."""
    return bytes.fromhex(text.replace(":", ""))


def ethernet(target: bytes, source: bytes, kind: int, payload: bytes) -> bytes:
    """A frame."""
    return target + source + struct.pack("!H", kind) + payload


def ipv4(source, target, protocol, payload, *, number=0, offset=0, more=False, options=b"", ttl=64) -> bytes:
    """A packet, or a fragment at `offset` bytes."""
    size = 20 + len(options)
    place = offset // 8 | (0x2000 if more else 0)
    head = struct.pack("!BBHHHBBH", 0x40 | size // 4, 0, size + len(payload), number, place, ttl, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def fragments(source, target, protocol, payload, cuts, *, number) -> list[bytes]:
    """A datagram cut at the given bytes."""
    ends = [*cuts, len(payload)]
    return [
        ipv4(source, target, protocol, payload[start:end], number=number, offset=start, more=end < len(payload))
        for start, end in zip([0, *cuts], ends, strict=True)
    ]


def _pseudo(source, target, protocol, size) -> bytes:
    if ":" in source:
        ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, target)
        return ends + struct.pack("!IHBB", size, 0, 0, protocol)
    return socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!BBH", 0, protocol, size)


def udp(source, target, near, far, data) -> bytes:
    """A datagram; the addresses are for its sum."""
    head = struct.pack("!HHH", near, far, 8 + len(data))
    total = checksum(_pseudo(source, target, UDP, 8 + len(data)) + head + b"\0\0" + data) or 0xFFFF
    return head + struct.pack("!H", total) + data


def tcp(source, target, near, far, data=b"", flags=SYN) -> bytes:
    """A segment."""
    head = struct.pack("!HHIIBBHHH", near, far, 1, 0, 5 << 4, flags, 8192, 0, 0)
    total = checksum(_pseudo(source, target, TCP, 20 + len(data)) + head + data)
    return head[:16] + struct.pack("!H", total) + head[18:] + data


def icmp(kind, code, rest, data) -> bytes:
    """A message."""
    body = struct.pack("!BBHI", kind, code, 0, rest) + data
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


def ipv6(source, target, following, payload, hops=255) -> bytes:
    """A packet of IPv6, whose first header behind its own is `following`."""
    head = struct.pack("!IHBB", 6 << 28, len(payload), following, hops)
    return head + socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, target) + payload


def icmp6(source, target, kind, body) -> bytes:
    """A message of IPv6: neighbour discovery and the like."""
    text = struct.pack("!BBH", kind, 0, 0) + body
    total = checksum(_pseudo(source, target, ICMP6, len(text)) + text)
    return text[:2] + struct.pack("!H", total) + text[4:]


def arp(operation, sender_mac, sender, target_mac, target) -> bytes:
    """A question (1) or an answer (2) for who has an address."""
    head = struct.pack("!HHBBH", 1, IPV4, 6, 4, operation)
    return head + sender_mac + socket.inet_aton(sender) + target_mac + socket.inet_aton(target)
