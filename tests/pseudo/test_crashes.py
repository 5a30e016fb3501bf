"""A run that is killed and continued from its last checkpoint ends as if it never was."""

import itertools
import json
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from processes import die, ended, fork
from pseudo_case import SIZES, assert_equal, content, filled, identity, part, whole

from sfseg.errors import DataError
from sfseg.pseudo import reader as reader_module
from sfseg.pseudo.files import write_whole
from sfseg.pseudo.journal import Commit
from sfseg.pseudo.patch import Patch
from sfseg.pseudo.reader import PseudoLabels
from sfseg.pseudo.store import PseudoLabelStore

SHAPES = SIZES["different"]
STEPS = 7
CALLS = ("pwrite", "fdatasync", "fsync", "replace", "unlink", "ftruncate", "posix_fallocate")


def checkpoint(tree, step, commit):
    state = {"step": step, "commit": vars(commit)}
    write_whole(tree / "checkpoint.json", json.dumps(state).encode())


def fill(tree):
    """The initial labels, and the checkpoint at step 0."""
    if (tree / "checkpoint.json").exists():
        return
    if (tree / "s" / "store.json").exists():
        store = PseudoLabelStore(tree / "s", identity(SHAPES))
    else:
        store = PseudoLabelStore.create(tree / "s", identity(SHAPES), with_confidence=True)
    with store:
        for index in store.missing().tolist():
            store.write(whole(index, SHAPES[index]))
        checkpoint(tree, 0, store.commit())


def train(tree, steps=STEPS):
    """Continue from the checkpoint; every other step makes one, its labels committed first."""
    with PseudoLabelStore(tree / "s", identity(SHAPES)) as store:
        state = json.loads((tree / "checkpoint.json").read_text())
        store.restore(Commit(**state["commit"]))
        for step in range(state["step"], steps):
            store.write(part(2 * step, SHAPES), part(2 * step + 1, SHAPES))
            if step % 2:
                checkpoint(tree, step + 1, store.commit())
        store.commit()


def run(tree):
    fill(tree)
    train(tree)


def final(tree):
    store = PseudoLabels(tree / "s", identity(SHAPES))
    return content(store)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """A killed process loses nothing that the system was given; only waiting for it is saved."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    tree = tmp_path_factory.mktemp("uninterrupted")
    run(tree)
    return final(tree)


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A tree with initial labels."""
    tree = tmp_path_factory.mktemp("started")
    fill(tree)
    return tree


def dying(act, *, at, share=None, before=lambda: None):
    """Do it, but be killed instead of the ``at``-th system call.

    Args:
        act: the work.
        at: counted from 0.
        share: fraction of the bytes that this call still writes.
        before: what happens right before the end.
    """

    def armed():
        count = itertools.count()

        def wrap(name, real):
            def call(*arguments, **options):
                if next(count) == at:
                    if name == "pwrite" and share is not None:
                        data = bytes(arguments[1])
                        real(arguments[0], data[: int(len(data) * share)], arguments[2])
                    before()
                    die()
                return real(*arguments, **options)

            return call

        for name in CALLS:
            setattr(os, name, wrap(name, getattr(os, name)))
        act()

    return armed


def survives(tree, act, uninterrupted, **death):
    """Kill it, let it finish; whether it had come that far."""
    finished = ended(fork(dying(lambda: act(tree), **death)))
    if not finished:
        assert ended(fork(lambda: act(tree)))
    assert_equal(final(tree), uninterrupted)
    assert not list(tree.rglob(".*"))
    return not finished


def copy(tree, folder):
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tree, folder)
    return folder


