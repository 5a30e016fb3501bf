import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sfseg.ops.consistency import (
    feature_consistency,
    log_mixture,
    prediction_consistency,
    released_feature_consistency,
    released_mixture,
    released_prediction_consistency,
)


def views(count=3, num_classes=5, shape=(2, 4, 3), spread=2.0, common=0.0, seed=0):
    """Scores of each view, with a part that is common to all."""
    rng = np.random.default_rng(seed)
    size = (shape[0], num_classes, *shape[1:])
    shared = rng.normal(0, common, size)
    made = [torch.as_tensor(shared + rng.normal(0, spread, size)) for _ in range(count)]
    return [view.float().requires_grad_() for view in made]


def chances(logits):
    """[view][pixel] -> probabilities in double precision."""
    found = [z.detach().double().softmax(1).permute(0, 2, 3, 1).numpy() for z in logits]
    return found, list(np.ndindex(*found[0].shape[:3]))


def by_hand(logits, valid=None):
    found, pixels = chances(logits)
    pixels = [p for p in pixels if valid is None or valid[p]]
    total = 0.0
    for p in pixels:
        mean = sum(view[p] for view in found) / len(found)
        for view in found:
            total += sum(a * math.log(a / b) for a, b in zip(view[p], mean, strict=True))
    return total / len(found) / max(len(pixels), 1)


def released_by_hand(logits, weights, *, valid, share):
    """As published: probabilities, a clamped mixture, a mask of positions."""
    found, pixels = chances(logits)
    mixture = sum(w * view for w, view in zip(weights, found, strict=True)).clip(1e-3, 1 - 1e-3)
    certain = mixture.max(-1) * valid >= 0.8
    if share:
        certain = certain.any(0, keepdims=True).repeat(len(certain), 0)
    total = 0.0
    for p in pixels:
        if certain[p]:
            for view in found:
                pairs = zip(view[p], mixture[p], strict=True)
                total += sum(a * (math.log(a) - math.log(b)) for a, b in pairs if a > 0)
    return total / len(pixels)


def some(shape, share=0.6, seed=5):
    return torch.as_tensor(np.random.default_rng(seed).random(shape) < share)


@pytest.mark.parametrize(("count", "num_classes"), [(3, 5), (2, 19), (1, 3), (4, 2)])
@pytest.mark.usefixtures("double")
def test_predictions_by_hand(count, num_classes):
    logits = views(count, num_classes)
    assert prediction_consistency(logits).item() == pytest.approx(
        by_hand(logits), rel=1e-9, abs=1e-12
    )
    valid = some((2, 4, 3))
    assert prediction_consistency(logits, valid=valid).item() == pytest.approx(
        by_hand(logits, valid.numpy()), rel=1e-9, abs=1e-12
    )


@pytest.mark.usefixtures("double")
def test_agreement_costs_nothing_and_contradiction_the_logarithm_of_the_views():
    same = views()[:1] * 3
    assert prediction_consistency(same).item() == pytest.approx(0, abs=1e-12)
    apart = [
        200 * F.one_hot(torch.tensor([[[k]]]), 3).permute(0, 3, 1, 2).float() for k in range(3)
    ]
    assert prediction_consistency(apart).item() == pytest.approx(math.log(3), rel=1e-9)


@pytest.mark.usefixtures("double")
def test_the_order_of_views_pixels_and_classes_does_not_matter():
    logits = views()
    loss = prediction_consistency(logits)
    torch.testing.assert_close(prediction_consistency(logits[::-1]), loss)
    torch.testing.assert_close(prediction_consistency([z.flip(1, 2, 3) for z in logits]), loss)
    torch.testing.assert_close(prediction_consistency([z + 7 for z in logits]), loss)


