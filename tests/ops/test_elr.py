import math

import numpy as np
import pytest
import torch

from sfseg.data.geometry import Geometry, View
from sfseg.ops.elr import CELL, FLOOR, TemporalEnsemble, elr_regularizer

CLASSES = 3


def random_crop(seed, image_size=None):
    """A geometry and the probabilities of its pixels."""
    rng = np.random.default_rng(seed)
    full = image_size or tuple(int(n) for n in rng.integers(1, 60, 2))
    crop = tuple(int(n) for n in rng.integers(1, 40, 2))
    geometry = View(crop, ratio=(0.5, 2.0)).draw(None, rng, full)
    generator = torch.Generator().manual_seed(seed)
    # As in a batch with larger pictures: around the crop is what nobody may look at.
    probability = torch.randn(CLASSES, *crop, generator=generator).mul(2).softmax(dim=0)
    return geometry, probability


def cell_of(g, size, row, column):
    """The cell below a pixel of a crop."""
    y, x = g.top + row, g.left + (g.width - 1 - column if g.flip else column)
    return (
        int((y + 0.5) * size[0] / g.scaled_height),
        int((x + 0.5) * size[1] / g.scaled_width),
    )


def moved(kept, g, probability, momentum):
    """The update, pixel by pixel."""
    shown = {}
    for row, column in np.ndindex(g.height, g.width):
        cell = cell_of(g, kept.shape[1:], row, column)
        shown.setdefault(cell, []).append(probability[:, row, column])
    after = kept.clone()
    for (y, x), values in shown.items():
        mean = torch.stack(values).mean(dim=0)
        after[:, y, x] = momentum * kept[:, y, x] + (1 - momentum) * mean
    return after


def one(geometry, probability, image=0):
    return torch.tensor([image]), torch.tensor([geometry]), probability[None]


@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("seed", range(12))
def test_targets_are_those_of_a_loop_over_pixels(seed, momentum):
    ensemble, kept = TemporalEnsemble(momentum), None
    image_size = tuple(int(n) for n in np.random.default_rng(seed).integers(1, 60, 2))
    for visit in range(3):
        g, probability = random_crop(100 * seed + visit, image_size)
        if kept is None:
            size = math.ceil(g.scaled_height / CELL), math.ceil(g.scaled_width / CELL)
            kept = torch.zeros(CLASSES, *size)
        kept = moved(kept, g, probability, momentum)
        ensemble.update(*one(g, probability))
        torch.testing.assert_close(ensemble.targets[0], kept, atol=1e-6, rtol=0)
        kept = ensemble.targets[0]
        read = ensemble.read(*one(g, probability))[0]
        for row, column in np.ndindex(*probability.shape[1:]):
            is_shown = row < g.height and column < g.width
            expected = torch.zeros(CLASSES)
            if is_shown:
                expected = kept[:, *cell_of(g, kept.shape[1:], row, column)]
            assert torch.equal(read[:, row, column], expected)


def test_targets_begin_at_zero_and_approach_what_is_predicted():
    ensemble = TemporalEnsemble(0.7)
    g = Geometry.whole((16, 16))
    constant = torch.tensor([0.5, 0.3, 0.2])[:, None, None].expand(3, 16, 16)
    index, geometry, probability = one(g, constant)
    assert not ensemble.read(index, geometry, probability).any()
    for visit in range(1, 12):
        ensemble.update(index, geometry, probability)
        expected = (1 - 0.7**visit) * probability
        read = ensemble.read(index, geometry, probability)
        torch.testing.assert_close(read, expected, atol=1e-6, rtol=0)


def test_images_are_apart_and_one_may_be_twice_in_a_batch():
    g = Geometry.whole((16, 16))
    places = torch.tensor([g, g._replace(top=4, height=12, flip=1), g])
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(3, CLASSES, 16, 16, generator=generator).softmax(dim=1)
    together, apart = TemporalEnsemble(), TemporalEnsemble()
    together.update(torch.tensor([4, 4, 9]), places, probability)
    for k, image in enumerate((4, 4, 9)):
        apart.update(torch.tensor([image]), places[k : k + 1], probability[k : k + 1])
    assert together.targets.keys() == apart.targets.keys() == {4, 9}
    assert all(torch.equal(together.targets[k], apart.targets[k]) for k in (4, 9))
    unseen = together.read(torch.tensor([5]), places[:1], probability[:1])
    assert unseen.shape == (1, CLASSES, 16, 16) and not unseen.any()


