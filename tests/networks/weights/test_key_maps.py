from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfseg.networks.backbones.mit import MixTransformer
from sfseg.networks.heads.segformer import SegFormerHead
from sfseg.networks.weights import key_maps

SCALAR = torch.zeros(())


def named(*keys: str) -> dict[str, Tensor]:
    return dict.fromkeys(keys, SCALAR)


@pytest.mark.parametrize(
    ("key", "naming"),
    [
        ("network.backbone.block1.0.norm1.weight", "sfseg"),
        ("backbone.trunk.patch_embed.proj.weight", "sfseg"),
        ("model.backbone.patch_embed1.proj.weight", "DAFormer"),
        ("model.decode_head.conv_seg.weight", "DAFormer"),
        ("backbone.patch_embed1.proj.weight", "mmseg"),
        ("stages.0.blocks.0.attn.w_msa.qkv.weight", "mmseg"),
        ("layers.0.1.0.attn.attn.in_proj_weight", "mmseg"),
        ("patch_embed1.proj.weight", "NVIDIA"),
        ("layers.0.blocks.0.attn.qkv.weight", "timm"),
        ("layer1.0.conv1.weight", "timm"),
        ("stem.0.weight", "timm"),
        ("segformer.encoder.block.0.0.layer_norm_1.weight", None),
    ],
)
def test_one_name_gives_the_naming_away(key: str, naming: str | None) -> None:
    assert key_maps.naming_of(named("first.weight", key)) == naming


def test_only_the_model_itself_is_unwrapped() -> None:
    assert list(key_maps.unwrapped(named("module.backbone.a", "module.decode_head.b"))) == [
        "backbone.a",
        "decode_head.b",
    ]
    copies = named("model.backbone.a", "ema_model.backbone.a", "imnet_model.backbone.a", "step")
    assert list(key_maps.unwrapped(copies)) == ["backbone.a"]
    run = named("network.backbone.a", "network.head.b", "teacher.backbone.a")
    assert list(key_maps.unwrapped(run)) == ["backbone.a", "head.b"]


@pytest.mark.parametrize("key", ["backbone.a", "model.norm", "network.0.weight", "stem.0.weight"])
def test_names_that_look_similar_are_left_alone(key: str) -> None:
    assert list(key_maps.unwrapped(named(key))) == [key]


def test_unknown_names_are_kept() -> None:
    swin = key_maps.swin_from_mmseg(named("stages.0.blocks.0.attn.w_msa.qkv.bias", "prompt.weight"))
    assert list(swin) == ["trunk.layers.0.blocks.0.attn.qkv.bias", "prompt.weight"]
    head = key_maps.daformer_head(named("decode_head.conv_seg.bias", "decode_head.prompt.conv.b"))
    assert list(head) == ["head.classifier.bias", "decode_head.prompt.conv.b"]


def test_segmenters_of_this_library_keep_their_names() -> None:
    ours = named("backbone.trunk.norm.weight", "backbone.norms.0.bias", "head.bottleneck.0.weight")
    assert list(key_maps.segmenter_names(ours)) == list(ours)
    pooled = named("backbone.trunk.stem.0.weight", "head.contexts.0.conv.0.weight")
    assert list(key_maps.segmenter_names(pooled)) == list(pooled)


def test_merged_neighbours_are_reordered() -> None:
    """Every column is labelled with its channel, row and column of the 2x2 square."""
    channels = 3
    unfolded = torch.tensor([[c, y, x] for c in range(channels) for y in (0, 1) for x in (0, 1)])
    tensors = {
        "stages.1.blocks.0.attn.w_msa.qkv.bias": SCALAR,
        "stages.1.downsample.reduction.weight": unfolded.T,
        "stages.1.downsample.norm.bias": unfolded[:, 0],
    }
    merged = key_maps.swin_from_mmseg(tensors)
    expected = [[c, y, x] for x in (0, 1) for y in (0, 1) for c in range(channels)]
    assert merged["trunk.layers.2.downsample.reduction.weight"].T.tolist() == expected
    assert merged["trunk.layers.2.downsample.norm.bias"].tolist() == [row[0] for row in expected]


