"""Image trunks of CLIP: files in open_clip's format, and the maps that its own models compute."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models import byobnet
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.networks.backbones.pyramid import TimmPyramid

open_clip = pytest.importorskip("open_clip")

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
TEXT = {"width": 8, "heads": 2, "layers": 1, "vocab_size": 16}


@pytest.fixture
def narrow_resnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's ResNet-50 of CLIP with one block a stage and an eighth of the width."""
    full = byobnet.model_cfgs["resnet50_clip"]
    blocks = tuple(dataclasses.replace(block, d=1, c=block.c // 8) for block in full.blocks)
    narrow = dataclasses.replace(full, blocks=blocks, stem_chs=(4, 4, 8))
    monkeypatch.setitem(byobnet.model_cfgs, "resnet50_clip", narrow)


def resnet() -> nn.Module:
    vision = {"layers": (1, 1, 1, 1), "width": 8, "image_size": 64, "head_width": 16}
    return with_random_norms(clip(vision))


def convnext(projection: str = "mlp") -> nn.Module:
    return clip({"timm_model_name": "test_convnext", "timm_proj": projection, "image_size": 64})


def clip(vision: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = open_clip.model.CLIP(
        embed_dim=32,
        vision_cfg=open_clip.CLIPVisionCfg(**vision),
        text_cfg=open_clip.CLIPTextCfg(**TEXT),
    )
    return model.eval()


def with_random_norms(model: nn.Module) -> nn.Module:
    """At the start the last norm of each residual branch is zero, and branches do not count."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
    return model


def saved(model: nn.Module, path: Path) -> str:
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    elif path.suffix == ".pt":  # as open_clip's training writes it
        held = {f"module.{key}": tensor for key, tensor in tensors.items()}
        torch.save({"epoch": 3, "name": "run", "state_dict": held}, path)
    else:
        torch.save(tensors, path)
    return str(path)


def stage_outputs(visual: nn.Module, image: Tensor) -> list[Tensor]:
    """As CLOUDS takes them: what leaves each stage, without a norm."""
    trunk = visual.trunk if hasattr(visual, "trunk") else visual
    x = trunk.stem(image)
    stages = (
        trunk.stages
        if hasattr(trunk, "stages")
        else [getattr(trunk, f"layer{k}") for k in range(1, 5)]
    )
    return [x := stage(x) for stage in stages]


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".safetensors"])
@pytest.mark.parametrize("projection", ["mlp", "linear"])
def test_convnext_of_a_whole_clip(tmp_path: Path, suffix: str, projection: str) -> None:
    model = convnext(projection)
    path = saved(model, tmp_path / f"open_clip_model{suffix}")
    pyramid = TimmPyramid("test_convnext", weights=path).eval()
    require_same_maps(pyramid, model.visual)


@pytest.mark.usefixtures("narrow_resnet")
@pytest.mark.parametrize("suffix", [".bin", ".pt", ".safetensors"])
def test_resnet_of_a_whole_clip(tmp_path: Path, suffix: str) -> None:
    model = resnet()
    path = saved(model, tmp_path / f"open_clip_model{suffix}")
    pyramid = TimmPyramid("resnet50_clip.openai", weights=path).eval()
    require_same_maps(pyramid, model.visual)


def require_same_maps(pyramid: TimmPyramid, visual: nn.Module) -> None:
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        maps = pyramid.double()(image)
        expected = stage_outputs(visual.double(), image)
    assert pyramid.strides == (4, 8, 16, 32)
    assert [tuple(feature.shape) for feature in maps] == [
        (2, width, 64 // stride, 96 // stride)
        for width, stride in zip(pyramid.channels, pyramid.strides, strict=True)
    ]
    for feature, theirs in zip(maps, expected, strict=True):
        assert theirs.std() > 1e-3
        torch.testing.assert_close(feature, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "channels", "parameters"),
    [
        ("convnext_large_mlp.clip_laion2b_ft_soup_320", (192, 384, 768, 1536), 196_227_264),
        ("resnet50_clip.openai", (256, 512, 1024, 2048), 23_527_264),
        ("resnet101_clip.openai", (256, 512, 1024, 2048), 42_519_392),
    ],
)
def test_trunks_without_projection(name: str, channels: tuple[int, ...], parameters: int) -> None:
    with torch.device("meta"):
        pyramid = TimmPyramid(name)
    assert pyramid.channels == channels
    assert pyramid.strides == (4, 8, 16, 32)
    assert sum(p.numel() for p in pyramid.parameters()) == parameters
    assert (pyramid.mean, pyramid.std) == (CLIP_MEAN, CLIP_STD)
    assert all(isinstance(norm, nn.Identity) for norm in pyramid.norms)


@pytest.mark.parametrize(
    ("theirs", "ours", "projection"),
    [
        # Pooled norm (2 x 1536) and projection by way of twice its width, one bias.
        ("convnext_large_d_320", "convnext_large_mlp", 2 * 1536 + 1536 * 1536 + 1536 + 1536 * 768),
        # Positions of 7 x 7 cells and their mean, and four projections with bias.
        ("RN50", "resnet50_clip", 50 * 2048 + 3 * (2048 + 1) * 2048 + (2048 + 1) * 1024),
        ("RN101", "resnet101_clip", 50 * 2048 + 3 * (2048 + 1) * 2048 + (2048 + 1) * 512),
    ],
)
def test_trunks_are_open_clips(theirs: str, ours: str, projection: int) -> None:
    """The visual side of CLOUDS' ConvNeXt-L has 199.8 M of 351.8 M parameters."""
    config = open_clip.get_model_config(theirs)
    with torch.device("meta"):
        model = open_clip.model.CLIP(**config)
        trunk = TimmPyramid(ours)
    visual, kept = (sum(p.numel() for p in m.parameters()) for m in (model.visual, trunk))
    assert visual == kept + projection
    if theirs == "convnext_large_d_320":
        assert (visual, sum(p.numel() for p in model.parameters())) == (199_770_816, 351_772_609)


def test_a_file_of_the_other_trunk_is_refused(tmp_path: Path) -> None:
    path = saved(resnet(), tmp_path / "open_clip_model.bin")
    with pytest.raises(ConfigError, match=r"open_clip_model\.bin with none of its \d+ tensors"):
        TimmPyramid("test_convnext", weights=path)


def test_openais_own_archives_are_named_as_what_they_are(tmp_path: Path) -> None:
    class Doubling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    path = tmp_path / "RN50.pt"
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated, its files stay
        torch.jit.save(torch.jit.script(Doubling()), path)
    with pytest.raises(ConfigError, match=r"RN50\.pt, a program of TorchScript, .* nothing was"):
        TimmPyramid("resnet18", weights=str(path))
