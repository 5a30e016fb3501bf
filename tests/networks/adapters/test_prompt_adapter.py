from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfseg.networks.adapters.prompt_adapter import PromptedBackbone
from sfseg.networks.adapters.prompt_generator import PromptGenerator
from sfseg.networks.adapters.prompt_interactor import PromptInteractor, fitting_heads
from sfseg.networks.backbones.mit import MixTransformer
from sfseg.networks.backbones.pyramid import TimmPyramid
from sfseg.networks.backbones.tiny import TinyTransformer
from sfseg.networks.build import build_segmenter
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.weights import key_maps

SWIN_B, MIT_B5 = "swin_base_patch4_window7_224", "mit_b5"
# Of an injector, an extractor and three convolutions, stage by stage.
BLOCKS = {
    SWIN_B: [
        (91_520, 50_784, 884_736),
        (215_232, 150_528, 3_538_944),
        (560_960, 497_472, 14_155_776),
        (1_645_632, 1_781_184, 0),
    ],
    MIT_B5: [
        (41_952, 19_344, 221_184),
        (91_520, 50_784, 1_105_920),
        (289_376, 218_832, 4_423_680),
        (560_960, 497_472, 0),
    ],
}
RELEASED = {SWIN_B: (115_353_134, 28_608_118), MIT_B5: (93_740_950, 12_297_942)}
UNUSED = 590_336  # a convolution that the published code holds and never uses


def tiny() -> nn.Module:
    return TinyTransformer(channels=(32, 32, 64, 64), depths=(1, 1, 1, 1))


def mit() -> nn.Module:
    return MixTransformer(head_dim=8, depths=(1, 1, 1, 1))


