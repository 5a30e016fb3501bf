"""HRDA's network: what its parts see, how windows are placed, and what it refuses."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sfseg.errors import ConfigError
from sfseg.networks.adapters.two_resolutions import Cells, with_two_resolutions
from sfseg.networks.backbones.mit import MixTransformer
from sfseg.networks.backbones.tiny import TinyTransformer
from sfseg.networks.build import build_segmenter
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.heads.deeplab import DeepLabV2Head
from sfseg.networks.heads.head import Head
from sfseg.networks.heads.multi_head import with_leave_one_out
from sfseg.networks.heads.scale_attention import LightDAFormerHead, attention_like
from sfseg.networks.norm_of_pictures import statistics_of_pictures
from sfseg.networks.segmenter import Segmenter


class Strided(nn.Module):
    """Each cell by itself, of 4x4 pixels, or of 1x1 with batch normalisation."""

    def __init__(self, stride):
        super().__init__()
        self.stride_multiple, self.channels = stride, (4,)
        last = nn.BatchNorm2d(4, momentum=1.0) if stride == 1 else nn.Tanh()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, stride, stride), last)

    def forward(self, image):
        return [self.layers(image)]


class CellHead(Head):
    def __init__(self):
        super().__init__()
        self.num_classes = 3
        self.classifier = nn.Conv2d(4, 3, 1)

    def features(self, maps):
        return maps[0].tanh()


def plain(stride=4, **options):
    torch.manual_seed(0)
    return Segmenter(Strided(stride), CellHead(), **options)


def made(**options):
    return with_two_resolutions(plain(), **{"window": (16, 16), **options})


def transformer():
    torch.manual_seed(0)
    backbone = TinyTransformer(channels=(32, 32, 32, 32), depths=(1, 1, 1, 1))
    head = DAFormerHead(backbone.channels, 3, channels=8, dilations=(1, 2))
    return with_two_resolutions(Segmenter(backbone, head), window=(64, 64))


def image(height=32, width=32, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 3, height, width), generator=rng, dtype=torch.uint8)


def smaller(picture):
    return F.interpolate(picture.double() / 255, scale_factor=0.5, mode="bilinear")


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_are_those_of_the_release():
    """Of DAFormer's network with MiT-B5 and 19 classes, and of the attention beside it."""
    with torch.device("meta"):
        network = build_segmenter(name="mit_b5", head=DAFormerHead, num_classes=19)
        attention = attention_like(network.head)
    assert (count(network), count(attention)) == (85_155_283, 530_707)


def test_cells_of_the_paper():
    """Logits at stride 4 of the crop, windows of half of its sides at multiples of 8 pixels."""
    backbone = MixTransformer(head_dim=8, depths=(1, 1, 1, 1))
    head = DAFormerHead(backbone.channels, 3, channels=8, dilations=(1,))
    network = with_two_resolutions(
        Segmenter(backbone, head), source_crop=[1024, 1024], target_crop=[1024, 1024]
    )
    assert network.cells == Cells(stride=4, factor=2, of_windows=8, of_images=8)
    assert network.window == (512, 512) and network.detail_weight == 0.1


def test_windows_lie_at_multiples_of_eight_pixels_anywhere():
    network = with_two_resolutions(plain(), target_crop=[128, 128]).train()
    corners = set()
    for seed in range(100):
        torch.manual_seed(seed)
        detail = network(image(128, 128), with_window=True)[2]
        assert detail.logits.shape == (2, 3, 64, 64)
        assert detail.rows.stop - detail.rows.start == 64
        corners.add((detail.rows.start, detail.columns.start))
    for places in zip(*corners, strict=True):
        assert set(places) == set(range(0, 72, 8))


@pytest.mark.usefixtures("double")
def test_with_full_attention_and_a_full_window_it_is_the_plain_network():
    given = plain().double()
    network = with_two_resolutions(deepcopy(given), window=(32, 48), attention=1.0)
    expected = given(image(32, 48))
    assert network.attention_head is None
    torch.testing.assert_close(network.eval()(image(32, 48)), expected)
    logits, _, detail = network(image(32, 48), with_window=True)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(detail.logits, expected)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("size", [(32, 32), (16, 48)])
def test_without_attention_it_is_the_enlarged_context(size):
    given = plain().double()
    network = with_two_resolutions(deepcopy(given), window=(16, 16), attention=0.0)
    maps = given.features(smaller(image(*size)))
    scores = F.interpolate(given.head(maps), scale_factor=2, mode="bilinear")
    expected = F.interpolate(scores, size=size, mode="bilinear")
    torch.testing.assert_close(network.eval()(image(*size)), expected)
    logits, found, _ = network(image(*size), with_window=True)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(found, maps)


def test_a_window_that_nothing_depends_on_is_not_looked_at():
    network = made(attention=0.0, detail_weight=0.0)
    assert network(image(), with_window=True)[2] is None


