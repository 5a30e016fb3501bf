import errno
import json
import os
import pickle
import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from pseudo_case import (
    SIZES,
    assert_equal,
    content,
    filled,
    identity,
    labels,
    part,
    whole,
)

from sfseg.errors import ConfigError, DataError
from sfseg.pseudo import journal
from sfseg.pseudo.identity import Identity
from sfseg.pseudo.journal import Commit
from sfseg.pseudo.making import copy_store
from sfseg.pseudo.patch import Patch
from sfseg.pseudo.reader import CERTAIN, PseudoLabels
from sfseg.pseudo.store import PseudoLabelStore
from sfseg.types import IGNORE


class Memory:
    """The same store as plain arrays: what a test compares with."""

    def __init__(self, sizes, with_confidence):
        self.label = [np.zeros(size, np.uint8) for size in sizes]
        self.confidence = [np.zeros(size, np.uint8) for size in sizes] if with_confidence else None

    def write(self, patch):
        where = np.s_[
            patch.top : patch.top + patch.label.shape[0],
            patch.left : patch.left + patch.label.shape[1],
        ]
        self.label[patch.index][where] = patch.label
        if self.confidence is not None and patch.confidence is not None:
            self.confidence[patch.index][where] = (patch.confidence * 255 + 0.5).astype(np.uint8)

    def assert_equal(self, store):
        for k in range(len(store)):
            row = store.read(k)
            np.testing.assert_array_equal(row.label, self.label[k])
            np.testing.assert_array_equal(store.label(k), self.label[k])
            if self.confidence is None:
                assert row.confidence is None
            else:
                np.testing.assert_array_equal(row.confidence, self.confidence[k])
                np.testing.assert_array_equal(store.confidence(k), self.confidence[k])


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("with_confidence", [True, False])
def test_what_was_written_is_read(tmp_path, sizes, with_confidence):
    memory = Memory(sizes, with_confidence)
    with filled(tmp_path / "s", sizes, with_confidence=with_confidence) as store:
        for k, size in enumerate(sizes):
            memory.write(whole(k, size, 0, with_confidence))
        for seed in range(60):
            patch = part(seed, sizes, with_confidence)
            store.write(patch)
            memory.write(patch)
        memory.assert_equal(store)
        memory.assert_equal(PseudoLabels(tmp_path / "s"))
        store.commit()
        store.verify()
    reader = PseudoLabels(tmp_path / "s", identity(sizes))
    memory.assert_equal(reader)
    assert len(reader) == 5
    assert [reader.size(k) for k in range(5)] == sizes
    assert reader.has_confidence == with_confidence


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("with_confidence", [True, False])
def test_it_takes_one_or_two_bytes_a_pixel(tmp_path, sizes, with_confidence):
    filled(tmp_path / "s", sizes, with_confidence=with_confidence).close()
    pixels = sum(height * width for height, width in sizes)
    planes = [p for p in (tmp_path / "s").iterdir() if p.suffix == ".u8"]
    assert [p.stat().st_size for p in planes] == [pixels] * (1 + with_confidence)


def test_room_is_reserved_when_it_is_made(tmp_path):
    big = identity([(1024, 1024)] * 4)
    with PseudoLabelStore.create(tmp_path / "s", big):
        assert (tmp_path / "s" / "labels.u8").stat().st_blocks * 512 >= 4 << 20


def test_patches_of_one_image_in_one_call_follow_each_other(tmp_path):
    with filled(tmp_path / "s", with_confidence=False) as store:
        before = content(store)
        first, second = np.full((6, 8), 1, np.uint8), np.full((2, 2), 2, np.uint8)
        store.write(Patch(0, first), Patch(1, first), Patch(0, second, top=3, left=5))
        expected = first.copy()
        expected[3:5, 5:7] = 2
        np.testing.assert_array_equal(store.label(0), expected)
        store.restore(store.last)
        assert_equal(content(store), before)


