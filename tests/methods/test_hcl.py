"""HCL: its loss from formulas, when copies are taken, weights of rare classes."""

from functools import partial
from types import SimpleNamespace

import pytest
import small
import torch
import torch.nn.functional as F
from small import backbone, built, configured

from sfseg.errors import ConfigError
from sfseg.methods import hcl
from sfseg.networks.heads.deeplab import DeepLabV2Head
from sfseg.networks.heads.segformer import SegFormerHead
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.contrastive import historical_contrast, reliability
from sfseg.types import IGNORE, Step

CLASSES, CHANNELS, SIZE = 19, 8, (32, 64)
batch = partial(small.batch, cells=(5, 9))


def plain(*, aux=False, head=None):
    torch.manual_seed(0)
    features = backbone()
    head = head or SegFormerHead(features.channels, CLASSES, channels=CHANNELS, dropout=0.0)
    second = SegFormerHead((32,), CLASSES, channels=CHANNELS, dropout=0.0) if aux else None
    return Segmenter(features, head, aux_head=second)


def make(network=None, **options):
    method = built(configured("method=hcl"), network or plain(), **options)
    counts = SimpleNamespace(reduce=lambda tensor, reduce_op: tensor)
    method._trainer = SimpleNamespace(
        strategy=counts, accumulate_grad_batches=1, global_rank=0, world_size=1
    )
    return method


def disturb(network, seed):
    """Other weights, so that the three models differ."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng))


@pytest.fixture
def fixed(monkeypatch):
    """A student's view and positions that are known: darker, all pixels."""
    monkeypatch.setattr(hcl, "strong_view", lambda image, *, strength, valid: image * strength)
    monkeypatch.setattr(hcl, "random_positions", small.every_position)


def features(network, image):
    head = network.head
    maps = network.features(image)
    levels = [
        F.interpolate(
            embed(m.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), maps[0].shape[-2:], mode="bilinear"
        )
        for embed, m in zip(head.embeddings, maps, strict=True)
    ]
    return head.fuse(torch.cat(levels[::-1], dim=1)).flatten(2).transpose(1, 2)


def weights(method, label):
    """Of every pixel, from the counts of its image."""
    weight = torch.ones(label.shape)
    for image, own in zip(label, weight, strict=True):
        for k in range(CLASSES):
            mine = image == k
            rare = 7.0 if mine.sum() < image.numel() / 32 else 1.0
            own[mine] = rare * method.absence[k]
    return weight


