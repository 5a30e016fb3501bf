"""Runs hostile cases one after the other, and says of each how it ended, a line of JSON each.

``python worker.py <group> <first>`` in an empty folder; a process that takes over from one that was
lost begins with another case than the first.
"""

import importlib
import json
import logging
import os
import shutil
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from payload import MARKER

from sfseg.errors import SfsegError

GROUPS = {"all": ["media", "lists", "stores", "weights", "targets"]}
Case = tuple[str, Callable[[], str]]
"""A name, and what is tried: it returns "skipped" or "harmless", or raises."""


def cases(group: str) -> Iterator[Case]:
    """Those of a group, or of ``<module>:<argument>``."""
    module, _, argument = group.partition(":")
    for name in GROUPS.get(group, [module]):
        for case, attempt in importlib.import_module(name).cases(*filter(None, [argument])):
            yield f"{name}: {case}", attempt


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("a connection was tried")


def outcome(attempt: Callable[[], str]) -> tuple[str, str]:
    """How a case ended, and in which words."""
    try:
        ended, words = attempt(), ""
    except SfsegError as error:
        ended, words = "clear error", str(error)
    except BaseException:
        ended, words = "lost", traceback.format_exc()
    if MARKER.exists():
        MARKER.unlink()
        ended = "executed"
    return ended, words


def main() -> None:
    group, first = sys.argv[1], int(sys.argv[2])
    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, refuse)
    socket.getaddrinfo = refuse  # type: ignore[assignment]
    logging.disable()
    warnings.simplefilter("ignore")
    place = Path("place").absolute()
    # All before the first: what they share lies beside the place that each begins with empty.
    for number, (name, attempt) in enumerate(list(cases(group))):
        if number < first:
            continue
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        os.chdir(place)
        sys.stdout.write(json.dumps({"number": number, "name": name}) + "\n")
        sys.stdout.flush()
        start = time.monotonic()
        ended, words = outcome(attempt)
        record = {"name": name, "outcome": ended, "words": words[-4000:]}
        record["seconds"] = round(time.monotonic() - start, 3)
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
