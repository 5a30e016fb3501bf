"""What each row held before it was changed, so that changes can be taken back.

One file a generation: it begins with the digest of all rows at that generation and goes on with
what changes since have overwritten, compressed. Taking all of it back, the last change first,
leads to that generation from wherever a killed process stopped: a record is complete before its
row is touched, says what pixels were and not how they changed, and an incomplete one at the end
is of a row that was not touched.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfseg.errors import DataError
from sfseg.pseudo.files import write_at, write_whole

MAGIC = b"sfsegPL1"
HEADER = struct.Struct("<8sQ32sI")
"""Magic, generation, digest, CRC-32 of these."""
HEAD = struct.Struct("<QIIIIIIII")
"""Index, top, left, height, width, planes, CRC-32 of the row, length, CRC-32 of all of it."""


@dataclass(frozen=True)
class Commit:
    """A state of all rows that can be returned to; goes into a checkpoint as plain values.

    Args:
        generation: counted from 0, the labels that training starts from.
        digest: of all rows, in hexadecimal.
    """

    generation: int
    digest: str


@dataclass(frozen=True)
class Undo:
    """What a part of a row held.

    Args:
        index: the row.
        top: of the part, in pixels.
        left: of the part, in pixels.
        crc: CRC-32 of the whole row.
        planes: for labels, and perhaps confidences, which pixels change (height, width) and
            the values (changes) that they had.
    """

    index: int
    top: int
    left: int
    crc: int
    planes: tuple[tuple[NDArray[np.bool_], NDArray[np.uint8]], ...]

    def to_bytes(self) -> bytes:
        plain = b"".join(
            np.packbits(mask).tobytes() + values.tobytes() for mask, values in self.planes
        )
        payload = zlib.compress(plain, 1)
        place = (self.index, self.top, self.left, *self.planes[0][0].shape, len(self.planes))
        crc = zlib.crc32(payload, zlib.crc32(repr((*place, self.crc)).encode()))
        return HEAD.pack(*place, self.crc, len(payload), crc) + payload

    @classmethod
    def from_bytes(cls, head: bytes, payload: bytes) -> "Undo | None":
        """None for what is damaged or incomplete."""
        index, top, left, height, width, planes, row_crc, length, crc = HEAD.unpack(head)
        place = (index, top, left, height, width, planes, row_crc)
        if len(payload) != length or crc != zlib.crc32(payload, zlib.crc32(repr(place).encode())):
            return None
        plain = np.frombuffer(zlib.decompress(payload), np.uint8)
        found, start, area = [], 0, height * width
        for _ in range(planes):
            bits = plain[start : start + (area + 7) // 8]
            mask = np.unpackbits(bits, count=area).reshape(height, width).astype(np.bool_)
            start += len(bits)
            values = plain[start : start + int(mask.sum())]
            start += len(values)
            found.append((mask, values))
        return cls(index, top, left, row_crc, tuple(found))


class UndoLog:
    """The changes since one generation.

    Args:
        path: a file written by :meth:`create`.

    Raises:
        DataError: it is none, or its beginning is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR)
        try:
            self.commit = _read_header(os.pread(self._descriptor, HEADER.size, 0), path)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._starts: list[int] = []
        self._end = HEADER.size
        while (undo := self._read(self._end)) is not None:
            self._starts.append(self._end)
            self._end += undo[1]

    @classmethod
    def create(cls, path: Path, commit: Commit) -> "UndoLog":
        """The file that makes a generation one: it appears with the digest, or not at all."""
        fields = (MAGIC, commit.generation, bytes.fromhex(commit.digest))
        write_whole(path, HEADER.pack(*fields, zlib.crc32(repr(fields).encode())))
        return cls(path)

    @property
    def is_empty(self) -> bool:
        return not self._starts

    def append(self, undos: Sequence[Undo], *, sync: bool) -> None:
        """Record what is about to be overwritten.

        Args:
            undos: of one or more rows.
            sync: wait until it is on the disk, and would survive a crash of the machine too.

        Raises:
            OSError: the disk is full; then nothing is recorded.
        """
        written = [undo.to_bytes() for undo in undos]
        try:
            write_at(self._descriptor, b"".join(written), self._end)
            if sync:
                os.fdatasync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self._end)
            raise
        for record in written:
            self._starts.append(self._end)
            self._end += len(record)

    def backwards(self) -> Iterator[Undo]:
        """All records, the last first."""
        for start in reversed(self._starts):
            read = self._read(start)
            assert read is not None, "read before"
            yield read[0]

    def clear(self) -> None:
        """Forget the changes, which have been taken back; no room is needed for it."""
        os.ftruncate(self._descriptor, HEADER.size)
        os.fsync(self._descriptor)
        self._starts, self._end = [], HEADER.size

    def close(self) -> None:
        os.close(self._descriptor)

    def _read(self, start: int) -> tuple[Undo, int] | None:
        head = os.pread(self._descriptor, HEAD.size, start)
        rest = os.fstat(self._descriptor).st_size - start - HEAD.size
        if rest < 0 or (length := HEAD.unpack(head)[7]) > rest:
            return None
        payload = os.pread(self._descriptor, length, start + HEAD.size)
        undo = Undo.from_bytes(head, payload)
        return None if undo is None else (undo, HEAD.size + len(payload))


def _read_header(content: bytes, path: Path) -> Commit:
    if len(content) == HEADER.size:
        *fields, crc = HEADER.unpack(content)
        magic, generation, digest = fields
        if magic == MAGIC and crc == zlib.crc32(repr(tuple(fields)).encode()):
            return Commit(generation, digest.hex())
    raise DataError(
        f"{path} is damaged: it does not begin as the journal of pseudo-labels does; delete the "
        "folder to make them again",
        kind="damaged pseudo-labels",
        path=path,
    )
