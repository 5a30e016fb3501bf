"""A step of ``variant=release``, written out once more in plain torch, and what its rules train."""

import copy
from functools import partial

import pytest
import small
import torch
import torch.nn.functional as F
from small import QUIET, built, configured, step, transformer

from sfseg.errors import ConfigError
from sfseg.optim import norm_parameters
from sfseg.types import IGNORE

pytestmark = QUIET
batch = partial(small.batch, size=(64, 64), cells=(4, 4))
SETTINGS = ("method=uniuvpt", "method.variant=release", "method.adapter.num_heads=4")


def make(*overrides, **options):
    """A method that does all a step can: certain pixels, prompts that adapt, three weights."""
    torch.manual_seed(0)
    method = built(configured(*SETTINGS, *overrides), transformer(), **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        method.network.backbone.adapter.mixing.copy_(torch.tensor([2.0, -0.5, 0.3]))
        method.network.head.classifier.weight.mul_(100)
        for name, parameter in method.named_parameters():
            if name.endswith("gamma"):
                parameter.copy_(torch.rand(parameter.shape, generator=generator))
    return method


def lovasz(probability, label):
    """Of all pixels with a label, class by class: errors times the gain of the Jaccard loss."""
    valid = label != IGNORE
    scores, ids, losses = probability.permute(0, 2, 3, 1)[valid], label[valid].long(), []
    for k in ids.unique():
        truth = (ids == k).to(scores.dtype)
        error, order = (truth - scores[:, k]).abs().sort(descending=True)
        truth = truth[order]
        union = truth.sum() + (1 - truth).cumsum(0)
        jaccard = 1 - (truth.sum() - truth.cumsum(0)) / union
        losses.append(error @ torch.diff(jaccard, prepend=jaccard.new_zeros(1)))
    return torch.stack(losses).mean()


def mixed(weights, probabilities):
    total = sum(w * chance for w, chance in zip(weights, probabilities, strict=True))
    return total.clamp(1e-3, 1 - 1e-3)


def released_step(network, target, alpha=1e-3, beta=1.0):
    """Terms of the loss, what is predicted with which confidence, and the certain positions."""
    image = (target["image"].double() / 255 - network.mean) / network.std
    label = target["pseudo_label"]
    halved, doubled = (
        F.interpolate(image, scale_factor=s, mode="bilinear", align_corners=True) for s in (0.5, 2)
    )
    views, scores = [], []
    for x in (image, halved, doubled):
        maps, inputs = network.backbone.forward_features(x)
        scores.append(network.head(maps))
        views.append(inputs)
    enlarge = partial(F.interpolate, size=label.shape[-2:], mode="bilinear")
    weights = network.backbone.adapter.mixing.softmax(dim=0)
    logits = [enlarge(z, align_corners=True) for z in scores]
    chances = [z.softmax(dim=1) for z in logits]
    mixture = mixed(weights, chances)
    known = (label != IGNORE)[:, None]
    certain = (mixture * known).amax(dim=(0, 1), keepdim=True) >= 0.8
    divergence = sum(
        (F.kl_div(mixture.log(), chance, reduction="none") * certain).sum(dim=1)
        for chance in chances
    ).mean()
    entropy = -(chances[0] * chances[0].log()).sum(dim=1) / torch.tensor(19.0).double().log()
    features = 0.0
    for own, small_view, large_view in zip(*views, strict=True):
        same = partial(F.interpolate, size=own.shape[-2:], mode="bilinear", align_corners=True)
        seen = [x.clamp(1e-3, 1 - 1e-3) for x in (own, same(small_view), same(large_view))]
        mean = sum(seen) / 3
        features = features + sum(F.mse_loss(x, mean) for x in seen) / 3
    terms = {
        "lovasz": lovasz(chances[0], label),
        "entropy": 5e-3 * ((entropy**2 + 1e-8) ** 2).mean(),
        "predictions": beta * divergence,
        "features": alpha * features,
    }
    proposal = mixed(weights, [enlarge(z, align_corners=False).softmax(dim=1) for z in scores])
    return terms, proposal.detach().max(dim=1), certain[0, 0]


@pytest.mark.usefixtures("double")
def test_a_step_is_that_of_the_published_code():
    """Losses, gradients, statistics of normalisation, prediction and confidence."""
    method, data = make("method.alpha=2.0"), batch()
    method.network.double()
    network = copy.deepcopy(method.network)
    output = step(method, data)
    output["loss"].backward()
    torch.manual_seed(7)
    terms, (confidence, prediction), certain = released_step(network, data["target"], alpha=2.0)
    sum(terms.values()).backward()
    assert 0.1 < certain.double().mean() < 0.9
    assert list(method.terms) == list(terms)
    for name, term in terms.items():
        assert term != 0
        torch.testing.assert_close(method.terms[name], term.detach(), rtol=1e-9, atol=1e-12)
    gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    ours = {n: p.grad for n, p in method.network.named_parameters() if p.grad is not None}
    assert ours.keys() == gradients.keys() and "backbone.adapter.mixing" in ours
    for name, gradient in gradients.items():
        # Lovasz-softmax sorts errors in single precision: some pairs change places.
        near = 1e-6 * float(gradient.abs().max())
        torch.testing.assert_close(ours[name], gradient, rtol=1e-6, atol=near, msg=name)
    statistics = dict(network.named_buffers())
    for name, value in method.network.named_buffers():
        torch.testing.assert_close(value, statistics[name], rtol=1e-9, atol=1e-12, msg=name)
    torch.testing.assert_close(output["confidence"], confidence, rtol=1e-9, atol=1e-12)
    assert torch.equal(output["prediction"].long(), prediction)


def test_certain_pixels_have_one_confidence():
    """A threshold of 1 - 1e-3, compared with ``>=``, would miss another by a bit."""
    method = make()
    with torch.no_grad():
        method.network.head.classifier.weight.mul_(100)
    confidence = step(method, batch())["confidence"]
    assert confidence.dtype == torch.float32
    assert (confidence == torch.tensor(1 - 1e-3)).any() and confidence.max() <= 1 - 1e-3


@pytest.mark.parametrize("scales", [[0.5, 1.0, 2.0], [2.0, 0.5, 1.0], [1.0, 0.5, 2.0]])
def test_weights_belong_to_the_scales_in_the_order_of_the_published_code(scales):
    method = make(scales=scales)
    assert method.scales == (1.0, 0.5, 2.0) and method.reference == 0


def test_weights_that_have_been_learnt_in_another_order_are_not_learnt_further():
    method, checkpoint = make(), {}
    method.on_save_checkpoint(checkpoint)
    make(scales=[0.5, 2.0, 1.0]).on_load_checkpoint(checkpoint)
    with pytest.raises(ConfigError, match=r"\[1.0, 0.5, 2.0\], in this .* of \[1.0, 0.5, 3.0\];"):
        make(scales=[0.5, 1.0, 3.0]).on_load_checkpoint(checkpoint)
    del checkpoint["released_scales"]
    with pytest.raises(ConfigError, match=r"the scales \[0.5, 1.0, 2.0\], in this order, .* anew"):
        method.on_load_checkpoint(checkpoint)
    built(configured("method=uniuvpt"), transformer()).on_load_checkpoint(checkpoint)


def recipe(variant):
    """Learning rate over the plain one, and weight decay, by the parameter's name."""
    cfg = configured(*SETTINGS, f"method.variant={variant}", "backbone.head_lr_factor=10")
    method = built(cfg, transformer())
    names = {id(p): name for name, p in method.network.named_parameters()}
    plain = method.shared["lr"]
    found = {
        names[id(p)]: (round(group["lr"] / plain, 6), group["weight_decay"])
        for group in method.optimizer_groups()
        for p in group["params"]
    }
    return found, set(norm_parameters(method.network)) & set(found)


def test_rates_and_weight_decay_of_the_published_code():
    """Everything decays; prompts learn five times as fast, but not the weights of the scales."""
    found, norms = recipe("release")
    assert found.pop("backbone.adapter.mixing") == (1, 0.01)
    assert len(norms) > 30 and {name.split(".")[0] for name in norms} == {"backbone", "head"}
    for name, settings in found.items():
        assert settings == (5 if name.startswith("backbone.adapter.") else 10, 0.01), name


def test_rates_and_weight_decay_of_the_paper():
    found, norms = recipe("paper")
    for name, settings in found.items():
        factor = 5 if name.startswith("backbone.adapter.") else 10
        assert settings == (factor, 0.0 if name in norms else 0.01), name
