"""Pseudo-labels of a fixed model, against argmax and sorting."""

import contextlib
import logging

import numpy as np
import pytest
import torch
from torch import nn

from sfseg.errors import ConfigError, DataError
from sfseg.labels import LabelSpace
from sfseg.methods import labelling
from sfseg.methods.evaluation import Evaluation
from sfseg.methods.labelling import label_images
from sfseg.ops.inference import Inference
from sfseg.pseudo.identity import Identity
from sfseg.pseudo.reader import PseudoLabels
from sfseg.types import IGNORE

CLASSES = 4
LABELS = LabelSpace("four", ("a", "b", "c", "d"), tuple((k, 0, 0) for k in range(CLASSES)))
SIZES = [(9, 14), (12, 8), (5, 31)]
CPU = torch.device("cpu")


class Colours(nn.Module):
    """Logits are colours; the fourth class, their mean, never wins. Counts its calls."""

    def __init__(self, factor=1 / 40):
        super().__init__()
        self.factor, self.dropout = factor, nn.Dropout(0.5)
        self.weight = nn.Parameter(torch.ones(1))
        self.calls = 0

    def forward(self, image):
        self.calls += 1
        colours = self.dropout(image.float() * self.factor)
        return torch.cat([colours, colours.mean(dim=1, keepdim=True)], dim=1) * self.weight


def model(network=None, **protocol):
    return Evaluation(
        network=network or Colours(), labels=LABELS, eval_domains=["target"],
        inference=Inference(**protocol),
    )  # fmt: skip


def images(sizes=SIZES, low=0):
    for k, size in enumerate(sizes):
        pixels = np.random.default_rng(k).integers(low, 256, (1, 3, *size)).astype(np.uint8)
        yield {"image": torch.from_numpy(pixels), "index": torch.tensor([k])}


def identity(sizes=SIZES):
    return Identity([str(k) for k in range(len(sizes))], sizes, LABELS.classes, "model")


def labelled(folder, network=None, batches=None, protocol=None, **options):
    """What is kept after labelling: labels, and confidences if there are any."""
    label_images(
        model(network, **(protocol or {})), images() if batches is None else batches, folder,
        identity(), device=CPU, context=contextlib.nullcontext(), **options,
    )  # fmt: skip
    store = PseudoLabels(folder, identity())
    rows = [store.read(k) for k in range(len(store))]
    return [row.label for row in rows], [row.confidence for row in rows]


def predicted(**protocol):
    """Confidence and class of every pixel."""
    evaluation = model(**protocol).eval()
    with torch.no_grad():
        for batch in images():
            logits = evaluation.inference(evaluation, batch["image"])
            confidence, label = logits.softmax(dim=1)[0].max(dim=0)
            yield confidence.numpy(), label.numpy().astype(np.uint8)


@pytest.mark.parametrize("protocol", [{}, {"flip": True, "scales": [1.0, 0.5]}])
def test_labels_are_the_most_likely_classes(tmp_path, protocol):
    network = Colours()
    network.train()
    labels, confidences = labelled(tmp_path / "s", network, protocol=protocol)
    for label, (_, expected) in zip(labels, predicted(**protocol), strict=True):
        np.testing.assert_array_equal(label, expected)
    assert confidences == [None] * 3
    assert network.weight.grad is None and not network.training


def by_sorting(share):
    """Naively: labels whose confidence, in steps of 1 / 255, is below their class's quantile."""
    found = [(np.rint(c * np.float32(255)), label) for c, label in predicted()]
    confidence, label = (np.concatenate([part.ravel() for part in parts])
                         for parts in zip(*found, strict=True))  # fmt: skip
    for k in np.unique(label):
        mine = np.sort(confidence[label == k])
        limit = mine[min(round(share * len(mine)), len(mine) - 1)]
        for certainty, own in found:
            own[(own == k) & (certainty < limit)] = IGNORE
    return [own for _, own in found]


@pytest.mark.parametrize("share", [0.01, 0.33, 0.5, 0.66, 0.9, 0.999])
def test_the_least_confident_of_each_class_are_discarded(tmp_path, share):
    labels, _ = labelled(tmp_path / "s", discard=share)
    expected = by_sorting(share)
    for label, mine in zip(labels, expected, strict=True):
        np.testing.assert_array_equal(label, mine)
    every = np.concatenate([label.ravel() for _, label in predicted()])
    kept = np.concatenate([label.ravel() for label in labels])
    for k in range(3):
        # Never more than asked for, and less only by what ties with the threshold.
        gone = (kept[every == k] == IGNORE).mean()
        assert share - 0.05 < gone <= share + 1e-9
    assert set(kept) == {0, 1, 2, IGNORE}


@pytest.mark.parametrize("level", [0.26, 0.498, 0.5, 0.502, 0.999, 1.0])
def test_a_class_of_one_confidence_keeps_its_pixels(tmp_path, level):
    logits = torch.tensor([level, *[max((1 - level) / 3, 1e-9)] * 3]).log()

    class Constant(Colours):
        def forward(self, image):
            return logits[None, :, None, None].expand(1, 4, *image.shape[-2:])

    labels, confidences = labelled(tmp_path / "s", Constant(), discard=0.66)
    assert all((label == 0).all() for label in labels)
    assert all((c == round(level * 255)).all() for c in confidences)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused_and_nothing_is_made(tmp_path, share):
    with pytest.raises(ValueError, match=r"pseudo_labels\.discard must be in \[0, 1\), got"):
        labelled(tmp_path / "s", discard=share)
    assert not (tmp_path / "s").exists()


def test_a_folder_that_holds_labels_stays_as_it_is(tmp_path):
    before, _ = labelled(tmp_path / "s")
    network = Colours(factor=-1.0)
    with pytest.raises(ConfigError, match="holds pseudo-labels already"):
        labelled(tmp_path / "s", network)
    assert network.calls == 0
    store = PseudoLabels(tmp_path / "s")
    for k, label in enumerate(before):
        np.testing.assert_array_equal(store.read(k).label, label)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("")
    with pytest.raises(ConfigError, match=r"holds other files, such as mine\.txt"):
        labelled(tmp_path / "other", network)


def test_an_image_that_is_missing_or_of_another_size_leaves_no_committed_labels(tmp_path):
    with pytest.raises(DataError, match="1 of 3 images have no pseudo-labels"):
        labelled(tmp_path / "a", batches=list(images())[:2])
    with pytest.raises(ValueError, match="must be all of image 0, which has 9x14"):
        labelled(tmp_path / "b", batches=images([(9, 13)]))
    assert not list((tmp_path / "a" / "undo").glob("*.log"))


def test_it_runs_in_the_context_it_is_given(tmp_path):
    seen = []

    class Watching(Colours):
        def forward(self, image):
            seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
            return super().forward(image)

    label_images(
        model(Watching()), images(), tmp_path / "s", identity(), device=CPU,
        context=torch.autocast("cpu", torch.bfloat16), discard=0.5,
    )  # fmt: skip
    assert seen == [(True, False)] * 3
    assert not torch.is_autocast_enabled("cpu")


def test_it_says_how_far_it_is(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(labelling, "REPORT_SECONDS", -1.0)
    with caplog.at_level(logging.INFO):
        labelled(tmp_path / "s")
    assert "pseudo-labels: 1 of 3 images" in caplog.text
    assert "pseudo-labels: 3 of 3 images" in caplog.text
