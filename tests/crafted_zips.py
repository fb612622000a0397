"""Zip files with any headers, as no packer writes them."""

import struct
import zlib
from dataclasses import dataclass


@dataclass(kw_only=True)
class Member:
    """A member of a crafted zip.

    data: as it lies in the file. method: 0 stored, 8 deflated. flags: 1 says that it is encrypted. size, crc:
    of what it unpacks to, as the headers say; None for those of `data`.
    """

    data: bytes = b''
    method: int = 0
    flags: int = 0
    size: int | None = None
    crc: int | None = None


def craft(members: list[tuple[str, Member]]) -> bytes:
    """A zip with these members and names, which may occur twice."""
    body, directory = b'', b''
    for name, member in members:
        size = len(member.data) if member.size is None else member.size
        crc = zlib.crc32(member.data) if member.crc is None else member.crc
        common = struct.pack('<HHHHHIIIHH', 20, member.flags, member.method, 0, 33, crc, len(member.data),
                             size, len(name.encode()), 0)
        directory += b'PK\1\2' + struct.pack('<H', 20) + common + struct.pack(
            '<HHHII', 0, 0, 0, 0, len(body)) + name.encode()
        body += b'PK\3\4' + common + name.encode() + member.data
    end = struct.pack('<HHHHIIH', 0, 0, len(members), len(members), len(directory), len(body), 0)
    return body + directory + b'PK\5\6' + end


def bomb(size: int, claimed: int | None = None) -> Member:
    """A member that unpacks to `size` zeros (a multiple of 1 MiB), a thousandth of that in the file."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    mib = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    data = mib * (size >> 20) + packer.flush()
    return Member(data=data, method=8, size=min(size, 0xfffffffe) if claimed is None else claimed, crc=0)
