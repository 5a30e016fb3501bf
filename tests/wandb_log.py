"""Files as W&B writes them, made by the description of the format."""

import struct
import zlib

from sfseg.report.wandb_file import BLOCK, HEAD


def pieces(contents):
    """Records as LevelDB's log has them, behind W&B's head."""
    out = bytearray(HEAD)
    for content in contents:
        rest, is_first = content, True
        while is_first or rest:
            room = BLOCK - len(out) % BLOCK
            if room < 7:
                out += bytes(room)
                room = BLOCK
            part, rest = rest[: room - 7], rest[room - 7 :]
            place = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[
                is_first, not rest
            ]
            checksum = zlib.crc32(bytes([place]) + part)
            out += struct.pack("<IHB", checksum, len(part), place) + part
            is_first = False
    return bytes(out)
