"""Screenshots: PNG read without a library, and what a test asks of a picture."""

import struct
import zlib
from collections import Counter
from collections.abc import Callable

_CHANNELS = {2: 3, 6: 4}
Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]


class Picture:
    """A PNG of 8 bits with or without alpha, as the SDKs make them."""

    def __init__(self, png: bytes) -> None:
        assert png.startswith(b"\x89PNG\r\n\x1a\n"), f"not a PNG: {png[:16]!r}"
        self.png = png
        self.width, self.height, depth, kind = struct.unpack(">IIBB", png[16:26])
        assert (depth, png[28]) == (8, 0) and kind in _CHANNELS, f"depth {depth}, kind {kind}, interlace {png[28]}"
        self._channels = _CHANNELS[kind]
        self._rows = _rows(zlib.decompress(_data(png)), self.width * self._channels, self._channels)
        assert len(self._rows) == self.height

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    def pixels(self, box: Box | None = None, step: int = 4) -> list[Colour]:
        """Every `step`th pixel of a box (left, top, right, bottom) in both directions."""
        left, top, right, bottom = box or (0, 0, self.width, self.height)
        channels = self._channels
        return [
            tuple(row[x * channels : x * channels + 3])
            for row in self._rows[top:bottom:step]
            for x in range(left, right, step)
        ]

    def colours(self, box: Box | None = None) -> int:
        """How many colours there are."""
        return len(Counter(self.pixels(box)))

    def share(self, wanted: Callable[[Colour], bool], box: Box | None = None) -> float:
        """The part of the pixels that a predicate holds for."""
        pixels = self.pixels(box)
        return sum(map(wanted, pixels)) / len(pixels)

    def changed(self, other: "Picture", box: Box | None = None) -> float:
        """The part of the pixels that differ."""
        pairs = list(zip(self.pixels(box), other.pixels(box), strict=True))
        return sum(mine != theirs for mine, theirs in pairs) / len(pairs)


def near(wanted: Colour, tolerance: int = 12) -> Callable[[Colour], bool]:
    """Holds for colours close to one."""
    return lambda colour: all(abs(a - b) <= tolerance for a, b in zip(colour, wanted, strict=True))


def _data(png: bytes) -> bytes:
    """The compressed data of all chunks that carry any."""
    data, at = b"", 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        data += png[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += length + 12
    return data


def _rows(raw: bytes, stride: int, channels: int) -> list[bytearray]:
    """Undoes the filters (PNG specification, 9.2)."""
    rows: list[bytearray] = []
    above = bytearray(stride)
    for start in range(0, len(raw), stride + 1):
        row = bytearray(raw[start + 1 : start + 1 + stride])
        kind = raw[start]
        if kind == 2:
            row = bytearray((a + b) & 255 for a, b in zip(row, above, strict=True))
        elif kind:
            for x in range(stride):
                left = row[x - channels] if x >= channels else 0
                corner = above[x - channels] if x >= channels else 0
                row[x] = (row[x] + _predict(kind, left, above[x], corner)) & 255
        rows.append(row)
        above = row
    return rows


def _predict(kind: int, left: int, up: int, corner: int) -> int:
    if kind == 1:
        return left
    if kind == 3:
        return (left + up) // 2
    guess = left + up - corner
    by_left, by_up, by_corner = abs(guess - left), abs(guess - up), abs(guess - corner)
    if by_left <= by_up and by_left <= by_corner:
        return left
    return up if by_up <= by_corner else corner
