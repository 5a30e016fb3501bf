"""Pseudo-labels of a fixed model, against argmax and sorting."""

import contextlib
import logging

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from ranks import TwoRanks
from torch import nn

from sfseg.config.composition import CONF
from sfseg.errors import ConfigError, DataError
from sfseg.labels import LabelSpace
from sfseg.methods import labelling
from sfseg.methods.evaluation import Evaluation
from sfseg.methods.first_labels import empty_labels, select_labels
from sfseg.methods.labelling import Selection, relabel
from sfseg.ops.inference import Inference
from sfseg.pseudo.identity import Identity
from sfseg.pseudo.reader import PseudoLabels
from sfseg.pseudo.store import PseudoLabelStore
from sfseg.runs.preparation import label_selection_of
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
    """Labels that are kept after labelling."""
    select_labels(
        model(network, **(protocol or {})), lambda: images() if batches is None else batches,
        folder, identity(), Selection(), device=CPU, context=contextlib.nullcontext(), **options,
    )  # fmt: skip
    return kept(folder)


def kept(folder):
    store = PseudoLabels(folder, identity())
    assert not store.has_confidence
    return [store.read(k).label for k in range(len(store))]


def probabilities(**protocol):
    evaluation = model(**protocol).eval()
    with torch.no_grad():
        for batch in images():
            logits = evaluation.inference(evaluation, batch["image"])
            yield logits.softmax(dim=1)[0].numpy()


@pytest.mark.parametrize("protocol", [{}, {"flip": True, "scales": [1.0, 0.5]}])
def test_labels_are_the_most_likely_classes(tmp_path, protocol):
    network = Colours()
    network.train()
    labels = labelled(tmp_path / "s", network, protocol=protocol)
    for label, chances in zip(labels, probabilities(**protocol), strict=True):
        np.testing.assert_array_equal(label, chances.argmax(axis=0))
    assert network.weight.grad is None
    assert network.calls == len(SIZES) * (4 if protocol else 1), "nothing needs thresholds"


def test_a_folder_that_holds_labels_stays_as_it_is(tmp_path):
    before = labelled(tmp_path / "s")
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
    with pytest.raises(ValueError, match="must be all of image 0, which has 14x9"):
        labelled(tmp_path / "b", batches=images([(9, 13)]))
    assert not list((tmp_path / "a" / "undo").glob("*.log"))