def test_a_mirrored_visit_moves_the_same_cells():
    g = Geometry.whole((24, 40))
    probability = torch.rand(CLASSES, 24, 40, generator=torch.Generator().manual_seed(0))
    plain, mirrored = TemporalEnsemble(), TemporalEnsemble()
    plain.update(*one(g, probability))
    mirrored.update(*one(g._replace(flip=1), probability.flip(-1)))
    torch.testing.assert_close(plain.targets[0], mirrored.targets[0], atol=1e-3, rtol=0)


def test_reading_changes_nothing_and_a_state_is_a_copy():
    ensemble = TemporalEnsemble()
    g, probability = random_crop(3)
    ensemble.update(*one(g, probability))
    before, state = ensemble.targets[0].clone(), ensemble.state_dict()
    read = ensemble.read(*one(g, probability))
    read.fill_(7)
    assert torch.equal(ensemble.targets[0], before)
    ensemble.update(*one(g, probability))
    other = TemporalEnsemble()
    other.load_state_dict(state)
    assert torch.equal(other.targets[0], before)
    other.update(*one(g, probability))
    assert torch.equal(other.targets[0], ensemble.targets[0])
    assert torch.equal(state["targets"][0], before)


def test_memory_is_that_of_an_eighth_of_the_image():
    ensemble = TemporalEnsemble()
    g = Geometry(512, 1024, 512, 1024, 100, 200, 64, 64, 0)
    ensemble.update(*one(g, torch.full((19, 64, 64), 1 / 19)))
    kept = ensemble.targets[0]
    assert kept.shape == (19, 64, 128) and kept.dtype == torch.float32


def test_means_reach_what_is_predicted_at_any_momentum():
    """In half precision they would stand still on the way."""
    ensemble, g = TemporalEnsemble(0.99), Geometry.whole((8, 8))
    probability = torch.tensor([0.9, 0.09, 0.01])[:, None, None].expand(3, 8, 8)
    for _ in range(1500):
        ensemble.update(*one(g, probability))
    torch.testing.assert_close(ensemble.read(*one(g, probability))[0], probability)


def test_a_state_in_half_precision_goes_on_in_full():
    """Earlier versions saved it so."""
    ensemble = TemporalEnsemble()
    ensemble.load_state_dict({"targets": {3: torch.full((2, 1, 1), 0.3).half()}})
    kept = ensemble.state_dict()["targets"][3]
    assert kept.dtype == torch.float32 and torch.equal(kept, kept.half().float())


def test_the_regularizer_by_hand():
    logits = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]).log().T.reshape(1, 3, 1, 2)
    target = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.9]]).T.reshape(1, 3, 1, 2)
    expected = (math.log(1 - 0.45) + math.log(1 - 0.54)) / 2
    assert elr_regularizer(logits, target).item() == pytest.approx(expected, rel=1e-5)
    assert elr_regularizer(logits, torch.zeros_like(target)) == 0


def test_it_falls_as_predictions_approach_targets():
    target = torch.tensor([0.8, 0.1, 0.1])[None, :, None, None]
    logits = torch.zeros(1, 3, 1, 1, requires_grad=True)
    before = elr_regularizer(logits, target)
    (gradient,) = torch.autograd.grad(before, logits)
    assert gradient[0, 0] < 0 < gradient[0, 1]
    assert elr_regularizer(logits - gradient, target) < before


@pytest.mark.parametrize("scale", [0.0, 50.0, 1e4, 3e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_stay_finite(scale, dtype):
    logits = (torch.tensor([1.0, -1.0, 0.0])[None, :, None, None] * scale).to(dtype)
    logits = logits.requires_grad_()
    for target in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.4, 0.3, 0.3]):
        loss = elr_regularizer(logits, torch.tensor(target)[None, :, None, None])
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.dtype == torch.float32 and torch.isfinite(gradient).all()
        assert math.log(FLOOR) - 1e-3 <= loss <= 0


@pytest.mark.parametrize("momentum", [-0.1, 1.0, math.nan])
def test_a_momentum_out_of_range_is_refused(momentum):
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got"):
        TemporalEnsemble(momentum)