@pytest.mark.parametrize("stride", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_system_call_of_training(tmp_path, started, uninterrupted, stride):
    for at in itertools.count(0, stride):
        for share in (None, 0.5) if stride == 1 else ((None, 0.5)[at // stride % 2],):
            tree = copy(started, tmp_path / "t")
            died = survives(tree, train, uninterrupted, at=at, share=share)
        if not died:
            break
    assert at > 80


@pytest.mark.parametrize("stride", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_system_call_of_filling(tmp_path, uninterrupted, stride):
    for at in itertools.count(0, stride):
        shutil.rmtree(tmp_path / "t", ignore_errors=True)
        (tmp_path / "t").mkdir()
        if not survives(tmp_path / "t", run, uninterrupted, at=at, share=0.5) or at > 50:
            break
    assert at > 50


def test_killed_again_while_it_recovers(tmp_path, started, uninterrupted):
    broken = tmp_path / "broken"
    rng = np.random.default_rng(0)
    for _ in range(6):
        copy(started, broken)
        ended(fork(dying(lambda: train(broken), at=int(rng.integers(20, 90)), share=0.3)))
        for _ in range(3):
            again = dying(lambda: train(broken), at=int(rng.integers(0, 25)), share=rng.random())
            ended(fork(again))
        assert ended(fork(lambda: train(broken)))
        assert_equal(final(broken), uninterrupted)


def test_a_commit_whose_checkpoint_was_never_written_is_taken_back(tmp_path, started):
    tree = copy(started, tmp_path / "t")
    state = json.loads((tree / "checkpoint.json").read_text())
    with PseudoLabelStore(tree / "s", identity(SHAPES)) as store:
        before = content(store)
        store.write(part(0, SHAPES), part(1, SHAPES))
        ahead = store.commit()
        store.write(part(2, SHAPES))
    with PseudoLabelStore(tree / "s", identity(SHAPES)) as store:
        assert store.last == ahead
        store.restore(Commit(**state["commit"]))
        assert_equal(content(store), before)


def watch(on_disk, removed):
    """Keep, from now on, what a file held when it was last synchronised.

    Args:
        on_disk: path -> content.
        removed: the same of files whose folder has not been synchronised since they went.
    """
    fsync, fdatasync, replace, unlink = os.fsync, os.fdatasync, os.replace, os.unlink

    def synced(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_file():
            on_disk[path] = path.read_bytes()
        for gone in [gone for gone in removed if gone.parent == path]:
            del removed[gone]

    def replaced(source, path):
        replace(source, path)
        on_disk[Path(path)] = on_disk.pop(Path(source))

    def unlinked(path):
        unlink(path)
        removed[Path(path)] = on_disk.pop(Path(path))

    os.fsync = lambda descriptor: (fsync(descriptor), synced(descriptor))
    os.fdatasync = lambda descriptor: (fdatasync(descriptor), synced(descriptor))
    os.replace, os.unlink = replaced, unlinked


def lose(tree, on_disk, removed, rng):
    """Of each file, an arbitrary part of what was not yet on the disk."""
    for path in (p for p in tree.rglob("*") if p.is_file()):
        now, then = path.read_bytes(), on_disk.get(path, b"")
        if len(now) == len(then):  # pages of four bytes
            kept = np.repeat(rng.random(len(now) // 4 + 1) < 0.5, 4)[: len(now)]
            a, b = (np.frombuffer(content, np.uint8) for content in (now, then))
            path.write_bytes(np.where(kept, a, b).tobytes())
        else:
            low, high = sorted((len(now), len(then)))
            longer = now if len(now) == high else then
            path.write_bytes(longer[: rng.integers(low, high + 1)])
    for path, was in removed.items():
        if rng.random() < 0.5:
            path.write_bytes(was)


@pytest.mark.parametrize("phase", ["training", "recovery"])
@pytest.mark.parametrize("seed", range(25))
def test_what_a_crash_of_the_machine_loses(tmp_path, started, uninterrupted, seed, phase):
    tree = copy(started, tmp_path / "t")
    rng = np.random.default_rng(seed)
    at = int(rng.integers(10, 90))
    if phase == "recovery":
        assert not ended(fork(dying(lambda: train(tree), at=at)))
        at = int(rng.integers(0, 45))
    on_disk = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    removed = {}

    def watched():
        watch(on_disk, removed)
        train(tree)

    death = {"share": rng.random(), "before": lambda: lose(tree, on_disk, removed, rng)}
    assert not ended(fork(dying(watched, at=at, **death)))
    assert ended(fork(lambda: train(tree)))
    assert_equal(final(tree), uninterrupted)


def test_killed_at_any_time(tmp_path, started):
    steps, kills = 240, 0
    whole_run, tree = (copy(started, tmp_path / name) for name in ("whole", "killed"))
    train(whole_run, steps)
    rng = np.random.default_rng(0)
    for goal in range(20, steps, 30):
        child = fork(lambda: train(tree, steps))
        while json.loads((tree / "checkpoint.json").read_text())["step"] < goal:
            time.sleep(1e-4)
        time.sleep(rng.uniform(0, 5e-3))
        os.kill(child, signal.SIGKILL)
        kills += not ended(child)
    train(tree, steps)
    assert kills > 0
    assert_equal(final(tree), final(whole_run))


def test_readers_never_see_half_a_row_while_it_is_written(tmp_path):
    sizes = [(64, 96)]
    levels = (np.zeros(sizes[0], np.uint8), np.full(sizes[0], 2, np.uint8))
    filled(tmp_path / "s", sizes).close()

    def toggle():
        with PseudoLabelStore(tmp_path / "s", identity(sizes), durable=False) as store:
            for k in range(400):
                level = levels[k % 2]
                store.write(Patch(0, level, 100 * level))

    with PseudoLabelStore(tmp_path / "s", identity(sizes)) as store:
        store.write(Patch(0, levels[0], levels[0]))
        store.commit()
    labels = PseudoLabels(tmp_path / "s")
    child = fork(toggle)
    seen = []
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        label, confidence = labels.read(0)
        seen.append(int(label[0, 0]))
        assert (label == label[0, 0]).all()
        assert (confidence == 100 * label[0, 0]).all()
    assert set(seen) == {0, 2}


def test_a_row_left_half_written_is_not_read(tmp_path, started, monkeypatch):
    monkeypatch.setattr(reader_module, "PATIENCE", 0.02)
    for at in itertools.count(1):
        tree = copy(started, tmp_path / "t")
        assert not ended(fork(dying(partial(train, tree), at=at, share=0.5)))
        labels = PseudoLabels(tree / "s")
        versions = np.fromfile(tree / "s" / "rows.u32", reader_module.ROW)["version"]
        torn = np.flatnonzero(versions % 2)
        if len(torn):
            break
    with pytest.raises(DataError, match=r"has been half written for .* open the store for writ"):
        labels.read(int(torn[0]))
    PseudoLabelStore(tree / "s", identity(SHAPES)).close()
    labels.read(int(torn[0]))
