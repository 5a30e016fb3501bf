"""SFDA: who is updated by what, and what of the network its fakes leave alone."""

import logging
from functools import partial
from typing import Any

import pytest
import small
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from sfseg.data.geometry import Geometry
from sfseg.data.geometry import View as Crop
from sfseg.errors import ConfigError
from sfseg.labels import CITYSCAPES
from sfseg.methods.sfda import SFDA
from sfseg.networks.build import build_segmenter
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.heads.segformer import SegFormerHead
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.data_free import View
from sfseg.ops.inference import Inference
from sfseg.ops.patches import rank
from sfseg.types import IGNORE

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
]
HEAD = partial(DAFormerHead, channels=8, dilations=(1, 2))


def network(seed: int = 0, head: Any = HEAD) -> Segmenter:
    torch.manual_seed(seed)
    made = build_segmenter(name="tiny", head=head, num_classes=CITYSCAPES.num_classes)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.normal_()
    return made


def make(*, images: int = 2, crop: tuple[int, int] = (32, 64), **settings: Any) -> SFDA:
    settings = {"patches": 2, "latent": 8} | settings
    return SFDA(
        network=settings.pop("network", None) or network(),
        labels=CITYSCAPES,
        eval_domains=["target"],
        inference=Inference(),
        source_adapter=None,
        adapter=None,
        plan={"steps": 2, "batch_size": images, "target_view": Crop(crop)},
        needs=["target", "source_model"],
        lr=1e-2,
        weight_decay=0.0,
        parameter_rules=[],
        optimizer=torch.optim.SGD,
        schedule=partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 1 - step / 2),
        log_every=1,
        seed=0,
        **settings,
    )


def target(images: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (images, 3, 32, 64), generator=rng, dtype=torch.uint8)


def fit(method: SFDA, steps: int = 1) -> Trainer:
    image = target()
    batch = {
        "target": {
            "image": image,
            "label": torch.full((2, 32, 64), IGNORE, dtype=torch.uint8),
            "index": torch.arange(2),
            "geometry": torch.tensor([Geometry.whole((32, 64))] * 2),
        }
    }
    trainer: Trainer = small.fit(method, [batch] * 5, max_steps=steps)
    return trainer


