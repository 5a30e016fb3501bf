"""Mask2Former's parts against those of transformers, with equal weights, in double precision."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfseg.conversion.mask2former import RULES
from sfseg.conversion.naming import to_theirs
from sfseg.networks.heads.mask2former.criterion import MaskCriterion
from sfseg.networks.heads.mask2former.mask2former_head import Mask2FormerHead
from sfseg.networks.heads.mask2former.mask_decoder import Prediction
from sfseg.ops.mask_loss import class_masks

WIDTHS, CLASSES, CHANNELS = [8, 12, 16, 24], 5, 32
SIZES = [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.fixture(scope="module")
def theirs() -> Any:
    return pytest.importorskip("transformers.models.mask2former.modeling_mask2former")


@pytest.fixture(scope="module")
def config() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.Mask2FormerConfig(
        feature_size=CHANNELS, mask_feature_size=CHANNELS, hidden_dim=CHANNELS, encoder_layers=2,
        decoder_layers=5, num_attention_heads=4, num_queries=10, encoder_feedforward_dim=48,
        dim_feedforward=40, num_labels=CLASSES, train_num_points=64,
    )  # fmt: skip


@pytest.fixture(scope="module")
def head() -> Mask2FormerHead:
    torch.manual_seed(0)
    head = Mask2FormerHead(
        WIDTHS, CLASSES, channels=CHANNELS, queries=10, encoder_layers=2, decoder_layers=4,
        heads=4, encoder_hidden=48, decoder_hidden=40,
    )  # fmt: skip
    for parameter in head.parameters():  # what begins at zero too
        nn.init.normal_(parameter, std=0.2)
    return head.double().eval()


def maps() -> list[Tensor]:
    torch.manual_seed(1)
    return [
        torch.randn(2, width, *size).double() for width, size in zip(WIDTHS, SIZES, strict=True)
    ]


def named_as_theirs(part: str, state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of a part of the head, as the part of theirs with that prefix has them."""
    ours = {f"head.{part}.{name}": tensor for name, tensor in state.items()}
    theirs = to_theirs(ours, RULES)
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in theirs.items()
        if name.startswith(prefix)
    }


def test_the_pixel_decoder_computes_the_same(
    theirs: Any, config: Any, head: Mask2FormerHead
) -> None:
    their = theirs.Mask2FormerPixelDecoder(config, WIDTHS).double().eval()
    their.load_state_dict(
        named_as_theirs(
            "pixel_decoder",
            head.pixel_decoder.state_dict(),
            "model.pixel_level_module.decoder.",
        )
    )
    with torch.no_grad():
        expected = their(maps())
        features, decoded = head.pixel_decoder(maps())
    torch.testing.assert_close(features, expected.mask_features, rtol=1e-5, atol=1e-5)
    for mine, other in zip(decoded, expected.multi_scale_features, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_the_mask_decoder_computes_the_same(
    theirs: Any, config: Any, head: Mask2FormerHead
) -> None:
    their = theirs.Mask2FormerTransformerModule(CHANNELS, config).double().eval()
    their.load_state_dict(
        named_as_theirs("mask_decoder", head.mask_decoder.state_dict(), "model.transformer_module.")
    )
    with torch.no_grad():
        features, decoded = head.pixel_decoder(maps())
        expected = their(decoded, features)
        predictions = head.mask_decoder(features, decoded)
    assert len(predictions) == len(expected.masks_queries_logits) == 5
    for mine, other in zip(predictions, expected.masks_queries_logits, strict=True):
        torch.testing.assert_close(mine.masks, other, rtol=1e-5, atol=1e-5)
    scored = [
        nn.functional.linear(
            state.transpose(0, 1),
            head.mask_decoder.class_head.classes.weight,
            head.mask_decoder.class_head.classes.bias,
        )
        for state in expected.intermediate_hidden_states
    ]
    for mine, other in zip(predictions, scored, strict=True):
        torch.testing.assert_close(mine.classes, other, rtol=1e-5, atol=1e-5)


def test_loss_and_gradients_are_the_same(theirs: Any, config: Any) -> None:
    """With equal random points."""
    torch.manual_seed(2)
    layers = [
        Prediction(
            torch.randn(2, 10, CLASSES + 1).requires_grad_(),
            torch.randn(2, 10, 8, 12).requires_grad_(),
        )
        for _ in range(3)
    ]
    label = torch.full((2, 32, 48), 255)
    label[0, :16], label[0, 16:, :20], label[0, 16:, 30:] = 0, 3, 1
    label[1, 4:20] = 2
    criterion = MaskCriterion(points=64)
    torch.manual_seed(3)
    mine = criterion.terms(criterion.sums(layers, label))
    gradients = torch.autograd.grad(sum(mine.values()), [part for own in layers for part in own])

    weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    loss = theirs.Mask2FormerLoss(config, weights)
    targets = [class_masks(own, CLASSES) for own in label]
    torch.manual_seed(3)
    last, *others = layers
    found = loss(
        last.masks,
        last.classes,
        [own.masks.float() for own in targets],
        [own.classes for own in targets],
        [
            {"masks_queries_logits": own.masks, "class_queries_logits": own.classes}
            for own in others
        ],
    )
    names = {
        "mask_classes": "loss_cross_entropy",
        "mask_cross_entropy": "loss_mask",
        "mask_dice": "loss_dice",
    }
    sums = {
        name: weights[other] * sum(value for key, value in found.items() if key.startswith(other))
        for name, other in names.items()
    }
    for name, expected in sums.items():
        torch.testing.assert_close(mine[name], expected, rtol=1e-5, atol=1e-5)
    expected = torch.autograd.grad(sum(sums.values()), [part for own in layers for part in own])
    for own, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)
