"""data.on_error=skip: scenes that cannot be used are left out, and no other one notices."""

import logging
from collections.abc import Callable
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from make import ids, own_folder, picture, write

from sfseg.data.check import Checks
from sfseg.data.classes_file import load_label_space
from sfseg.data.colour import ColourJitter
from sfseg.data.folder import FolderDataset
from sfseg.data.geometry import View
from sfseg.data.layouts import folder
from sfseg.data.module import AdaptationData
from sfseg.errors import DataError

COUNT = 9
SKIP = Checks(samples=2, on_error="skip", max_skipped=4)


def cut(image, mask):
    image.write_bytes(image.read_bytes()[:300])


def empty(image, mask):
    image.write_bytes(b"")


def no_label(image, mask):
    mask.unlink()


def other_size(image, mask):
    write(mask, ids(0, 3, (16, 64)))


def no_class(image, mask):
    write(mask, np.full((32, 64), 77, np.uint8))


FAULTS: list[Callable] = [cut, empty, no_label, other_size, no_class]


@pytest.fixture
def tree(tmp_path):
    for domain in ("source", "target"):
        own_folder(tmp_path / domain, count=COUNT)
    return tmp_path


def files(root, split, number):
    return root / "images" / split / f"{number}.png", root / "masks" / split / f"{number}.png"


def opened(tree, checks=SKIP, workers=0, rank=0, world_size=1, stage="fit", **options):
    classes = tree / "source" / "classes.yaml"
    data = AdaptationData(
        labels=load_label_space(classes),
        needs=["source", "target"],
        scenes={
            f"{domain}_{part}": partial(folder, tree / domain, split, classes=classes)
            for domain in ("source", "target")
            for part, split in (("train", "train"), ("eval", "val"))
        },
        views={"source": View((16, 24), ratio=(0.5, 1.5)), "target": View((8, 8))},
        colour=ColourJitter(),
        batch_size=4 // world_size,
        num_workers=workers,
        checks=checks,
        seed=5,
        **options,
    )
    data._ranks = lambda: (rank, world_size)
    data.setup(stage)
    return data


def served(data, steps=7):
    """The samples of training in their order, source and target, as bytes."""
    found = []
    for batch, _, _ in islice(iter(data.train_dataloader()), steps):
        for domain in ("source", "target"):
            parts = batch[domain]
            for row in range(len(parts["index"])):
                kept = {
                    key: parts[key][row].numpy().tobytes() for key in ("image", "label", "geometry")
                }
                found.append((domain, int(parts["index"][row]), kept))
    return found


@pytest.mark.parametrize("number", range(3))
def test_good_samples_are_those_of_a_run_without_bad_files(tree, number):
    rng = np.random.default_rng(number)
    whole = served(opened(tree))
    bad = sorted(rng.choice(COUNT, 3, replace=False).tolist())
    for index in bad:
        FAULTS[rng.integers(len(FAULTS))](*files(tree / "source", "train", index))
    data = opened(tree)
    assert data.left_out["source_train"].indices == set(bad)
    assert not data.left_out["target_train"].indices
    holed = served(data)
    assert len(holed) == len(whole)
    replaced = 0
    for (domain, index, before), (_, now, after) in zip(whole, holed, strict=True):
        if domain == "source" and index in bad:
            replaced += 1
            assert now == next(k % COUNT for k in range(index, index + COUNT) if k not in bad)
        else:
            assert (now, after) == (index, before)
    assert replaced
    assert served(opened(tree, workers=2)) == holed
    ranks = [served(opened(tree, rank=rank, world_size=2)) for rank in range(2)]
    for domain in ("source", "target"):
        own = [[s for s in part if s[0] == domain] for part in ranks]
        # Ranks take turns of two samples.
        dealt = [s for k in range(0, len(own[0]), 2) for part in own for s in part[k : k + 2]]
        assert dealt == [s for s in holed if s[0] == domain]


def test_evaluation_leaves_scenes_out_and_says_so(tree):
    protocol = opened(tree).protocol
    cut(*files(tree / "target", "val", 3))
    no_class(*files(tree / "target", "val", 4))
    seen = []
    for rank in range(2):
        for workers in (0, 2):
            loader, source = opened(tree, workers=workers, rank=rank, world_size=2).val_dataloader()
            assert len(list(source)) in (4, 5)
        seen += [int(batch["index"]) for batch in loader]
    assert sorted(seen) == [0, 1, 2, 5, 6, 7, 8]
    assert opened(tree).protocol == f"{protocol}, target eval: 2 of 9 scenes left out"
    for batch in opened(tree).val_dataloader()[0]:
        expected = np.asarray(ids(int(batch["index"]), 3))
        assert np.array_equal(batch["label"][0].numpy(), expected)


