import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfseg.networks.backbones.mit import VARIANTS, MixTransformer, mix_transformer
from sfseg.networks.heads.daformer import DAFormerHead

PARAMETERS = {
    "mit_b0": 3_319_392,
    "mit_b1": 13_151_424,
    "mit_b2": 24_196_288,
    "mit_b3": 44_072_128,
    "mit_b4": 60_842_688,
    "mit_b5": 81_443_008,
}


def small(**options: Any) -> MixTransformer:
    torch.manual_seed(0)
    return MixTransformer(head_dim=8, depths=(1, 1, 2, 1), **options)


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_have_the_published_parameters(name: str) -> None:
    with torch.device("meta"):
        assert parameters(mix_transformer(name)) == PARAMETERS[name]


def test_b5_has_the_parameters_of_uni_uvpts_table() -> None:
    with torch.device("meta"):
        backbone = mix_transformer("mit_b5")
        assert parameters(backbone, DAFormerHead(backbone.channels, 19)) == 85_155_283


def hugging_face(backbone: MixTransformer, depths: tuple[int, ...]) -> nn.Module:
    """The same dimensions in transformers, with the epsilons of the authors' code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever importing it says is not about this test
        segformer = pytest.importorskip("transformers.models.segformer.modeling_segformer")
    config = segformer.SegformerConfig(
        hidden_sizes=backbone.channels, depths=depths, num_attention_heads=(1, 2, 5, 8)
    )
    network: nn.Module = segformer.SegformerModel(config)
    for name, module in network.named_modules():
        if re.search(r"layernorm_(before|after)$|^stages\.\d\.layer_norm$", name):
            module.eps = 1e-6
    return network.eval()


def hugging_face_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    inside = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.q": "attention.q_proj",
        "attn.proj": "attention.o_proj",
        "attn.sr": "attention.sequence_reduction.sequence_reduction",
        "attn.norm": "attention.sequence_reduction.layer_norm",
    }
    for key, tensor in tensors.items():
        part, _, rest = key.partition(".")
        stage = f"stages.{int(part[-1]) - 1}"
        module, _, kind = rest.rpartition(".")
        if part.startswith("patch_embed"):
            module = module.replace("norm", "layer_norm")
            renamed[f"{stage}.patch_embeddings.{module}.{kind}"] = tensor
        elif part.startswith("norm"):
            renamed[f"{stage}.layer_norm.{kind}"] = tensor
        else:
            block, _, module = module.partition(".")
            start = f"{stage}.blocks.{block}"
            if module == "attn.kv":
                half = len(tensor) // 2
                renamed[f"{start}.attention.k_proj.{kind}"] = tensor[:half]
                renamed[f"{start}.attention.v_proj.{kind}"] = tensor[half:]
            else:
                renamed[f"{start}.{inside.get(module, module)}.{kind}"] = tensor
    return renamed


@pytest.mark.parametrize("size", [(64, 96), (130, 197)])
def test_maps_equal_those_of_transformers(size: tuple[int, int]) -> None:
    ours = small().eval().double()
    theirs = hugging_face(ours, (1, 1, 2, 1)).double()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.2)  # so that biases and norms count
    theirs.load_state_dict(hugging_face_names(ours.state_dict()))
    x = image = torch.rand(2, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        for feature, stage in zip(ours(image), theirs.stages, strict=True):
            x = stage(x)
            torch.testing.assert_close(feature, x)


def test_maps_of_odd_sizes_are_rounded_up() -> None:
    network = small()
    maps = network(torch.rand(1, 3, 130, 197))
    assert [tuple(feature.shape[1:]) for feature in maps] == [
        (8, 33, 50),
        (16, 17, 25),
        (40, 9, 13),
        (64, 5, 7),
    ]
    assert network.channels == (8, 16, 40, 64) and network.strides == (4, 8, 16, 32)


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (31, 31)])
def test_maps_smaller_than_a_pooled_square_work(size: tuple[int, int]) -> None:
    assert all(feature.isfinite().all() for feature in small()(torch.rand(1, 3, *size)))


def test_stages_can_be_run_one_by_one() -> None:
    network = small().eval()
    x = image = torch.rand(1, 3, 65, 33)
    for stage, feature in enumerate(network(image)):
        tokens = network.embed(stage, x)
        assert tokens.shape == feature.permute(0, 2, 3, 1).shape
        x = network.run(stage, tokens)
        torch.testing.assert_close(network.finish(stage, x), feature)


def test_every_parameter_trains() -> None:
    network = small()
    sum(feature.square().mean() for feature in network(torch.rand(2, 3, 64, 96))).backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []


def test_checkpointing_changes_no_gradient() -> None:
    image = torch.rand(2, 3, 32, 64)
    gradients = []
    for recompute in (False, True):
        network = small(gradient_checkpointing=recompute)
        network(image)[-1].square().sum().backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    assert gradients[0]
    torch.testing.assert_close(*gradients)


def test_drop_path_grows_with_depth() -> None:
    network = small(drop_path_rate=0.4)
    blocks = [block for stage in range(1, 5) for block in network.get_submodule(f"block{stage}")]
    rates = [block.drop_path.probability for block in blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_epsilons_are_those_of_the_authors() -> None:
    for name, module in small().named_modules():
        if isinstance(module, nn.LayerNorm):
            default = name.startswith("patch_embed") or name.endswith("attn.norm")
            assert module.eps == (1e-5 if default else 1e-6), name


def test_initial_weights() -> None:
    torch.manual_seed(0)
    network = mix_transformer("mit_b0")
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert not module.bias.any()
    layers = {
        "block4.0.attn.q": 0.02,
        "patch_embed4.proj": (2 / (9 * 256)) ** 0.5,
        "block1.0.attn.sr": (2 / (64 * 32)) ** 0.5,
        "block4.0.mlp.dwconv.dwconv": (2 / 9) ** 0.5,
    }
    for name, std in layers.items():
        weight = network.get_submodule(name).weight
        assert weight.std().item() == pytest.approx(std, rel=0.05), name


def test_unknown_variant() -> None:
    with pytest.raises(ValueError, match=r"must be one of mit_b0, .*, mit_b5, got mit_b6"):
        mix_transformer("mit_b6")


def test_stages_must_be_described_completely() -> None:
    with pytest.raises(ValueError, match="each of 4 stages, got 2, 4 and 4"):
        MixTransformer(head_dim=8, depths=(1, 1))