def test_a_patch_without_confidence_leaves_it(tmp_path):
    with filled(tmp_path / "s") as store:
        before = store.read(2).confidence
        store.write(Patch(2, np.full((6, 8), IGNORE, np.uint8)))
        np.testing.assert_array_equal(store.confidence(2), before)
        assert (store.label(2) == IGNORE).all()


def test_confidences_are_kept_to_the_nearest_of_256_steps(tmp_path):
    fractions = np.linspace(0, 1, 48).reshape(6, 8)
    with filled(tmp_path / "s") as store:
        store.write(Patch(0, np.zeros((6, 8), np.uint8), fractions.astype(np.float32)))
        np.testing.assert_allclose(store.confidence(0) / CERTAIN, fractions, atol=0.5 / 255 + 1e-6)
        stored = store.read(0).confidence
        store.write(Patch(1, np.zeros((6, 8), np.uint8), stored))
        np.testing.assert_array_equal(store.confidence(1), stored)


def test_views_cannot_be_written_and_show_what_is_written_later(tmp_path):
    with filled(tmp_path / "s") as store:
        reader = PseudoLabels(tmp_path / "s")
        view, copy = reader.label(0), reader.read(0).label
        with pytest.raises(ValueError, match="read-only"):
            view[0, 0] = 1
        new = (copy == 0).astype(np.uint8)
        store.write(Patch(0, new))
        np.testing.assert_array_equal(view, new)
        assert not np.array_equal(copy, new)


def test_windows(tmp_path):
    with filled(tmp_path / "s") as store:
        label, confidence = store.read(3)
        row = store.read(3, (1, 2, 4, 3))
        np.testing.assert_array_equal(row.label, label[1:5, 2:5])
        np.testing.assert_array_equal(row.confidence, confidence[1:5, 2:5])
        for window in ((3, 0, 4, 8), (0, 6, 6, 3), (-1, 0, 2, 2)):
            with pytest.raises(ValueError, match=r"must be inside image 3, 8x6"):
                store.read(3, window)


def sums(reader):
    return [int(reader.read(k).label.sum()) for k in range(len(reader))]


def test_loader_workers_read_and_a_pickled_writer_is_a_reader(tmp_path):
    with filled(tmp_path / "s") as store:
        expected = sums(store)
        reader = PseudoLabels(tmp_path / "s")
        sums(reader)  # mapped here: not pickled
        assert len(pickle.dumps(reader)) < 2000
        again = pickle.loads(pickle.dumps(store))
        assert type(again) is PseudoLabels and sums(again) == expected
        with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
            assert list(pool.map(sums, [reader, store])) == [expected] * 2


# Commits


def test_the_last_two_commits_can_be_returned_to(tmp_path):
    sizes = SIZES["different"]
    states, commits = [], []
    with filled(tmp_path / "s", sizes, keep=2) as store:
        for generation in range(5):
            commits.append(store.commit())
            states.append(content(store))
            assert commits[-1] == store.last
            assert commits[-1].generation == generation
            store.write(*(part(10 * generation + k, sizes) for k in range(6)))
        with pytest.raises(ConfigError, match=r"generations \[3, 4\], the checkpoint has 2"):
            store.restore(commits[2])
        store.restore(commits[4])
        assert_equal(content(store), states[4])
        store.write(part(99, sizes))
        store.restore(commits[3])
        assert_equal(content(store), states[3])
        store.verify()
        assert store.last == commits[3]
        # What was committed after it is forgotten, and may be done again.
        store.write(*(part(30 + k, sizes) for k in range(6)))
        assert store.commit() == commits[4]
        assert_equal(content(store), states[4])


def test_more_commits_can_be_kept(tmp_path):
    with filled(tmp_path / "s", keep=4) as store:
        states = [content(store)]
        commits = [store.last]
        for k in range(3):
            store.write(part(k, SIZES["equal"]))
            commits.append(store.commit())
            states.append(content(store))
        store.restore(commits[0])
        assert_equal(content(store), states[0])
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        PseudoLabelStore(tmp_path / "s", identity(), keep=0)


