"""A mean teacher: what is learnt from which pixels, when the teacher moves, what is kept."""

import numpy as np
import pytest
import small
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from small import QUIET, built, configured
from torch import nn

from sfseg.data.geometry import Geometry
from sfseg.errors import ConfigError
from sfseg.methods import dynamic_teacher, mean_teacher
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.confidence import BINS
from sfseg.ops.label_free import soft_neighbourhood_density
from sfseg.ops.padding import shown_pixels
from sfseg.types import IGNORE

pytestmark = QUIET
PLAIN = {"mix": "none", "colour": 0.0}
SIZE = (32, 32)


class Patches(nn.Module):
    """A backbone of one layer."""

    stride_multiple = 4

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 16, kernel_size=4, stride=4)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, image):
        return [self.norm(self.layer(image)).tanh()]


class Linear(nn.Module):
    """A head of one layer, sure of many pixels."""

    num_classes = 19

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(16, 19, kernel_size=1)
        nn.init.normal_(self.classifier.weight, std=0.7)

    def forward(self, maps):
        return self.classifier(self.dropout(maps[0]))


def plain(**options):
    torch.manual_seed(0)
    return Segmenter(Patches(), Linear(), **options)


def make(network=None, **options):
    cfg = configured("method=mean_teacher", "trainer.max_steps=40")
    return built(cfg, network or plain(), **options)


def batch(images=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (images, 3, 4, 4), generator=rng).float()
    return {
        "target": {
            "image": F.interpolate(coarse, SIZE).to(torch.uint8),
            "label": torch.full((images, *SIZE), IGNORE, dtype=torch.uint8),
            "index": torch.arange(images),
            "geometry": torch.tensor([Geometry.whole(SIZE)] * images),
        }
    }


def step(method, data):
    torch.manual_seed(7)
    return method.training_step(data, 0)["loss"]


def fit(method, steps, *callbacks):
    small.fit(method, [batch(2, seed) for seed in range(steps)], callbacks=list(callbacks))


def weights(module):
    return [p.detach().clone() for p in module.parameters()]


def are_equal(mine, theirs):
    return all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def taught(method, data):
    """Confidence and label of each pixel, by the teacher."""
    with torch.no_grad():
        logits = method.teacher.network.eval()(data["target"]["image"])
    return logits.double().softmax(dim=1).max(dim=1)


def between(confidence):
    """A confidence that about half of the pixels reach, and none has."""
    values = confidence.flatten().sort().values
    values = values[int(0.45 * len(values)) : int(0.55 * len(values))]
    gap = int(values.diff().argmax())
    return float(values[gap : gap + 2].mean())


def watch(method):
    """What the student is shown from now on, and its answers."""
    shown = []

    def keep(_, given, answer):
        logits = answer if isinstance(answer, torch.Tensor) else answer[0]  # beside them maps
        shown.append((given[0], logits))

    method.network.register_forward_hook(keep)
    return shown


@pytest.fixture
def learnt(monkeypatch):
    """Labels of every cross-entropy."""
    seen = []
    true = mean_teacher.cross_entropy

    def remember(logits, label):
        seen.append(label)
        return true(logits, label)

    monkeypatch.setattr(mean_teacher, "cross_entropy", remember)
    return seen


@pytest.mark.parametrize("weighting", ["pixels", "share"])
@pytest.mark.parametrize("masked", [0.0, 0.5])
def test_the_loss_is_that_of_the_formulas(weighting, masked):
    method, data = make(**PLAIN, weighting=weighting, masked=masked, entropy_weight=0.3), batch()
    shown = watch(method)
    confidence, label = taught(method, data)
    method.confidence = between(confidence)
    counts = confidence >= method.confidence
    share = counts.double().mean()
    assert 0.4 < share < 0.6
    loss = step(method, data)
    logits = shown[0][1].double().log_softmax(dim=1)
    losses = F.nll_loss(logits, label, reduction="none")
    expected = losses[counts].mean() if weighting == "pixels" else share * losses.mean()
    expected = expected - 0.3 * (logits.exp() * logits).sum(dim=1).mean() / np.log(19)
    if masked:
        expected = expected + masked * share * F.cross_entropy(shown[1][1].double(), label)
    assert len(shown) == 1 + bool(masked)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_class_seen_long_ago_keeps_its_threshold():
    method = make(threshold_share=0.5, **PLAIN)
    method.histogram[4, 300:320] = 1
    before = method.thresholds()
    assert float(before[4]) == pytest.approx(0.31)
    method.histogram *= mean_teacher.MEMORY**200
    assert torch.equal(method.thresholds(), before)


