"""One process writes at a time, and one that was killed is not waited for."""

import errno
import fcntl
import json
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

from sfseg.errors import ConfigError

_held: dict[tuple[str, int], "WriterLock"] = {}
"""By file and process, since a fork has this list, but not the locks."""


class WriterLock:
    """Holds a file that says which process writes to its folder.

    The lock itself is the system's, which ends with the process whatever ends it, and which forks
    do not share. What the file says decides where the system cannot: on file systems without
    locks, and about other machines, whose locks may not be seen from here.

    Args:
        path: the file; it stays when the lock is released, empty.

    Raises:
        ConfigError: another process writes, or may; says which, and what to do.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._key = (str(path.resolve()), os.getpid())
        self._released = False
        # At once: the system gives a lock to all threads of a process.
        if _held.setdefault(self._key, self) is not self:
            raise ConfigError(f"{path.parent} is open for writing in this process already")
        try:
            self._take()
        except BaseException:
            del _held[self._key]
            raise

    def _take(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            free = _lock(self._descriptor)
            holder = _holder(os.pread(self._descriptor, 4096, 0))
            if free is False or (holder and _may_live(holder, sees_locks=free is True)):
                raise ConfigError(self._refusal(holder))
            self._say(json.dumps(_self()).encode())
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Let other processes write; without effect in a fork and when released before."""
        if self._released or self._key[1] != os.getpid():
            return
        self._released = True
        self._say(b"")
        os.close(self._descriptor)
        del _held[self._key]

    def _say(self, content: bytes) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, content, 0)

    def _refusal(self, holder: dict[str, Any]) -> str:
        process = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
        return (
            f"{self.path.parent} is being written by {process}; wait for it, or take another "
            f"folder. If that process is gone, delete {self.path}"
        )


def is_held(path: Path) -> bool:
    """Whether a process, this one too, holds the lock of a file, or may; nothing is changed."""
    # Closing the file would end a lock that this process has on it.
    if (str(path.resolve()), os.getpid()) in _held:
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        holder = _holder(os.pread(descriptor, 4096, 0))
        free = _lock(descriptor, fcntl.LOCK_SH)
        return free is False or bool(holder and _may_live(holder, sees_locks=free is True))
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool | None:
    """Whether the file is ours now; None where the file system has no locks."""
    try:
        fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EAGAIN) else None
    return True


def _self() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": platform.node(), "boot": _boot()}


def _boot() -> str:
    """What tells one run of a machine's kernel from others; containers share it."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _holder(content: bytes) -> dict[str, Any]:
    """Who wrote the file; empty when it was released, or its writer died writing it."""
    with suppress(ValueError):
        read = json.loads(content)
        if isinstance(read, dict):
            return read
    return {}


def _may_live(holder: dict[str, Any], *, sees_locks: bool) -> bool:
    """Whether a process that has not released its lock may be running."""
    own = _self()
    if holder.get("boot") == own["boot"] != "":
        return not sees_locks and _runs(int(holder.get("pid", 0)))
    if holder.get("host") == own["host"]:  # it has been restarted since
        return own["boot"] == "" and not sees_locks and _runs(int(holder.get("pid", 0)))
    return True


def _runs(pid: int) -> bool:
    if pid in (0, os.getpid()):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
