"""Sockets in other network namespaces: a socket stays in the one in which it was made."""

import ctypes
import os
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 3
_LIBC = ctypes.CDLL(None, use_errno=True)


def within(netns: str | os.PathLike, work: Callable[[], T]) -> T:
    """Does work in a namespace, in a thread that ends with it."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with open(netns) as file:
                if _LIBC.setns(file.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"cannot enter {netns}")
            done.append(work())
        except BaseException as bad:  # noqa: BLE001
            failed.append(bad)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def frames(link: str) -> socket.socket:
    """A socket that sends and hears whole frames of one link."""
    channel = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    channel.bind((link, _ETH_P_ALL))
    return channel


class Ear:
    """Remembers what a socket hears, if it carries a mark."""

    def __init__(self, channel: socket.socket, mark: bytes) -> None:
        self._channel, self._mark = channel, mark
        self._heard: list[bytes] = []
        self._open = True
        channel.settimeout(0.2)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while self._open:
            try:
                data, where = self._channel.recvfrom(65535)
            except TimeoutError:
                continue
            except OSError:
                return
            outgoing = self._channel.family == socket.AF_PACKET and where[2] == socket.PACKET_OUTGOING
            if self._mark in data and not outgoing:
                self._heard.append(data)

    def heard(self, token: bytes) -> list[bytes]:
        """What carried a token so far; nothing that the socket's own host sent."""
        return [data for data in self._heard if token in data]

    def close(self) -> None:
        """Stops."""
        self._open = False
        self._thread.join()
        self._channel.close()