def test_thresholds_are_quantiles_of_each_class():
    method = make(threshold_share=0.5, confidence=0.0, **PLAIN)
    assert not method.thresholds().any()
    seen = []
    for seed in range(3):
        seen.append(taught(method, batch(seed=seed)))
        step(method, batch(seed=seed))
        method.histogram += method._counts
    confidence, label = (torch.cat(part) for part in zip(*seen, strict=True))
    assert len(label.unique()) > 3
    for k, threshold in enumerate(method.thresholds().tolist()):
        own = np.sort(confidence[label == k])
        expected = own[min(round(len(own) / 2), len(own) - 1)] if len(own) else 0.0
        assert expected - 2 / BINS <= threshold <= expected + 1 / BINS
    method.confidence = 0.4
    assert method.thresholds().min() == pytest.approx(0.4)
    method.threshold_share = 0.0
    assert torch.equal(method.thresholds(), torch.full((19,), 0.4))


def test_half_of_a_class_that_is_certain_everywhere_is_not_left_out(learnt):
    network = plain()
    with torch.no_grad():
        network.head.classifier.weight.zero_()
        network.head.classifier.bias.zero_()[3] = 12.0
    method = make(network, threshold_share=0.5, **PLAIN)
    for _ in range(2):
        step(method, batch())
        method.histogram += method._counts
    assert (learnt[1] == 3).all()


def test_labels_are_pasted_with_their_pixels(learnt):
    method, data = make(colour=0.0, confidence=0.0, threshold_share=0.0), batch()
    shown = watch(method)
    step(method, data)
    ((mixed, _),), (label,) = shown, learnt
    image, given = data["target"]["image"].float() / 255, taught(method, data)[1]
    for k in range(3):
        donor = (k - 1) % 3
        pasted = (mixed[k] != image[k]).any(dim=0)
        assert pasted.any() and torch.equal(mixed[k][:, pasted], image[donor][:, pasted])
        assert torch.equal(label[k][pasted], given[donor][pasted])
        classes = given[donor].unique()
        taken = given[donor][pasted].unique()
        assert len(taken) <= -(-len(classes) // 2)
        untouched = ~torch.isin(given[donor], taken)
        assert torch.equal(label[k][untouched], given[k][untouched])


def with_sizes(data, *sizes):
    """The batch, of whose images only so many rows and columns are a picture."""
    data["target"]["geometry"] = torch.tensor([Geometry.whole(size) for size in sizes])
    return data, shown_pixels(data["target"]["geometry"], data["target"]["label"])


def test_padding_is_neither_pasted_nor_pasted_over(learnt):
    method = make(colour=0.0, confidence=0.0, threshold_share=0.0)
    data, valid = with_sizes(batch(), (32, 20), (16, 32), (24, 24))
    shown = watch(method)
    step(method, data)
    ((mixed, _),), (label,) = shown, learnt
    image = data["target"]["image"].float() / 255
    for k in range(3):
        donor = (k - 1) % 3
        pasted = (mixed[k] != image[k]).any(dim=0)
        assert pasted.any() and not (pasted & ~(valid[k] & valid[donor])).any()
        assert torch.equal(label[k] != IGNORE, valid[k])
    assert int(method._counts.sum()) == int(valid.sum())


def test_the_share_is_that_of_the_pictures(learnt):
    method = make(**PLAIN, weighting="share")
    data, valid = with_sizes(batch(), (32, 20), (16, 32), (24, 24))
    confidence, label = taught(method, data)
    method.confidence = between(confidence)
    shown = watch(method)
    loss = step(method, data)
    share = (confidence >= method.confidence)[valid].double().mean()
    (_, logits), own = shown[0], label.masked_fill(~valid, IGNORE)
    expected = share * F.cross_entropy(logits.double(), own, ignore_index=IGNORE)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-6)


