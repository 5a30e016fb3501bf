"""VPT + ELR: its loss from formulas, its switches, its memory of earlier predictions."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from small import QUIET, batch, built, configured, fit, transformer

from sfseg.config.composition import CONF
from sfseg.errors import ConfigError
from sfseg.labels import CITYSCAPES, SYNTHIA
from sfseg.networks.backbones.pyramid import TimmPyramid
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.entropy import robust_entropy
from sfseg.ops.lovasz import lovasz_softmax
from sfseg.types import IGNORE

pytestmark = QUIET
SIZE = (32, 64)


def make(labels=CITYSCAPES, network=None, **options):
    cfg = configured("method=vpt_elr", "method.adapter.tokens=3")
    network = network or transformer(labels.num_classes, drop_path_rate=0.5)
    method = built(cfg, network, labels, **options)
    # Its BatchNorm and dropout would make a second look at the same images another.
    method.network.head.eval()
    return method


def cells(probability):
    """Means of squares of 8 pixels, for every pixel in them."""
    return F.avg_pool2d(probability, 8).repeat_interleave(8, -1).repeat_interleave(8, -2)


def test_the_loss_is_that_of_the_formulas():
    """At the second visit targets are 0.7 of 0.3 times the first prediction, and 0.3 of this."""
    method, data = make(elr_weight=2.0), batch()
    with torch.no_grad():
        before = cells(method(data["target"]["image"]).softmax(dim=1))
    method.training_step(data, 0)
    with torch.no_grad():
        for prompts in method.network.backbone.prompts:
            prompts.tokens.normal_()
    output = method.training_step(data, 1)
    logits = method(data["target"]["image"]).detach()
    chance = logits.softmax(dim=1)
    kept = 0.7 * 0.3 * before + 0.3 * cells(chance)
    label = data["target"]["pseudo_label"].long()
    surprise = -chance.log().gather(1, label.clamp(max=18)[:, None])[:, 0]
    expected = surprise[label != IGNORE].mean()
    expected += 2.0 * (1 - (chance.clamp(1e-4, 1 - 1e-4) * kept).sum(dim=1)).log().mean()
    torch.testing.assert_close(output["loss"].detach(), expected, rtol=1e-4, atol=1e-4)
    assert set(method.terms) == {"cross_entropy", "elr"}
    assert torch.equal(output["prediction"], chance.argmax(dim=1).to(torch.uint8))
    torch.testing.assert_close(output["confidence"], chance.amax(dim=1))


def test_lovasz_and_entropy_instead():
    method, data = make(loss="lovasz", entropy_weight=2.0, elr_weight=0.0), batch()
    loss = method.training_step(data, 0)["loss"]
    logits = method(data["target"]["image"])
    expected = lovasz_softmax(logits, data["target"]["pseudo_label"])
    torch.testing.assert_close(loss, expected + 2.0 * robust_entropy(logits))


def test_pseudo_labels_are_all_that_is_learnt_from():
    data, other = batch(), batch()
    other["target"]["label"].fill_(3)
    losses = [make().training_step(each, 0)["loss"] for each in (data, other)]
    assert torch.equal(*losses)
    other["target"]["pseudo_label"][0, 10:, 5] = 4
    assert not torch.equal(losses[0], make().training_step(other, 0)["loss"])


def test_prompts_and_head_train_and_nothing_else():
    method = make()
    before = copy.deepcopy(dict(method.named_parameters()))
    fit(method, [batch(seed=0), batch(seed=1)])
    for name, parameter in method.named_parameters():
        trains = name.startswith(("network.backbone.prompts.", "network.head."))
        assert parameter.requires_grad == trains
        assert torch.equal(parameter, before[name]) != trains, name
    assert not any(m.training for m in method.network.backbone.backbone.modules())


def test_rates_of_prompts_and_head():
    groups = make(lr=1e-3).configure_optimizers()["optimizer"].param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    method_rates = sorted({group["lr"] for group in groups})
    assert method_rates == pytest.approx([1e-3, 5e-3])
    assert len(rates) == sum(len(group["params"]) for group in groups)


def test_other_labels_and_no_label_at_all():
    method, data = make(SYNTHIA), batch(classes=16)
    data["target"]["pseudo_label"].fill_(IGNORE)
    method.training_step(data, 0)["loss"].backward()
    assert method.terms["cross_entropy"] == 0 > method.terms["elr"]
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.requires_grad)


def test_means_go_on_from_a_checkpoint_and_skipped_steps_leave_them():
    method = make()
    fit(method, [batch(seed=seed) for seed in range(2)])
    kept, undo = dict(method.ensemble.targets), method.undo_step()
    total = kept[5].float().sum(dim=0)
    assert set(kept) == {5, 3}
    torch.testing.assert_close(total, torch.full_like(total, 1 - 0.7**2), atol=5e-3, rtol=0)
    checkpoint = {}
    method.on_save_checkpoint(checkpoint)
    method.training_step(batch(seed=2), 2)
    assert not torch.equal(method.ensemble.targets[5], kept[5])
    undo()
    other = make()
    other.on_load_checkpoint(checkpoint)
    for mine in (method, other):
        assert all(torch.equal(mine.ensemble.targets[k], kept[k]) for k in kept)


def test_without_the_regulariser_nothing_is_kept():
    method = make(elr_weight=0.0)
    method.training_step(batch(), 0)
    checkpoint = {}
    method.on_save_checkpoint(checkpoint)
    assert set(method.terms) == {"cross_entropy"}
    assert not method.ensemble.targets and "ensemble" not in checkpoint
    with pytest.raises(ConfigError, match=r"run without a positive method\.elr_weight"):
        make().on_load_checkpoint(checkpoint)


def test_experiments_measure_no_early_learning():
    """Its settings come with Uni-UVPT's recipe, and alone they are no callback."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=["experiment=vpt_elr/gta5_swin_b_source_gta"])
    assert all(node is None or "_target_" in node for node in cfg.callbacks.values())
    assert cfg.tags == ["vpt_elr", "source_gta"]


def test_a_backbone_without_attention_is_refused():
    with torch.device("meta"):
        backbone = TimmPyramid("resnet18")
        network = Segmenter(backbone, DAFormerHead(backbone.channels, 19, channels=8))
    with pytest.raises(ConfigError, match=r"must be a Swin, a MiT or tiny.*got ResNet"):
        make(network=network)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "dice"}, "loss must be one of cross_entropy, lovasz, got 'dice'"),
        ({"entropy_weight": -1}, "entropy_weight must not be negative, got -1"),
        ({"elr_weight": -1}, "elr_weight must not be negative, got -1"),
        ({"elr_momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