class Block(nn.Module):
    """A block of mmseg's MiT without spatial reduction, from torch's own layers."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict(
            {"attn": nn.MultiheadAttention(width, num_heads, batch_first=True)}
        )
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        hidden = 4 * width
        neighbours = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        contract = nn.Conv2d(hidden, width, 1)
        layers = [nn.Conv2d(width, hidden, 1), neighbours, nn.GELU(), nn.Dropout(0), contract]
        self.ffn = nn.ModuleDict({"layers": nn.Sequential(*layers)})

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm1(x.flatten(1, 2))
        x = x + self.attn["attn"](tokens, tokens, tokens)[0].reshape(x.shape)
        mixed: Tensor = self.ffn["layers"](self.norm2(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + mixed


def test_block_of_mmsegs_mit_computes_the_same() -> None:
    torch.manual_seed(0)
    theirs = Block(64, num_heads=8).eval().double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    ours = MixTransformer(head_dim=8, depths=(0, 0, 0, 1)).eval().double()
    prefixed = {f"layers.3.1.0.{key}": value for key, value in theirs.state_dict().items()}
    converted = key_maps.mit_from_mmseg(prefixed)
    ours.get_submodule("block4.0").load_state_dict(key_maps.below(converted, "block4.0."))
    x = torch.rand(2, 5, 7, 64, dtype=torch.float64)
    with torch.inference_mode():
        block = ours.get_submodule("block4.0")
        torch.testing.assert_close(block(x), theirs(x))


def test_embeddings_and_norms_of_mmsegs_mit() -> None:
    theirs = named(
        "layers.0.0.projection.weight", "layers.0.0.norm.bias", "layers.0.1.11.attn.sr.weight",
        "layers.0.1.11.attn.norm.bias", "layers.0.2.weight",
        "layers.0.1.11.attn.attn.out_proj.bias",
    )  # fmt: skip
    assert list(key_maps.backbone_names(theirs)) == [
        "patch_embed1.proj.weight", "patch_embed1.norm.bias", "block1.11.attn.sr.weight",
        "block1.11.attn.norm.bias", "norm1.weight", "block1.11.attn.proj.bias",
    ]  # fmt: skip


def segformer_logits(tensors: Mapping[str, Tensor], maps: list[Tensor]) -> Tensor:
    """NVIDIA's head from its formula: the coarsest level comes first."""
    levels = []
    for level in (4, 3, 2, 1):
        weight = tensors[f"decode_head.linear_c{level}.proj.weight"][..., None, None]
        x = F.conv2d(maps[level - 1], weight, tensors[f"decode_head.linear_c{level}.proj.bias"])
        levels.append(F.interpolate(x, size=maps[0].shape[2:], mode="bilinear"))
    x = F.conv2d(torch.cat(levels, 1), tensors["decode_head.linear_fuse.conv.weight"])
    kinds = ("running_mean", "running_var", "weight", "bias")
    x = F.batch_norm(x, *(tensors[f"decode_head.linear_fuse.bn.{kind}"] for kind in kinds))
    weight, bias = (tensors[f"decode_head.linear_pred.{kind}"] for kind in ("weight", "bias"))
    return F.conv2d(x.relu(), weight, bias)


def test_nvidias_segformer_head_computes_the_same() -> None:
    torch.manual_seed(0)
    widths, channels = (4, 6, 8, 10), 5
    shapes: dict[str, tuple[int, ...]] = {
        "linear_fuse.conv.weight": (channels, 4 * channels, 1, 1),
        "linear_pred.weight": (3, channels, 1, 1),
        "linear_pred.bias": (3,),
        "conv_seg.weight": (3, channels, 1, 1),  # its base class has it, nothing calls it
        "conv_seg.bias": (3,),
        **{f"linear_c{i + 1}.proj.weight": (channels, width) for i, width in enumerate(widths)},
        **{f"linear_c{i}.proj.bias": (channels,) for i in range(1, 5)},
        **{f"linear_fuse.bn.{k}": (channels,) for k in ("weight", "bias", "running_mean")},
    }
    tensors = {
        f"decode_head.{key}": torch.randn(shape, dtype=torch.float64)
        for key, shape in shapes.items()
    }
    tensors["decode_head.linear_fuse.bn.running_var"] = (
        torch.rand(channels, dtype=torch.float64) + 0.5
    )
    tensors["decode_head.linear_fuse.bn.num_batches_tracked"] = torch.tensor(7)
    converted = key_maps.segmenter_names(tensors)
    unused = {"decode_head.conv_seg.weight", "decode_head.conv_seg.bias"}
    ours = SegFormerHead(widths, 3, channels=channels).eval().double()
    ours.load_state_dict(
        {key.removeprefix("head."): converted[key] for key in converted if key not in unused}
    )
    assert unused <= converted.keys()
    maps = [
        torch.rand(1, width, 16 >> i, 24 >> i, dtype=torch.float64)
        for i, width in enumerate(widths)
    ]
    with torch.inference_mode():
        torch.testing.assert_close(ours(maps), segformer_logits(tensors, maps))