def test_pixels_that_do_not_count_are_not_learnt_after_mixing(learnt):
    method, data = make(threshold_share=0.0), batch()
    confidence, _ = taught(method, data)
    method.confidence = between(confidence)
    step(method, data)
    left_out = (learnt[0] == IGNORE).float().mean()
    assert 0.2 < left_out < 0.8


def test_a_lone_image_is_not_mixed(learnt):
    method, data = make(colour=0.0, threshold_share=0.0), batch(1)
    method.confidence, shown = 0.0, watch(method)
    step(method, data)
    assert torch.equal(shown[0][0], data["target"]["image"] / 255)
    assert torch.equal(learnt[0], taught(method, data)[1])


def test_masked_images_show_some_blocks_in_other_colours():
    method, data = make(masked=1.0, mix="none", colour=0.0), batch()
    shown = watch(method)
    step(method, data)
    (image, _), (hidden, _) = shown
    torch.testing.assert_close(image, data["target"]["image"] / 255)
    visible = (hidden == image).all(dim=1)
    assert 0.05 < visible.float().mean() < 0.6
    mean = method.network.mean.expand_as(image)
    assert torch.equal(hidden, torch.where(visible[:, None], image, mean))
    method.colour = 0.5
    step(method, data)
    view, again = shown[2][0], shown[3][0]
    seen = (again != mean).any(dim=1)[:, None].expand_as(image)
    assert not torch.allclose(view, image, atol=0.01)
    assert not torch.allclose(view[seen], again[seen], atol=0.01)


def test_rare_classes_are_drawn_first(monkeypatch):
    drawn, draw = [], mean_teacher.class_mask

    def remember(label, *, num_classes, weight):
        drawn.append(weight)
        return draw(label, num_classes=num_classes, weight=weight)

    monkeypatch.setattr(mean_teacher, "class_mask", remember)
    method = make(rare_class_mix=True)
    method.histogram[0, 5], method.histogram[1, 2], method.histogram[2, 2] = 900, 90, 10
    step(method, batch())
    expected = [1 / np.log(1.01 + share) for share in (0.9, 0.09, 0.01, 0.0)]
    np.testing.assert_allclose(drawn[0][:4], expected, rtol=1e-4)
    step(make(), batch())
    assert drawn[1] is None


@pytest.mark.parametrize(("ramp", "shares"), [(False, [0.9, 0.9]), (True, [1 / 2, 2 / 3])])
def test_the_teacher_follows_the_student(ramp, shares):
    method = make(momentum=0.9, ramp=ramp)
    students = []

    class Students(Callback):
        def on_train_batch_end(self, trainer, pl_module, *rest):
            students.append(weights(pl_module.network))

    expected = weights(method.teacher)
    fit(method, 2, Students())
    for share, student in zip(shares, students, strict=True):
        expected = [share * t + (1 - share) * s for t, s in zip(expected, student, strict=True)]
    torch.testing.assert_close(weights(method.teacher), expected)
    assert method.moves == 2
    assert not are_equal(weights(method.network), weights(method.teacher))