@pytest.mark.usefixtures("fixed")
@pytest.mark.parametrize("aux", [False, True])
def test_the_loss_is_that_of_the_formulas(aux):
    method = make(plain(aux=aux), aux_weight=0.5 * aux, contrast_weight=0.25, colour=0.5)
    disturb(method.teacher.network, 1)
    disturb(method.historical.network, 2)
    method.absence.copy_(torch.linspace(1, 7, CLASSES))
    data = batch()
    output = method.training_step(data, 0)
    image, label = data["target"]["image"].float() / 255, data["target"]["pseudo_label"]

    def look(network, view):
        with torch.no_grad():
            return network.forward_levels(view) if aux else (network(view),)

    own = look(method.network, image * 0.5)
    average, before = look(method.teacher.network, image), look(method.historical.network, image)
    known, losses = label != IGNORE, []
    for mine, now, then in zip(own, average, before, strict=True):
        p, q = then.softmax(dim=1), now.softmax(dim=1)
        agreement = torch.exp(-(p * (p / q).log()).sum(dim=1))
        assert 0 < float(agreement.min()) < float(agreement.max()) < 0.999
        chance = mine.log_softmax(dim=1).gather(1, label.long().clamp(max=18)[:, None])[:, 0]
        losses.append((-chance * agreement * weights(method, label) * known).mean())
    # Cells of four pixels: a centre is the corner of the third.
    trust = reliability(average[0])[:, 2::4, 2::4]
    contrast = historical_contrast(
        features(method.network, image * 0.5).detach(),
        features(method.teacher.network, image).detach(),
        label[:, 2::4, 2::4].flatten(1).long(),
        trust.flatten(1),
    )
    terms = method.terms
    torch.testing.assert_close(terms["labels"], losses[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms["contrast"], 0.25 * contrast, rtol=1e-4, atol=1e-5)
    assert ("auxiliary" in terms) == aux
    if aux:
        torch.testing.assert_close(terms["auxiliary"], 0.5 * losses[1], rtol=1e-4, atol=1e-5)
    confidence, prediction = own[0].softmax(dim=1).max(dim=1)
    torch.testing.assert_close(output["confidence"], confidence)
    assert torch.equal(output["prediction"].long(), prediction)


@pytest.mark.usefixtures("fixed")
def test_models_that_agree_leave_plain_cross_entropy():
    method = make(class_balance=False, contrast_weight=0.0)
    data = batch()
    output = method.training_step(data, 0)
    label = data["target"]["pseudo_label"]
    logits = method(data["target"]["image"].float() / 255 * 0.2)
    expected = F.cross_entropy(logits, label.long(), ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(output["loss"], expected / label.numel())
    assert set(method.terms) == {"labels"}


def same(one, other):
    return all(
        torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True)
    )


def test_average_and_history():
    method = make(momentum=0.75, refresh=3)
    start = [p.clone() for p in method.network.parameters()]
    source = [p.clone() for p in start]
    for k in range(1, 5):
        method.iteration = k
        method.training_step(batch(), 0)
        disturb(method.network, k)
        method.on_train_batch_end({}, None, 0)
        student = list(method.network.parameters())
        if k == 3:
            assert same(method.teacher.network, method.network)
            assert same(method.historical.network, method.network)
            start = source = [p.clone() for p in student]
            continue
        start = [0.75 * old + 0.25 * new for old, new in zip(start, student, strict=True)]
        for mine, expected in zip(method.teacher.parameters(), start, strict=True):
            torch.testing.assert_close(mine, expected.detach())
        for mine, expected in zip(method.historical.parameters(), source, strict=True):
            assert torch.equal(mine, expected)


def test_the_historical_copy_may_stay_the_source_model():
    method = make(refresh=0)
    method.iteration = 7
    disturb(method.network, 0)
    method.on_train_batch_end({}, None, 0)
    assert not same(method.historical.network, method.network)


def test_weights_of_absent_classes_move_slowly():
    method = make()
    data = batch()
    data["target"]["pseudo_label"][:] = 4
    for k in range(1, 3):
        method.iteration = k
        method.training_step(data, 0)
        method.on_train_batch_end({}, None, 0)
        expected = torch.full((CLASSES,), 7 - 6 * 0.9**k)
        expected[4] = 1
        torch.testing.assert_close(method.absence, expected)


def test_nothing_is_learnt_from_a_skipped_step():
    method = make(refresh=1)
    method.iteration, method.step.is_skipped = 1, True
    method.training_step(batch(), 0)
    disturb(method.network, 0)
    method.on_train_batch_end({}, None, 0)
    assert same(method.teacher.network, method.historical.network)
    assert not same(method.teacher.network, method.network)
    assert torch.equal(method.absence, torch.ones(CLASSES))


@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_skipped_refresh_comes_with_the_next_step(is_resumed):
    method, refreshed = make(refresh=3), []
    for k in range(1, 8):
        method.iteration = k
        method.step = Step(k, is_skipped=k in (3, 4))
        disturb(method.network, k)
        method.on_train_batch_end({}, None, 0)
        if same(method.historical.network, method.network):
            refreshed.append(k)
        if is_resumed and k == 3:
            checkpoint = {}
            method.on_save_checkpoint(checkpoint)
            method, before = make(refresh=3), method
            method.load_state_dict(before.state_dict())
            method.on_load_checkpoint(checkpoint)
    assert refreshed == [5, 6]


def test_a_checkpoint_of_an_earlier_version_owes_no_refresh():
    method = make(refresh=2)
    method.on_load_checkpoint({"iteration": 3})
    method.iteration = 3
    disturb(method.network, 0)
    method.on_train_batch_end({}, None, 0)
    assert not same(method.historical.network, method.network)


@pytest.mark.parametrize("size", [(33, 40), (32, 32)])
def test_any_head_and_odd_sizes(size):
    method = make(plain(head=DeepLabV2Head((32, 32, 32, 32), CLASSES)))
    output = method.training_step(batch(size), 0)
    output["loss"].backward()
    assert output["prediction"].shape == (2, *size) and torch.isfinite(output["loss"])
    assert method.terms["contrast"] >= 0


def test_an_auxiliary_head_that_is_not_asked_for_does_not_train():
    method = make(plain(aux=True))
    assert not any(p.requires_grad for p in method.network.aux_head.parameters())


def test_an_auxiliary_head_must_be_there():
    with pytest.raises(ConfigError, match=r"aux_weight must be 0 for a network without.*got 0.5"):
        make(aux_weight=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aux_weight": -1}, "aux_weight must not be negative, got -1"),
        ({"contrast_weight": -1}, "contrast_weight must not be negative"),
        ({"temperature": 0}, "temperature must be positive, got 0"),
        ({"pixels": 1}, "pixels must be at least 2, got 1"),
        ({"momentum": -0.1}, r"momentum must be in \[0, 1\]"),
        ({"refresh": -1}, "refresh must be at least 0"),
        ({"rare_weight": -1}, "rare_weight must not be negative"),
        ({"rare_share": 2}, r"rare_share must be in \[0, 1\], got 2"),
        ({"colour": -1}, "colour must be in"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


class Silent(torch.nn.Module):
    num_classes = CLASSES

    def __init__(self):
        super().__init__()
        self.classifier = torch.nn.Conv2d(32, CLASSES, kernel_size=1)

    def forward(self, maps):
        return self.classifier(maps[0])


def test_a_head_must_show_the_features_that_are_compared():
    with pytest.raises(ConfigError, match=r"for hcl.*features\(maps\), and classifier.*Silent"):
        make(plain(head=Silent()))
    method = make(plain(head=Silent()), contrast_weight=0.0)
    assert method.training_step(batch(), 0)["loss"] > 0