@pytest.mark.usefixtures("double")
def test_outside_of_training_all_windows_are_averaged():
    """By a loop over windows, each shown by itself."""
    network = made().double().eval()
    picture = image(32, 38)
    total, seen = torch.zeros(2, 3, 8, 10), torch.zeros(8, 10)
    pixels = F.pad(network.normalize(picture), (0, 2))  # to a multiple of 8
    for top in (0, 8, 16):
        for left in (0, 8, 16, 24):
            window = pixels[..., top : top + 16, left : left + 16]
            at = (slice(top // 4, top // 4 + 4), slice(left // 4, left // 4 + 4))
            total[(..., *at)] += network.head(network.backbone(window))
            seen[at] += 1
    maps = network.backbone(F.interpolate(pixels, scale_factor=0.5, mode="bilinear"))
    attention = network.attention_head(maps).sigmoid()
    detail, rest = (
        F.interpolate(part, scale_factor=2, mode="bilinear")
        for part in (attention, (1 - attention) * network.head(maps))
    )
    expected = F.interpolate(detail * total / seen + rest, scale_factor=4, mode="bilinear")
    found, given = network(picture, with_maps=True)
    torch.testing.assert_close(found, expected[..., :38])
    torch.testing.assert_close(given, maps)


@pytest.mark.parametrize("size", [(1, 1), (30, 50), (64, 200), (129, 63)])
def test_images_of_any_size(size):
    """Smaller than a window, or of sides that no window divides, in both modes."""
    network = transformer()
    assert network.eval()(image(*size)).shape == (2, 3, *size)
    logits, _, detail = network.train()(image(*size), with_window=True)
    assert logits.shape == (2, 3, *size)
    assert detail.of(logits).shape == detail.logits.shape
    assert torch.isfinite(logits).all() and torch.isfinite(detail.logits).all()


EXTENTS = [(16, 24), (20, 10)]


def padded(content):
    """Pictures of EXTENTS in images of 20 x 24, and where they are."""
    picture = torch.full((2, 3, 20, 24), content, dtype=torch.uint8)
    valid = torch.zeros(2, 20, 24, dtype=torch.bool)
    for k, (height, width) in enumerate(EXTENTS):
        picture[k, :, :height, :width] = image(height, width, seed=k)[0]
        valid[k, :height, :width] = True
    return picture, valid


@pytest.mark.parametrize("with_window", [True, False])
def test_statistics_of_windows_are_those_of_pictures(with_window):
    network = with_two_resolutions(plain(1), window=(8, 8), attention=0.5).train()
    conv, norm = network.backbone.layers
    picture, valid = padded(0)
    found = []
    for content in (0, 255):
        torch.manual_seed(5)
        with torch.no_grad(), statistics_of_pictures(network, valid):
            result = network(padded(content)[0], with_window=with_window)
        found.append(norm.running_mean.clone())
    assert network.pictures is None
    torch.testing.assert_close(*found)
    entering = conv(network.normalize(picture))
    if with_window:
        detail = result[2]
        assert detail.of(valid)[:, 0, 0].all(), "it begins where all pictures are"
        seen = detail.of(entering).movedim(1, -1)[detail.of(valid)]
    else:
        begins = [(y, x) for y in (0, 4, 8, 12) for x in (0, 4, 8, 12, 16)]
        parts = [(..., slice(y, y + 8), slice(x, x + 8)) for y, x in begins]
        seen = torch.cat([entering[part].movedim(1, -1)[valid[part]] for part in parts])
    torch.testing.assert_close(norm.running_mean, seen.mean(0))


def test_tensors_keep_their_names_and_weights_come_back():
    network = made().eval()
    assert set(network.state_dict()) - set(plain().state_dict()) == {
        f"attention_head.{name}" for name in network.attention_head.state_dict()
    }
    other = made().eval()
    for value in other.parameters():
        value.data += 1
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(image()), network(image()))


def test_attention_is_of_the_kind_of_the_head():
    assert isinstance(transformer().attention_head, LightDAFormerHead)
    given = plain()
    given.head = DeepLabV2Head(given.backbone.channels, 3)
    network = with_two_resolutions(given, window=(16, 16))
    assert isinstance(network.attention_head, DeepLabV2Head)
    first = [next(head.parameters()) for head in (network.attention_head, network.head)]
    assert not torch.equal(*first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"target_crop": [20, 32]},
            r"data\.target_crop must be .* multiples of 16 .*\[20, 32\]; take \[16, 32\] or "
            r"\[32, 32\]",
        ),
        ({"target_crop": [32, 32], "source_crop": [30, 64]}, r"data\.source_view\.crop must be"),
        ({"window": [12, 16]}, r"method\.adapter\.window .* of 8 .* take \[8, 16\] or \[16, 16\]"),
        ({"window": [16]}, r"method\.adapter\.window must be"),
        ({}, r"where the target's crops have no size, got null; set it, or data\.target_crop"),
    ],
)
def test_sizes_of_no_whole_cells_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        with_two_resolutions(plain(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_scale": 0.3}, "context_scale must be one over a whole number"),
        ({"context_scale": 2.0}, "context_scale must be one over a whole number"),
        ({"attention": 1.5}, "attention must be in"),
        ({"detail_weight": -0.1}, "detail_weight must be in"),
    ],
)
def test_numbers_out_of_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_networks_that_it_cannot_be_are_refused():
    with pytest.raises(ConfigError, match=r"backbone\.aux must be null"):
        with_two_resolutions(plain(aux_head=nn.Identity()), window=(16, 16))
    compiled = plain()
    compiled._compiled_call_impl = compiled.forward
    with pytest.raises(ConfigError, match=r"backbone\.compile must be false"):
        with_two_resolutions(compiled, window=(16, 16))
    with pytest.raises(ConfigError, match="must have one head for two resolutions, got LeaveOne"):
        with_two_resolutions(with_leave_one_out(plain()), window=(16, 16))


def test_a_method_that_knows_nothing_of_windows_cannot_train_it():
    with pytest.raises(ConfigError, match="cannot train a network of two resolutions"):
        made().train()(image())


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_other_scales_of_the_context(scale):
    network = made(context_scale=scale).eval()
    assert network(image()).shape == (2, 3, 32, 32)
    assert network.prepared(image()).shape[-2:] == (round(32 * scale),) * 2
