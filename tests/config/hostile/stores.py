"""Stores of pseudo-labels of which one file is torn or changed."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from payload import flipped, truncated

sys.path.append(str(Path(__file__).parents[2] / "pseudo"))
from pseudo_case import SIZES, filled, identity, part

from sfseg.pseudo.journal import Commit
from sfseg.pseudo.store import PseudoLabelStore

KIND = SIZES["different"]


def made(folder: Path) -> tuple[Commit, list[np.ndarray]]:
    """A store after two commits; the second, and what it holds."""
    with filled(folder, KIND) as store:
        for seed in range(3):
            store.write(part(seed, KIND))
        return store.commit(), contents(store)


def contents(store: PseudoLabelStore) -> list[np.ndarray]:
    return [plane for k in range(len(store)) for plane in store.read(k) if plane is not None]


def used(
    source: Path, name: str, data: bytes | None, commit: Commit, expected: list[np.ndarray]
) -> str:
    """Open the store as a run that goes on does; it must hold what it held."""
    shutil.copytree(source, "store")
    path = Path("store") / name
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    with PseudoLabelStore(Path("store"), identity(KIND)) as store:
        store.verify()
        store.restore(commit)
        assert all(map(np.array_equal, contents(store), expected))
        store.write(part(9, KIND))
        store.restore(store.commit())
    return "harmless"


def cases() -> Iterator[tuple[str, Callable[[], str]]]:
    folder = Path(tempfile.mkdtemp(dir=".")).absolute() / "store"
    commit, expected = made(folder)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, data = str(path.relative_to(folder)), path.read_bytes()
        yield f"{name} missing", partial(used, folder, name, None, commit, expected)
        if len(data) < 2:
            continue
        for what, changed in (*truncated(data, 4), *flipped(data, 6)):
            yield f"{name} {what}", partial(used, folder, name, changed, commit, expected)