def reached(method: SFDA, loss: Tensor) -> set[str]:
    """Modules whose parameters a loss sends a gradient to."""
    named = [(name, p) for name, p in method.named_parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    return {
        name.split(".")[0]
        for (name, _), gradient in zip(named, gradients, strict=True)
        if gradient is not None and gradient.any()
    }


def test_update_table() -> None:
    """Each loss reaches its own network and no other, whatever it is differentiated through."""
    method = make()
    view = View.of(method.network, target())
    feature = view.feature.detach()
    assert reached(method, method.generator_loss([feature], 2)) == {"generator"}
    ranked = rank(view.logits, 2)
    assert reached(method, method.network_loss(view.logits, ranked, 2)) == {"network"}
    assert reached(method, method.discriminator_loss(ranked)) == {"discriminator"}


@pytest.mark.parametrize("term", ["mae", "dad_ss", "dad_st", "bns"])
def test_every_term_moves_the_generator_by_itself(term: str) -> None:
    weights = {"alpha": 0.0, "beta": 0.0, "tau": 0.0, "bns_weight": 0.0}
    of_term = {"mae": "alpha", "dad_ss": "beta", "dad_st": "tau", "bns": "bns_weight"}[term]
    method = make(**weights | {of_term: 1.0})
    with torch.no_grad():  # or the two models agree on everything
        for parameter in method.network.parameters():
            parameter.mul_(1.1)
    loss = method.generator_loss([View.of(method.network, target()).feature.detach()], 2)
    assert reached(method, loss) == {"generator"}
    assert method.terms[f"generator/{term}"] != 0


@pytest.mark.parametrize("half", ["easy", "hard"])
def test_the_network_learns_from_hard_patches_alone(half: str) -> None:
    method = make(alpha=0.0, beta=0.0, target_weight=0.0)
    logits = torch.randn(2, CITYSCAPES.num_classes, 32, 64, requires_grad=True)
    ranked = rank(logits, 2)
    loss = method.network_loss(logits, ranked, 2)
    (gradient,) = torch.autograd.grad(loss, getattr(ranked, half), allow_unused=True)
    assert (gradient is not None and bool(gradient.any())) == (half == "hard")


def test_network_step_makes_hard_patches_look_easy_and_the_critic_tells_them() -> None:
    method = make(gamma=1.0)
    ranked = rank(torch.randn(2, CITYSCAPES.num_classes, 32, 64), 2)
    verdict = method.discriminator(ranked.hard, ranked.position).detach()
    method.network_loss(torch.zeros(2, CITYSCAPES.num_classes, 32, 64), ranked, 2)
    # -log(1 - D(hard)), D the probability of being hard: small where they pass for easy.
    expected = -torch.log(1 - verdict.sigmoid()).mean()
    torch.testing.assert_close(method.terms["adversarial"], expected)
    method.discriminator_loss(ranked)
    easy = method.discriminator(ranked.easy, ranked.position).detach()
    torch.testing.assert_close(
        method.terms["discriminator/hard"], -torch.log(verdict.sigmoid()).mean()
    )
    torch.testing.assert_close(
        method.terms["discriminator/easy"], -torch.log(1 - easy.sigmoid()).mean()
    )


def test_all_three_learn_and_the_source_model_stays() -> None:
    method = make()
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    trainer = fit(method, steps=2)
    assert trainer.global_step == 2  # of three optimisers, one is counted
    changed = {n.split(".")[0] for n, p in method.named_parameters() if not p.equal(before[n])}
    assert changed == {"network", "generator", "discriminator"}
    assert all(group["lr"] == 0 for o in trainer.optimizers for group in o.param_groups)
    assert all(p.requires_grad for p in method.network.parameters())


@pytest.mark.parametrize("statistics", ["own", "running"])
def test_fakes_leave_running_statistics_alone(statistics: str) -> None:
    """They are those that the target's images alone would leave."""
    method, alone = make(fake_statistics=statistics), network()
    fit(method)
    alone.train()(target())
    mine = dict(method.network.named_buffers())
    for name, theirs in alone.named_buffers():
        torch.testing.assert_close(mine[name], theirs, rtol=1e-5, atol=1e-6)
    source = dict(method.source.network.named_buffers())
    assert all(source[name].equal(buffer) for name, buffer in network().named_buffers())


def test_the_paper_as_printed_stays_finite() -> None:
    method = make(
        dam_norm="none", dam_temp=1.0, dam_spatial="literal", bns_reduction="paper_sum",
        generator_lr="paper", discriminator_lr="paper", mae_on="logits",
    )  # fmt: skip
    with torch.no_grad():  # as large as features of a trained network
        for parameter in method.source.network.backbone.norms.parameters():
            parameter.mul_(40)
    trainer = fit(method, steps=3)
    assert [group["lr"] for o in trainer.optimizers[1:] for group in o.param_groups] == [-0.05] * 2
    assert all(torch.isfinite(p).all() for p in method.parameters())
    assert all(torch.isfinite(term) for term in method.logged.values())


def test_without_ipsm_there_is_no_discriminator() -> None:
    for method in (make(ipsm=False), make(patches=1, images=3)):
        assert not hasattr(method, "discriminator")
        assert not any("adversarial" in name for name in fit(method) and method.logged)


def test_transfer_teaches_a_new_network_from_fakes_alone() -> None:
    student = network(seed=1)
    method = make(transfer_only=True, student=student)
    before = dict(network().named_parameters())
    statistics = [b.clone() for b in student.buffers()]
    fit(method)
    assert method.network is student and "target" not in method.terms
    assert all(p.equal(before[n]) for n, p in method.source.network.named_parameters())
    assert not all(a.equal(b) for a, b in zip(statistics, student.buffers(), strict=True))
    with pytest.raises(ConfigError, match=r"needs a new network.*method\.transfer_only=true"):
        make(transfer_only=True)


def test_a_new_network_does_not_start_as_the_source_model() -> None:
    assert make().starts_as_source_model
    assert not make(transfer_only=True, student=network()).starts_as_source_model


def test_recomputed_activations_are_refused() -> None:
    for name in ("tiny", "resnet18"):
        saving = build_segmenter(name=name, head=HEAD, num_classes=19, gradient_checkpointing=True)
        with pytest.raises(ConfigError, match="gradient_checkpointing must be false for sfda"):
            make(network=saving)


def test_bounded_gain_of_the_generator() -> None:
    plain, bounded = make(), make(g_mae_transform="neglog1p")
    for method in (plain, bounded):
        torch.manual_seed(0)
        method.generator_loss([View.of(method.network, target()).feature.detach()], 2)
    mae, logarithm = (m.terms["generator/mae"] for m in (plain, bounded))
    torch.testing.assert_close(logarithm, -torch.log1p(-mae))


def test_what_networks_without_batch_norm_go_without_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        make()
        assert "the backbone has no batch normalisation: L_BNS looks at the head's" in caplog.text
        plain = network(head=lambda channels, k: nn_head(channels, k))
        method = make(network=plain)
    assert "the network has no batch normalisation" in caplog.text
    assert "L_BNS is left out; choose backbone=resnet50_deeplabv3" in caplog.text
    fit(method)
    assert "generator/bns" not in method.logged


def nn_head(channels: tuple[int, ...], num_classes: int) -> nn.Module:
    head = SegFormerHead(channels, num_classes, channels=8)
    for name, module in list(head.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, child = name.rpartition(".")
            setattr(head.get_submodule(parent), child, nn.GroupNorm(1, module.num_features))
    return head


def test_drawn_fakes_depend_on_their_noise_alone() -> None:
    method = make()
    noise = method.fake_noise(2, seed=3)
    first, second = (method.draw_fakes(noise) for _ in range(2))
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))
    assert first[0].shape == (2, 3, 16, 32) and first[1].shape == (2, 16, 32)
    assert method.network.training and method.generator.training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": 3}, r"an even number of images.*got 3; set data\.adaptation\.batch_size"),
        ({"patches": 3}, r"patches must be at most 2 for crops of 64x32.*got 3"),
        ({"patches": 0}, "patches must be at least 1, got 0"),
        ({"alpha": -1.0}, "alpha must not be negative, got -1"),
        ({"tau": -0.5}, "tau must not be negative"),
        ({"dam_temp": 0.0}, "dam_temp must be positive, got 0"),
        ({"fake_scale": 0.0}, "fake_scale must be positive"),
        ({"patch_map": "softmax"}, "patch_map must be one of probabilities, logits, self_info"),
        ({"dam_norm": "l3"}, "dam_norm must be one of l2, none, got 'l3'"),
        ({"fake_statistics": "target"}, "fake_statistics must be one of own, running"),
        ({"g_mae_transform": "log"}, "g_mae_transform must be one of none, neglog1p"),
        ({"bns_reduction": "sum"}, "bns_reduction must be one of mean_per_channel, paper_sum"),
        ({"generator_lr": "papre"}, "generator_lr must be positive or 'paper', got 'papre'"),
        ({"discriminator_lr": 0.0}, "discriminator_lr must be positive"),
    ],
)
def test_bad_settings_are_refused_before_training(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)
