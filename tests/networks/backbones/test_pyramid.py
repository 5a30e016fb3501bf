import copy
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from huggingface_hub import constants as hub
from safetensors.torch import save_file
from timm.models import vgg
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer

from sfseg.errors import ConfigError
from sfseg.networks.backbones.pyramid import TimmPyramid

SWIN = "swin_tiny_patch4_window7_224"
NARROW = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}


@pytest.fixture(autouse=True, scope="module")
def narrow_swin() -> Iterator[None]:
    """A Swin with all its parts that is built and run in a fraction of a second."""
    create = timm.create_model

    def create_narrow(name: str, **options: object) -> nn.Module:
        return create(name, **(NARROW | options if name == SWIN else options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", create_narrow)
        yield


def torchvision_name(name: str) -> str:
    """Where torchvision keeps a weight of timm's Swin; both have four stages."""
    name = name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")
    name = re.sub(r"^patch_embed\.proj", "features.0.0", name)
    name = re.sub(r"^patch_embed\.norm", "features.0.2", name)
    name = re.sub(r"^layers\.(\d)\.downsample", lambda m: f"features.{2 * int(m[1])}", name)
    return re.sub(
        r"^layers\.(\d)\.blocks\.(\d+)", lambda m: f"features.{2 * int(m[1]) + 1}.{m[2]}", name
    )


@pytest.fixture(scope="module")
def swin_pair(narrow_swin: None) -> tuple[TimmPyramid, SwinTransformer]:
    """The same random Swin in both libraries, without the output norms."""
    torch.manual_seed(0)
    ours = TimmPyramid(SWIN, output_norms=False).eval()
    for name, parameter in ours.named_parameters():
        if "relative_position_bias_table" in name:
            nn.init.normal_(parameter, std=0.5)  # so that a wrong position would show
    theirs = SwinTransformer([4, 4], 24, [2, 2, 2, 2], [1, 2, 4, 8], [7, 7]).eval()
    weights = {torchvision_name(key): value for key, value in ours.trunk.state_dict().items()}
    result = theirs.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys
    assert all(
        key.startswith(("norm.", "head.")) or key.endswith("relative_position_index")
        for key in result.missing_keys
    )
    return ours, theirs


@pytest.mark.parametrize("size", [(448, 448), (512, 512), (512, 1024), (256, 512)])
def test_swin_equals_torchvisions(
    swin_pair: tuple[TimmPyramid, SwinTransformer], size: tuple[int, int]
) -> None:
    ours, theirs = swin_pair
    x = image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = ours(image)
        for level in range(4):
            x = theirs.features[2 * level + 1](theirs.features[2 * level](x))
            assert x.shape[1] > 7  # torchvision leaves the reference where one window suffices
            torch.testing.assert_close(maps[level], x.permute(0, 3, 1, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("recompute", [False, True])
def test_stages_of_swin_can_be_run_one_by_one(recompute: bool) -> None:
    """Timm's own loop over its stages is the other way to the same maps."""
    torch.manual_seed(0)
    swin = TimmPyramid(SWIN, gradient_checkpointing=recompute).eval().double()
    x = image = torch.rand(1, 3, 72, 100, dtype=torch.float64)
    maps = swin.trunk.forward_intermediates(image, indices=4, intermediates_only=True)
    for stage, (theirs, ours) in enumerate(zip(maps, swin(image), strict=True)):
        tokens = swin.embed(stage, x)
        assert tokens.shape == theirs.permute(0, 2, 3, 1).shape
        x = swin.run(stage, tokens)
        torch.testing.assert_close(x.permute(0, 3, 1, 2), theirs)
        torch.testing.assert_close(swin.finish(stage, x), ours)
        normalised = F.layer_norm(x, x.shape[3:])  # whose weights are ones at the start
        torch.testing.assert_close(ours, normalised.permute(0, 3, 1, 2))


def test_only_swin_has_stages() -> None:
    with torch.device("meta"):
        assert TimmPyramid(SWIN).is_staged
        assert not TimmPyramid("resnet18").is_staged


def test_swin_can_be_copied() -> None:
    network = TimmPyramid(SWIN).eval()
    image = torch.rand(1, 3, 36, 44)
    torch.testing.assert_close(copy.deepcopy(network)(image), network(image))


def test_output_norms_can_be_chosen() -> None:
    for name, choice, expected in [
        (SWIN, None, True),
        (SWIN, False, False),
        ("test_resnet", None, False),
        ("test_resnet", True, True),
    ]:
        with torch.device("meta"):
            norms = TimmPyramid(name, output_norms=choice).norms
        assert all(isinstance(norm, nn.LayerNorm) == expected for norm in norms)


def test_output_norms_normalise_each_pixel() -> None:
    for feature in TimmPyramid(SWIN)(torch.rand(1, 3, 36, 44)):
        torch.testing.assert_close(
            feature.mean(1), torch.zeros_like(feature[:, 0]), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize(
    ("name", "output_stride", "strides"),
    [
        (SWIN, 32, (4, 8, 16, 32)),
        ("test_resnet", 32, (4, 8, 16, 32)),
        ("test_resnet", 16, (4, 8, 16, 16)),
        ("test_resnet", 8, (4, 8, 8, 8)),
        ("test_convnext", 32, (4, 8, 16, 32)),
        ("test_convnext", 8, (4, 8, 8, 8)),
        ("vgg11_bn", 32, (1, 2, 4, 8, 16, 32)),
    ],
)
def test_maps_have_the_announced_widths_and_strides(
    name: str, output_stride: int, strides: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        network = TimmPyramid(name, output_stride=output_stride).eval()
        side = 3 * network.stride_multiple  # maps line up from here on
        maps = network(torch.rand(1, 3, side, 64))
    assert network.strides == strides
    assert [tuple(feature.shape[1:]) for feature in maps] == [
        (width, -(-side // stride), 64 // stride)
        for width, stride in zip(network.channels, strides, strict=True)
    ]


def test_maps_of_vgg_are_those_before_each_pooling(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(vgg, "ConvMlp", lambda *_, **__: nn.Identity())
    network = TimmPyramid("vgg11")
    maps = network(image := torch.rand(1, 3, 32, 32))
    x, before = image, []
    for layer in network.trunk.features:
        before += [x] * isinstance(layer, nn.MaxPool2d)
        x = layer(x)
    torch.testing.assert_close(maps, [*before, x])


@pytest.mark.parametrize(("name", "stride"), [(SWIN, 8), ("vgg11", 8), ("test_resnet", 12)])
def test_strides_that_cannot_be_had(name: str, stride: int) -> None:
    message = f"output_stride must be 32, .* got {stride} for {name}; take 32 or a resnet"
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        TimmPyramid(name, output_stride=stride)


@pytest.mark.parametrize(("stride", "late"), [(32, (1, 1)), (16, (1, 2)), (8, (2, 4))])
def test_a_resnet_dilates_where_it_no_longer_halves(stride: int, late: tuple[int, int]) -> None:
    """DeepLab's pattern: a stage's first block keeps the dilation of the stage before."""
    with torch.device("meta"):
        trunk = TimmPyramid("resnet50", output_stride=stride).trunk
    dilations = [
        [block.conv2.dilation[0] for block in stage]
        for stage in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)
    ]
    third, fourth = late
    assert dilations == [[1] * 3, [1] * 4, [1] + [third] * 5, [third] + [fourth] * 2]


@pytest.mark.parametrize("name", [SWIN, "test_resnet", "test_convnext"])
def test_every_parameter_trains(name: str) -> None:
    network = TimmPyramid(name)
    sum(feature.square().mean() for feature in network(torch.rand(2, 3, 64, 64))).backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", [SWIN, "test_resnet"])
def test_checkpointing_changes_no_gradient(name: str) -> None:
    image = torch.rand(2, 3, 64, 64)
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = TimmPyramid(name, gradient_checkpointing=recompute)
        network(image)[-1].square().mean().backward()
        gradients.append({key: p.grad for key, p in network.named_parameters()})
    assert any(gradient is not None for gradient in gradients[0].values())
    torch.testing.assert_close(
        *[{key: g for key, g in some.items() if g is not None} for some in gradients]
    )


@pytest.mark.parametrize("momentum", [0.1, None], ids=["momentum", "mean of all"])
def test_checkpointing_moves_running_statistics_once(momentum: float | None) -> None:
    """Also of a copy, and of a pass without gradients, which nothing computes again."""
    images = torch.rand(3, 2, 3, 64, 64)
    statistics = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = copy.deepcopy(TimmPyramid("test_resnet", gradient_checkpointing=recompute))
        norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = momentum
        for image in images[:2]:
            network(image)[-1].square().mean().backward()
        network = copy.deepcopy(network)
        with torch.no_grad():
            network(images[2])
        statistics.append(dict(network.named_buffers()))
        assert all(norm.momentum == momentum for norm in norms)
    counts = {int(v) for k, v in statistics[0].items() if k.endswith("num_batches_tracked")}
    assert counts == {3}
    torch.testing.assert_close(*statistics, rtol=0, atol=0)


def test_drop_path_reaches_the_deepest_block() -> None:
    with torch.device("meta"):
        network = TimmPyramid(SWIN, drop_path_rate=0.2)
    assert network.trunk.layers[-1].blocks[-1].drop_path2.drop_prob == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["swin_gigantic", "daformer"])
def test_unknown_model(name: str) -> None:
    with pytest.raises(ValueError, match=f"mit_b0 to mit_b5 or a timm model, got {name}"):
        TimmPyramid(name)


def test_model_without_pyramid() -> None:
    with pytest.raises(ValueError, match=r"feature maps at strides \(4, 8, 16, 32\), got vit_tiny"):
        TimmPyramid("vit_tiny_patch16_224")


@pytest.mark.parametrize("name", [SWIN, "test_resnet", "test_convnext"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_local_weights_of_a_whole_classifier(tmp_path: Path, name: str, suffix: str) -> None:
    """A file as timm publishes it: with classifier, and with a number of classes of its own."""
    torch.manual_seed(0)
    published = timm.create_model(name, num_classes=7)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"model": published.state_dict()}, path)
    else:
        save_file(published.state_dict(), path)
    trunk = TimmPyramid(name, weights=str(path)).trunk
    expected = published.state_dict()
    for key, tensor in trunk.state_dict().items():
        torch.testing.assert_close(tensor, expected[key])


def test_buffers_in_a_file_are_not_needed(tmp_path: Path) -> None:
    published = timm.create_model(SWIN).state_dict()
    published["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    published["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    torch.save(published, tmp_path / "weights.pth")
    TimmPyramid(SWIN, weights=str(tmp_path / "weights.pth"))


def test_weights_of_another_model(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=r"weights\.pth with \d+ keys missing: .* unexpected: "):
        TimmPyramid("resnet18", weights=str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("declared", [True, False])
def test_without_network_the_message_names_the_ways_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, declared: bool
) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", declared)
    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr("sfseg.networks.backbones.pyramid.getproxies", dict)
    started = time.monotonic()
    with pytest.raises(
        ConfigError,
        match=r"pretrained=true needs .*go online, .*backbone\.weights=<file>.*pretrained=false",
    ) as raised:
        TimmPyramid("test_resnet", pretrained=True)
    assert raised.value.__cause__ is not None
    assert hub.HF_HUB_OFFLINE is declared
    assert time.monotonic() - started < 5