def swin() -> nn.Module:
    dimensions = {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
    narrow = partial(timm.create_model, **dimensions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", narrow)
        return TimmPyramid("swin_tiny_patch4_window7_224")


BACKBONES = [tiny, mit, swin]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def prompted(make: Callable[[], nn.Module] = tiny, **options: Any) -> PromptedBackbone:
    backbone = PromptedBackbone(make(), **options)
    for name, parameter in backbone.adapter.named_parameters():
        if "attention" in name or "gamma" in name:
            # The start is nearly the backbone itself, which would hide mistakes.
            nn.init.normal_(parameter, std=0.3)
    return backbone


def frozen(backbone: PromptedBackbone) -> Segmenter:
    head = DAFormerHead(backbone.channels, 5, channels=8, dilations=(1, 2))
    return Segmenter(backbone, head).freeze("backbone.backbone").train()


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("variant", ["release", "paper"])
def test_parameters_are_those_of_the_papers_table(name: str, variant: str) -> None:
    with torch.device("meta"):
        plain = build_segmenter(name=name, head=DAFormerHead, num_classes=19)
        backbone = PromptedBackbone(plain.backbone, variant=variant)
        segmenter = Segmenter(backbone, plain.head).freeze("backbone.backbone")
    blocks = [
        tuple(parameters(part) for part in (block.injector, block.extractor, block.halvings))
        for block in backbone.adapter.interactors
    ]
    assert blocks == BLOCKS[name]
    stem = backbone.adapter.generator.stages
    assert [parameters(stage) for stage in stem] == [75_840, 73_984, 295_424]
    trained = sum(p.numel() for p in segmenter.parameters() if p.requires_grad)
    total, trainable = RELEASED[name]
    extra = 0 if variant == "release" else UNUSED + 3
    assert (parameters(segmenter), trained) == (total - extra, trainable - extra)


@pytest.mark.parametrize("make", BACKBONES)
@pytest.mark.parametrize("size", [(64, 64), (60, 92), (4, 36)])
def test_a_silent_prompt_leaves_the_backbone_as_it_is(
    make: Callable[[], nn.Module], size: tuple[int, int]
) -> None:
    backbone = prompted(make).eval()
    for interactor in backbone.adapter.interactors:
        nn.init.zeros_(interactor.injector.gamma)
    image = torch.randn(2, 3, *size)
    maps, adapted = backbone.forward_features(image)
    expected = backbone.backbone(image)
    torch.testing.assert_close(maps, expected)
    assert [x.shape for x in adapted] == [x.shape for x in expected]
    torch.testing.assert_close(PromptedBackbone(backbone.backbone, interactors=0)(image), expected)


@pytest.mark.parametrize("make", BACKBONES)
def test_every_stage_starts_from_its_adapted_tokens(make: Callable[[], nn.Module]) -> None:
    backbone = prompted(make).eval()
    inner, image = backbone.backbone, torch.randn(1, 3, 44, 72)
    maps, adapted = backbone.forward_features(image)
    before = image
    for stage, (feature, entering) in enumerate(zip(maps, adapted, strict=True)):
        tokens = entering.permute(0, 2, 3, 1)
        assert not torch.allclose(tokens, inner.embed(stage, before), atol=1e-2)
        before = inner.run(stage, tokens)
        torch.testing.assert_close(inner.finish(stage, before), feature)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias


def attention(
    layer: nn.Module, queries: Tensor, features: list[Tensor], centres: list[Tensor]
) -> Tensor:
    """From the formula: (B, Q, C) queries, (B, C, h, w) features, their (Q, 2) places in cells."""
    batch, count, _ = queries.shape
    heads, levels = layer.num_heads, len(features)
    offsets = linear(layer.offsets, queries).view(batch, count, heads, levels, -1, 2)
    weights = linear(layer.scores, queries).view(batch, count, heads, -1).softmax(-1)
    weights = weights.view(batch, count, heads, levels, -1)
    result = []
    for head in range(heads):
        total = 0
        for level, (feature, centre) in enumerate(zip(features, centres, strict=True)):
            value = linear(layer.value, feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            value = value.chunk(heads, dim=1)[head]
            sides = torch.tensor([value.shape[3], value.shape[2]])
            # Offsets are counted in cells of the map that is asked.
            grid = 2 * (centre[:, None] + offsets[:, :, head, level]) / sides - 1
            samples = F.grid_sample(value, grid, align_corners=False)  # (B, c, Q, points)
            total = total + (samples * weights[:, None, :, head, level]).sum(-1)
        result.append(total)
    return linear(layer.output, torch.cat(result, dim=1).transpose(1, 2))


def places(size: torch.Size, scale: float) -> Tensor:
    rows, columns = torch.meshgrid(*(torch.arange(n) + 0.5 for n in size), indexing="ij")
    return scale * torch.stack([columns, rows], dim=-1).flatten(0, 1)


def interact(layer: PromptInteractor, tokens: Tensor, prompt: list[Tensor]) -> list[Tensor]:
    """Adapted tokens and the three refined maps, from the formulas of the paper."""
    size, sizes = tokens.shape[1:3], [part.shape[2:] for part in prompt]

    def rows(x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)

    def as_map(x: Tensor, size: torch.Size) -> Tensor:
        return x.transpose(1, 2).unflatten(2, size)

    refined, extractor = [], layer.extractor
    feature = as_map(extractor.feature_norm(tokens.flatten(1, 2)), size)
    for part, scale in zip(prompt, (0.5, 1.0, 2.0), strict=True):
        x = rows(part)
        centre = places(part.shape[2:], scale)
        x = x + attention(extractor.attention, extractor.query_norm(x), [feature], [centre])
        hidden = as_map(linear(extractor.mlp.contract, extractor.mlp_norm(x)), part.shape[2:])
        kernel = extractor.mlp.neighbours
        hidden = F.conv2d(hidden, kernel.weight, kernel.bias, padding=1, groups=hidden.shape[1])
        refined.append(x + linear(extractor.mlp.expand, F.gelu(rows(hidden))))
    injector, flat = layer.injector, tokens.flatten(1, 2)
    features = [
        as_map(injector.feature_norm(x), part) for x, part in zip(refined, sizes, strict=True)
    ]
    centres = [places(size, scale) for scale in (2.0, 1.0, 0.5)]
    asked = attention(injector.attention, injector.query_norm(flat), features, centres)
    adapted = (flat + injector.gamma * asked).view(tokens.shape)
    return [adapted, *(as_map(x, part) for x, part in zip(refined, sizes, strict=True))]


@pytest.mark.parametrize("carry_refined", [True, False])
@pytest.mark.parametrize("sizes", [((8, 12), (4, 6), (2, 3)), ((9, 6), (5, 3), (3, 2))])
def test_interaction_follows_the_formulas(
    carry_refined: bool, sizes: tuple[tuple[int, int], ...]
) -> None:
    layer = PromptInteractor(16, 24, num_heads=4, num_points=3, carry_refined=carry_refined)
    layer = layer.eval().double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    tokens = torch.randn(2, *sizes[1], 16, dtype=torch.float64)
    prompt = [torch.randn(2, 16, *size, dtype=torch.float64) for size in sizes]
    adapted, handed_on = layer(tokens, prompt)
    expected, *refined = interact(layer, tokens, prompt)
    # Places are in single precision.
    torch.testing.assert_close(adapted, expected, atol=1e-5, rtol=1e-5)
    for conv, part, result in zip(
        layer.halvings, refined if carry_refined else prompt, handed_on, strict=True
    ):
        halved = F.conv2d(part, conv.weight, stride=2, padding=1)
        torch.testing.assert_close(result, halved, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (tiny, {"drop_path": 0.1}),
        (mit, {}),
        (swin, {}),
        (tiny, {"interactors": 1}),
        (tiny, {"stem": "single"}),
        (tiny, {"stem": "none"}),
        (tiny, {"level_embedding": False}),
    ],
)
def test_everything_but_the_backbone_trains(
    make: Callable[[], nn.Module], options: dict[str, Any]
) -> None:
    segmenter = frozen(prompted(make, **options))
    segmenter(torch.rand(2, 3, 64, 96)).square().mean().backward()
    with_gradient = {name for name, p in segmenter.named_parameters() if p.grad is not None}
    trained = {name for name, p in segmenter.named_parameters() if p.requires_grad}
    assert with_gradient == trained
    assert {name for name in trained if name.startswith("backbone.backbone.")} == set()
    assert {name.split(".")[1] for name in trained if name.startswith("backbone.")} == {"adapter"}


def test_recomputing_changes_no_bit() -> None:
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = frozen(prompted(drop_path=0.5, recompute=recompute)).train()
        logits = network(torch.rand(2, 3, 64, 96))
        logits.square().mean().backward()
        gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        results.append({"logits": logits.detach(), **gradients})
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("make", [mit, swin])
def test_what_the_published_code_never_uses(make: Callable[[], nn.Module]) -> None:
    """The mixing weights are the loss's; the level embedding is added for Swin only."""
    segmenter = frozen(prompted(make, variant="release"))
    segmenter(torch.rand(2, 3, 64, 96)).square().mean().backward()
    without = {n for n, p in segmenter.backbone.adapter.named_parameters() if p.grad is None}
    idle = {"mixing", *(f"generator.idle.{part}" for part in ("0.weight", "1.weight", "1.bias"))}
    assert without == idle | ({"generator.level_embedding"} if make is mit else set())
    assert torch.equal(segmenter.backbone.adapter.mixing, torch.ones(3))


def test_frozen_backbone_stays_in_eval_mode() -> None:
    backbone = PromptedBackbone(TinyTransformer(drop_path_rate=0.5), drop_path=0.5)
    segmenter = frozen(backbone)
    assert not any(module.training for module in segmenter.backbone.backbone.modules())
    assert all(module.training for module in segmenter.backbone.adapter.modules())
    interactors = segmenter.backbone.adapter.interactors
    assert [block.extractor.drop_path.probability for block in interactors] == [0.5] * 4
    image = torch.randn(2, 3, 32, 64)
    inner = backbone.backbone
    torch.testing.assert_close(inner(image), inner(image), rtol=0, atol=0)
    torch.testing.assert_close(segmenter.eval()(image), segmenter(image), rtol=0, atol=0)


@pytest.mark.parametrize("make", BACKBONES)
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (90, 120)])
def test_any_size(make: Callable[[], nn.Module], size: tuple[int, int]) -> None:
    segmenter = frozen(prompted(make)).eval()
    logits = segmenter(torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8))
    assert logits.shape == (1, 5, *size)
    assert logits.isfinite().all()