def test_no_valid_pixel_is_zero_with_a_zero_gradient():
    logits = views()
    loss = prediction_consistency(logits, valid=torch.zeros(2, 4, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert all(torch.equal(z.grad, torch.zeros_like(z)) for z in logits)


@pytest.mark.usefixtures("double")
def test_gradients_are_those_of_finite_differences():
    logits = views(3, 3, (1, 2, 2), 2.5)
    weights = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *z: prediction_consistency(z), logits)
    assert torch.autograd.gradcheck(
        lambda w, *z: released_prediction_consistency(z, weight_logits=w, min_confidence=0.5),
        (weights, *logits),
    )


@pytest.mark.parametrize("masked", [False, True])
def test_underflow_leaves_gradients_finite(masked):
    """Probabilities far below the smallest number, in valid pixels and in masked ones."""
    logits = views(spread=1e4)
    valid = some((2, 4, 3)) if masked else None
    weights = torch.zeros(3, requires_grad=True)
    loss = prediction_consistency(logits, valid=valid)
    loss = loss + released_prediction_consistency(logits, weight_logits=weights, valid=valid)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(z.grad).all() for z in (*logits, weights))


def test_masked_pixels_learn_nothing():
    logits = views()
    valid = some((2, 4, 3))
    prediction_consistency(logits, valid=valid).backward()
    for z in logits:
        moved = z.grad.abs().sum(1) > 0
        assert torch.equal(moved, valid)


@pytest.mark.usefixtures("double")
def test_the_mixture_by_hand():
    logits, weight_logits = views(), torch.tensor([1.0, -0.5, 0.2]).double()
    equal = sum(z.softmax(1) for z in logits) / 3
    torch.testing.assert_close(log_mixture(logits).exp(), equal)
    weighted = sum(w * z.softmax(1) for w, z in zip(weight_logits.softmax(0), logits, strict=True))
    torch.testing.assert_close(log_mixture(logits, weight_logits).exp(), weighted)
    torch.testing.assert_close(log_mixture([z.log_softmax(1) for z in logits]).exp(), equal)


@pytest.mark.parametrize("weight_logits", [None, [0.4, -1.0, 0.1]])
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.usefixtures("double")
def test_released_predictions_by_hand(weight_logits, share, labelled):
    logits = views(spread=1, common=3)
    given = None if weight_logits is None else torch.tensor(weight_logits, requires_grad=True)
    weights = (torch.zeros(3) if given is None else given).detach().double().softmax(0).numpy()
    valid = some((2, 4, 3)) if labelled else None
    everywhere = np.ones((2, 4, 3), bool)
    expected = released_by_hand(
        logits, weights, valid=everywhere if valid is None else valid.numpy(), share=share
    )
    assert expected != 0
    loss = released_prediction_consistency(
        logits, weight_logits=given, valid=valid, share_mask=share
    )
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    if given is not None:
        loss.backward()
        assert (given.grad != 0).all()


@pytest.mark.usefixtures("double")
def test_images_of_a_batch_are_apart_unless_the_mask_is_shared():
    logits = views(spread=1, common=3)

    def alone(**options):
        parts = [
            released_prediction_consistency([z[b : b + 1] for z in logits], **options)
            for b in range(2)
        ]
        return torch.stack(parts).mean()

    torch.testing.assert_close(released_prediction_consistency(logits), alone())
    shared = released_prediction_consistency(logits, share_mask=True)
    assert abs(shared - alone(share_mask=True)) > 1e-3


@pytest.mark.usefixtures("double")
def test_without_a_least_confidence_all_pixels_with_a_label_count():
    logits, valid = views(), some((2, 4, 3))
    everywhere = released_prediction_consistency(logits, min_confidence=0)
    torch.testing.assert_close(
        everywhere, released_prediction_consistency(logits, min_confidence=1e-6)
    )
    everywhere.backward()
    assert all((z.grad.abs().sum(1) > 0).all() for z in logits)
    labelled = views()
    released_prediction_consistency(labelled, valid=valid, min_confidence=0).backward()
    assert all(torch.equal(z.grad.abs().sum(1) > 0, valid) for z in labelled)


