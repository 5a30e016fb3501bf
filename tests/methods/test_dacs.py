"""DACS' step: what is mixed, what each pixel weighs, and how the teacher follows."""

from copy import deepcopy

import pytest
import torch
from lightning.pytorch import Callback
from small import QUIET
from two_domains import batch, fit, make, network, reached

from sfseg.data.geometry import Geometry
from sfseg.errors import ConfigError
from sfseg.methods import dacs, masked_consistency
from sfseg.methods.dacs import DACS
from sfseg.methods.mixing import Labelled
from sfseg.methods.source_only import SourceOnly
from sfseg.ops.feature_distance import feature_distance
from sfseg.types import IGNORE

pytestmark = QUIET


@pytest.fixture
def left_half(monkeypatch):
    """In place of a draw of classes: the left half is pasted."""

    def taken(label, *, valid, **_):
        mask = torch.zeros(label.shape, dtype=torch.bool)
        mask[..., : label.shape[-1] // 2] = True
        return mask & valid

    monkeypatch.setattr(dacs, "class_mask", taken)


def by_hand(logits, label, weight):
    """The mean over all pixels, void ones included, of the weighted cross-entropy."""
    log = logits.double().log_softmax(1)
    total = 0.0
    for b, y, x in torch.cartesian_prod(*map(torch.arange, label.shape)).tolist():
        k = int(label[b, y, x])
        if k != IGNORE:
            total -= float(weight[b, y, x] * log[b, k, y, x])
    return total / label.numel()


@pytest.mark.usefixtures("double", "left_half")
@pytest.mark.parametrize("crop", [(0, 0), (3, 4), (20, 20)])
def test_loss_by_hand(monkeypatch, crop):
    method = make(
        DACS, normalize="all", colour=0.0, confidence=0.8, masked=0.5, pseudo_label_crop=crop
    ).double()
    seen = torch.rand(2, 1, 32, 64) < 0.5
    monkeypatch.setattr(masked_consistency, "block_mask", lambda image, **_: seen)
    data = batch()
    source, target = data["source"], data["target"]
    student, teacher = deepcopy(method.network), deepcopy(method.network)
    loss = method.training_step(data, 0)["loss"]

    with torch.no_grad():
        plain = student(source["image"])
        confidence, label = teacher(target["image"]).softmax(1).max(1)
        share = (confidence >= 0.8).double().mean()
        assert 0.1 < share < 0.9
        mixed = target["image"].clone()
        mixed[..., :32] = source["image"][..., :32]
        of_mixed = student(mixed / 255)
        of_masked = student(torch.where(seen, target["image"] / 255, student.mean))
    of_teacher = torch.full(label.shape, float(share))
    of_teacher[:, : crop[0]] = 0
    of_teacher[:, 32 - crop[1] :] = 0
    weight, learnt = of_teacher.clone(), label.clone()
    weight[..., :32], learnt[..., :32] = 1, source["label"][..., :32].long()
    ones = torch.ones(label.shape)
    terms = {
        "cross_entropy": by_hand(plain, source["label"], ones),
        "mixed": by_hand(of_mixed, learnt, weight),
        "masked": 0.5 * by_hand(of_masked, label, of_teacher),
    }
    assert {k: float(v) for k, v in method.terms.items()} == pytest.approx(terms)
    assert loss.item() == pytest.approx(sum(terms.values()))


def test_the_student_alone_gets_gradients():
    method = make(DACS, masked=1.0)
    loss = method.training_step(batch(), 0)["loss"]
    assert reached(method, loss) == {"network"}
    assert not any(p.requires_grad for p in method.teacher.parameters())


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("statistics", ["own", "running"])
def test_the_teacher_normalises_as_asked_and_keeps_its_buffers(statistics):
    method = make(DACS, teacher_statistics=statistics, confidence=0.0).double()
    copy = deepcopy(method.teacher.network)
    before = {k: v.clone() for k, v in method.teacher.state_dict().items()}
    found = method.pseudo_labels(batch()["target"])
    assert all(torch.equal(v, before[k]) for k, v in method.teacher.state_dict().items())
    assert not any(part.training for part in method.teacher.modules())
    copy.train(statistics == "own")
    assert torch.equal(found.label, copy(batch()["target"]["image"]).argmax(1))


def test_the_teacher_is_quick_at_first_and_follows_the_steps_alone():
    method = make(DACS, momentum=0.6)
    weights, average = [], []

    class Look(Callback):
        def on_train_batch_start(self, trainer, module, *_):
            weights.append(module.network.head.classifier.weight.detach().clone())
            average.append(module.teacher.network.head.classifier.weight.clone())

        on_train_end = on_train_batch_start

    fit(method, [batch(k) for k in range(3)], callbacks=[Look()])
    expected = weights[0]
    for momentum, student, found in zip((0.5, 0.6, 0.6), weights[1:], average[1:], strict=True):
        expected = momentum * expected + (1 - momentum) * student
        torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("double")
def test_the_share_is_that_of_the_pictures_pixels():
    method = make(DACS, teacher_statistics="running").double()
    target = batch()["target"]
    target["image"][1, :, 20:] = 0
    target["geometry"] = torch.tensor([Geometry.whole(size) for size in ((32, 64), (20, 64))])
    with torch.no_grad():
        confidence = method.teacher.network(target["image"]).softmax(1).amax(1)
    shown = torch.cat([confidence[0].flatten(), confidence[1, :20].flatten()])
    method.confidence = float(shown.median())
    expected = (shown >= method.confidence).double().mean()
    assert abs((confidence >= method.confidence).double().mean() - expected) > 0.01
    assert (method.pseudo_labels(target).weight == expected).all()


def test_how_often_the_teacher_has_moved_is_kept():
    method, other = make(DACS), make(DACS)
    fit(method, [batch(0), batch(1)])
    other.load_state_dict(method.state_dict())
    assert int(other.moves) == 2


@pytest.mark.usefixtures("left_half")
def test_a_window_of_a_larger_source_is_pasted_with_its_labels():
    method = make(DACS, crops=((40, 96), (32, 64)))
    source = batch(size=(40, 96))["source"]
    place = torch.arange(40 * 96).view(40, 96)
    source["image"] = torch.stack([place % 256, place // 256, place * 0]).expand(2, -1, -1, -1)
    source["label"] = (place % 3).expand(2, -1, -1)
    empty = torch.zeros(2, 32, 64)
    target = Labelled(torch.full((2, 3, 32, 64), 7), empty.long(), empty)
    corners = set()
    for seed in range(20):
        torch.manual_seed(seed)
        mixed = method.mix(source, target, None)
        shown = (mixed.image[:, 0] + 256 * mixed.image[:, 1])[..., :32]
        corner = int(shown[0, 0, 0])
        y, x = divmod(corner, 96)
        assert torch.equal(shown[0], place[y : y + 32, x : x + 32])
        assert torch.equal(mixed.label[..., :32], shown % 3)
        assert (mixed.image[..., 32:] == 7).all() and not mixed.weight[..., 32:].any()
        corners.add(corner)
    assert len(corners) > 10


@pytest.mark.parametrize("quirks", [False, True])
def test_a_source_whose_pictures_are_smaller_than_its_crop_is_pasted_as_it_is(monkeypatch, quirks):
    """A batch is as large as its largest picture."""
    monkeypatch.setattr(dacs, "class_mask", lambda label, *, valid, **_: valid)
    method = make(DACS, reference_quirks=quirks)
    source = batch(size=(24, 70))["source"]
    empty = torch.zeros(2, 32, 64)
    weight = method.mix(
        source, Labelled(torch.zeros(2, 3, 32, 64), empty.long(), empty), None
    ).weight
    assert weight[:, :24].all() and not weight[:, 24:].any()


@pytest.mark.usefixtures("left_half")
def test_padding_is_neither_pasted_nor_pasted_onto():
    method = make(DACS)
    data = batch()
    source, shown = data["source"], torch.ones(2, 32, 64, dtype=torch.bool)
    source["geometry"] = source["geometry"].clone()
    source["geometry"][:, 6] = 20  # rows that show something
    shown[1, :, 10:] = False
    target = Labelled(
        torch.zeros(2, 3, 32, 64), torch.zeros(2, 32, 64).long(), torch.zeros(2, 32, 64)
    )
    weight = method.mix(source, target, shown).weight
    assert weight[0, :20, :32].all() and weight[1, :20, :10].all()
    assert weight.sum() == 20 * 32 + 20 * 10


def test_of_a_padded_crop_rows_of_the_picture_are_not_learnt():
    method = make(DACS, pseudo_label_crop=(3, 4), confidence=0.0)
    target = batch()["target"]
    target["geometry"][1, 6] = 20
    weight = method.pseudo_labels(target).weight
    for own, height in zip(weight, (32, 20), strict=True):
        assert own[3 : height - 4].all()
        assert not own[:3].any() and not own[height - 4 : height].any()


def test_what_surrounds_a_small_source_is_no_class_to_draw():
    """Beside class 2 there is none: it is pasted whatever is drawn."""
    method = make(DACS)
    source = batch(size=(24, 64))["source"]
    source["label"].fill_(2)
    empty = torch.zeros(2, 32, 64)
    target = Labelled(torch.zeros(2, 3, 32, 64), empty.long(), empty)
    for seed in range(8):
        torch.manual_seed(seed)
        weight = method.mix(source, target, None).weight
        assert weight[:, :24].all() and not weight[:, 24:].any()


@pytest.mark.usefixtures("double")
def test_of_an_unsure_teacher_and_nothing_pasted_the_source_is_left(monkeypatch):
    monkeypatch.setattr(dacs, "class_mask", lambda label, **_: torch.zeros_like(label).bool())
    method, other = make(DACS, confidence=1.0).double(), make(SourceOnly).double()
    for each in (method, other):
        each.training_step(batch(), 0)["loss"].backward()
    mine = dict(method.network.named_parameters())
    for name, value in other.network.named_parameters():
        torch.testing.assert_close(mine[name].grad, value.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("double")
def test_features_of_things_stay_near_to_imagenets():
    """Its gradient reaches the backbone alone, and its weights are those of the given network."""
    imagenet = network()
    for value in imagenet.parameters():
        value.data += 0.1
    common = {"feature_distance": 0.5, "things": ["b", "unknown"]}
    method = make(DACS, imagenet=imagenet, **common).double()
    assert not any(p.requires_grad for p in method.imagenet.parameters())
    source = batch(size=(30, 61))["source"]  # not a multiple of the backbone's stride
    source["label"][:, :16, :32] = 1
    term = method.source_terms(source)["feature_distance"]
    assert reached(method, term) == {"network"}
    label = torch.nn.functional.pad(source["label"], (0, 3, 0, 2), value=IGNORE)
    image = torch.nn.functional.pad(method.network.normalize(source["image"]), (0, 3, 0, 2))
    expected = feature_distance(
        method.network.backbone(image)[-1], imagenet.double().eval().backbone(image)[-1], label,
        classes=[1],
    )  # fmt: skip
    assert term.item() == pytest.approx(0.5 * expected.item()) and term > 0
    with pytest.raises(ConfigError, match=r"method.things must name classes of three \(a, b, c\)"):
        make(DACS, imagenet=imagenet, feature_distance=0.5, things=["car"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.5}, "momentum must be in"),
        ({"confidence": -0.1}, "confidence must be in"),
        ({"masked": -1.0}, "masked must not be negative"),
        ({"mask_block": 0}, "mask_block must be at least 1"),
        ({"mask_ratio": 1.5}, "mask_ratio must be in"),
        ({"propagate": "all"}, "propagate must be one of sum, each, got 'all'"),
        ({"pseudo_label_crop": (3, -1)}, "pseudo_label_crop must be at least 0, got -1"),
        ({"teacher_statistics": "batch"}, "teacher_statistics must be"),
        (
            {"crops": ((32, 64), (32, 65))},
            r"data.source_view.crop must be at least as large as the target's.*\[32, 64\] and "
            r"\[32, 65\]; set it, or data.target_crop",
        ),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        make(DACS, **options)


def test_a_second_head_is_refused():
    assert network(levels=2).aux_head is not None
    with pytest.raises(ConfigError, match=r"backbone.aux must be null for a mean teacher"):
        make(DACS, levels=2)