def test_it_says_how_far_it_is(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(labelling, "REPORT_SECONDS", -1.0)
    with caplog.at_level(logging.INFO):
        labelled(tmp_path / "s")
    assert "pseudo-labels: 1 of 3 images" in caplog.text
    assert "pseudo-labels: 3 of 3 images" in caplog.text


def test_labels_that_are_still_to_come_are_ignore_everywhere(tmp_path):
    empty_labels(tmp_path / "s", identity())
    assert all((label == IGNORE).all() for label in kept(tmp_path / "s"))
    with PseudoLabelStore(tmp_path / "s", identity()) as store:
        first = store.last
        relabel(model(), images, store, Selection())
        store.restore(first)
        assert (store.read(1).label == IGNORE).all()


# Several processes


class Rank:
    """A process's share of images and its store, which the first one writes."""

    def __init__(self, rank, ranks, folder, numbers):
        self.rank, self.folder = rank, folder
        self.mine = numbers[rank::ranks]

    def batches(self):
        return [batch for batch in MANY if int(batch["index"]) in self.mine]


MANY_SIZES = [*SIZES, (7, 7), (12, 8)]
MANY = list(images(MANY_SIZES))


@pytest.mark.parametrize("numbers", [[0, 1, 2, 3, 4], [0, 2, 3, 4], [3]])
@pytest.mark.parametrize(
    "selection",
    [Selection(), Selection(discard=0.66), Selection("cbst"), Selection("ld", flip=True)],
    ids=["all", "discard", "cbst", "ld"],
)
def test_two_processes_label_as_one_does(tmp_path, monkeypatch, selection, numbers):
    names = identity(MANY_SIZES)
    left_out = sorted(set(range(5)) - set(numbers))

    def fill(rank):
        select_labels(
            model(), rank.batches, rank.folder, names, selection, device=CPU,
            context=contextlib.nullcontext(), left_out=left_out,
        )  # fmt: skip

    def again(rank):
        store = PseudoLabelStore if rank.rank == 0 else PseudoLabels
        opened = store(rank.folder, names)
        return relabel(model(Colours(-1 / 40)), rank.batches, opened, selection).share

    fill(Rank(0, 1, tmp_path / "one", numbers))
    first = (tmp_path / "one" / "labels.u8").read_bytes()
    share = again(Rank(0, 1, tmp_path / "one", numbers))
    two = TwoRanks(monkeypatch)
    ranks = [Rank(k, 2, tmp_path / "two", numbers) for k in range(2)]
    two.run(fill, ranks)
    assert (tmp_path / "two" / "labels.u8").read_bytes() == first
    assert two.run(again, ranks) == [share, share]
    second = (tmp_path / "two" / "labels.u8").read_bytes()
    assert second == (tmp_path / "one" / "labels.u8").read_bytes() != first


def test_an_error_of_one_process_does_not_wait_for_the_other(tmp_path, monkeypatch):
    def fill(rank):
        def batches():
            yield from rank.batches()[: 1 + rank.rank]
            raise DataError(f"process {rank.rank} reads no more")

        select_labels(
            model(), batches, rank.folder, identity(MANY_SIZES), Selection("cbst"), device=CPU,
            context=contextlib.nullcontext(),
        )  # fmt: skip

    ranks = [Rank(k, 2, tmp_path / "s", list(range(5))) for k in range(2)]
    with pytest.raises(DataError, match="process 0 reads no more"):
        TwoRanks(monkeypatch).run(fill, ranks)


class Median:
    """Another rule: pixels that are less likely than half of all are labelled, as class 0."""

    keeps_all = False

    def protocol(self, inference):
        return inference

    def empty(self, classes, device):
        return torch.zeros(100, dtype=torch.int64, device=device)

    def count(self, histogram, probability):
        places = (probability.amax(dim=1) * 99.9).long().flatten()
        histogram.index_add_(0, places, torch.ones_like(places))

    def thresholds(self, histogram):
        return (histogram.cumsum(0) >= histogram.sum() / 2).long().argmax() / 99.9

    def labels(self, probability, threshold):
        return torch.where(probability.amax(dim=1) < threshold, 0, IGNORE).to(torch.uint8)


def test_another_rule_labels_too(tmp_path):
    labels, network = selected(tmp_path / "s", Median())
    assert network.calls == 2 * len(SIZES)
    pixels = np.concatenate([label.ravel() for label in labels])
    assert set(pixels) == {0, IGNORE} and 0.3 < (pixels == 0).mean() < 0.6


# Selected labels, in two passes


def selected(folder, selection, network=None, batches=images, **options):
    """Labels of a new store, and the network that made them."""
    network = network or Colours()
    select_labels(
        model(network), batches, folder, identity(), selection, device=CPU,
        context=contextlib.nullcontext(), **options,
    )  # fmt: skip
    return kept(folder), network


def limits(portion, **protocol):
    """The n-th largest confidence of each class over all images, n = floor(portion * pixels)."""
    flat = np.concatenate([p.reshape(CLASSES, -1) for p in probabilities(**protocol)], axis=1)
    best, confidence = flat.argmax(axis=0), flat.max(axis=0)
    found = np.ones(CLASSES, np.float32)
    for k in range(CLASSES):
        mine = np.sort(confidence[best == k])[::-1]
        if (rank := int(np.floor(portion * len(mine)))) > 0:
            found[k] = mine[rank - 1]
    return found


def naive(rule, portion, **protocol):
    limit = limits(portion, **protocol)
    for chances in probabilities(**protocol):
        confidence, best = chances.max(axis=0), chances.argmax(axis=0)
        taken = confidence >= limit[best]
        if rule == "cbst":
            ratio = chances / limit[:, None, None]
            best, taken = ratio.argmax(axis=0), ratio.max(axis=0) >= 1
        if rule == "ld" and (rank := int(portion * confidence.size)) > 0:
            taken |= confidence >= np.sort(confidence.ravel())[::-1][rank - 1]
        yield np.where(taken, best, IGNORE)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("portion", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("rule", ["cbst", "ld", "confident"])
def test_selected_labels_are_those_of_the_formulas(tmp_path, rule, portion, flip):
    selection = Selection(rule, discard=1 - portion, portion=portion, flip=flip)
    labels, network = selected(tmp_path / "s", selection)
    assert network.calls == 2 * len(SIZES) * (1 + flip)
    different = sum(
        (label != expected).sum()
        for label, expected in zip(labels, naive(rule, portion, flip=flip), strict=True)
    )
    # Those between a threshold and the histogram's.
    assert different <= 1
    assert set(np.concatenate([label.ravel() for label in labels])) == {0, 1, 2, IGNORE}


class Constant(Colours):
    """Of one class, with one confidence or several."""

    def __init__(self, doubt):
        super().__init__()
        self.doubt = torch.tensor(doubt)

    def forward(self, image):
        pixels = image[0, 0].numel()
        # Logarithms before they are repeated: at the end of a row they may be others.
        logits = torch.stack([1 - self.doubt, *[self.doubt / 3] * 3]).log()
        return logits.repeat(1, pixels)[:, :pixels].view(1, 4, *image.shape[-2:])


@pytest.mark.parametrize("doubt", [0.74, 0.5, 0.001, 1e-6])
def test_a_class_of_one_confidence_keeps_its_pixels(tmp_path, doubt):
    labels, _ = selected(tmp_path / "s", Selection(discard=0.66), Constant([doubt]))
    assert all((label == 0).all() for label in labels)


def test_no_more_than_asked_for_is_kept_of_a_class_that_is_nearly_certain(tmp_path):
    doubts = np.geomspace(1e-5, 1e-3, 100, dtype=np.float32).tolist()
    labels, _ = selected(tmp_path / "s", Selection(discard=0.66), Constant(doubts))
    share = np.concatenate([label.ravel() == 0 for label in labels]).mean()
    assert share == pytest.approx(0.34, abs=0.02)


def test_selected_labels_grow_and_images_left_out_have_none(tmp_path):
    some = Selection("cbst", portion=0.2)
    more = some.grown(0.3, largest=0.4)
    assert more == Selection("cbst", portion=0.4) and some.portion == 0.2
    before, _ = selected(tmp_path / "a", some, left_out=[])
    after, _ = selected(tmp_path / "b", more)
    for a, b in zip(before, after, strict=True):
        assert ((a != IGNORE) <= (b != IGNORE)).all()
    rest, _ = selected(tmp_path / "c", some, batches=lambda: list(images())[1:], left_out=[0])
    assert (rest[0] == IGNORE).all() and (rest[1] != IGNORE).any()


def test_relabelling_replaces_labels_that_can_be_taken_back(tmp_path):
    labelled(tmp_path / "s")
    network = Colours(factor=-1 / 40)
    network.train()
    network.dropout.eval()
    evaluation = model(network)
    with PseudoLabelStore(tmp_path / "s", identity()) as store:
        first, old = store.commit(), [store.read(k).label for k in range(3)]
        share = relabel(evaluation, images, store, Selection("cbst", portion=0.3)).share
        new = [store.read(k).label for k in range(3)]
        assert all((a != b).any() for a, b in zip(old, new, strict=True))
        pixels = np.concatenate([label.ravel() for label in new])
        assert share == pytest.approx((pixels != IGNORE).mean())
        assert store.commit() != first
        store.restore(first)
        for k, label in enumerate(old):
            np.testing.assert_array_equal(store.read(k).label, label)
    # As it was before, part by part.
    assert network.training and not network.dropout.training
    assert network.weight.grad is None and network.weight.requires_grad


def test_relabelling_runs_in_its_context_and_says_how_far_it_is(tmp_path, caplog, monkeypatch):
    seen = []

    class Watching(Colours):
        def forward(self, image):
            seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(), self.training))
            return super().forward(image)

    monkeypatch.setattr(labelling, "REPORT_SECONDS", -1.0)
    with caplog.at_level(logging.INFO):
        select_labels(
            model(Watching()), images, tmp_path / "s", identity(), Selection("cbst"), device=CPU,
            context=torch.autocast("cpu", torch.bfloat16),
        )  # fmt: skip
    assert seen == [(True, False, False)] * 6
    assert "thresholds of pseudo-labels: 3 of 3 images" in caplog.messages
    assert "pseudo-labels: 3 of 3 images" in caplog.messages


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "best"}, "rule must be one of confident, cbst, ld, got 'best'"),
        ({"discard": 1.0}, r"discard must be in \[0, 1\), got 1.0"),
        ({"discard": float("nan")}, r"discard must be in \[0, 1\), got nan"),
        ({"portion": 0.0}, r"portion must be in \(0, 1\], got 0.0"),
        ({"portion": 1.1}, r"portion must be in \(0, 1\], got 1.1"),
    ],
)
def test_a_selection_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=rf"pseudo_labels\.{message}"):
        Selection(**options)
    cfg = OmegaConf.create({"pseudo_labels": {"start_from": None, **options}})
    with pytest.raises(ConfigError, match=rf"^pseudo_labels\.{message}"):
        label_selection_of(cfg)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("gta", Selection(discard=0.66)),
        ("urma", Selection("cbst", portion=0.2, flip=True)),
        ("ld", Selection("ld", portion=0.1)),
    ],
)
def test_methods_say_how_the_source_model_labels(method, expected):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[f"method={method}"])
    assert label_selection_of(cfg) == expected
