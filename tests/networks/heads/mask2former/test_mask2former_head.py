"""Mask2Former's head: scores of pixels, and what its parts promise."""

import math

import pytest
import torch
from torch import Tensor, nn

from sfseg.networks.heads.mask2former.mask2former_head import Mask2FormerHead
from sfseg.networks.heads.mask2former.mask_decoder import MaskDecoder, Prediction, hidden_cells
from sfseg.networks.heads.mask2former.pixel_decoder import PixelDecoder
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.sine_position import sine_position

CLIP_CONVNEXT_L = (192, 384, 768, 1536)


def small(in_channels: tuple[int, ...] = (8, 12, 16, 24), **options: object) -> Mask2FormerHead:
    torch.manual_seed(0)
    settings = {
        "channels": 32, "queries": 6, "encoder_layers": 1, "decoder_layers": 2, "heads": 4,
        "encoder_hidden": 16, "decoder_hidden": 16,
    } | options  # fmt: skip
    return Mask2FormerHead(in_channels, 5, **settings)  # type: ignore[arg-type]


def maps(batch: int = 2) -> list[Tensor]:
    torch.manual_seed(1)
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2)]
    return [torch.randn(batch, c, *size) for c, size in zip((8, 12, 16, 24), sizes, strict=True)]


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_it_has_the_sizes_of_clouds() -> None:
    """5.8 M, 14.5 M and, with 19 classes, a linear layer to 20: 20.3 M in all."""
    with torch.device("meta"):
        head = Mask2FormerHead(CLIP_CONVNEXT_L, 19)
    pixels, queries = parameters(head.pixel_decoder), parameters(head.mask_decoder)
    assert round(pixels / 1e6, 1) == 5.8 and round(queries / 1e6, 1) == 14.5
    assert round(parameters(head) / 1e6, 1) == 20.3
    assert len(head.mask_decoder.layers) == 9 and len(head.pixel_decoder.layers) == 6
    assert head.mask_decoder.class_head.classes.out_features == 20


def test_a_softmax_of_logits_gives_the_shares_of_the_scores() -> None:
    head, torch_seed = small(enlarge=1), torch.manual_seed(2)
    found = Prediction(torch.randn(1, 6, 6, generator=torch_seed), torch.randn(1, 6, 2, 3))
    share = head.score(found).double().softmax(dim=1)
    for row in range(2):
        for column in range(3):
            scores = [
                sum(
                    float(found.classes[0, q].double().softmax(0)[k])
                    / (1 + math.exp(-float(found.masks[0, q, row, column])))
                    for q in range(6)
                )
                for k in range(5)
            ]
            for k in range(5):
                assert float(share[0, k, row, column]) == pytest.approx(
                    scores[k] / sum(scores), abs=2e-5
                )


def test_masks_are_enlarged_before_pixels_are_scored() -> None:
    head = small()
    with torch.no_grad():
        found = head.predictions(maps())[-1]
        logits = head(maps())
        large = nn.functional.interpolate(found.masks, scale_factor=4, mode="bilinear")
        expected = small(enlarge=1).score(Prediction(found.classes, large))
    assert logits.shape == (2, 5, 32, 48)
    torch.testing.assert_close(logits, expected)


def test_a_query_with_an_empty_mask_looks_everywhere() -> None:
    masks = torch.full((1, 2, 4, 4), -5.0)
    masks[0, 1, :2] = 5
    hidden = hidden_cells(masks, (2, 2))
    assert hidden.tolist() == [[[False] * 4, [False, False, True, True]]]


def test_empty_masks_leave_everything_finite() -> None:
    head = small()
    features, decoded = (part for part in head.pixel_decoder(maps()))
    features = features.detach().requires_grad_()
    decoder = head.mask_decoder
    with torch.no_grad():
        decoder.mask_embedding[-1].weight.zero_()
        decoder.mask_embedding[-1].bias.fill_(-100.0)
    last = decoder(features.abs() + 1, decoded)[-1]
    (gradient,) = torch.autograd.grad(last.classes.sum() + last.masks.sum(), features)
    assert bool((last.masks < 0).all())
    assert bool(torch.isfinite(last.classes).all()) and bool(torch.isfinite(gradient).all())


def test_every_parameter_trains_by_the_loss_of_all_layers() -> None:
    head = small()
    # Zero at first, where positions do not count yet.
    nn.init.normal_(head.pixel_decoder.layers[0].attention.offsets.weight, std=0.1)
    label = torch.randint(0, 5, (2, 32, 48))
    terms = head.criterion.terms(head.criterion.sums(head.predictions(maps()), label))
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in head.parameters())


def test_images_of_a_batch_do_not_know_of_each_other() -> None:
    head = small().double().eval()
    given = [level.double() for level in maps()]
    with torch.no_grad():
        both = head(given)
        alone = [head([level[k : k + 1] for level in given]) for k in range(2)]
    torch.testing.assert_close(both, torch.cat(alone), rtol=1e-9, atol=1e-9)


def test_of_more_maps_the_coarsest_four_count() -> None:
    finer = [torch.randn(2, 4, 32, 48), torch.randn(2, 6, 16, 24)]
    with torch.no_grad():
        torch.testing.assert_close(small((4, 6, 8, 12, 16, 24))(finer + maps()), small()(maps()))


def test_a_segmenter_shows_masks_or_pixels() -> None:
    class Backbone(nn.Module):
        stride_multiple, channels = 32, (8, 12, 16, 24)

        def forward(self, image: Tensor) -> list[Tensor]:
            assert image.shape[-2:] == (32, 64)
            return [
                torch.ones(len(image), c, 32 // stride, 64 // stride)
                for c, stride in zip(self.channels, (4, 8, 16, 32), strict=True)
            ]

    network = Segmenter(Backbone(), small())
    image = torch.zeros(1, 3, 30, 50, dtype=torch.uint8)
    assert network(image).shape == (1, 5, 30, 50)
    shown = network(image, masks=True)
    assert len(shown) == 3 and shown[-1].masks.shape == (1, 6, 8, 16)


def test_positions_are_waves_of_rows_and_columns() -> None:
    found = sine_position((2, 3), 8)
    for row in range(2):
        for column in range(3):
            angles = [(row + 1) / 2 * 2 * math.pi, (column + 1) / 3 * 2 * math.pi]
            expected = [
                wave(angle / 10_000 ** (pair / 2))
                for angle in angles
                for pair in range(2)
                for wave in (math.sin, math.cos)
            ]
            assert found[:, row, column].tolist() == pytest.approx(expected, abs=1e-5)


def test_an_image_may_show_more_classes_than_there_are_queries(
    caplog: pytest.LogCaptureFixture,
) -> None:
    head = small(queries=3)
    assert "shows more than 3 of the 5 classes" in caplog.text
    label = torch.arange(32 * 48).view(1, 32, 48) % 5
    terms = head.criterion.terms(head.criterion.sums(head.predictions(maps(1)), label))
    assert all(torch.isfinite(term) for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    trained = head.mask_decoder.query.grad
    assert trained is not None and trained.abs().sum(dim=1).gt(0).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="channels must be a multiple of 32"):
        small(channels=40)
    with pytest.raises(ValueError, match="at least 4 maps"):
        PixelDecoder((8, 8), channels=32, heads=4)
    with pytest.raises(ValueError, match="channels must be a multiple of 4"):
        sine_position((2, 2), 6)
    with pytest.raises(ValueError, match="layers"):
        MaskDecoder(5, channels=32, layers=0)