def test_a_commit_of_nothing_new_is_the_last_one(tmp_path):
    with filled(tmp_path / "s") as store:
        first = store.last
        assert store.commit() == first
        store.write(Patch(0, store.read(0).label))  # as it is
        assert store.commit() == first
        store.write(Patch(0, 2 - np.minimum(store.read(0).label, 2)))
        assert store.commit().generation == 1


def test_what_was_not_committed_is_taken_back_when_opened(tmp_path):
    with filled(tmp_path / "s") as store:
        before, commit = content(store), store.last
        store.write(*(part(k, SIZES["equal"]) for k in range(9)))
        assert not np.array_equal(before[0].label, store.read(0).label)
    with PseudoLabelStore(tmp_path / "s", identity()) as store:
        assert store.last == commit
        assert_equal(content(store), before)
        store.verify()


def test_commits_go_through_a_checkpoint_as_plain_values(tmp_path):
    with filled(tmp_path / "s") as store:
        saved = json.loads(json.dumps(vars(store.last)))
        assert Commit(**saved) == store.last


def test_equal_labels_have_equal_digests_in_any_store(tmp_path):
    with filled(tmp_path / "a") as first, filled(tmp_path / "b") as second:
        assert first.last == second.last
        first.write(part(0, SIZES["equal"]), part(1, SIZES["equal"]))
        second.write(part(0, SIZES["equal"]))
        assert first.commit() != second.commit()


def test_the_journal_is_small_where_little_changes(tmp_path):
    sizes = [(256, 512)] * 3
    with filled(tmp_path / "s", sizes) as store:
        log = tmp_path / "s" / "undo" / "000000000.log"
        for k in range(3):
            label = store.read(k).label
            label[100:140, 50:300] = 2
            store.write(Patch(k, label))
        assert log.stat().st_size < 0.02 * 3 * 256 * 512


def test_another_runs_commit_is_refused(tmp_path):
    with filled(tmp_path / "s") as store:
        before = content(store)
        with pytest.raises(ConfigError, match=r"of another run .* generation 0 is .*, the checkp"):
            store.restore(Commit(0, "0" * 64))
        with pytest.raises(ConfigError, match=r"generations \[0\], the checkpoint has 3; contin"):
            store.restore(Commit(3, store.last.digest))
        assert_equal(content(store), before)


def test_an_unfilled_store_cannot_be_committed_and_goes_on_where_it_was(tmp_path):
    sizes = SIZES["different"]
    with PseudoLabelStore.create(tmp_path / "s", identity(sizes)) as store:
        assert store.missing().tolist() == [0, 1, 2, 3, 4]
        for k in (3, 0):
            store.write(whole(k, sizes[k], with_confidence=False))
        with pytest.raises(
            DataError, match=r"3 of 5 images have no pseudo-labels .* number 1 first"
        ):
            store.commit()
        with pytest.raises(DataError, match=r"image 2 has no pseudo-labels in .* yet; fill"):
            store.read(2)
        assert store.last is None
    with PseudoLabelStore(tmp_path / "s", identity(sizes)) as store:
        assert store.missing().tolist() == [1, 2, 4]
        store.write(*(whole(k, sizes[k], with_confidence=False) for k in (1, 2, 4)))
        store.write(whole(0, sizes[0], seed=1, with_confidence=False))  # may change before
        store.commit()
        np.testing.assert_array_equal(store.label(0), whole(0, sizes[0], seed=1).label)


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("road", "sky", "car")}, r"classes \['road', 'car', 'sky'\], here they are"),
        ({"source": "77b0"}, "source model 3fa9, here it is 77b0"),
        ({"sizes": [(6, 8)] * 3 + [(8, 6), (6, 8)]}, "city/3.png of 8x6 pixels, here it has 6x8"),
        ({"names": [f"rome/{k}" for k in range(5)]}, r"5 images, here are 5; 5 gone since: city/0"),
        (
            {"names": [f"city/{k}.png" for k in (1, 0, 2, 3, 4)]},
            "5 images, here are 5 in another order: number 0 was city/0.png, is city/1.png",
        ),
    ],
)
def test_other_data_are_refused_and_both_sides_named(tmp_path, changes, message):
    filled(tmp_path / "s").close()
    for kind in (PseudoLabels, PseudoLabelStore):
        with pytest.raises(ConfigError, match=message):
            kind(tmp_path / "s", identity(**changes))


