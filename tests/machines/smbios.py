"""Encodes SMBIOS tables as firmware writes them (DSP0134), for tests that need one."""

from __future__ import annotations

import struct
from collections.abc import Iterable

END = struct.pack("<BBH", 127, 4, 0x7F00) + b"\0\0"


def encode_structure(kind: int, handle: int, body: bytes, strings: Iterable[str] = ()) -> bytes:
    """Encodes one structure; `body` is its formatted part after the header."""
    texts = b"".join(text.encode("latin-1") + b"\0" for text in strings)
    return struct.pack("<BBH", kind, len(body) + 4, handle) + body + (texts or b"\0") + b"\0"


def encode_memory_device(
    handle: int,
    locator: str,
    bank: str = "",
    *,
    megabytes: int = 16384,
    serial: str = "",
    part: str = "",
    maker: str = "",
    speed: int = 2400,
    array: int = 0x1000,
    kind: int = 0x1A,
    length: int = 0x5C,
) -> bytes:
    """Encodes a type 17 of version 3.3, or a shorter one; an empty text is left out."""
    texts = [text for text in (locator, bank, maker, serial, part) if text]
    string_numbers = {text: number for number, text in enumerate(texts, 1)}
    extended = megabytes if megabytes >= 0x7FFF else 0
    body = struct.pack(
        "<HHHHHBBBBBHHBBBBBIHHHH",
        *(array, 0, 72, 64, 0x7FFF if extended else megabytes, 9, 0),
        *(string_numbers.get(locator, 0), string_numbers.get(bank, 0), kind, 0, 2400),
        *(string_numbers.get(maker, 0), string_numbers.get(serial, 0), 0, string_numbers.get(part, 0), 2),
        *(extended, speed, 1100, 1100, 1100),
    )
    body += bytes(0x5C - 4 - len(body))
    return encode_structure(17, handle, body[: length - 4], texts)


def encode_array_address(handle: int, array: int, start: int, end: int) -> bytes:
    """Encodes a type 19: the physical addresses of an array in bytes, the end excluded."""
    return encode_structure(19, handle, struct.pack("<IIHBQQ", start >> 10, (end >> 10) - 1, array, 1, 0, 0))


def encode_device_address(handle: int, device: int, start: int, end: int) -> bytes:
    """Encodes a type 20 with extended addresses."""
    body = struct.pack("<IIHHBBBQQ", 0xFFFFFFFF, 0xFFFFFFFF, device, 0x1300, 0, 0, 0, start, end - 1)
    return encode_structure(20, handle, body)
