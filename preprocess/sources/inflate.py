"""Members of zip archives as streams: inflated by Intel's ISA-L, which takes a third of zlib's time."""

import struct
import zipfile
from typing import IO

from isal import isal_zlib

LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and of the extra field
InflateError: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # isal's types call it an instance
PIECE = 1 << 14  # compressed bytes at a time: what is left over is copied at every step


def open_member(file: IO[bytes], archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> "IO[bytes] | Inflated":
    """A member's data, to be closed; ``file``: the archive once more, whose place the stream moves.

    zipfile.BadZipFile, from here or from ``read``, if the data are damaged.
    """
    if info.compress_type != zipfile.ZIP_DEFLATED or info.flag_bits & 1:
        return archive.open(info)  # another compression, or encrypted: zipfile reads it, or says why not
    file.seek(info.header_offset)
    head = file.read(LOCAL_HEADER.size)
    if len(head) < LOCAL_HEADER.size or not head.startswith(b"PK\3\4"):
        raise zipfile.BadZipFile(f"no local header of {info.filename}")
    _, name, extra = LOCAL_HEADER.unpack(head)
    file.seek(name + extra, 1)
    return Inflated(file, info)


class Inflated:
    """The data of a deflated member; what they were is checked when all of them have been read."""

    def __init__(self, file: IO[bytes], info: zipfile.ZipInfo) -> None:
        self._file, self._info = file, info
        self._stream = isal_zlib.decompressobj(-isal_zlib.MAX_WBITS)
        self._left = info.compress_size  # compressed bytes that have not been taken from the file
        self._ahead = b""  # compressed bytes that have
        self._size, self._crc = 0, 0

    def close(self) -> None:
        """Nothing to do: the file is the caller's."""

    def read(self, size: int, /) -> bytes:
        """Up to so many bytes; none at the end, whose size and checksum must be right."""
        while not self._stream.eof:
            if not self._ahead and self._left:
                self._ahead = self._file.read(min(PIECE, self._left))
                self._left = self._left - len(self._ahead) if self._ahead else 0
            before = len(self._ahead)
            if before:
                data = self._stream.decompress(self._ahead, size)
                self._ahead = self._stream.unconsumed_tail
            else:
                data = self._stream.flush()
            if data:
                self._size += len(data)
                if self._size > self._info.file_size:
                    raise zipfile.BadZipFile(f"more than {self._info.file_size} bytes")
                self._crc = isal_zlib.crc32(data, self._crc)
                return bytes(data)
            if not before or len(self._ahead) == before:  # the data are over, or lead nowhere
                break
        if self._size != self._info.file_size or self._crc != self._info.CRC:
            raise zipfile.BadZipFile(f"bad CRC-32 or {self._size} bytes, not {self._info.file_size}")
        return b""
