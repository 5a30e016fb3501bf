"""The client of Generalize then Adapt: six heads that learn pseudo-labels."""

import math
from functools import cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch import Trainer

from sfseg.config import CONF, build
from sfseg.errors import ConfigError
from sfseg.labels import CITYSCAPES
from sfseg.networks.build import build_segmenter
from sfseg.networks.heads import DAFormerHead
from sfseg.networks.multi_head import LeaveOneOutSegmenter
from sfseg.ops.inference import Inference
from sfseg.ops.lovasz import lovasz_softmax
from sfseg.types import IGNORE

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
]


@cache
def configured():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=["method=gta"])


def head(channels, num_classes):
    return DAFormerHead(channels, num_classes, channels=8)


def plain(name="tiny"):
    torch.manual_seed(0)
    return build_segmenter(name=name, head=head, num_classes=19)


def make(network=None, **options):
    cfg = configured()
    if network is None:
        network = build(cfg.method.source_adapter)(plain())
    return build(cfg.method)(
        network=network, labels=CITYSCAPES, eval_domains=["target"], inference=Inference(),
        **options,
    ).train()  # fmt: skip


def batch(seed=0, size=(33, 64)):
    rng = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 5, (2, *size), generator=rng, dtype=torch.uint8)
    label[:, :7] = IGNORE
    image = torch.randint(0, 256, (2, 3, *size), generator=rng, dtype=torch.uint8)
    return {"target": {"image": image, "pseudo_label": label}}


def step(method, data):
    torch.manual_seed(7)
    return method.training_step(data, 0)


def fit(method, data):
    trainer = Trainer(
        max_steps=len(data), accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(method, torch.utils.data.DataLoader(data, batch_size=None, collate_fn=lambda x: x))


@pytest.mark.parametrize("weight", [0.0, 5e-3, 2.0])
def test_the_loss_is_the_sum_over_six_heads(weight):
    method, data = make(entropy_weight=weight), batch()
    output = step(method, data)
    torch.manual_seed(7)
    logits = method.network.forward_heads(data["target"]["image"])
    assert len(logits) == 6
    expected = 0.0
    for scores in logits:
        chance = scores.double().softmax(dim=1)
        entropy = -(chance * chance.log()).sum(dim=1) / math.log(19)
        expected += lovasz_softmax(scores, data["target"]["pseudo_label"]).double()
        expected += weight * (entropy.square() + 1e-8).square().mean()
    torch.testing.assert_close(output["loss"].double(), expected, rtol=1e-5, atol=1e-6)
    confidence, prediction = logits[-1].softmax(dim=1).max(dim=1)
    assert torch.equal(output["prediction"], prediction.to(torch.uint8))
    torch.testing.assert_close(output["confidence"], confidence)
    assert not output["confidence"].requires_grad


@pytest.mark.parametrize("name", ["tiny", "resnet18"])
def test_only_heads_train(name):
    network = build(configured().method.source_adapter)(plain(name))
    method = make(network)
    before = {n: v.clone() for n, v in method.state_dict().items()}
    fit(method, [batch(k) for k in range(2)])
    moved = {n for n, v in method.state_dict().items() if not torch.equal(v, before[n])}
    assert not any(n.startswith("network.backbone.") for n in moved)
    trained = {n for n, p in method.named_parameters() if p.requires_grad}
    assert all(n.startswith(("network.head.", "network.leave_one_out.")) for n in trained)
    assert trained <= moved | {n for n in trained if not before[n].any()}
    for k in range(5):
        assert any(n.startswith(f"network.leave_one_out.{k}.") for n in moved)
    assert any(n.startswith("network.head.") for n in moved)


def test_without_any_label_loss_and_gradients_are_finite():
    method, data = make(), batch()
    data["target"]["pseudo_label"].fill_(IGNORE)
    loss = step(method, data)["loss"]
    loss.backward()
    grads = [p.grad for p in method.parameters() if p.requires_grad]
    assert torch.isfinite(loss)
    assert all(g is not None and torch.isfinite(g).all() for g in grads)


def test_it_is_a_source_gta_model_with_the_most_confident_third_of_each_class():
    cfg = configured()
    assert cfg.pseudo_labels.discard == 0.66
    assert set(cfg.method.needs) == {"target", "pseudo_labels", "source_model"}
    network = build(cfg.method.source_adapter)(plain())
    assert isinstance(network, LeaveOneOutSegmenter) and network.num_heads == 6


def test_a_network_of_one_head_is_refused():
    with pytest.raises(ConfigError, match=r"leave-one-out heads, got a plain Segmenter; set meth"):
        make(plain())


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="entropy_weight must not be negative, got -1"):
        make(entropy_weight=-1)
