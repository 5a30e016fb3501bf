import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from make import Memory, picture
from torch.utils.data import DataLoader

from sfseg.data import colour
from sfseg.data.colour import ColourJitter
from sfseg.data.folder import FolderDataset, collate
from sfseg.data.geometry import View
from sfseg.data.sampling import EndlessBatches
from sfseg.errors import ConfigError

LENGTH, BATCH = 6, 2
OFF = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "probability": 1.0}


def two_passes(num_workers, seed=0, purpose="target"):
    """Images by (pass, index); all samples show the same scene, so only colours differ."""
    jitter = ColourJitter(probability=1.0, blur=0.5)
    dataset = FolderDataset(
        Memory([picture(0)] * LENGTH), view=View((32, 64), flip=0), colour=jitter, seed=seed,
        purpose=purpose,
    )  # fmt: skip
    batches = EndlessBatches(LENGTH, BATCH, seed=seed, purpose=purpose)
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=num_workers, collate_fn=collate)
    count = 2 * LENGTH // BATCH
    tickets = [ticket for batch in islice(iter(batches), count) for ticket in batch]
    images = torch.cat([batch["image"] for batch in islice(iter(loader), count)])
    return dict(zip(tickets, images, strict=True))


@pytest.fixture(scope="module")
def reference():
    return two_passes(num_workers=0)


# More workers than cores are slow, not wrong; the machine may have any number.
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_colours_do_not_depend_on_the_workers(reference, num_workers):
    found = two_passes(num_workers)
    assert found.keys() == reference.keys()
    assert all(torch.equal(found[ticket], reference[ticket]) for ticket in reference)


def test_every_sample_of_every_pass_has_colours_of_its_own(reference):
    assert len(reference) == 2 * LENGTH
    assert len({image.numpy().tobytes() for image in reference.values()}) == 2 * LENGTH


@pytest.mark.parametrize("other", [{"seed": 1}, {"purpose": "source"}])
def test_other_runs_and_domains_have_other_colours(reference, other):
    found = two_passes(num_workers=0, **other)
    assert all(not torch.equal(found[t], reference[t]) for t in found.keys() & reference.keys())


def test_the_seed_alone_decides():
    jitter, image = ColourJitter(probability=0.5, blur=0.5), picture(0)
    first = [jitter(image, seed) for seed in range(20)]
    copy = pickle.loads(pickle.dumps(jitter))
    for seed in reversed(range(20)):
        np.testing.assert_array_equal(jitter(image, seed), first[seed])
        np.testing.assert_array_equal(copy(image, seed), first[seed])


def test_global_random_numbers_are_neither_used_nor_moved():
    jitter, image = ColourJitter(probability=1.0, blur=1.0), picture(0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = jitter(image, 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    np.testing.assert_array_equal(jitter(image, 5), first)


@pytest.mark.parametrize("size", [(32, 64), (1, 1), (7, 3)])
def test_size_type_and_input_stay(size):
    image = picture(0, size)
    before = image.copy()
    found = ColourJitter(probability=1.0, blur=1.0)(image, 0)
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
        ColourJitter()
