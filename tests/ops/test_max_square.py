"""Maximum squares: values by hand, the weights of an image's classes, guidance of a second head."""

import math

import numpy as np
import pytest
import torch

from sfseg.ops.max_square import (
    guided_label,
    image_weighted_max_square,
    image_weights,
    max_square,
)
from sfseg.types import IGNORE


def case(num_classes=3, shape=(2, 4, 5), spread=3.0, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (shape[0], num_classes, *shape[1:]))
    return torch.as_tensor(logits).float().requires_grad_()


def chances(scores):
    weight = [math.exp(s - max(scores)) for s in scores]
    return [w / sum(weight) for w in weight]


def pixels(logits):
    """(image, sum of squares, argmax) of every pixel, in double precision."""
    scores = logits.detach().double().numpy()
    for b, y, x in np.ndindex(scores.shape[0], *scores.shape[2:]):
        probability = chances(scores[b, :, y, x].tolist())
        yield b, sum(p * p for p in probability), int(np.argmax(probability))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("num_classes", [2, 3, 19])
def test_values_by_hand(num_classes):
    # As many images as classes is where the authors' code multiplies weights with the wrong axis.
    logits = case(num_classes, (num_classes, 2, 3))
    mean = np.mean([squares for _, squares, _ in pixels(logits)])
    expected = {"sfda": -mean, "paper": -mean / 2, "code": -mean / (2 * num_classes)}
    for norm, value in expected.items():
        assert max_square(logits, norm=norm).item() == pytest.approx(value, rel=1e-9)
    assert torch.equal(max_square(logits), max_square(logits, norm="code"))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("ratio", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_weighted_values_by_hand(num_classes, ratio):
    logits = case(num_classes, (num_classes, 3, 4))
    every = list(pixels(logits))
    total = 0.0
    for b, squares, chosen in every:
        count = sum(1 for image, _, other in every if (image, other) == (b, chosen))
        total += squares / max(count**ratio * 12 ** (1 - ratio), 1)
    mean = total / num_classes  # over images, of which there are as many
    expected = {"sfda": -mean, "paper": -mean / 2, "code": -mean / num_classes}
    for norm, value in expected.items():
        loss = image_weighted_max_square(logits, ratio=ratio, norm=norm)
        # The weights are in single precision.
        assert loss.item() == pytest.approx(value, rel=1e-6)


@pytest.mark.usefixtures("double")
def test_certainty_is_least_and_ignorance_most():
    certain = torch.full((1, 4, 2, 2), -1e4)
    certain[:, 1] = 0
    assert max_square(certain, norm="sfda").item() == -1
    assert max_square(torch.zeros(1, 4, 2, 2), norm="sfda").item() == pytest.approx(-1 / 4)


@pytest.mark.usefixtures("double")
def test_the_gradient_grows_with_confidence_less_fast_than_that_of_entropy():
    """Of two classes it is proportional to p (1 - p) (2 p - 1) (Figure 2 of the paper)."""
    p = torch.tensor([0.6, 0.75, 0.9], dtype=torch.float64)
    logits = torch.stack([p.log(), (1 - p).log()])[None, :, None].requires_grad_()
    max_square(logits, norm="sfda").backward()
    expected = -2 * p * (1 - p) * (2 * p - 1) / 3
    torch.testing.assert_close(logits.grad[0, 0, 0], expected)


@pytest.mark.usefixtures("double")
def test_weights_of_an_image_do_not_depend_on_the_others():
    logits = case().detach()
    alone = torch.stack([image_weighted_max_square(image[None]) for image in logits])
    torch.testing.assert_close(image_weighted_max_square(logits), alone.mean())


def test_rare_classes_weigh_more():
    prediction = torch.tensor([[[0, 0], [0, 1]]])
    weights = image_weights(prediction, num_classes=3, ratio=1.0)
    torch.testing.assert_close(weights, torch.tensor([[[1 / 3, 1 / 3], [1 / 3, 1.0]]]))


@pytest.mark.parametrize("loss", [max_square, image_weighted_max_square])
@pytest.mark.parametrize("spread", [0, 1, 1e4, 1e30])
def test_values_and_gradients_are_finite(loss, spread):
    logits = case(19, (1, 8, 8), spread)
    value = loss(logits)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(logits.grad).all()
    half = logits.detach().bfloat16()
    assert loss(half).dtype == torch.float32
    torch.testing.assert_close(loss(half), loss(half.float()))


def test_guidance_is_the_mean_prediction_where_a_head_is_sure():
    chance = torch.tensor([[0.97, 0.02, 0.01], [0.5, 0.3, 0.2], [0.5, 0.4, 0.1], [0.95, 0.05, 0]])
    second = torch.tensor([[0.0, 0.6, 0.4], [0.02, 0.97, 0.01], [0.1, 0.8, 0.1], [0.95, 0, 0.05]])
    main, aux = (p.double().T[None, :, None].clamp_min(1e-30).log() for p in (chance, second))
    label = guided_label(main.float(), aux.float(), delta=0.951)
    # Sure is the main head, the auxiliary one, none, and none.
    assert label.tolist() == [[[0, 1, IGNORE, IGNORE]]]
    assert guided_label(main.float(), aux.float(), delta=0.0).tolist() == [[[0, 1, 1, 0]]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: max_square(x, norm="mean"), "norm must be one of code, paper, sfda, got 'mean'"),
        (lambda x: image_weighted_max_square(x, norm="n"), "norm must be one of"),
        (lambda x: image_weighted_max_square(x, ratio=1.5), r"ratio must be in \[0, 1\], got 1.5"),
        (lambda x: guided_label(x, x, delta=-0.1), r"delta must be in \[0, 1\], got -0.1"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(case().detach())
