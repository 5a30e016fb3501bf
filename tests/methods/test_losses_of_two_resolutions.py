"""How methods learn from two resolutions: both losses, and what the teacher labels by."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from small import QUIET
from two_domains import batch, fit, make, network, reached

from sfseg.errors import ConfigError
from sfseg.methods import dacs, mixing, supervised
from sfseg.methods.adaptsegnet import AdaptSegNet
from sfseg.methods.advent_minent import AdventMinEnt
from sfseg.methods.dacs import DACS
from sfseg.methods.fda import FDA
from sfseg.methods.minent import MinEnt
from sfseg.methods.source_only import SourceOnly
from sfseg.networks.adapters.two_resolutions import with_two_resolutions
from sfseg.ops.feature_distance import feature_distance
from sfseg.types import IGNORE

pytestmark = QUIET
ADAPTER = partial(with_two_resolutions, window=(16, 32))


@pytest.fixture
def looks(monkeypatch):
    """What the network has said in training: logits, maps and detail of each look."""
    kept = []
    whole = supervised.seen_in_training

    def spied(*arguments):
        kept.append(whole(*arguments))
        return kept[-1]

    for module in (dacs, mixing, supervised):
        monkeypatch.setattr(module, "seen_in_training", spied)
    return kept


def by_hand(logits, label, weight):
    """The mean over all pixels, void ones included, of the weighted cross-entropy."""
    each = F.cross_entropy(logits.detach(), label.long(), ignore_index=IGNORE, reduction="none")
    return float((each * weight).sum() / label.numel())


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_losses_are_of_both_resolutions(monkeypatch, looks, share):
    """Of the source, the mixed and the masked images alike; weights are cropped as labels are."""
    adapter = partial(ADAPTER, detail_weight=share)
    method = make(DACS, normalize="all", masked=0.5, pseudo_label_crop=(4, 9), adapter=adapter)
    method, learnt = method.double(), []
    mix = method.mix
    monkeypatch.setattr(method, "mix", lambda *given: learnt.append(mix(*given)) or learnt[-1])
    data = batch()
    labelled = method.pseudo_labels(data["target"])
    torch.manual_seed(2)
    loss = method.training_step(data, 0)["loss"]
    truth, expected = data["source"]["label"], []
    seen = [
        (truth, torch.ones(truth.shape)),
        learnt[0][1:],
        (labelled.label, labelled.weight),
    ]
    for (logits, _, detail), (label, weight) in zip(looks, seen, strict=True):
        place = (..., detail.rows, detail.columns)
        own = by_hand(detail.logits, label[place], weight[place])
        expected.append((1 - share) * by_hand(logits, label, weight) + share * own)
        assert detail.logits.shape == (2, 3, 16, 32)
    names = ("cross_entropy", "mixed", "masked")
    factors = (1, 1, 0.5)
    terms = {n: f * e for n, f, e in zip(names, factors, expected, strict=True)}
    assert {k: float(v) for k, v in method.terms.items()} == pytest.approx(terms)
    assert loss.item() == pytest.approx(sum(terms.values()))
    assert reached(method, loss) == {"network"}


@pytest.mark.usefixtures("double")
def test_the_teacher_labels_by_all_windows():
    method = make(DACS, adapter=ADAPTER).double()
    target = batch()["target"]
    found = method.pseudo_labels(target).label
    copy = method.teacher.network.train()
    with torch.no_grad():
        assert torch.equal(found, copy(target["image"]).argmax(1))


@pytest.mark.parametrize("kind", [SourceOnly, DACS])
def test_labels_that_are_all_void_give_no_loss(kind):
    method, data = make(kind, adapter=ADAPTER), batch()
    data["source"]["label"].fill_(IGNORE)
    loss = method.training_step(data, 0)["loss"]
    loss.backward()
    assert method.terms["cross_entropy"] == 0 and torch.isfinite(loss)
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(g).all() for g in gradients)


def test_padding_is_not_learnt(looks):
    """Neither in the whole image nor in a window, whatever the labels say there."""
    adapter = partial(with_two_resolutions, window=(32, 32))
    method, losses = make(SourceOnly, normalize="all", adapter=adapter).eval(), []
    data = batch()
    source = data["source"]
    source["geometry"] = source["geometry"].clone()
    source["geometry"][:, 6] = torch.tensor([20, 32])  # rows that show something
    for label in (0, 2):
        source["label"][0, 20:] = label
        torch.manual_seed(3)
        losses.append(method.training_step(data, 0)["loss"])
        detail = looks[-1][2]
    assert detail.rows.stop > 20, "the window shows some"
    assert torch.equal(*losses)


@pytest.mark.usefixtures("double")
def test_features_keep_near_in_the_context():
    imagenet = network()
    for value in imagenet.parameters():
        value.data += 0.1
    method = make(
        DACS, imagenet=imagenet, feature_distance=0.5, things=["b"], adapter=ADAPTER
    ).double()
    source = batch()["source"]
    source["label"][:, :16, :32] = 1
    term = method.source_terms(source)["feature_distance"]
    context = F.avg_pool2d(method.network.normalize(source["image"]), 2)
    maps = [part.backbone(context)[-1] for part in (method.network, imagenet.double().eval())]
    assert maps[0].shape[-2:] == (4, 8)
    expected = feature_distance(*maps, source["label"], classes=[1])
    assert term.item() == pytest.approx(0.5 * expected.item()) and term > 0


@pytest.mark.parametrize("kind", [AdaptSegNet, AdventMinEnt, FDA, SourceOnly])
def test_every_method_with_the_source_trains_it(kind):
    method = make(kind, adapter=ADAPTER, crops=((32, 64), (32, 64)))
    before = [p.clone() for p in method.network.attention_head.parameters()]
    fit(method, [batch()])
    after = method.network.attention_head.parameters()
    assert not any(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_a_method_without_the_source_refuses_it():
    method = make(MinEnt, adapter=ADAPTER, trainable="all")
    with pytest.raises(ConfigError, match=r"choose one that learns the source's labels, or set"):
        method.training_step(batch(), 0)


def test_steps_are_repeated_by_their_seed():
    losses = []
    for _ in range(2):
        method = make(DACS, adapter=ADAPTER)
        torch.manual_seed(4)
        losses.append(method.training_step(batch(), 0)["loss"])
    assert torch.equal(*losses)
