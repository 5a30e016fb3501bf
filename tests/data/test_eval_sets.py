"""Evaluation sets by name: what may be one, how they are opened, and what they are served as."""

from functools import partial

import make
import numpy as np
import pytest
from make import Memory, own_folder

from sfseg.data.eval_sets import EvalSet, Judged
from sfseg.data.geometry import EvalView, View
from sfseg.data.layouts import camvid, folder
from sfseg.data.module import AdaptationData
from sfseg.data.replacement import Replacement
from sfseg.errors import ConfigError, DataError

CROP = View((16, 16))
NEEDS = ["source"]


def memory(count, classes=3, size=(32, 64)):
    """What opens some labelled scenes."""
    images = [make.picture(k, size) for k in range(count)]
    labels = [make.ids(k, classes, size) for k in range(count)]
    return lambda: Memory(images, labels, classes)


def module(sets, needs=NEEDS, **options):
    values = {
        "labels": make.space(3),
        "needs": needs,
        "scenes": {"source_train": memory(4), "target_train": None, "target_eval": None},
        "views": {"source": CROP, "target": CROP},
        "batch_size": 2,
        "num_workers": 0,
        "eval_sets": sets,
    }
    return AdaptationData(**(values | options))


def sets_of(**counts):
    return {name: EvalSet(memory(count)) for name, count in counts.items()}


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({}, r"data\.eval_sets must be sets by their names, got \{\}; null evaluates"),
        ([], r"data\.eval_sets must be sets by their names, got \[\]"),
        ("rain", "must be sets by their names, got rain"),
        ({"source": EvalSet(memory(1))}, "none of them source, target, mean, got 'source'; rename"),
        ({"target": EvalSet(memory(1))}, "got 'target'"),
        ({"mean": EvalSet(memory(1))}, "got 'mean'"),
        ({"a/b": EvalSet(memory(1))}, "names of letters, digits, - and _.*got 'a/b'"),
        ({"a.b": EvalSet(memory(1))}, "got 'a.b'"),
        ({"": EvalSet(memory(1))}, "got ''"),
        ({"-rain": EvalSet(memory(1))}, "got '-rain'"),
        ({7: EvalSet(memory(1))}, "got 7; rename it, or put it in quotes"),
        ({"rain": {"root": "x"}}, r"data\.eval_sets\.rain must be a set, _target_: sfseg"),
        ({"rain": None}, r"data\.eval_sets\.rain must be a set"),
        ({"rain": EvalSet(Memory([]))}, r"rain\.scenes must be what opens them, got Memory; give"),
    ],
)
def test_what_is_no_set_is_refused(sets, message):
    with pytest.raises(ConfigError, match=message):
        Judged(sets)


def test_the_sets_come_in_their_order_before_the_source():
    data = module(
        sets_of(rain=3, fog=2), scenes={"source_train": memory(4), "source_eval": memory(1)}
    )
    data.setup("fit")
    assert data.eval_domains == ("rain", "fog", "source")
    counts = [sum(len(b["index"]) for b in loader) for loader in data.val_dataloader()]
    assert counts == [3, 2, 1]
    assert data.protocol.endswith(", mean of (rain, fog)")


def test_sets_stand_for_the_target_where_both_are_given():
    data = module(sets_of(rain=1), scenes={"source_train": memory(4), "target_eval": memory(1)})
    assert data.eval_domains == ("rain",)


def test_a_set_may_have_sizes_of_its_own():
    sets = {
        "small": EvalSet(memory(1), EvalView(16, 8)),
        "usual": EvalSet(memory(1, size=(40, 40))),
        "whole": EvalSet(memory(1, size=(48, 32)), EvalView()),
    }
    data = module(sets, eval_view=EvalView(20, 10))
    data.setup("validate")
    shapes = [
        (tuple(batch["image"].shape[-2:]), tuple(batch["label"].shape[-2:]))
        for loader in data.val_dataloader()
        for batch in loader
    ]
    assert shapes == [((16, 32), (8, 16)), ((20, 20), (10, 10)), ((48, 32), (48, 32))]
    assert data.protocol == (
        "3 classes of mine, input shorter side 20, labels shorter side 10, "
        "small: input shorter side 16, labels shorter side 8, "
        "whole: input at their own size, labels at their own size, mean of (small, usual, whole)"
    )


def test_a_set_of_other_classes_is_refused_before_any_image_is_read(tmp_path):
    classes = own_folder(tmp_path / "rain")
    for path in (tmp_path / "rain").rglob("*.png"):
        path.write_bytes(b"unreadable")
    make.camvid(tmp_path / "dusk")
    opens = partial(folder, tmp_path / "rain", "val", classes=classes)
    dusk = partial(camvid, tmp_path / "dusk", "test", ["0001TP"])
    names = make.space(3).classes
    data = module({"rain": EvalSet(opens), "dusk": EvalSet(dusk)})
    message = (
        r"data\.eval_sets\.dusk has the 11 classes of camvid, the task 3 of mine; set "
        r"classes=mine in data\.eval_sets\.dusk\.scenes where its masks hold these, or take"
    )
    with pytest.raises(ConfigError, match=message):
        data.setup("validate")
    assert not data.scenes and len(names) == 3


def test_as_many_classes_of_other_names_are_others():
    def renamed():
        scenes = memory(1)()
        scenes.labels = scenes.labels.__class__("other", ("a", "b", "c"), scenes.labels.palette)
        return scenes

    with pytest.raises(ConfigError, match="has the 3 classes of other, the task 3 of mine"):
        module({"rain": EvalSet(renamed)}).setup("validate")


def test_a_set_without_labels_is_refused(tmp_path):
    classes = own_folder(tmp_path, masks=False)
    rain = EvalSet(partial(folder, tmp_path, "val", classes=classes))
    with pytest.raises(ConfigError, match=r"data\.eval_sets\.rain has no labels, and a run is"):
        module({"rain": rain}).setup("validate")


def test_a_folder_that_is_not_there_is_named_with_its_set(tmp_path):
    classes = own_folder(tmp_path)
    rain = EvalSet(partial(folder, tmp_path / "no", classes=classes, argument="data.rain_root"))
    with pytest.raises(DataError, match=r"eval_sets\.rain: .*no does not exist; .*data\.rain_root"):
        module({"rain": rain}).setup("validate")


def test_a_setting_that_its_reader_lacks_is_named_with_its_set(tmp_path):
    rain = EvalSet(partial(folder, tmp_path, classes="cityscapes", sizes=3))
    with pytest.raises(ConfigError, match=r"data\.eval_sets\.rain\.scenes\.sizes is no setting"):
        module({"rain": rain}).setup("validate")


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (["target"], r"target_train, got null; set data\.generated=<folder.*, or choose data with"),
        (["source", "target", "generated"], r"got null; .*set data\.generated"),
        (["target_labels"], "got null; choose data with training images of a target"),
    ],
)
def test_methods_that_need_a_target_are_told_the_way_out(needs, message):
    with pytest.raises(ConfigError, match=message):
        module(sets_of(rain=1), needs)


def test_generated_images_stand_for_a_target_that_is_not_there(tmp_path):
    place = make.generated(tmp_path / "made", 3)
    data = module(sets_of(rain=1), ["source", "target"], replacement=Replacement(generated=place))
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))[0]
    assert batch["target"]["image"].shape == (2, 3, 16, 16)
    assert np.all(batch["target"]["label"].numpy() == 255)
    assert len(data.scenes["target_train"]) == 3