def test_the_released_mixture_has_one_value_for_all_that_is_certain():
    logits = views(spread=50)
    found = released_mixture(logits[:1])
    torch.testing.assert_close(found, logits[0].softmax(1).clamp(1e-3, 1 - 1e-3))
    certain = logits[0].softmax(1) > 0.9995
    assert certain.any() and (found[certain] == torch.tensor(1 - 1e-3)).all()


def maps(sizes=((3, 4), (3, 4), (3, 4)), channels=5, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.as_tensor(rng.normal(0, 1, (2, channels, *s))).float() for s in sizes]


@pytest.mark.parametrize(("normalize", "divisor"), [("elements", 2 * 5 * 3 * 4), ("positions", 24)])
@pytest.mark.usefixtures("double")
def test_features_by_hand(normalize, divisor):
    features = maps()
    stacked = [f.double().numpy() for f in features]
    mean = sum(stacked) / 3
    expected = sum(((f - mean) ** 2).sum() for f in stacked) / 3 / divisor
    found = feature_consistency(features, reference=1, normalize=normalize)
    assert found.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.usefixtures("double")
def test_features_of_other_sizes_are_brought_to_the_reference():
    features = maps(((2, 3), (4, 6), (8, 12)))
    small = F.interpolate(features[0], (4, 6), mode="bilinear", align_corners=False)
    large = features[2].unflatten(2, (4, 2)).unflatten(4, (6, 2)).mean((3, 5))  # 2 x 2 pixels
    expected = feature_consistency([small, features[1], large], reference=1, normalize="elements")
    torch.testing.assert_close(
        feature_consistency(features, reference=1, normalize="elements"), expected
    )
    aligned = [F.interpolate(f, (4, 6), mode="bilinear", align_corners=True) for f in features]
    torch.testing.assert_close(
        feature_consistency(features, reference=1, normalize="elements", align_corners=True),
        feature_consistency(aligned, reference=0, normalize="elements"),
    )


@pytest.mark.usefixtures("double")
def test_equal_features_cost_nothing_and_more_channels_only_positions():
    features = maps()
    same = [features[0]] * 3
    assert feature_consistency(same, reference=0, normalize="positions").item() < 1e-24
    twice = [torch.cat([f, f], 1) for f in features]
    for normalize, factor in (("elements", 1), ("positions", 2)):
        torch.testing.assert_close(
            feature_consistency(twice, reference=0, normalize=normalize),
            factor * feature_consistency(features, reference=0, normalize=normalize),
        )


def test_every_view_gets_a_gradient():
    features = [f.requires_grad_() for f in maps(((2, 3), (4, 6), (8, 12)))]
    feature_consistency(features, reference=1, normalize="elements").backward()
    assert all((f.grad != 0).any() for f in features)


@pytest.mark.usefixtures("double")
def test_released_features_by_hand():
    features = maps(((2, 3), (4, 6), (8, 12)))
    resized = [F.interpolate(f, (4, 6), mode="bilinear", align_corners=True) for f in features]
    clamped = [f.double().numpy().clip(1e-3, 1 - 1e-3) for f in resized]
    mean = sum(clamped) / 3
    expected = sum(((f - mean) ** 2).mean() for f in clamped) / 3
    found = released_feature_consistency(features, reference=1)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_released_features_see_nothing_outside_zero_and_one():
    features = [3 + f.abs() for f in maps()]
    assert released_feature_consistency(features, reference=0).item() < 1e-12
    assert feature_consistency(features, reference=0, normalize="elements").item() > 0.1


def test_half_precision_is_computed_in_single():
    logits = [z.detach().bfloat16() for z in views()]
    assert prediction_consistency(logits).dtype == torch.float32
    torch.testing.assert_close(
        prediction_consistency(logits), prediction_consistency([z.float() for z in logits])
    )
    features = [f.bfloat16() for f in maps()]
    found = feature_consistency(features, reference=0, normalize="elements")
    assert found.dtype == torch.float32


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match="'elements' or 'positions', got 'mean'"):
        feature_consistency(maps(), reference=0, normalize="mean")
