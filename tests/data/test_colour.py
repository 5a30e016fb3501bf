import pickle
from itertools import islice

import albumentations
import numpy as np
import pytest
import torch
from make import Memory, picture
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional

from sfseg.data import colour
from sfseg.data.colour import Albumentations, ColourJitter, scale_colours, shift_hue
from sfseg.data.folder import FolderDataset, collate
from sfseg.data.geometry import View
from sfseg.data.sampling import EndlessBatches, Passes
from sfseg.errors import ConfigError

LENGTH, BATCH = 6, 2
CHANGES = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
OFF = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "probability": 1.0}


def jitter():
    return ColourJitter(probability=1.0, blur=0.5)


def library():
    transforms = [
        albumentations.RandomBrightnessContrast(p=1),
        albumentations.OneOf([albumentations.GaussNoise(p=1), albumentations.ToGray(p=1)], p=0.8),
    ]
    distortion = Albumentations(transforms[:1])
    distortion.compose = albumentations.Compose(transforms)
    return distortion


def two_passes(distortion, num_workers=0, seed=0, purpose="target"):
    """Images by (pass, index); all samples show the same scene, so only colours differ."""
    dataset = FolderDataset(
        Memory([picture(0)] * LENGTH), view=View((32, 64), flip=0), colour=distortion(), seed=seed,
        purpose=purpose,
    )  # fmt: skip
    passes = Passes(LENGTH, seed=seed, purpose=purpose)
    batches = EndlessBatches(lambda: passes, BATCH)
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=num_workers, collate_fn=collate)
    count = 2 * LENGTH // BATCH
    tickets = [ticket[:2] for batch in islice(iter(batches), count) for ticket in batch]
    images = torch.cat([batch["image"] for batch in islice(iter(loader), count)])
    return dict(zip(tickets, images, strict=True))


distortions = pytest.mark.parametrize("distortion", [jitter, library])


# More workers than cores are slow, not wrong; the machine may have any number.
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("num_workers", [1, 3])
@distortions
def test_colours_do_not_depend_on_the_workers(distortion, num_workers):
    expected, found = two_passes(distortion), two_passes(distortion, num_workers)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[ticket], expected[ticket]) for ticket in expected)


@distortions
def test_every_sample_of_every_pass_has_colours_of_its_own(distortion):
    images = two_passes(distortion).values()
    assert len({image.numpy().tobytes() for image in images}) == 2 * LENGTH


@pytest.mark.parametrize("other", [{"seed": 1}, {"purpose": "source"}])
@distortions
def test_other_runs_and_domains_have_other_colours(distortion, other):
    first, second = two_passes(distortion), two_passes(distortion, **other)
    assert all(not torch.equal(first[t], second[t]) for t in first.keys() & second.keys())


@distortions
def test_the_seed_alone_decides(distortion):
    distort, image = distortion(), picture(0)
    first = [distort(image, seed) for seed in range(20)]
    copy = pickle.loads(pickle.dumps(distort))
    for seed in reversed(range(20)):
        np.testing.assert_array_equal(distort(image, seed), first[seed])
        np.testing.assert_array_equal(copy(image, seed), first[seed])