def digests(*values):
    return np.array(values, np.uint64)


SEEN = digests(1, 2, 0, 4, 5)
"""Of five images, the third of which could not be read."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (digests(1, 7, 0, 4, 5), r"of the same names: city/1\.png had another content; give"),
        (digests(1, 7, 0, 8, 9), r"of the same names: city/1\.png and 2 more had another"),
    ],
)
def test_other_images_of_the_same_names_are_refused(tmp_path, content, message):
    filled(tmp_path / "s", content=SEEN).close()
    for kind in (PseudoLabels, PseudoLabelStore):
        with pytest.raises(ConfigError, match=message):
            kind(tmp_path / "s", identity(content=content))


@pytest.mark.parametrize("content", [SEEN, digests(1, 2, 3, 4, 5), digests(1, 0, 0, 4, 5)])
def test_the_same_images_are_not_and_neither_those_that_nobody_has_seen(tmp_path, content, caplog):
    filled(tmp_path / "s", content=SEEN).close()
    PseudoLabels(tmp_path / "s", identity(content=content))
    PseudoLabels(tmp_path / "s", identity())
    assert not caplog.records


def test_a_store_of_an_earlier_version_opens_and_says_what_was_not_checked(tmp_path, caplog):
    filled(tmp_path / "s").close()
    assert not (tmp_path / "s" / "content.npy").exists()
    PseudoLabels(tmp_path / "s", identity(content=SEEN))
    assert "do not say what was in the images" in caplog.text and "not checked" in caplog.text


def test_lost_digests_are_damage(tmp_path):
    filled(tmp_path / "s", content=SEEN).close()
    (tmp_path / "s" / "content.npy").unlink()
    with pytest.raises(DataError, match="are damaged: FileNotFoundError"):
        PseudoLabels(tmp_path / "s", identity(content=SEEN))


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (range(4), r"5 images, here are 4; 1 gone since: city/4\.png; give"),
        (range(6), r"5 images, here are 6; 1 new since: city/5\.png; give"),
        (
            range(2, 9),
            r"2 gone since: city/0\.png, city/1\.png; 4 new since: .*, city/7\.png, \.\.\.",
        ),
    ],
)
def test_images_lost_or_gained_are_named(tmp_path, kept, message):
    filled(tmp_path / "s").close()
    names = [f"city/{k}.png" for k in kept]
    other = identity(names=names, sizes=[(6, 8)] * len(names))
    with pytest.raises(ConfigError, match=message):
        PseudoLabelStore(tmp_path / "s", other)


def test_hostile_names_stay_names(tmp_path):
    names = ["../../out", "/etc/passwd", "a\0b", "line\nbreak", "C:\\x"]
    with PseudoLabelStore.create(tmp_path / "s", identity(names=names)):
        pass
    PseudoLabels(tmp_path / "s", identity(names=names))
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_nothing_is_overwritten(tmp_path):
    filled(tmp_path / "s").close()
    before = {p: p.read_bytes() for p in (tmp_path / "s").rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="holds pseudo-labels already, which stay as they are"):
        PseudoLabelStore.create(tmp_path / "s", identity())
    assert {p: p.read_bytes() for p in (tmp_path / "s").rglob("*") if p.is_file()} == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("")
    with pytest.raises(ConfigError, match=r"photos holds other files, such as a\.png; choose"):
        PseudoLabelStore.create(tmp_path / "photos", identity())
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["a.png"]


def test_no_store_and_one_of_another_version(tmp_path):
    with pytest.raises(ConfigError, match="holds no pseudo-labels"):
        PseudoLabelStore(tmp_path, identity())
    assert list(tmp_path.iterdir()) == []
    filled(tmp_path / "s").close()
    record = tmp_path / "s" / "store.json"
    record.write_text(record.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(ConfigError, match="have format 9, this version of sfseg has 1"):
        PseudoLabels(tmp_path / "s")


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[12] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("labels.u8", cut, r"labels\.u8 has 239 bytes, not 240"),
        ("confidence.u8", lambda path: path.unlink(), r"confidence\.u8 is missing"),
        ("rows.u32", cut, r"rows\.u32 has 39 bytes, not 40"),
        ("rows.u32", flip, "generation 0 does not come back"),
        ("store.json", lambda path: path.write_text("{"), "JSONDecodeError"),
        ("store.json", lambda path: path.write_text('{"format": 1}'), "lacks .*classes"),
        ("sizes.npy", cut, "are damaged"),
        ("sizes.npy", lambda path: np.save(path, np.ones((3, 2))), r"has \(3, 2\) entries for 5"),
        ("undo/000000000.log", flip, "does not begin as the journal"),
        ("undo/000000000.log", lambda path: path.write_text(""), "does not begin as the journal"),
    ],
)
def test_damage_is_an_error(tmp_path, name, damage, message):
    filled(tmp_path / "s").close()
    damage(tmp_path / "s" / name)
    with pytest.raises(DataError, match=message):
        PseudoLabelStore(tmp_path / "s", identity())
    with pytest.raises(DataError, match=message):  # it is not kept locked
        PseudoLabelStore(tmp_path / "s", identity())


def test_changed_pixels_are_found(tmp_path):
    filled(tmp_path / "s").close()
    flip(tmp_path / "s" / "labels.u8")
    with (
        PseudoLabelStore(tmp_path / "s", identity()) as store,
        pytest.raises(DataError, match="1 images are not as written, number 0 first"),
    ):
        store.verify()


def test_changes_around_a_patch_do_not_pass_for_its_image(tmp_path):
    with filled(tmp_path / "s") as store:
        store.write(Patch(0, (store.read(0).label[:1] == 0).astype(np.uint8)))
    flip(tmp_path / "s" / "labels.u8")
    with pytest.raises(DataError, match="1 images are not as written, number 0 first"):
        PseudoLabelStore(tmp_path / "s", identity())


def test_a_journal_kept_too_long_is_no_way_back(tmp_path):
    """A crash of the machine may bring back files that were deleted."""
    with filled(tmp_path / "s", keep=2) as store:
        path = tmp_path / "s" / "undo" / "000000000.log"
        first, content = store.last, path.read_bytes()
        for k in range(3):
            store.write(part(k, SIZES["equal"]))
            store.commit()
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"generations \[2, 3\], the checkpoint has 0"):
            store.restore(first)


def test_a_damaged_journal_does_not_pass_for_the_state_it_was(tmp_path):
    with filled(tmp_path / "s") as store:
        for k in range(5):
            store.write(part(k, SIZES["equal"]))
    path = tmp_path / "s" / "undo" / "000000000.log"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        PseudoLabelStore(tmp_path / "s", identity())


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (Patch(0, np.zeros((6, 8), np.int64)), "label must be .* uint8, got int64"),
        (Patch(0, np.zeros(8, np.uint8)), r"label must be \(h, w\) uint8"),
        (Patch(0, np.zeros((0, 8), np.uint8)), r"label must be \(h, w\) uint8"),
        (Patch(0, np.zeros((6, 8), np.uint8), top=1), r"8x6 pixels at \(1, 0\) must be inside"),
        (Patch(0, np.zeros((2, 2), np.uint8), left=-1), r"\(0, -1\) must be inside image 0, wh"),
        (Patch(0, np.full((6, 8), 3, np.uint8)), "below 3 or 255, got 3 for image 0"),
        (Patch(0, np.full((6, 8), 254, np.uint8)), "below 3 or 255, got 254 for image 0"),
        (Patch(0, np.zeros((6, 8), np.uint8), np.zeros((8, 6))), "must be .* like its label"),
        (Patch(0, np.zeros((6, 8), np.uint8), np.full((6, 8), 1.1)), r"in \[0, 1\], got 1.1 to"),
        (Patch(0, np.zeros((6, 8), np.uint8), np.full((6, 8), np.nan)), r"in \[0, 1\], got nan"),
    ],
)
def test_patches_that_do_not_fit_change_nothing(tmp_path, patch, message):
    with filled(tmp_path / "s") as store:
        before = content(store)
        good = Patch(1, 1 - np.minimum(store.read(1).label, 1))
        with pytest.raises(ValueError, match=message):
            store.write(good, patch)
        assert_equal(content(store), before)


def test_first_patches_are_whole(tmp_path):
    label = np.zeros((3, 8), np.uint8)
    with PseudoLabelStore.create(tmp_path / "s", identity(), with_confidence=True) as store:
        with pytest.raises(ValueError, match="must be all of image 0, which has 8x6"):
            store.write(Patch(0, label, label))
        with pytest.raises(ValueError, match="first patch of image 0 must give its confidence"):
            store.write(Patch(0, np.zeros((6, 8), np.uint8)))
    with filled(tmp_path / "t", with_confidence=False) as store:
        with pytest.raises(ValueError, match="keep no confidence; make the store with"):
            store.write(Patch(0, label, label))
        with pytest.raises(ValueError, match="have no confidence"):
            store.confidence(0)


@pytest.mark.parametrize("index", [-1, 5])
def test_positions_outside(tmp_path, index):
    with filled(tmp_path / "s") as store:
        for call in (store.label, store.confidence, store.read, store.size):
            with pytest.raises(IndexError, match=rf"index must be in \[0, 5\), got {index}"):
                call(index)
        with pytest.raises(IndexError, match="index must be in"):
            store.write(Patch(index, np.zeros((6, 8), np.uint8)))


def test_a_closed_store_is_read_only(tmp_path):
    store = filled(tmp_path / "s")
    store.close()
    store.close()
    for act in (lambda: store.write(part(0, SIZES["equal"])), store.commit):
        with pytest.raises(ValueError, match="are closed, or a fork's: read only"):
            act()
    assert len(content(store)) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": [], "sizes": []}, "names must be distinct and at least one"),
        ({"names": ["a"] * 5}, "names must be distinct and at least one"),
        ({"sizes": [(6, 8)]}, "one positive .* got 1 for 5 images"),
        ({"sizes": [(0, 8)] * 5}, "one positive"),
        ({"classes": ("road",)}, "classes must be 2 to 254 names, got 1"),
        ({"content": np.zeros(4, np.uint64)}, r"content must be one number an image, got \(4,\)"),
    ],
)
def test_identities_that_cannot_be(changes, message):
    values = vars(identity())
    with pytest.raises(ValueError, match=message):
        Identity(**{**values, **changes})


# Disks


def full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_no_room_is_an_error_when_it_is_made_and_takes_none(tmp_path, monkeypatch):
    calls = []

    def reserve(descriptor, start, length):
        calls.append(length)
        if len(calls) == 3:
            full()

    monkeypatch.setattr(os, "posix_fallocate", reserve)
    with pytest.raises(DataError, match=r"MiB for pseudo-labels cannot be reserved: .*No space"):
        PseudoLabelStore.create(tmp_path / "s", identity(), with_confidence=True)
    assert calls == [240, 240, 40]
    assert not list((tmp_path / "s").glob("*.u*"))
    monkeypatch.undo()
    filled(tmp_path / "s").close()


def test_a_disk_too_full_for_the_journal_changes_nothing(tmp_path):
    """The system itself takes half of a record and refuses the rest."""
    with filled(tmp_path / "s") as store:
        store.write(part(0, SIZES["equal"]))
        before = content(store)
        log = tmp_path / "s" / "undo" / "000000000.log"
        size = log.stat().st_size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30, limits[1]))
            with pytest.raises(DataError, match="pseudo-labels cannot be written: "):
                store.write(*(part(k, SIZES["equal"]) for k in range(1, 4)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert log.stat().st_size == size
        assert_equal(content(store), before)
        store.write(part(1, SIZES["equal"]))
        store.restore(store.last)
        store.verify()


def test_a_disk_too_full_for_a_commit_keeps_the_last_one(tmp_path, monkeypatch):
    with filled(tmp_path / "s") as store:
        before, first = content(store), store.last
        store.write(part(0, SIZES["equal"]))
        monkeypatch.setattr(journal, "write_whole", full)
        with pytest.raises(DataError, match=r"cannot be committed: .*No space"):
            store.commit()
        assert store.last == first
        monkeypatch.undo()
        assert store.commit().generation == 1
        store.restore(first)
        assert_equal(content(store), before)


def test_a_write_that_fails_half_way_is_not_committed(tmp_path, monkeypatch):
    with filled(tmp_path / "s") as store:
        before = content(store)
        real = os.pwrite

        def fail(descriptor, data, offset):
            if len(data) >= 48:
                real(descriptor, bytes(data)[:20], offset)
                raise OSError(errno.EIO, "Input/output error")
            return real(descriptor, data, offset)

        monkeypatch.setattr(os, "pwrite", fail)
        monkeypatch.setattr(journal, "write_at", lambda *arguments: real(*arguments))
        with pytest.raises(DataError, match=r"cannot be written: .*Input/output error"):
            store.write(Patch(0, (before[0].label == 0).astype(np.uint8)))
        monkeypatch.undo()
        with pytest.raises(DataError, match="half written when a write failed; open the store ag"):
            store.commit()
    with PseudoLabelStore(tmp_path / "s", identity()) as store:
        assert_equal(content(store), before)


# Copies


def test_a_copy_has_all_that_can_be_returned_to(tmp_path):
    with filled(tmp_path / "s") as store:
        first, before = store.last, content(store)
        store.write(part(0, SIZES["equal"]))
        second, after = store.commit(), content(store)
        store.write(part(1, SIZES["equal"]))
    copy_store(tmp_path / "s", tmp_path / "runs" / "t")
    with PseudoLabelStore(tmp_path / "runs" / "t", identity()) as copy:
        assert copy.last == second
        assert_equal(content(copy), after)
        copy.restore(first)
        assert_equal(content(copy), before)
    with PseudoLabelStore(tmp_path / "s", identity()) as store:
        assert_equal(content(store), after)
        with pytest.raises(ConfigError, match=r"is being written by process|in this process"):
            copy_store(tmp_path / "s", tmp_path / "u")
    with pytest.raises(ConfigError, match="exists already and stays as it is"):
        copy_store(tmp_path / "s", tmp_path / "runs")
    with pytest.raises(ConfigError, match="holds no pseudo-labels"):
        copy_store(tmp_path / "nowhere", tmp_path / "u")
    assert sorted(p.name for p in tmp_path.rglob("*") if "partial" in p.name) == []


@pytest.mark.parametrize("kind", ["file", "folder", "pipe"])
def test_a_store_with_links_is_not_copied(tmp_path, kind):
    filled(tmp_path / "s").close()
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "note").write_text("of somebody else")
    if kind == "file":
        (tmp_path / "s" / "undo" / "note").symlink_to(tmp_path / "private" / "note")
    elif kind == "folder":
        (tmp_path / "s" / "more").symlink_to(tmp_path / "private")
    else:
        os.mkfifo(tmp_path / "s" / "more")
    with pytest.raises(DataError, match=r"hold (undo/note|more), which is a link or no regular"):
        copy_store(tmp_path / "s", tmp_path / "t")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["private", "s"]


def test_labels_helper_makes_ids_and_void():
    found = np.unique(np.stack([labels((6, 8), np.random.default_rng(k)) for k in range(20)]))
    assert found.tolist() == [0, 1, 2, IGNORE]