def test_each_is_reported_once_with_its_file(tree, caplog):
    cut(*files(tree / "source", "train", 1))
    no_label(*files(tree / "source", "train", 7))
    with caplog.at_level(logging.WARNING):
        data = opened(tree)
        served(data)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3 and lines[-1] == "source train: 2 of 9 scenes left out"
    assert sum("images/train/1.png is truncated" in line for line in lines) == 1
    assert sum("masks/train/7.png does not exist" in line for line in lines) == 1


def test_more_than_allowed_end_the_run(tree):
    for index in range(3):
        cut(*files(tree / "source", "train", index))
    for checks in (Checks(on_error="skip", max_skipped=2), Checks(on_error="skip", max_skipped=0)):
        with pytest.raises(DataError, match=r"source train.*data\.max_skipped=[20].*[02]\.png"):
            opened(tree, checks)
    opened(tree, Checks(on_error="skip", max_skipped=3))
    with pytest.raises(DataError, match="3 of 9 scenes"):
        opened(tree, Checks())
    for index in range(COUNT):
        cut(*files(tree / "source", "train", index))
    with pytest.raises(DataError, match="9 of 9 scenes cannot be used"):
        opened(tree, Checks(on_error="skip", max_skipped=100))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_breaks_while_training_is_replaced_too(tree, workers, caplog):
    whole = served(opened(tree))
    data = opened(tree, workers=workers)
    cut(*files(tree / "target", "train", 2))
    loader = iter(data.train_dataloader())
    found = []
    with caplog.at_level(logging.WARNING):
        for _ in range(12):
            batch, _, _ = next(loader)
            served_batch = data.on_after_batch_transfer(batch, 0)
            assert "left_out" not in served_batch["target"]
            found += served_batch["target"]["index"].tolist()
    before = [index for domain, index, _ in whole if domain == "target"]
    assert 2 in before and found[: len(before)] == [3 if k == 2 else k for k in before]
    assert data.left_out["target_train"].indices == {2}
    assert len(caplog.records) == 1 and "2.png" in caplog.text
    # The limit holds for these too.
    cut(*files(tree / "target", "train", 3))
    data.left_out["target_train"].at_most = 1
    with pytest.raises(DataError, match="max_skipped=1"):
        for batch, _, _ in loader:
            data.on_after_batch_transfer(batch, 0)


def test_a_file_that_breaks_before_an_evaluation_ends_it(tree):
    data = opened(tree)
    cut(*files(tree / "target", "val", 2))
    with pytest.raises(DataError, match=r"val/2\.png"):
        list(data.val_dataloader()[0])


def test_a_set_of_which_nothing_can_be_read_any_more_is_an_error(tree):
    scenes = opened(tree).scenes["source_train"]
    for index in range(COUNT):
        cut(*files(tree / "source", "train", index))
    with pytest.raises(DataError, match="none of 9 scenes"):
        FolderDataset(scenes, view=View((8, 8)), on_error="skip", left_out=[0])[0, 4]


def test_pseudo_labels_have_a_place_for_what_is_left_out(tree):
    sizes = [(32, 64)] * COUNT
    write(files(tree / "target", "train", 5)[0], picture(0, (16, 48)))
    sizes[5] = (16, 48)
    empty(*files(tree / "target", "train", 4))
    empty(*files(tree / "target", "train", 8))
    data = opened(tree)
    sizes[4], sizes[8] = sizes[5], sizes[0]
    assert data.target_images().sizes == sizes
    assert [int(batch["index"]) for batch in data.labelling_dataloader()] == [
        0, 1, 2, 3, 5, 6, 7,
    ]  # fmt: skip


def test_a_cache_does_not_open_what_is_left_out(tree):
    from sfseg.data.cache import CacheSettings

    for index in (0, 4, 8):
        empty(*files(tree / "source", "train", index))
    plain = served(opened(tree))
    cached = opened(tree, cache=CacheSettings("memmap", str(tree / "cache")))
    assert served(cached) == plain == served(cached)


@pytest.mark.parametrize(
    ("options", "words"), [({"on_error": "ignore"}, "raise, skip"), ({"max_skipped": -1}, "-1")]
)
def test_other_policies_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Checks(**options)


def test_a_batch_without_faults_has_no_more_keys_than_before(tree):
    batch = next(iter(opened(tree).train_dataloader()))[0]
    assert set(batch["source"]) == {"image", "label", "index", "geometry"}
    assert isinstance(batch["source"]["image"], torch.Tensor)
