"""The pseudo-labels of a data set, written by one process and bound to its checkpoints.

At most two bytes a pixel: uint8 labels and, if wanted, uint8 confidences, in files whose room is
reserved when they are made. :meth:`PseudoLabelStore.commit` marks a state to return to, at the
cost of what changed since the last one; :meth:`PseudoLabelStore.restore` returns to it. Changes
that no commit followed are taken back when the store is opened next: a process may be killed at
any moment.
"""

import hashlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sfseg.errors import ConfigError, DataError
from sfseg.pseudo.files import disk_errors, write_at
from sfseg.pseudo.identity import Identity
from sfseg.pseudo.journal import Commit, Undo, UndoLog
from sfseg.pseudo.making import LOCK, UNDO, make_folder
from sfseg.pseudo.patch import Change, Patch, change
from sfseg.pseudo.reader import PLANES, ROW, ROWS, PseudoLabels
from sfseg.storage.atomic import sync
from sfseg.storage.lock import WriterLock


class PseudoLabelStore(PseudoLabels):
    """The one writer of a store; pickled, it is a reader.

    Args:
        folder: of a store made by :meth:`create`.
        identity: what it must have been made for.
        keep: how many of the last commits can be returned to: a checkpoint being written, the
            last one, and the one before, should the last be damaged.
        durable: wait until what a write replaces is on the disk, some milliseconds each time.
            Without it the store survives killed processes, but not a crash of the machine.

    Raises:
        ConfigError: no store, one for something else, or another process writes it.
        DataError: it is damaged, or cannot be written.
    """

    def __init__(
        self, folder: Path, identity: Identity, *, keep: int = 3, durable: bool = True
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        super().__init__(folder, identity)
        self.keep, self.durable = keep, durable
        self._pid = os.getpid()
        self._files: list[int] = []
        self._log: UndoLog | None = None
        with disk_errors(self.folder, "the pseudo-labels cannot be opened"):
            self._lock = WriterLock(self.folder / LOCK)
            try:
                for name in (ROWS, *PLANES[: 1 + self.has_confidence]):
                    self._files.append(os.open(self.folder / name, os.O_RDWR))
                self._recover()
            except BaseException:
                self.close()
                raise

    @classmethod
    def create(
        cls, folder: Path, identity: Identity, *, with_confidence: bool = False, **options: Any
    ) -> Self:
        """A new store whose images have no labels yet: write each, then commit.

        Args:
            folder: new, empty, or with what an interrupted creation left.
            identity: what the labels are for.
            with_confidence: also keep a confidence for each pixel.
            **options: of the class.

        Raises:
            ConfigError: the folder holds something already, which stays as it is.
            DataError: the disk has not enough room.
        """
        make_folder(Path(folder), identity, with_confidence=with_confidence)
        return cls(folder, identity, **options)

    @property
    def last(self) -> Commit | None:
        """The commit that changes follow; None while the store is being filled."""
        return None if self._log is None else self._log.commit

    def missing(self) -> NDArray[np.int64]:
        """Positions of images that have no labels yet."""
        return np.flatnonzero(self._rows["version"] == 0)

    def write(self, *patches: Patch) -> None:
        """Change labels; an image's first patch is all of it.

        Args:
            *patches: written in this order; together they wait for the disk once.

        Raises:
            ValueError: a patch that does not fit its image, or ids that are no class.
            DataError: the disk is full. No image is half written by it.
        """
        self._require_writer()
        changes: list[Change] = []
        for patch in patches:
            self._check_index(patch.index)
            is_new = self._version(patch.index) == 0
            is_first = is_new and patch.index not in {new.index for new in changes}
            changes.append(change(patch, self, is_first=is_first))
        group: dict[int, Change] = {}
        for new in changes:
            # The journal says what an image held, so its second change waits for its first.
            if new.index in group:
                self._write(list(group.values()))
                group = {}
            group[new.index] = new
        self._write(list(group.values()))

    def commit(self) -> Commit:
        """Mark this state as one to return to; the last commit again if nothing changed.

        Call it before the checkpoint is written, and put the result into that.

        Raises:
            DataError: images without labels, or a full disk; the last commit stays the last.
        """
        self._require_writer()
        if self._log is not None and self._log.is_empty:
            return self._log.commit
        self._require_complete()
        generation = 0 if self._log is None else self._log.commit.generation + 1
        with disk_errors(self.folder, "the pseudo-labels cannot be committed"):
            self._sync()
            commit = Commit(generation, self._digest())
            log = UndoLog.create(self._log_path(generation), commit)
            if self._log is not None:
                self._log.close()
            self._log = log
            for older in self._kept():
                if older <= generation - self.keep:
                    self._log_path(older).unlink()
        return commit

    def restore(self, commit: Commit) -> None:
        """Return to the state of a checkpoint; what was committed after it is forgotten.

        Raises:
            ConfigError: the store never had that state, or cannot return to it any more; then
                it stays as it is.
            DataError: it is damaged.
        """
        self._require_writer()
        self._require_kept(commit)
        assert self._log is not None, "has commits"
        with disk_errors(self.folder, "the pseudo-labels cannot be taken back"):
            self._take_back(self._log)
            while (generation := self._log.commit.generation) > commit.generation:
                self._log.close()
                self._log.path.unlink()
                # Before the rows leave that generation, it must have ceased to be the last one.
                sync(self.folder / UNDO)
                self._log = UndoLog(self._log_path(generation - 1))
                self._take_back(self._log)

    def verify(self) -> None:
        """Read all images and compare them with their checksums.

        Raises:
            DataError: some are not as this class has written them.
        """
        self._require_checksums(np.flatnonzero(self._rows["version"]).tolist())

    def close(self) -> None:
        """Let another process write; what was not committed will be taken back then."""
        if self._pid != os.getpid():  # in a fork: not its lock, and its parent's files
            return
        if self._log is not None:
            self._log.close()
        for descriptor in self._files:
            os.close(descriptor)
        self._files, self._log = [], None
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[PseudoLabels], tuple[Path]]:
        return PseudoLabels, (self.folder,)

    def _write(self, changes: Sequence[Change]) -> None:
        """Changes of different images: what they replace goes to the journal first."""
        undos, needed = [], []
        for new in changes:
            planes = []
            for plane, part in zip(self._planes_of(new.index), new.parts, strict=False):
                old = plane[_where(new.top, new.left, part)]
                planes.append((different := old != part, old[different]))
            if self._version(new.index) == 0 or any(mask.any() for mask, _ in planes):
                crc = int(self._rows["crc"][new.index])
                undos.append(Undo(new.index, new.top, new.left, crc, tuple(planes)))
                needed.append(new)
        with disk_errors(self.folder, "pseudo-labels cannot be written"):
            if self._log is not None and undos:
                self._log.append(undos, sync=self.durable)
            for new in needed:
                self._put(new)

    def _put(self, new: Change, crc: int | None = None) -> None:
        """Write parts of an image's planes; its version is odd meanwhile."""
        version = int(self._version(new.index))
        version += version % 2 == 0
        self._put_row(new.index, int(self._rows["crc"][new.index]), version)
        for k, part in enumerate(new.parts):
            # Whole lines, which lie together in the file.
            lines = self._plane(k, new.index)[new.top : new.top + part.shape[0]].copy()
            lines[_where(0, new.left, part)] = part
            offset = self._start(new.index) + new.top * lines.shape[1]
            write_at(self._files[1 + k], lines.data, offset)
        self._put_row(new.index, self._crc(new.index) if crc is None else crc, version + 1)

    def _put_row(self, index: int, crc: int, version: int) -> None:
        row = np.array((crc, version), ROW)
        write_at(self._files[0], row.tobytes(), index * ROW.itemsize)

    def _recover(self) -> None:
        """Take back what a process left that did not come to its next commit."""
        if kept := self._kept():
            self._log = UndoLog(self._log_path(max(kept)))
            self._take_back(self._log)
            return
        # Still being filled: an image is complete or has none.
        for index in np.flatnonzero(self._rows["version"]).tolist():
            if self._version(index) % 2 or self._crc(index) != self._rows["crc"][index]:
                self._put_row(index, 0, 0)

    def _take_back(self, log: UndoLog) -> None:
        """Return to the beginning of a journal; may be repeated from wherever it stopped."""
        touched = set()
        for undo in log.backwards():
            parts = []
            for plane, (mask, values) in zip(
                self._planes_of(undo.index), undo.planes, strict=False
            ):
                part = plane[_where(undo.top, undo.left, mask)].copy()
                part[mask] = values
                parts.append(part)
            self._put(Change(undo.index, undo.top, undo.left, parts), undo.crc)
            touched.add(undo.index)
        self._require_checksums(sorted(touched))
        if self._digest() != log.commit.digest or (self._rows["version"] % 2).any():
            raise self._damaged(f"generation {log.commit.generation} does not come back")
        self._sync()
        log.clear()

    def _kept(self) -> list[int]:
        """Generations that have a journal, in ascending order."""
        return sorted(int(path.stem) for path in (self.folder / UNDO).glob("[0-9]*.log"))

    def _log_path(self, generation: int) -> Path:
        return self.folder / UNDO / f"{generation:09d}.log"

    def _crc(self, index: int) -> int:
        crc = 0
        for plane in self._planes_of(index):
            crc = zlib.crc32(plane.data, crc)
        return crc

    def _digest(self) -> str:
        return hashlib.sha256(self._rows["crc"].tobytes()).hexdigest()

    def _sync(self) -> None:
        for descriptor in self._files:
            os.fdatasync(descriptor)

    def _require_writer(self) -> None:
        if self._pid != os.getpid() or not self._files:
            raise ValueError(
                f"the pseudo-labels in {self.folder} are closed, or a fork's: read only"
            )

    def _require_complete(self) -> None:
        if (count := len(missing := self.missing())) > 0:
            raise DataError(
                f"{count} of {len(self)} images have no pseudo-labels in {self.folder} yet, number "
                f"{missing[0]} first; write them before the commit"
            )
        if (self._rows["version"] % 2).any():
            raise DataError(
                f"an image of the pseudo-labels in {self.folder} was half written when a write "
                "failed; open the store again, which takes that back"
            )

    def _require_kept(self, commit: Commit) -> None:
        kept = self._kept()
        # One that a crash of the machine has brought back has lost its successors.
        kept = [g for k, g in enumerate(kept) if kept[-1] - g == len(kept) - 1 - k]
        place = f"the pseudo-labels in {self.folder}"
        if commit.generation not in kept:
            raise ConfigError(
                f"{place} can be returned to generations {kept}, the checkpoint has "
                f"{commit.generation}; continue from another checkpoint of this run, or start anew"
            )
        log = UndoLog(self._log_path(commit.generation))
        log.close()
        if log.commit != commit:
            raise ConfigError(
                f"{place} are of another run than the checkpoint: their generation "
                f"{commit.generation} is {log.commit.digest[:12]}, the checkpoint's "
                f"{commit.digest[:12]}; give the folder that belongs to the checkpoint"
            )

    def _require_checksums(self, indices: Sequence[int]) -> None:
        wrong = [index for index in indices if self._crc(index) != self._rows["crc"][index]]
        if wrong:
            raise self._damaged(f"{len(wrong)} images are not as written, number {wrong[0]} first")

    def _damaged(self, what: str) -> DataError:
        return DataError(
            f"the pseudo-labels in {self.folder} are damaged: {what}; delete the folder to make "
            "them again",
            kind="damaged pseudo-labels",
            path=self.folder,
        )


def _where(top: int, left: int, part: NDArray[Any]) -> tuple[slice, slice]:
    return slice(top, top + part.shape[0]), slice(left, left + part.shape[1])
