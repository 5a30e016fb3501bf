"""Images in place of the target's own: of folders, or generated ones without the black."""

import logging

import make
import numpy as np
import pytest
from conftest import SMALL
from hydra import compose, initialize_config_dir

from sfseg.config.composition import CONF, build
from sfseg.data.image_folders import ImageFolders
from sfseg.data.opening import opened
from sfseg.data.replacement import Replacement, is_black
from sfseg.data.shots import Shots
from sfseg.errors import ConfigError, DataError


def names(scenes):
    return [scenes.name(k) for k in range(len(scenes))]


def data_of(*words):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build(compose("train", [*SMALL, *words]).data.module)


@pytest.mark.parametrize("highest", [0, 7, 8, 255])
def test_black_is_what_nothing_shines_in(highest):
    image = np.zeros((4, 6, 3), np.uint8)
    image[3, 5, 2] = highest
    assert is_black(image) == (highest < 8)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_black_images_are_dropped_and_counted(tmp_path, suffix, caplog):
    place = make.generated(tmp_path / "made", 5, black=(1, 4))
    make.write(tmp_path / "made" / f"z.{suffix}", np.zeros((64, 64, 3), np.uint8))
    make.write(tmp_path / "made" / "wide.png", make.picture(0, (64, 64)))
    with caplog.at_level(logging.INFO):
        found = Replacement(generated=place).images(make.space())
    assert names(found) == ["im_0_p0.png", "im_2_p2.png", "im_3_p3.png", "wide.png"]
    (line,) = [m for m in caplog.messages if "in place of" in m]
    assert line.startswith(f"target train: 4 generated images of data.generated={place} in place")
    assert line.endswith("3 black ones are left out; sizes: 128x64 (3), 64x64 (1)")


def test_folders_are_taken_as_they_are(tmp_path):
    place = make.generated(tmp_path / "made", 3, black=(1,))
    assert len(Replacement(folders=[place]).images(make.space())) == 3


def test_what_cannot_be_read_is_left_to_the_check(tmp_path):
    place = make.generated(tmp_path / "made", 3, black=(1,))
    broken = tmp_path / "made" / "im_2_p2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    assert names(Replacement(generated=place).images(make.space())) == [
        "im_0_p0.png", "im_2_p2.png",
    ]  # fmt: skip


@pytest.mark.parametrize("black", [True, False])
def test_black_images_alone_or_none_are_refused(tmp_path, black):
    (tmp_path / "made").mkdir()
    place = make.generated(tmp_path / "made", 3 if black else 0, black=range(3))
    message = "all 3 images are black, as Stable" if black else "made, which holds no images"
    with pytest.raises(DataError, match=message):
        Replacement(generated=place).images(make.space())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folders": ["a"], "generated": "b"}, r"data.generated=b both say which images"),
        ({"folders": []}, r"data.target_folders must name folders or lists of images, got \[\]"),
        ({"generated": ""}, r"data.generated must name folders"),
        ({"generated": 202405}, r"data.generated must be names, got 202405, .* '202405'"),
        ({"folders": ["a", 7]}, r"data.target_folders must be names, got 7"),
    ],
)
def test_settings_that_say_nothing_or_too_much(settings, message):
    with pytest.raises(ConfigError, match=message):
        Replacement(**settings)


def test_shots_are_those_of_the_target_and_generated_images_all_seen(tmp_path):
    own = make.Memory([make.picture(k) for k in range(4)])
    replacement = Replacement(generated=make.generated(tmp_path / "made", 5))

    def images(shots):
        return opened("target_train", lambda: own, own.labels, None, shots, replacement)

    for shots in (Shots(), Shots(number=1, seed=2), Shots(names=["memory/3"])):
        assert len(images(shots)) == 5
    for shots, message in (
        (Shots(names=["memory/4"]), "data.shots names 'memory/4', which no training image"),
        (Shots(number=5), "data.n_shots=5 is more than the 4 training images"),
    ):
        with pytest.raises(ConfigError, match=message):
            images(shots)


def test_the_target_itself_is_opened_for_shots_alone(tmp_path):
    def missing():
        raise DataError("no images")

    replacement = Replacement(generated=make.generated(tmp_path / "made", 2))
    assert len(opened("target_train", missing, make.space(), replacement=replacement)) == 2
    with pytest.raises(DataError, match="no images"):
        shots = Shots(number=1)
        opened("target_train", missing, make.space(), shots=shots, replacement=replacement)


def test_of_folders_shots_are_some(tmp_path):
    places = [make.generated(tmp_path / part, 3) for part in ("a", "b")]
    own = make.Memory([make.picture(0)])
    replacement = Replacement(folders=places)
    found = opened(
        "target_train", lambda: own, own.labels, None, Shots(names=["b/im_1_p1.png"]), replacement
    )
    assert names(found) == ["b/im_1_p1.png"]
    with pytest.raises(ConfigError, match="'im_1_p1', which 2 training images of the target has"):
        opened("target_train", lambda: own, own.labels, None, Shots(names=["im_1_p1"]), replacement)


@pytest.mark.parametrize("setting", ["target_folders", "generated"])
def test_training_sees_these_and_evaluation_the_target(tmp_path, setting):
    size = (64, 128)
    places = [make.generated(tmp_path / part, 2, size=size) for part in ("a", "b")]
    data = data_of("method=dacs", "start=backbone", f"data.{setting}=[{','.join(places)}]")
    data.setup("fit")
    assert isinstance(data.scenes["target_train"], ImageFolders)
    assert names(data.scenes["target_train"])[::3] == ["a/im_0_p0.png", "b/im_1_p1.png"]
    assert type(data.scenes["target_eval"]).__name__ == "Toyscapes"
    batch = next(iter(data.train_dataloader()))[0]["target"]
    assert batch["image"].shape[-2:] == (64, 64) and (batch["label"] == 255).all()
    assert data.true_label(0) is None


def test_an_oracle_has_nothing_to_learn_from_them(tmp_path):
    data = data_of("method=oracle", f"data.target_folders={make.generated(tmp_path / 'a', 2)}")
    with pytest.raises(ConfigError, match="target train set has no labels, but training needs"):
        data.setup("fit")


def test_datum_without_generated_images_is_refused():
    data = data_of("method=datum", "start=backbone")
    with pytest.raises(ConfigError, match=r"set data\.generated=<their folder>, or take method="):
        data.setup("fit")
    data.setup("validate")


def test_datum_shows_them_at_their_own_size(tmp_path):
    place = make.generated(tmp_path / "made", 2, size=(96, 80))
    data = data_of(
        "method=datum", "start=backbone", f"data.generated={place}", "data.target_crop=[96,80]",
        "data.adaptation.target_view.resize=[64,128]", "data.colour=null",
    )  # fmt: skip
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))[0]["target"]
    shown = zip(batch["image"], batch["index"].tolist(), batch["geometry"].tolist(), strict=True)
    for image, index, geometry in shown:
        assert geometry[:8] == [96, 80, 96, 80, 0, 0, 96, 80]
        whole = make.picture(index, (96, 80))
        turned = whole[:, ::-1] if geometry[8] else whole
        np.testing.assert_array_equal(image.numpy().transpose(1, 2, 0), turned)
