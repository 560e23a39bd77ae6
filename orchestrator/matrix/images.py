"""Media type and size of a picture from its first bytes: PNG, JPEG, WebP. PURE

Sources: PNG (ISO/IEC 15948, IHDR), JPEG (ITU-T T.81, SOF markers), WebP (RFC 9649: VP8, VP8L, VP8X).
"""

from __future__ import annotations

from orchestrator.matrix.problems import BadValue

ALLOWED = "a PNG, JPEG or WebP picture"
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length


def picture(data: bytes) -> tuple[str, int, int]:
    """``("image/png", width, height)`` in pixels. Raises BadValue where ``data`` is no picture that is known."""
    try:
        found = _png(data) or _jpeg(data) or _webp(data)
    except IndexError:
        raise BadValue(f"the picture ends in the middle of its header. Allowed: {ALLOWED}") from None
    if found is None or not (found[1] and found[2]):
        raise BadValue(f"the file is not a picture that can be read. Allowed: {ALLOWED}")
    return found


def _number(data: bytes, at: int, count: int, order: str) -> int:
    part = data[at : at + count]
    if len(part) < count:
        raise IndexError
    return int.from_bytes(part, "big" if order == "big" else "little")


def _png(data: bytes) -> tuple[str, int, int] | None:
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or data[12:16] != b"IHDR":
        return None
    return "image/png", _number(data, 16, 4, "big"), _number(data, 20, 4, "big")


def _jpeg(data: bytes) -> tuple[str, int, int] | None:
    if not data.startswith(b"\xff\xd8"):
        return None
    at = 2
    while True:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _JPEG_SIZES:
            return "image/jpeg", _number(data, at + 7, 2, "big"), _number(data, at + 5, 2, "big")
        else:
            at += 2 if marker in _JPEG_ALONE else 2 + _number(data, at + 2, 2, "big")


def _webp(data: bytes) -> tuple[str, int, int] | None:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = _number(data, 26, 2, "little"), _number(data, 28, 2, "little")
        return "image/webp", width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = _number(data, 21, 4, "little")
        return "image/webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return "image/webp", _number(data, 24, 3, "little") + 1, _number(data, 27, 3, "little") + 1
    return None