@pytest.mark.parametrize("dynamic", [False, True])
def test_nothing_is_learnt_from_a_skipped_step(dynamic):
    method = make(dynamic_teacher=dynamic)

    class Skip(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            pl_module.step.is_skipped = True

    before = weights(method.teacher)
    fit(method, 1, Skip())
    assert are_equal(before, weights(method.teacher))
    assert method.moves == 0 and not method.histogram.any() and not method.remembered


@pytest.mark.parametrize(("slope", "moved_at"), [(1.0, 9), (0.0, 12)])
def test_a_dynamic_teacher_waits_for_a_better_student(monkeypatch, slope, moved_at):
    method = make(dynamic_teacher=True)
    moments = []

    class Moves(Callback):
        def on_train_batch_start(self, trainer, pl_module, *rest):
            moments.append(int(pl_module.moves))

    def score(image, position):
        return torch.full((len(image),), slope * method.iteration)

    assert dynamic_teacher.LAST_QUERY == 30
    monkeypatch.setattr(dynamic_teacher, "LAST_QUERY", 12)
    monkeypatch.setattr(method, "_score", score)
    before = weights(method.teacher)
    fit(method, moved_at + 1, Moves())
    assert moments == [0] * moved_at + [1]
    assert not are_equal(before, weights(method.teacher))
    assert [len(kept.score) for kept in method.remembered] == [2]


def test_a_score_is_the_density_of_a_hundred_pixels_without_dropout():
    method, image = make(dynamic_teacher=True), batch()["target"]["image"]
    method.score_student(image)
    kept = method._scored
    assert method.network.training and kept.position.shape == (3, 100)
    with torch.no_grad():
        probability = method.network.eval()(image).softmax(dim=1)
    for k, position in enumerate(kept.position.tolist()):
        assert len(set(position)) == 100
        rows = torch.stack([probability[k, :, p // 32, p % 32] for p in position])
        torch.testing.assert_close(kept.score[k], soft_neighbourhood_density(rows))
    method.score_student(image[..., :4, :4])
    assert method._scored.position.shape == (3, 16)
    _, valid = with_sizes(batch(), (32, 20), (7, 9), (24, 24))
    method.score_student(image, valid)
    kept = method._scored.position
    assert kept.shape == (3, 63) and valid.flatten(1).gather(1, kept).all()


def test_what_is_remembered_is_saved():
    method, other = make(dynamic_teacher=True), make(dynamic_teacher=True)
    fit(method, 3)
    checkpoint = {}
    method.on_save_checkpoint(checkpoint)
    fit(other, 1)
    other.on_load_checkpoint(checkpoint)
    assert len(other.remembered) == 3
    for mine, theirs in zip(method.remembered, other.remembered, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    before = other.undo_step()
    other.remembered.clear()
    before()
    assert len(other.remembered) == 3


def test_another_setting_cannot_go_on_with_a_checkpoint():
    with pytest.raises(ConfigError, match=r"without method.dynamic_teacher=true"):
        make(dynamic_teacher=True).on_load_checkpoint({"iteration": 3})
    method = make()
    method.on_load_checkpoint({"iteration": 3})
    assert method.iteration == 3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mix": "cutmix"}, "mix must be one of classmix, none, got 'cutmix'"),
        ({"weighting": "all"}, "weighting must be one of pixels, share, got 'all'"),
        ({"momentum": 1.1}, r"momentum must be in \[0, 1\], got 1.1"),
        ({"confidence": -0.1}, r"confidence must be in \[0, 1\], got -0.1"),
        ({"threshold_share": 2.0}, r"threshold_share must be in \[0, 1\], got 2.0"),
        ({"colour": float("nan")}, r"colour must be in \[0, 1\], got nan"),
        ({"masked": -1.0}, "masked must not be negative, got -1.0"),
        ({"entropy_weight": -1.0}, "entropy_weight must not be negative, got -1.0"),
        ({"mask_block": 0}, "mask_block must be at least 1, got 0"),
        ({"rare_class_mix": True, "mix": "none"}, "rare_class_mix must be false for mix=none"),
    ],
)
def test_bad_settings_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        make(**options)


def test_a_second_head_is_refused():
    network = plain(aux_head=Linear())
    with pytest.raises(ConfigError, match=r"backbone\.aux must be null"):
        make(network)
