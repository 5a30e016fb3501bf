"""Runs that see a few training images of the target."""

import logging

import make
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from sfseg.config.composition import CONF, build
from sfseg.data.fingerprint import fingerprint
from sfseg.data.layouts import folder
from sfseg.data.shots import Shots
from sfseg.data.toyscapes.scenes import Toyscapes
from sfseg.errors import ConfigError


@pytest.fixture
def files(tmp_path):
    classes = make.own_folder(tmp_path, count=12)
    return folder(tmp_path, "train", classes=classes)


@pytest.fixture
def scenes():
    return Toyscapes("city", "train", length=12, size=(64, 128))


def test_all_is_the_set_itself(files):
    assert Shots().of(files) is files


@pytest.mark.parametrize("kind", ["files", "scenes"])
def test_those_that_are_seen_are_as_they_were(kind, request, caplog):
    scenes = request.getfixturevalue(kind)
    with caplog.at_level(logging.INFO):
        few = Shots(number=3, seed=1).of(scenes)
    names = [scenes.name(k) for k in range(12)]
    chosen = [names.index(few.name(k)) for k in range(3)]
    assert len(few) == 3 and chosen == sorted(set(chosen))
    assert few.has_labels == scenes.has_labels and few.labels == scenes.labels
    for mine, theirs in enumerate(chosen):
        assert few.size(mine) == scenes.size(theirs)
        np.testing.assert_array_equal(few.image(mine), scenes.image(theirs))
        np.testing.assert_array_equal(few.label(mine), scenes.label(theirs))
    assert "target train: 3 of 12 images are seen: " + few.name(0) in caplog.text


def test_files_stay_files_of_another_content(files):
    few = Shots(number=2).of(files)
    assert type(few) is type(files) and few.unpaired == [] and few.official is None
    assert len(files) == 12 and fingerprint(few) not in (None, fingerprint(files))


def test_the_draw_follows_its_seed_alone(scenes):
    drawn = [Shots(number=1, seed=s).of(scenes).name(0) for s in range(40)]
    assert drawn[:5] == [Shots(number=1, seed=s).of(scenes).name(0) for s in range(5)]
    assert len(set(drawn)) > 8, "nearly all of twelve come in forty draws"
    assert len({Shots(number=12).of(scenes).name(k) for k in range(12)}) == 12


@pytest.mark.parametrize("form", [lambda p: p, lambda p: p.rpartition("/")[2], "stem"])
def test_names_may_be_short(files, form):
    name = files.name(5)
    short = name.rpartition("/")[2].partition(".")[0] if form == "stem" else form(name)
    few = Shots(names=[short]).of(files)
    assert [few.name(k) for k in range(len(few))] == [name]
    assert len(Shots(names=[short, name]).of(files)) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": ["nowhere"]}, "data.shots names 'nowhere', which no training image of the"),
        ({"names": ["0"], "number": 1}, "say both"),
        ({"number": 13}, "data.n_shots=13 is more than the 12 training images of the target"),
    ],
)
def test_what_cannot_be_seen_is_said(files, settings, message):
    with pytest.raises(ConfigError, match=message):
        Shots(**settings).of(files)


def test_a_name_that_several_have_is_refused(tmp_path):
    for part in ("a", "b"):
        make.write(tmp_path / "images" / part / "0.png", make.picture(0))
    files = folder(tmp_path, classes="camvid")
    with pytest.raises(ConfigError, match="'0', which 2 training images of the target has; names"):
        Shots(names=["0"]).of(files)


def test_errors():
    with pytest.raises(ValueError, match=r"data.n_shots must be at least 1, got 0"):
        Shots(number=0)
    with pytest.raises(ValueError, match=r"data.shots must name images"):
        Shots(names=[])


def test_a_run_is_served_these_alone_and_judged_on_all():
    small = ["data.size=[64,128]", "data.check_samples=2", "data.adaptation.batch_size=2"]
    lengths = [f"data.scenes.target_{part}.length=5" for part in ("train", "eval")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["method=minent", *small, *lengths, "data.n_shots=1"])
    data = build(cfg.data.module)
    data.setup("fit")
    assert len(data.scenes["target_train"]) == 1 and len(data.scenes["target_eval"]) == 5
    batch = next(iter(data.train_dataloader()))[0]["target"]
    assert batch["index"].tolist() == [0, 0], "other crops of one image"
    assert not np.array_equal(*batch["image"].numpy())