@distortions
def test_global_random_numbers_are_neither_used_nor_moved(distortion):
    distort, image = distortion(), picture(0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = distort(image, 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    np.testing.assert_array_equal(distort(image, 5), first)


@pytest.mark.parametrize(
    ("distortion", "size"),
    # The library itself loses the shape of a single pixel.
    [
        (jitter, (32, 64)),
        (jitter, (7, 3)),
        (jitter, (1, 1)),
        (library, (32, 64)),
        (library, (7, 3)),
    ],
)
def test_size_type_and_input_stay(distortion, size):
    image = picture(0, size)
    before = image.copy()
    for seed in range(4):
        found = distortion()(image, seed)
        assert (found.shape, found.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(image, before)


def test_colours_of_a_mirror_image_are_mirrored():
    jitter, image = ColourJitter(probability=1.0), picture(0)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    for seed in range(10):
        np.testing.assert_array_equal(jitter(mirrored, seed), jitter(image, seed)[:, ::-1])


@pytest.mark.parametrize(
    ("options", "share"), [({"probability": 0.0}, 0), ({"probability": 0.8}, 0.8), ({}, 0.8)]
)
def test_share_of_distorted_images(options, share):
    jitter, image = ColourJitter(**options), picture(0)
    changed = [(jitter(image, seed) != image).any() for seed in range(400)]
    assert np.mean(changed) == pytest.approx(share, abs=0.06)


def test_brightness_stays_in_its_range():
    jitter, image = ColourJitter(**(OFF | {"brightness": 0.3})), np.full((4, 4, 3), 100, np.uint8)
    values = [int(jitter(image, seed)[0, 0, 0]) for seed in range(300)]
    assert 69 <= min(values) < 76 and 124 < max(values) <= 131


def test_grey_stays_grey_under_saturation_and_hue():
    image = np.repeat(picture(0)[..., :1], 3, axis=2)
    jitter = ColourJitter(**(OFF | {"saturation": 0.9, "hue": 0.5}))
    for seed in range(20):
        assert np.abs(jitter(image, seed).astype(int) - image).max() <= 2


def test_contrast_moves_away_from_or_towards_the_mean():
    image = picture(0)
    jitter = ColourJitter(**(OFF | {"contrast": 0.5}))
    spreads = np.array([jitter(image, seed).std() for seed in range(50)]) / image.std()
    assert 0.45 < spreads.min() < 0.8 and 1.05 < spreads.max() < 1.55


def test_blur_smooths():
    noise = np.random.default_rng(0).integers(256, size=(32, 32, 3)).astype(np.uint8)
    jitter = ColourJitter(**(OFF | {"probability": 0.0}), blur=1.0)
    spreads = [jitter(noise, seed).std() / noise.std() for seed in range(30)]
    assert max(spreads) <= 1.01 and min(spreads) < 0.6


@pytest.mark.parametrize("name", ["probability", "blur"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_impossible_probabilities_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be a probability in \[0, 1\], got {value}"):
        ColourJitter(**{name: value})


def test_the_agpl_successor_is_refused(monkeypatch):
    colour.refuse_agpl_fork()
    monkeypatch.setattr(colour, "version", lambda name: {"albumentationsx": "2.1.0"}[name])
    with pytest.raises(ConfigError, match=r"albumentationsx 2\.1\.0 \(AGPL-3\.0\).*uninstall"):
        Albumentations([])


@pytest.mark.parametrize(
    "factors", [(1, 1, 1), (1.2, 1, 1), (1, 0.7, 1), (1, 1, 1.4), (0.9, 1.2, 0.7)]
)
def test_scaled_colours_are_those_of_torchvision(factors):
    image = (picture(0) // 4 + 90).astype(np.uint8)  # far from the ends, where rounding clips
    expected = torch.from_numpy(image).permute(2, 0, 1) / 255
    for change, factor in zip(CHANGES, factors, strict=True):
        expected = change(expected, factor)
    found = torch.from_numpy(scale_colours(image, *factors)).permute(2, 0, 1)
    torch.testing.assert_close(found.float(), expected * 255, atol=1, rtol=0)


@pytest.mark.parametrize("shift", [0.1, 0.25, -0.05, 0.5, -0.5])
def test_shifted_hues_are_those_of_torchvision(shift):
    image = picture(0)
    expected = functional.adjust_hue(torch.from_numpy(image).permute(2, 0, 1) / 255, shift)
    found = torch.from_numpy(shift_hue(image, shift)).permute(2, 0, 1) / 255
    # 256 hues are a sixth of a full swing in 43 steps.
    assert (found - expected).abs().max() < 0.05
    assert (found - expected).abs().mean() < 0.01


def test_opposite_shifts_cancel():
    image = picture(0)
    assert np.abs(shift_hue(shift_hue(image, 0.3), -0.3).astype(int) - image).max() <= 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"brightness": -0.1}, "brightness must be a relative change of at least 0, got -0.1"),
        ({"saturation": -1}, "saturation must be .* got -1"),
        ({"hue": 0.6}, r"hue must be a share of the circle in \[0, 0.5\], got 0.6"),
        ({"hue": -0.1}, "got -0.1"),
    ],
)
def test_impossible_amounts_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ColourJitter(**options)


def test_transforms_that_move_pixels_are_refused():
    with pytest.raises(ValueError, match="leave pixels in place, got HorizontalFlip; scale, crop"):
        Albumentations([albumentations.ToGray(), albumentations.HorizontalFlip()])


def test_choices_of_transforms_that_leave_pixels_in_place_are_taken():
    Albumentations([albumentations.OneOf([albumentations.ToGray(), albumentations.CLAHE()])])


def test_a_jitter_without_amounts_changes_nothing():
    np.testing.assert_array_equal(ColourJitter(**OFF)(picture(0), 0), picture(0))
