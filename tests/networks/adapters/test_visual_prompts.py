import copy
import math
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.networks.adapters.visual_prompts import VisuallyPromptedBackbone, with_visual_prompts
from sfseg.networks.backbones.mit import MixTransformer
from sfseg.networks.backbones.pyramid import TimmPyramid
from sfseg.networks.backbones.tiny import TinyTransformer
from sfseg.networks.build import build_segmenter
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.teacher import Teacher

WINDOW, SHIFT = 7, 3


def tiny(**options: Any) -> TinyTransformer:
    return TinyTransformer(channels=(32, 32, 64, 64), depths=(1, 1, 1, 1), **options)


def mit(**options: Any) -> MixTransformer:
    return MixTransformer(head_dim=8, depths=(1, 1, 1, 1), **options)


def swin(**options: Any) -> TimmPyramid:
    dimensions = {"embed_dim": 12, "depths": (2, 1, 1, 1), "num_heads": (2, 1, 2, 2)}
    narrow = partial(timm.create_model, **dimensions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", narrow)
        return TimmPyramid("swin_tiny_patch4_window7_224", **options)


Make = Callable[..., nn.Module]
BACKBONES = [tiny, mit, swin]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def loud(backbone: nn.Module) -> nn.Module:
    """Weights far from their start, so that queries tell keys apart and mistakes show."""
    for name, parameter in backbone.named_parameters():
        if any(part in name for part in ("qkv", "kv", "key_value", "query", ".q.", "bias_table")):
            nn.init.normal_(parameter, std=0.5)
        elif "norm" in name:
            nn.init.uniform_(parameter, 0.3, 1.0)
    return backbone.eval()


def prompted(make: Make, tokens: int = 5, **options: Any) -> VisuallyPromptedBackbone:
    return VisuallyPromptedBackbone(loud(make(**options)), tokens=tokens)


def segmenter(make: Make, tokens: int = 3) -> Segmenter:
    backbone = make()
    head = DAFormerHead(backbone.channels, 5, channels=8, dilations=(1, 2))
    return with_visual_prompts(Segmenter(backbone, head), tokens=tokens)


@pytest.mark.parametrize(
    ("name", "head", "width"),
    [
        ("swin_base_patch4_window7_224", 3_941_651, 12_032),
        ("mit_b5", 3_712_275, 15_296),
    ],
)
def test_what_trains_are_the_parameters_of_uni_uvpts_table(
    name: str, head: int, width: int
) -> None:
    """7.0 and 7.6 million; the widths are summed over all blocks."""
    with torch.device("meta"):
        network = build_segmenter(name=name, head=DAFormerHead, num_classes=19)
        network = with_visual_prompts(network)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert trained == head + 256 * width


@pytest.mark.parametrize("make", BACKBONES)
@pytest.mark.parametrize("size", [(64, 64), (60, 92)])
def test_without_prompts_it_is_the_backbone(make: Make, size: tuple[int, int]) -> None:
    backbone, image = loud(make()).double(), torch.randn(2, 3, *size, dtype=torch.float64)
    expected = copy.deepcopy(backbone)(image)
    maps = VisuallyPromptedBackbone(backbone, tokens=0).double()(image)
    torch.testing.assert_close(maps, expected)
    assert not torch.allclose(prompted(make).double()(image)[0], expected[0], atol=1e-2)


def attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """What one query of one head gets."""
    return ((keys @ query) / math.sqrt(len(query)) + bias).softmax(dim=0) @ values


def test_a_window_attends_to_itself_and_to_the_prompts() -> None:
    """Of a shifted block, whose last windows hold what was no neighbour before it was rolled."""
    backbone = prompted(swin).double()
    block = backbone.backbone.get_submodule("trunk.layers.0.blocks.1")
    assert block.shift_size == (SHIFT, SHIFT)
    attention, x = block.attn, torch.randn(2, 9, 10, 12, dtype=torch.float64)
    padded = F.pad(block.norm1(x), (0, 0, 0, 4, 0, 5)).roll((-SHIFT, -SHIFT), dims=(1, 2))
    prompts = attention.qkv(block.norm1(backbone.prompts[1].tokens)).chunk(3, dim=-1)
    table = attention.relative_position_bias_table.reshape(13, 13, 2)
    place = torch.arange(WINDOW**2)
    rows, columns = place // WINDOW, place % WINDOW
    answer = torch.zeros_like(padded)
    for image in range(2):
        for top in (0, WINDOW):
            for left in (0, WINDOW):
                window = padded[image, top : top + WINDOW, left : left + WINDOW].reshape(-1, 12)
                query, key, value = attention.qkv(window).chunk(3, dim=-1)
                rolled = 2 * (rows + top >= 14 - SHIFT) + 1 * (columns + left >= 14 - SHIFT)
                for k in range(WINDOW**2):
                    near = table[rows[k] - rows + 6, columns[k] - columns + 6]
                    near = near.masked_fill((rolled != rolled[k])[:, None], -math.inf)
                    heads = [
                        attend(
                            query[k, part],
                            torch.cat([key[:, part], prompts[1][:, part]]),
                            torch.cat([value[:, part], prompts[2][:, part]]),
                            F.pad(near[:, head], (0, 5)),
                        )
                        for head, part in enumerate((slice(0, 6), slice(6, 12)))
                    ]
                    answer[image, top + k // WINDOW, left + k % WINDOW] = torch.cat(heads)
    expected = attention.proj(answer).roll((SHIFT, SHIFT), dims=(1, 2))[:, :9, :10]
    torch.testing.assert_close(block.attend(block.norm1(x)), expected)


def pixel_by_pixel(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Answers of one image, in the order of its queries."""
    parts = [tokens.chunk(heads, dim=-1) for tokens in (queries, keys, values)]
    return torch.stack(
        [
            torch.cat([attend(q[k], key, value) for q, key, value in zip(*parts, strict=True)])
            for k in range(len(queries))
        ]
    )


def merged_by_mit(attention: Any, x: Tensor) -> Tensor:
    squares: Tensor = attention.sr(x.permute(0, 3, 1, 2)[..., :8, :8]).permute(0, 2, 3, 1)
    return squares


def averaged_by_tiny(attention: Any, x: Tensor) -> Tensor:
    mean = [x[:, :8, :8], x[:, :8, 8:], x[:, 8:, :8], x[:, 8:, 8:]]
    return torch.stack([part.mean(dim=(1, 2)) for part in mean], dim=1).reshape(2, 2, 2, -1)


@pytest.mark.parametrize(
    ("make", "path", "names", "pool"),
    [
        (mit, "block1.0", ("attn", "q", "kv", "proj"), merged_by_mit),
        (mit, "block4.0", ("attn", "q", "kv", "proj"), None),
        (tiny, "stages.0.0", ("attention", "query", "key_value", "project"), averaged_by_tiny),
        (tiny, "stages.3.0", ("attention", "query", "key_value", "project"), None),
    ],
)
def test_pixels_attend_to_pooled_keys_and_to_the_prompts(
    make: Make, path: str, names: tuple[str, ...], pool: Callable[..., Tensor] | None
) -> None:
    backbone = prompted(make).double()
    block = backbone.backbone.get_submodule(path)
    attention = getattr(block, names[0])
    to_query, to_key, project = (getattr(attention, name) for name in names[1:])
    x = torch.randn(2, 9, 10, block.norm1.normalized_shape[0], dtype=torch.float64)
    prompts = block.norm1(backbone.prompts[0 if pool else 3].tokens)
    pooled = x
    if pool is not None:
        prompts, pooled = attention.norm(prompts), attention.norm(pool(attention, x))
    for image in range(2):
        seen = torch.cat([pooled[image].flatten(0, 1), prompts])
        keys, values = F.linear(seen, to_key.weight, to_key.bias).chunk(2, dim=-1)
        queries = to_query(x[image].flatten(0, 1))
        answer = pixel_by_pixel(queries, keys, values, attention.num_heads)
        expected = project(answer).reshape(x[image].shape)
        torch.testing.assert_close(attention(x)[image], expected)


@pytest.mark.parametrize("make", BACKBONES)
def test_images_of_a_batch_do_not_meet(make: Make) -> None:
    backbone, images = prompted(make).double(), torch.randn(3, 3, 44, 72, dtype=torch.float64)
    for image, *maps in zip(images, *backbone(images), strict=True):
        torch.testing.assert_close(maps, [m[0] for m in backbone(image[None])])


@pytest.mark.parametrize("make", BACKBONES)
def test_prompts_have_no_order(make: Make) -> None:
    backbone, image = prompted(make).double(), torch.randn(1, 3, 32, 64, dtype=torch.float64)
    before = backbone(image)
    for prompts in backbone.prompts:
        prompts.tokens.data = prompts.tokens.data[[3, 1, 4, 0, 2]]
    torch.testing.assert_close(backbone(image), before)


@pytest.mark.parametrize("make", BACKBONES)
@pytest.mark.parametrize("size", [(33, 20), (65, 97)])
def test_odd_sizes(make: Make, size: tuple[int, int]) -> None:
    assert segmenter(make)(torch.zeros(1, 3, *size)).shape == (1, 5, *size)


@pytest.mark.parametrize("make", BACKBONES)
def test_every_prompt_learns_and_recomputation_changes_nothing(make: Make) -> None:
    image, gradients = torch.randn(1, 3, 40, 64), []
    for recompute in (False, True):
        torch.manual_seed(0)
        backbone = prompted(make, gradient_checkpointing=recompute)
        backbone.backbone.requires_grad_(False)
        torch.stack([m.square().mean() for m in backbone(image)]).sum().backward()
        gradients.append([prompts.tokens.grad for prompts in backbone.prompts])
    for gradient in gradients[0]:
        assert (gradient.abs().amax(dim=1) > 0).all()
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("make", BACKBONES)
def test_the_backbone_stays_as_it_is_when_prompts_and_head_train(make: Make) -> None:
    backbone = make(drop_path_rate=0.9)
    names = set(backbone.state_dict())
    network = Segmenter(backbone, DAFormerHead(backbone.channels, 5, channels=8))
    network = with_visual_prompts(network, tokens=3).train()
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(torch.rand(2, 3, 32, 64)).square().mean().backward()
    optimizer.step()
    assert not any(module.training for module in network.backbone.backbone.modules())
    inner = "backbone.backbone."
    assert {n.removeprefix(inner) for n in before if n.startswith(inner)} == names
    for name, tensor in network.state_dict().items():
        if name.startswith(inner):
            assert torch.equal(tensor, before[name]), name
        elif tensor.is_floating_point():
            assert not torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("make", BACKBONES)
def test_a_copy_has_prompts_of_its_own(make: Make) -> None:
    network, image = segmenter(make).eval(), torch.rand(1, 3, 32, 32)
    copies = [Teacher(network), pickle.loads(pickle.dumps(network))]
    before = network(image)
    with torch.no_grad():
        for prompts in network.backbone.prompts:
            prompts.tokens.normal_()
    assert not torch.equal(network(image), before)
    for other in copies:
        torch.testing.assert_close(other(image), before)
        other.load_state_dict(
            {f"network.{n}": t for n, t in network.state_dict().items()}
            if isinstance(other, Teacher)
            else network.state_dict()
        )
        torch.testing.assert_close(other(image), network(image))


@pytest.mark.parametrize("make", BACKBONES)
def test_prompts_start_in_their_range(make: Make) -> None:
    backbone = prompted(make, tokens=400)
    for prompts in backbone.prompts:
        bound = math.sqrt(6 / (3 * 4**2 + prompts.tokens.shape[1]))
        assert 0.95 * bound < prompts.tokens.abs().max() <= bound


@pytest.mark.parametrize(
    ("name", "kind"), [("resnet18", "ResNet"), ("convnext_atto", "ConvNeXt"), ("vgg11", "VGG")]
)
def test_backbones_without_known_attention_are_refused(name: str, kind: str) -> None:
    with torch.device("meta"):
        backbone = TimmPyramid(name)
    with pytest.raises(ConfigError, match=f"Swin, a MiT or tiny.*got {kind}.*backbone=swin_b"):
        VisuallyPromptedBackbone(backbone)


def test_errors() -> None:
    with pytest.raises(ValueError, match="tokens must not be negative, got -1"):
        VisuallyPromptedBackbone(tiny(), tokens=-1)
    with pytest.raises(ConfigError, match="got VisuallyPromptedBackbone"):
        VisuallyPromptedBackbone(prompted(tiny))
