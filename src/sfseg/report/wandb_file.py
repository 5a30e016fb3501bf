"""W&B's own file of a run, ``run-<id>.wandb``, which an offline run leaves for ``wandb sync``.

The file is a log of LevelDB's kind: a head of 7 bytes, then blocks of 32 KiB, in them pieces, each
a checksum, a length and a place within its record. A record is a message of W&B's protocol.
"""

import json
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from sfseg.errors import DataError
from sfseg.report.pages.csv_files import Columns

HEAD = b":W&B\xe1\xbe\x00"
"""Name, magic number and version of the format."""
BLOCK = 1 << 15
PIECE = struct.Struct("<IHB")
"""Before each piece: CRC-32 of what follows its length, length in bytes, and its place."""
DAMAGED, WHOLE, FIRST, MIDDLE, LAST = range(5)
PLACES = (WHOLE, FIRST, MIDDLE, LAST)
STEP = "trainer/global_step"
"""Name of the training step among the metrics."""
LARGEST = 1 << 26
"""Bytes of a record; W&B sends none that is nearly as large."""


@dataclass
class WandbFile:
    """What a run has sent.

    run_id, name: of the run.
    metrics: numbers by training step.
    system: measurements of the machine by seconds since the first.
    pictures: names of what was logged as pictures.
    damaged: pieces and records that were left out.
    has_ended: whether the run said so; else it runs, or was killed.
    """

    run_id: str = ""
    name: str = ""
    metrics: Columns = field(default_factory=Columns)
    system: Columns = field(default_factory=Columns)
    pictures: set[str] = field(default_factory=set)
    damaged: int = 0
    has_ended: bool = False
    began: float = math.nan


def read_wandb_file(path: Path) -> WandbFile:
    """Read the file of one start of a run, as far as it goes.

    Raises:
        DataError: it is no such file, or of another version of the format.
        OSError: it cannot be read.
    """
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2
    found = WandbFile()
    for content in records(path, found):
        try:
            _take(found, messages.Record.FromString(content))
        except (DecodeError, ValueError, RecursionError):
            found.damaged += 1
    return found


def records(path: Path, found: WandbFile) -> Iterator[bytes]:
    """Whole records; a damaged piece and what belongs to it is counted and left out.

    Raises:
        DataError: the file does not begin as W&B's do.
    """
    with path.open("rb") as file:
        head = file.read(len(HEAD))
        if head != HEAD:
            raise DataError(
                f"{path} is no file of a run that this version can read: it begins with {head!r} "
                f"instead of {HEAD!r}"
            )
        record, is_within, room = b"", False, BLOCK - len(HEAD)
        while block := file.read(room):
            for place, piece in _pieces(block, is_cut=len(block) < room):
                begins, ends = place in (WHOLE, FIRST), place in (WHOLE, LAST)
                if place == DAMAGED or begins == is_within or len(record) > LARGEST:
                    # Of a record that is not whole, the other pieces are worth nothing.
                    found.damaged += 1
                    record, is_within = b"", False
                if begins or is_within:
                    record, is_within = record + piece, not ends
                    if ends:
                        yield record
                        record = b""
            room = BLOCK


def _pieces(block: bytes, *, is_cut: bool) -> Iterator[tuple[int, bytes]]:
    """Places and contents within a block; behind damage, nothing in it can be found.

    A piece that the end of the file cuts off is no damage: a process was killed, or is writing.
    """
    at = 0
    while at + PIECE.size <= len(block):
        checksum, length, place = PIECE.unpack_from(block, at)
        piece = block[at + PIECE.size : at + PIECE.size + length]
        if len(piece) < length and is_cut:
            return
        # A length that is wrong makes the checksum wrong too.
        if zlib.crc32(piece, zlib.crc32(bytes([place]))) != checksum or place not in PLACES:
            yield DAMAGED, b""
            return
        yield place, piece
        at += PIECE.size + length


def _take(found: WandbFile, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        found.run_id, found.name = record.run.run_id, record.run.display_name
    elif kind == "history":
        _take_history(found, record.history)
    elif kind == "stats":
        _take_measurements(found, record.stats)
    elif kind == "exit":
        found.has_ended = True


def _take_history(found: WandbFile, history: Any) -> None:
    values: dict[str, object] = {}
    for item in history.item:
        name, *parts = [item.key] if item.key else item.nested_key
        value = json.loads(item.value_json)
        if parts == ["_type"] and str(value).startswith("image"):
            found.pictures.add(name)
        if not parts:
            values[name] = value
    step = _number(values.pop(STEP, values.get("_step")))
    if step is None or not math.isfinite(step):
        return
    for name, value in values.items():
        number = _number(value)
        if number is not None and not name.startswith("_"):
            found.metrics.add(name, step, number)


def _take_measurements(found: WandbFile, stats: Any) -> None:
    now = stats.timestamp.seconds + stats.timestamp.nanos / 1e9
    if math.isnan(found.began):
        found.began = now
    for item in stats.item:
        number = _number(json.loads(item.value_json))
        if number is not None:
            found.system.add(item.key, now - found.began, number)


def _number(value: object) -> float | None:
    """A value of JSON as a number, if it is one; W&B writes NaN and infinities as words."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float) or value in ("NaN", "Infinity", "-Infinity"):
        return float(value)
    return None
