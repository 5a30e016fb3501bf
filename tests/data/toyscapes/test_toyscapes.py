import pickle

import numpy as np
import pytest

from sfseg.data.toyscapes.scenes import Toyscapes
from sfseg.data.toyscapes.style import _GAP, _GAP_EITHER_WAY, SHIFTS, city_style, game_style
from sfseg.labels import CITYSCAPES
from sfseg.types import IGNORE

DOMAINS = ("game", "city")
SMALL = (64, 128)


def scene(domain="city", split="train", index=3, **options):
    options = {"length": 8, "size": SMALL, **options}
    scenes = Toyscapes(domain, split, **options)
    return scenes.image(index), scenes.label(index)


def colour_statistics(scenes):
    pixels = np.stack([scenes.image(i) for i in range(len(scenes))]).reshape(-1, 3).astype(float)
    return np.concatenate([pixels.mean(axis=0), pixels.std(axis=0)])


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_scene_depends_on_nothing_but_its_key(domain):
    image, label = scene(domain)
    again = Toyscapes(domain, "train", length=8, size=SMALL)
    for index in (5, 0, 3):
        again.image(index)
    np.testing.assert_array_equal(again.image(3), image)
    np.testing.assert_array_equal(again.label(3), label)


@pytest.mark.parametrize(
    "other",
    [
        {"index": 4},
        {"seed": 1},
        {"split": "val"},
        {"split": "test"},
        {"domain": "game"},
        {"style_seed": 1},
        {"shift": "mild"},
    ],
)
def test_another_key_draws_another_scene(other):
    image, label = scene()
    other_image, other_label = scene(**other)
    assert (image != other_image).any(axis=2).mean() > 0.3
    assert (label != other_label).any()


@pytest.mark.parametrize("size", [(128, 256), (64, 128), (100, 300), (256, 512)])
@pytest.mark.parametrize("domain", DOMAINS)
def test_image_and_label_have_the_asked_size(domain, size):
    scenes = Toyscapes(domain, "val", length=2, size=size)
    image, label = scenes.image(1), scenes.label(1)
    assert (image.dtype, image.shape) == (np.uint8, (*size, 3))
    assert (label.dtype, label.shape) == (np.uint8, size)
    assert scenes.size(1) == size
    assert set(np.unique(label)) <= {*range(CITYSCAPES.num_classes), IGNORE}
    assert (label == IGNORE).mean() < 0.1


def test_names_say_domain_split_and_index():
    scenes = Toyscapes("city", "train", length=13)
    assert scenes.name(12) == "city/train/000012.png"
    assert len(scenes) == 13
    assert scenes.has_labels
    assert scenes.labels is CITYSCAPES


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_class_is_in_a_twentieth_of_the_scenes(domain):
    scenes = Toyscapes(domain, "train", length=200)
    present = np.stack(
        [np.bincount(scenes.label(i).ravel(), minlength=256)[:19] >= 8 for i in range(200)]
    )
    rare = dict(zip(CITYSCAPES.classes, present.mean(axis=0), strict=True))
    assert min(rare.values()) >= 0.05, rare


def test_a_larger_scene_shows_the_same_street():
    _, small = scene("game", size=(64, 128))
    _, large = scene("game", size=(128, 256))
    assert (large[::2, ::2] == small).mean() > 0.9


def test_the_game_knows_no_shift():
    image, label = scene("game")
    other_image, other_label = scene("game", shift="severe", style_seed=7)
    np.testing.assert_array_equal(other_image, image)
    np.testing.assert_array_equal(other_label, label)


def test_a_stronger_shift_is_farther_from_the_game():
    game = colour_statistics(Toyscapes("game", "train", length=12, size=SMALL))
    distance = [
        np.mean([
            np.linalg.norm(game - colour_statistics(
                Toyscapes("city", "train", length=4, size=SMALL, shift=shift, style_seed=seed)
            ))
            for seed in range(5)
        ])
        for shift in SHIFTS
    ]  # fmt: skip
    assert distance[0] < distance[1] < distance[2]


@pytest.mark.parametrize("style_seed", range(5))
def test_all_cities_of_a_shift_are_equally_far(style_seed):
    game = game_style()
    steps = [
        (getattr(city_style("mild", style_seed), name) - getattr(game, name)) / offset
        for name, offset in {**_GAP, **_GAP_EITHER_WAY}.items()
    ]
    assert np.sqrt(np.mean(np.square(steps))) == pytest.approx(SHIFTS["mild"], rel=1e-6)


def test_scenes_are_kept_but_not_pickled():
    scenes = Toyscapes("game", "train", length=2)
    empty = len(pickle.dumps(scenes))
    image = scenes.image(0)
    assert scenes._scene(0) is scenes._scene(0)
    stored = pickle.dumps(scenes)
    assert len(stored) == empty < 10_000
    np.testing.assert_array_equal(pickle.loads(stored).image(0), image)


def test_a_caller_may_write_into_what_it_gets():
    scenes = Toyscapes("game", "train", length=1, size=SMALL)
    image, label = scenes.image(0), scenes.label(0)
    image[:], label[:] = 0, IGNORE
    assert scenes.image(0).any()
    assert (scenes.label(0) != IGNORE).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": "film"}, r"domain must be one of \['game', 'city'\], got 'film'"),
        ({"split": "eval"}, r"split must be one of \['train', 'val', 'test'\], got 'eval'"),
        ({"shift": "huge"}, r"shift must be one of \['mild', 'default', 'severe'\], got 'huge'"),
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"size": (32, 256)}, r"size must be at least \(64, 128\).*got \(32, 256\)"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"style_seed": -1}, "style_seed must be at least 0, got -1"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    arguments = {"domain": "city", "split": "train", "length": 1, **options}
    with pytest.raises(ValueError, match=message):
        Toyscapes(arguments.pop("domain"), arguments.pop("split"), **arguments)


def test_city_style_names_its_shifts():
    with pytest.raises(ValueError, match="shift must be one of"):
        city_style("huge")


@pytest.mark.parametrize("index", [-1, 2])
@pytest.mark.parametrize("method", ["name", "size", "image", "label"])
def test_an_index_out_of_range_is_an_index_error(method, index):
    with pytest.raises(IndexError, match=r"index must be in 0\.\.1"):
        getattr(Toyscapes("game", "val", length=2), method)(index)
