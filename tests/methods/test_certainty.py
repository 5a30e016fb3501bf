"""Which pixels UPLR keeps: certain ones, by image or by set, and the rule it is compared with."""

import pytest
import torch

from sfseg.methods.certainty import MedianConfidence, TwoModes
from sfseg.ops.entropy import probability_entropy
from sfseg.ops.two_gaussians import certain_below, count_entropies, empty_entropies, fit_modes
from sfseg.types import IGNORE


def predicted(seed, sharpness, size=(40, 60)):
    """Probabilities (1, 4, H, W) of two kinds of pixels: sure ones, and others."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 4, *size, generator=rng)
    sure = torch.rand(1, 1, *size, generator=rng) < 0.6
    return (logits * torch.where(sure, sharpness, 1.0)).softmax(dim=1)


IMAGES = [predicted(0, 30.0), predicted(1, 8.0), predicted(2, 15.0)]


def labelled(rule, images=IMAGES):
    histogram = rule.empty(4, torch.device("cpu"))
    for image in images:
        rule.count(histogram, image)
    threshold = rule.thresholds(histogram)
    return [rule.labels(image, threshold)[0] for image in images], threshold


def test_of_a_dataset_every_image_is_judged_alike():
    labels, threshold = labelled(TwoModes(scope="dataset"))
    for image, label in zip(IMAGES, labels, strict=True):
        entropy, best = probability_entropy(image)[0], image.argmax(dim=1)[0]
        expected = torch.where(entropy <= threshold[best], best, IGNORE).to(torch.uint8)
        assert torch.equal(label, expected)
        assert 0.1 < (label != IGNORE).float().mean() < 0.9


def test_an_image_is_judged_by_its_own_pixels():
    rule = TwoModes(min_pixels=100)
    labels, _ = labelled(rule)
    for image, label in zip(IMAGES, labels, strict=True):
        alone, _ = labelled(rule, [image])
        assert torch.equal(label, alone[0])
        entropy, best = probability_entropy(image)[0], image.argmax(dim=1)[0]
        for k in range(4):
            histogram = empty_entropies(1)
            own = entropy[best == k]
            count_entropies(histogram, own, torch.zeros_like(own, dtype=torch.uint8))
            kept = (own <= certain_below(fit_modes(histogram))[0]).sum()
            assert kept == (label == k).sum() > 0


def test_a_class_of_few_pixels_falls_back_to_the_dataset():
    every, _ = labelled(TwoModes(scope="dataset"))
    few, _ = labelled(TwoModes(min_pixels=10**6))
    assert all(torch.equal(*pair) for pair in zip(every, few, strict=True))


def test_several_images_at_once_are_those_one_by_one():
    rule = TwoModes(min_pixels=100)
    _, threshold = labelled(rule)
    together = rule.labels(torch.cat(IMAGES), threshold)
    assert torch.equal(together, torch.stack(labelled(rule)[0]))


def test_scikit_learn_keeps_the_same_pixels_but_for_those_at_the_threshold():
    mine, theirs = (
        torch.stack(labelled(TwoModes(fit=fit, min_pixels=100))[0])
        for fit in ("histogram", "scikit-learn")
    )
    assert (mine != theirs).float().mean() < 2e-3


def test_the_median_is_capped():
    image = torch.tensor([[0.95, 0.05], [0.99, 0.01], [0.6, 0.4], [0.97, 0.03],
                          [0.3, 0.7], [0.4, 0.6], [0.2, 0.8], [0.45, 0.55]])  # fmt: skip
    image = image.T.reshape(1, 2, 2, 4)
    (label,), threshold = labelled(MedianConfidence(), [image])
    # The second largest of four is 0.97, which the cap lowers; of the other class it is 0.7.
    torch.testing.assert_close(threshold[:2], torch.tensor([0.9, 0.7]), atol=1e-3, rtol=0)
    assert label.flatten().tolist() == [0, 0, IGNORE, 0, 1, IGNORE, 1, IGNORE]


def test_bad_settings_are_refused():
    for options, words in (
        ({"scope": "images"}, "pseudo_label.scope must be one of image, dataset"),
        ({"fit": "em"}, "pseudo_label.fit must be one of histogram, scikit-learn"),
        ({"min_pixels": 1}, "pseudo_label.min_pixels must be at least 2, got 1"),
        ({"least_gap": -0.1}, "pseudo_label.least_gap must not be negative"),
    ):
        with pytest.raises(ValueError, match=words):
            TwoModes(**options)
    with pytest.raises(ValueError, match=r"pseudo_label.portion must be a share .* got 0"):
        MedianConfidence(portion=0)
    with pytest.raises(ValueError, match="cap"):
        MedianConfidence(cap=1.2)