def test_images_of_a_batch_do_not_mix() -> None:
    backbone = prompted().eval().double()
    images = torch.randn(2, 3, 36, 68, dtype=torch.float64)
    for together, *alone in zip(
        backbone(images), backbone(images[:1]), backbone(images[1:]), strict=True
    ):
        torch.testing.assert_close(together, torch.cat(alone))


def test_mixed_precision_stays_near() -> None:
    backbone = prompted().eval()
    image = torch.randn(1, 3, 64, 64)
    expected, adapted = backbone.forward_features(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps, mixed = backbone.forward_features(image)
    for result, exact in zip([*maps, *mixed], [*expected, *adapted], strict=True):
        assert (result - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_evaluation_first_does_not_spoil_training() -> None:
    segmenter = frozen(prompted())
    with torch.inference_mode():
        segmenter(torch.rand(1, 3, 96, 32))
    segmenter(torch.rand(1, 3, 96, 32)).sum().backward()


def test_checkpointing_reaches_a_frozen_backbone() -> None:
    """Its activations are kept for the adapter's gradients, so they are worth recomputing."""
    image, gradients, calls = torch.rand(1, 3, 32, 64), [], []
    for recompute in (False, True):
        torch.manual_seed(0)
        inner = TinyTransformer(channels=(32,) * 4, gradient_checkpointing=recompute)
        segmenter = frozen(PromptedBackbone(inner))
        seen: list[int] = []
        inner.stages[2][0].register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        segmenter(image)[..., 0].square().sum().backward()
        adapter = segmenter.backbone.adapter
        gradients.append([p.grad for p in adapter.parameters()])
        calls.append(len(seen))
    torch.testing.assert_close(*gradients)
    assert calls == [1, 2]


def test_prompts_have_three_sizes() -> None:
    maps = PromptGenerator(8, stem_width=4)(torch.randn(2, 3, 20, 36))
    assert [tuple(x.shape) for x in maps] == [(2, 8, 10, 18), (2, 8, 5, 9), (2, 8, 3, 5)]


@pytest.mark.parametrize("stem", ["multiscale", "single", "none"])
def test_level_embedding_is_added_everywhere(stem: str) -> None:
    generator = PromptGenerator(8, stem=stem, stem_width=4).eval().double()
    image = torch.randn(1, 3, 18, 22, dtype=torch.float64)
    maps = generator(image)
    assert [tuple(x.shape[2:]) for x in maps] == [(9, 11), (5, 6), (3, 3)]
    embedding = generator.level_embedding.detach().clone()
    nn.init.zeros_(generator.level_embedding)
    for x, bare, vector in zip(maps, generator(image), embedding, strict=True):
        torch.testing.assert_close(x, bare + vector.view(1, 8, 1, 1))
        assert (bare == 0).all() == (stem == "none")


def test_single_scale_is_one_map_in_three_sizes() -> None:
    generator = PromptGenerator(8, stem="single", level_embedding=False, stem_width=4).eval()
    fine, middle, coarse = generator(torch.randn(1, 3, 16, 32))
    torch.testing.assert_close(coarse, F.avg_pool2d(middle, 2))
    torch.testing.assert_close(fine, F.interpolate(middle, scale_factor=2, mode="bilinear"))
    assert generator.level_embedding is None
    assert len(list(generator.stages)) == 2


def test_fewer_interactors_are_the_first_ones() -> None:
    backbone = prompted(interactors=1).eval()
    (interactor,) = backbone.adapter.interactors
    assert not list(interactor.halvings)
    image = torch.randn(1, 3, 32, 64)
    _, (first, second, *_) = backbone.forward_features(image)
    inner = backbone.backbone
    assert not torch.allclose(first.permute(0, 2, 3, 1), inner.embed(0, image), atol=1e-2)
    left = inner.run(0, first.permute(0, 2, 3, 1))
    torch.testing.assert_close(second.permute(0, 2, 3, 1), inner.embed(1, left))


def test_without_interactors_there_is_no_prompt() -> None:
    assert parameters(PromptedBackbone(tiny(), interactors=0).adapter) == 0
    released = PromptedBackbone(tiny(), interactors=0, variant="release").adapter
    assert parameters(released) == 3


def test_heads_start_in_different_directions() -> None:
    injector = PromptInteractor(128, None, num_points=3).injector
    offsets = injector.attention.offsets
    assert not offsets.weight.any()
    directions = offsets.bias.view(16, 3, 3, 2)  # heads, levels, points, (x, y)
    for point in range(3):
        assert torch.equal(directions[:, 0, point], directions[:, 2, point])
        torch.testing.assert_close(directions[:, 0, point], (point + 1) * directions[:, 0, 0])
    torch.testing.assert_close(
        directions[[0, 2, 4], 0, 0], torch.tensor([[1.0, 0], [1, 1], [0, 1]])
    )
    assert len({tuple(direction) for direction in directions[:, 0, 0].tolist()}) == 16
    assert torch.equal(injector.gamma, torch.full((128,), 1e-6))


@pytest.mark.parametrize(
    ("width", "heads"), [(64, 16), (320, 16), (1024, 16), (32, 8), (96, 16), (24, 6), (6, 1)]
)
def test_heads_divide_the_width(width: int, heads: int) -> None:
    assert fitting_heads(width, 16) == heads
    assert fitting_heads(width, 1) == 1


def released_names(stage: int) -> set[str]:
    """Names of the published code for one interactor."""
    norms = [f"injector.{n}_norm" for n in ("query", "feat")]
    norms += [f"extractor.{n}_norm" for n in ("query", "feat", "ffn")]
    layers = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
    linears = [f"{part}.attn.{n}" for part in ("injector", "extractor") for n in layers]
    linears += [f"extractor.ffn.{n}" for n in ("fc1", "dwconv.dwconv", "fc2")]
    names = {f"{n}.{kind}" for n in norms + linears for kind in ("weight", "bias")}
    names |= {"injector.gamma"}
    if stage < 3:
        names |= {f"up_layer{n}.weight" for n in (1, 2, 3)}
    return {f"backbone.interactions.{stage}.{name}" for name in names}


def test_published_checkpoints_have_a_place_for_every_weight() -> None:
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    convolutions = {"stem": (0, 3, 6), "conv2": (0,), "conv3": (0,), "conv4": (0,)}
    names = {"weight", "backbone.level_embed"}
    for part, indices in convolutions.items():
        names |= {f"backbone.spm.{part}.{i}.weight" for i in indices}
        names |= {f"backbone.spm.{part}.{i + 1}.{kind}" for i in indices for kind in kinds}
    names |= {f"backbone.spm.fc{n}.{kind}" for n in (1, 2, 3) for kind in ("weight", "bias")}
    names = names.union(*(released_names(stage) for stage in range(4)))
    inner = mit()
    names |= {f"backbone.{key}" for key in inner.state_dict()}
    segmenter = Segmenter(
        PromptedBackbone(inner, variant="release"), DAFormerHead(inner.channels, 5, channels=8)
    )
    numbered = {name: torch.tensor(i) for i, name in enumerate(sorted(names))}
    ours = key_maps.segmenter_names(numbered)
    expected = {key for key in segmenter.state_dict() if key.startswith("backbone.")}
    assert ours.keys() == expected
    assert len({int(number) for number in ours.values()}) == len(names)
    for theirs, mine in {
        "weight": "mixing",
        "backbone.spm.conv3.1.running_var": "generator.stages.2.1.running_var",
        "backbone.spm.fc1.bias": "generator.projections.0.bias",
        "backbone.interactions.2.up_layer3.weight": "interactors.2.halvings.2.weight",
        "backbone.interactions.3.extractor.attn.value_proj.bias": (
            "interactors.3.extractor.attention.value.bias"
        ),
        "backbone.interactions.0.extractor.ffn_norm.weight": (
            "interactors.0.extractor.mlp_norm.weight"
        ),
    }.items():
        assert ours[f"backbone.adapter.{mine}"] == numbered[theirs]


def test_heads_of_published_checkpoints_are_renamed_too() -> None:
    names = ["backbone.interactions.0.injector.gamma", "decode_head.conv_seg.bias"]
    converted = key_maps.segmenter_names(dict.fromkeys(names, torch.zeros(1)))
    gamma = "backbone.adapter.interactors.0.injector.gamma"
    assert converted.keys() == {gamma, "head.classifier.bias"}


def test_backbones_without_stages_are_refused() -> None:
    with torch.device("meta"):
        resnet = TimmPyramid("resnet18")
    with pytest.raises(ValueError, match=r"must be a Swin, a MiT or tiny, .* got ResNet; choose"):
        PromptedBackbone(resnet)
    with pytest.raises(ValueError, match="got Identity"):
        PromptedBackbone(nn.Identity())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "poster"}, "variant must be one of paper, release, got 'poster'"),
        ({"stem": "double"}, "stem must be one of multiscale, single, none, got 'double'"),
        ({"interactors": 5}, "interactors must be 0 to 4, the number of stages, got 5"),
        ({"stem": "none", "level_embedding": False}, "level_embedding must be true .* got false"),
    ],
)
def test_impossible_adapters_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptedBackbone(tiny(), **options)
