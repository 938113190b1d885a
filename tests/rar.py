"""Rar archives made by hand: entries that are stored, or that claim to be packed."""

import struct
import zlib

_STORED, _PACKED = 0x30, 0x33
FILE, LINK = 0o100644, 0o120777


def _block(kind: int, flags: int, body: bytes) -> bytes:
    rest = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
    return struct.pack("<H", zlib.crc32(rest) & 0xFFFF) + rest


def rar(files: dict[str, bytes], mode: int = FILE, packed: bool = False) -> bytes:
    """The bytes of an archive (version 3 of the format) with these files; `packed` ones hold nonsense."""
    blocks = [b"Rar!\x1a\x07\x00", _block(0x73, 0, bytes(6))]
    for path, content in files.items():
        name = path.replace("/", "\\").encode()
        facts = struct.pack(
            *("<IIBIIBBHI", len(content), len(content), 3, zlib.crc32(content), 0x5A210000, 29),
            *(_PACKED if packed else _STORED, len(name), mode),
        )
        blocks.append(_block(0x74, 0x8000, facts + name) + content)
    return b"".join([*blocks, _block(0x7B, 0x4000, b"")])
