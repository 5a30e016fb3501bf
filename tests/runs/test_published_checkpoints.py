"""Files that other projects have published, given to the commands as they are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import make
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import Cli
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file
from test_published import (
    Shapes,
    batch_norm,
    daformer_head,
    dlv2_head,
    filled,
    hrda_head,
    layer,
    light_daformer_head,
    mmseg_resnet_v1c,
    mmseg_swin,
    nvidia_mit,
    prefixed,
    saved,
    segmenter,
)
from torch import Tensor, nn

from sfseg.config.composition import CONF
from sfseg.errors import ConfigError
from sfseg.labels import CITYSCAPES
from sfseg.networks.adapters.prompt_adapter import PromptedBackbone
from sfseg.networks.adapters.two_resolutions import TwoResolutions
from sfseg.networks.backbones import mit
from sfseg.networks.heads.multi_head import LeaveOneOutSegmenter
from sfseg.networks.weights import published
from sfseg.optim import count_parameters
from sfseg.runs.checkpoints import restore
from sfseg.runs.preparation import network_of

WIDTHS = {"swin_t": (24, 48, 96, 192), "mit_b0": (8, 16, 40, 64)}
HEADS = {"swin_t": (6, 12, 16, 16), "mit_b0": (2, 4, 10, 16)}  # of the adapter's attention
POINTS = 4
MIT_B5_WIDTHS = (64, 128, 320, 512)
SMALL = ["+data.num_workers=0", "+data.eval_size=[64,128]", "trainer.precision=32-true"]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Swin-T and MiT-B0 with all their parts, built and run in a fraction of a second."""
    create = timm.create_model
    options = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}

    def create_narrow(name: str, **given: object) -> nn.Module:
        return create(name, **(options | given if name.startswith("swin_tiny") else given))

    monkeypatch.setattr(timm, "create_model", create_narrow)
    monkeypatch.setitem(published.SWINS, (24, (2, 2, 2, 2)), "swin_t")
    monkeypatch.setitem(mit.VARIANTS, "mit_b0", (8, (1, 2, 1, 1)))


# The names of published files, written down from the files


def prompt_adapter(widths: tuple[int, ...], heads: tuple[int, ...], stem: int) -> Shapes:
    shapes: Shapes = {"weight": (3,), "backbone.level_embed": (3, widths[0])}
    inputs = {"stem": [3, stem, stem], "conv2": [stem], "conv3": [2 * stem], "conv4": [4 * stem]}
    for (name, before), after in zip(inputs.items(), (1, 2, 4, 4), strict=True):
        for i, width in enumerate(before):
            shapes[f"backbone.spm.{name}.{3 * i}.weight"] = (after * stem, width, 3, 3)
            shapes |= batch_norm(f"backbone.spm.{name}.{3 * i + 1}", after * stem)
    for i in range(3):
        shapes |= layer(f"backbone.spm.fc{i + 1}", widths[0], 2**i * stem, 1, 1)
    for stage, (c, count) in enumerate(zip(widths, heads, strict=True)):
        start = f"backbone.interactions.{stage}"
        shapes[f"{start}.injector.gamma"] = (c,)
        for part, levels in (("injector", 3), ("extractor", 1)):
            samples = count * levels * POINTS
            shapes |= layer(f"{start}.{part}.query_norm", c) | layer(f"{start}.{part}.feat_norm", c)
            shapes |= layer(f"{start}.{part}.attn.sampling_offsets", 2 * samples, c)
            shapes |= layer(f"{start}.{part}.attn.attention_weights", samples, c)
            shapes |= layer(f"{start}.{part}.attn.value_proj", c // 2, c)
            shapes |= layer(f"{start}.{part}.attn.output_proj", c, c // 2)
        shapes |= layer(f"{start}.extractor.ffn_norm", c)
        shapes |= layer(f"{start}.extractor.ffn.fc1", c // 4, c)
        shapes |= layer(f"{start}.extractor.ffn.dwconv.dwconv", c // 4, 1, 3, 3)
        shapes |= layer(f"{start}.extractor.ffn.fc2", c, c // 4)
        for i in range(3 if stage < 3 else 0):
            shapes[f"{start}.up_layer{i + 1}.weight"] = (widths[stage + 1], c, 3, 3)
    return shapes


def file_shapes(
    kind: str, backbone: Shapes, adapter: Shapes, widths: tuple[int, ...], **head: int
) -> Shapes:
    shapes = segmenter(backbone, daformer_head(widths, **head))
    if kind == "prompt":
        shapes |= adapter
    elif kind == "gta":
        for i in range(6):
            shapes |= prefixed(f"decode_head_aug{i}.", daformer_head(widths, **head))
    return shapes


def full_size(name: str, kind: str) -> Shapes:
    if name == "swin_b":
        widths, stem = (128, 256, 512, 1024), 64
        backbone = mmseg_swin(128, (2, 2, 18, 2), (4, 8, 16, 32))
    else:
        widths, stem = (64, 128, 320, 512), 64
        backbone = nvidia_mit(64, (3, 6, 40, 3))
    return file_shapes(kind, backbone, prompt_adapter(widths, (16,) * 4, stem), widths)


def small(name: str, kind: str = "plain", **head: int) -> dict[str, Tensor]:
    """The tensors of a narrow network under the published names."""
    widths = WIDTHS[name]
    backbone = (
        mmseg_swin(24, (2, 2, 2, 2), (1, 2, 4, 8)) if name == "swin_t"
        else nvidia_mit(8, (1, 2, 1, 1))
    )  # fmt: skip
    adapter = prompt_adapter(widths, HEADS[name], stem=widths[0])
    torch.manual_seed(0)
    tensors = filled(file_shapes(kind, backbone, adapter, widths, **{"channels": 8} | head))
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.ndim:
            # As large as after training, so that activations neither vanish nor explode.
            scale = 0.2 if tensor.ndim == 1 else tensor[0].numel() ** -0.5
            is_positive = tensor.ndim == 1 and key.endswith(("norm.weight", "running_var"))
            tensors[key] = 1 + scale * tensor.tanh() if is_positive else scale * tensor
    return tensors


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "one.png"), image)
    return folder


# Which network it is


@pytest.mark.parametrize(
    ("name", "kind", "tensors", "millions"),
    [
        ("swin_b", "gta", 763, 110.4), ("swin_b", "prompt", 600, 115.4),
        ("mit_b5", "gta", 1458, 103.7), ("mit_b5", "prompt", 1295, 93.7),
    ],
)  # fmt: skip
def test_models_of_uni_uvpt_are_recognised_and_fit(
    tmp_path: Path, name: str, kind: str, tensors: int, millions: float
) -> None:
    """In full size, without values."""
    shapes = full_size(name, kind)
    assert len(shapes) == tensors
    empty = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    path = saved(tmp_path / "released.pth", empty)
    with torch.device("meta"):
        restored = restore(path)
    assert restored.labels.classes == CITYSCAPES.classes
    assert round(count_parameters(restored.network.parameters())[0] / 1e6, 1) == millions
    assert isinstance(restored.network.backbone, PromptedBackbone) == (kind == "prompt")
    assert isinstance(restored.network, LeaveOneOutSegmenter) == (kind == "gta")
    assert restored.config.data.eval_size == [512, 1024]
    assert restored.config.method.needs == ["target"]


@pytest.mark.parametrize(
    ("backbone", "head", "millions", "choices"),
    [
        (
            nvidia_mit(64, (3, 6, 40, 3)), daformer_head(MIT_B5_WIDTHS), 85.155283,
            ["backbone=mit_b5", "backbone/head=daformer", "backbone.head.channels=256"],
        ),
        (
            mmseg_resnet_v1c(), dlv2_head(), 43.219846,
            ["backbone=resnet101c_deeplabv2", "backbone/head=deeplabv2_two_branch"],
        ),
        (
            nvidia_mit(64, (3, 6, 40, 3)),
            hrda_head(daformer_head(MIT_B5_WIDTHS), light_daformer_head(MIT_B5_WIDTHS)),
            85.155283 + 0.530707,
            ["backbone=mit_b5", "backbone/head=daformer", "backbone.head.channels=256"],
        ),
        (
            mmseg_resnet_v1c(), hrda_head(dlv2_head(), dlv2_head()), 43.219846 + 0.700454,
            ["backbone=resnet101c_deeplabv2", "backbone/head=deeplabv2_two_branch"],
        ),
    ],
)  # fmt: skip
def test_models_of_daformers_family_are_recognised_and_fit(
    tmp_path: Path, backbone: Shapes, head: Shapes, millions: float, choices: list[str]
) -> None:
    """In full size, without values: as DAFormer, MIC and DATUM save it, with its copies."""
    shapes = segmenter(backbone, head)
    parts = [prefixed(f"{part}.", shapes) for part in ("model", "ema_model", "imnet_model")]
    tensors = {k: torch.empty(v, device="meta") for part in parts for k, v in part.items()}
    path = saved(tmp_path / "iter_40000.pth", tensors)
    found = published.identify(Path(path))
    of_hrda = ["+method/adapter=two_resolutions", "data.resolution=full"]
    more = of_hrda if any("scale_attention" in key for key in head) else []
    task = ["data=gta5_to_cityscapes", "method=source_only", *more]
    assert found.overrides() == [*choices, *task]
    with torch.device("meta"):
        restored = restore(path)
    assert restored.labels.classes == CITYSCAPES.classes
    assert count_parameters(restored.network.parameters())[0] == round(1e6 * millions)
    assert isinstance(restored.network, TwoResolutions) == bool(more)
    assert restored.config.data.eval_size == ([1024, 2048] if more else [512, 1024])
    without_head = {key: tensor for key, tensor in tensors.items() if "decode_head" not in key}
    with pytest.raises(ConfigError, match=r"head none of daformer"):
        restore(saved(tmp_path / "backbone.pth", without_head))


@pytest.mark.parametrize("name", mit.VARIANTS)
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_every_mit_is_recognised(name: str, prefix: str) -> None:
    head_dim, depths = mit.VARIANTS[name]
    widths = tuple(head_dim * factor for factor in (1, 2, 5, 8))
    shapes = segmenter(nvidia_mit(head_dim, depths), daformer_head(widths, num_classes=16))
    found = published.recognise(
        {prefix + key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    )
    assert found == published.Published(name, "daformer", 256, 16, False, 0)
    assert f"backbone={name}" in found.overrides() and "data.protocol=16-way" in found.overrides()


@pytest.mark.parametrize(
    ("name", "width", "depths"),
    [("swin_t", 96, (2, 2, 6, 2)), ("swin_s", 96, (2, 2, 18, 2)), ("swin_b", 128, (2, 2, 18, 2))],
)
def test_every_swin_is_recognised(name: str, width: int, depths: tuple[int, ...]) -> None:
    shapes = prefixed("backbone.", mmseg_swin(width, depths, (3, 6, 12, 24)))
    found = published.recognise({k: torch.empty(v, device="meta") for k, v in shapes.items()})
    assert (found.backbone, found.head, found.num_classes) == (name, None, None)


def test_segformers_own_head_is_recognised(tmp_path: Path, narrow: None) -> None:
    shapes = layer("linear_fuse.conv", 8, 32, 1, 1) | layer("linear_pred", 16, 8, 1, 1)
    del shapes["linear_fuse.conv.bias"]
    shapes |= batch_norm("linear_fuse.bn", 8)
    for i, width in enumerate(WIDTHS["mit_b0"]):
        shapes |= layer(f"linear_c{i + 1}.proj", 8, width)
    tensors = filled(segmenter(nvidia_mit(8, (1, 2, 1, 1)), shapes))
    tensors |= filled(prefixed("decode_head.", layer("conv_seg", 16, 8, 1, 1)))
    restored = restore(saved(tmp_path / "segformer.pth", tensors))
    assert restored.config.data.protocol == "16-way" and restored.labels.num_classes == 16
    assert type(restored.network.head).__name__ == "SegFormerHead"


# What it computes


def reference(tensors: dict[str, Tensor], inner: Any, image: Tensor, *, embeds: bool) -> Tensor:
    """Last map of a published prompted backbone, from the formulas and the file's own names.

    Args:
        tensors: of the file.
        inner: the backbone without prompts, whose stages are compared elsewhere.
        image: normalised.
        embeds: whether the level embedding is added, as the published code does for Swin.
    """
    t = {key.removeprefix("backbone."): tensor for key, tensor in tensors.items()}

    def convolution(x: Tensor, name: str, index: int, stride: int) -> Tensor:
        x = F.conv2d(x, t[f"spm.{name}.{index}.weight"], stride=stride, padding=1)
        kinds = ("running_mean", "running_var", "weight", "bias")
        norm = (t[f"spm.{name}.{index + 1}.{kind}"] for kind in kinds)
        return F.batch_norm(x, *norm).relu()

    x = convolution(image, "stem", 0, 2)
    x = convolution(convolution(x, "stem", 3, 1), "stem", 6, 1)
    c1 = F.max_pool2d(x, 3, stride=1, padding=1)
    c2 = convolution(c1, "conv2", 0, 2)
    prompt = [c1, c2, convolution(c2, "conv3", 0, 2)]
    prompt = [
        F.conv2d(x, t[f"spm.fc{i}.weight"], t[f"spm.fc{i}.bias"]) for i, x in enumerate(prompt, 1)
    ]
    if embeds:
        prompt = [x + e.view(1, -1, 1, 1) for x, e in zip(prompt, t["level_embed"], strict=True)]
    x = image
    for stage in range(4):
        tokens = inner.embed(stage, x)
        own = {
            key.removeprefix(f"interactions.{stage}."): tensor
            for key, tensor in t.items()
            if key.startswith(f"interactions.{stage}.")
        }
        refined = extract(own, prompt, tokens)
        tokens = inject(own, tokens, refined)
        # The maps that go on are those that came in, not the refined ones.
        prompt = [
            F.conv2d(c, own[f"up_layer{i}.weight"], stride=2, padding=1)
            for i, c in enumerate(prompt, 1)
            if stage < 3
        ]
        x = inner.run(stage, tokens)
    return inner.finish(3, x)


def normed(t: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], eps=1e-6)


def linear(t: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, t[f"{name}.weight"], t[f"{name}.bias"])


def attend(t: dict[str, Tensor], part: str, queries: Tensor, features: list[Tensor]) -> Tensor:
    """Answers to a (B, h, w, C) map of queries from (B, h, w, C) maps of features."""
    queries = normed(t, f"{part}.query_norm", queries)
    batch, height, width, _ = queries.shape
    offsets = linear(t, f"{part}.attn.sampling_offsets", queries)
    offsets = offsets.view(batch, height * width, -1, len(features), POINTS, 2)
    heads = offsets.shape[2]
    scores = linear(t, f"{part}.attn.attention_weights", queries)
    weights = scores.view(batch, height * width, heads, -1).softmax(-1)
    weights = weights.view(batch, height * width, heads, len(features), POINTS)
    rows, columns = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    centres = torch.stack([columns, rows], dim=-1).view(-1, 1, 1, 2)
    total: Tensor | float = 0.0
    for level, feature in enumerate(features):
        value = linear(t, f"{part}.attn.value_proj", normed(t, f"{part}.feat_norm", feature))
        value = value.permute(0, 3, 1, 2).unflatten(1, (heads, -1)).flatten(0, 1)
        cells = torch.tensor([feature.shape[2], feature.shape[1]])
        places = 2 * (centres + offsets[:, :, :, level] / cells) - 1  # (B, Q, heads, points, 2)
        grid = places.transpose(1, 2).flatten(0, 1)
        samples = F.grid_sample(value, grid, align_corners=False)  # (B * heads, c, Q, points)
        weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)
        total = total + (samples * weight[:, None]).sum(-1)
    assert isinstance(total, Tensor)
    answers = total.unflatten(0, (batch, heads)).flatten(1, 2).transpose(1, 2)
    return linear(t, f"{part}.attn.output_proj", answers).view(batch, height, width, -1)


def extract(t: dict[str, Tensor], prompt: list[Tensor], tokens: Tensor) -> list[Tensor]:
    refined = []
    for part in prompt:
        x = part.permute(0, 2, 3, 1)
        x = x + attend(t, "extractor", x, [tokens])
        hidden = linear(t, "extractor.ffn.fc1", normed(t, "extractor.ffn_norm", x))
        name = "extractor.ffn.dwconv.dwconv"
        hidden = F.conv2d(
            hidden.permute(0, 3, 1, 2), t[f"{name}.weight"], t[f"{name}.bias"], padding=1,
            groups=hidden.shape[3],
        )  # fmt: skip
        refined.append(x + linear(t, "extractor.ffn.fc2", F.gelu(hidden.permute(0, 2, 3, 1))))
    return refined


def inject(t: dict[str, Tensor], tokens: Tensor, refined: list[Tensor]) -> Tensor:
    return tokens + t["injector.gamma"] * attend(t, "injector", tokens, refined)


@pytest.mark.parametrize("name", ["swin_t", "mit_b0"])
def test_prompted_models_compute_what_the_published_names_say(
    tmp_path: Path, narrow: None, name: str
) -> None:
    tensors = small(name, "prompt")
    network = restore(saved(tmp_path / "prompt.pth", tensors)).network
    image = torch.randint(0, 256, (2, 3, 64, 128), dtype=torch.uint8)
    with torch.inference_mode():
        normalised = network.normalize(image)
        prompted, inner = network.backbone, network.backbone.backbone
        *_, last = prompted(normalised)
        expected = reference(tensors, inner, normalised, embeds=name == "swin_t")
        torch.testing.assert_close(last, expected, atol=1e-4, rtol=1e-4)
        # The comparison means something only if the prompts do.
        *_, without = inner(normalised)
        assert (last - without).abs().mean() > 0.05 * without.abs().mean()


def test_the_global_head_of_generalize_then_adapt_is_the_last(tmp_path: Path, narrow: None) -> None:
    tensors = small("mit_b0", "gta")
    network = restore(saved(tmp_path / "gta.pth", tensors)).network
    alone = {key: value for key, value in tensors.items() if key.startswith("backbone.")}
    for key, value in tensors.items():
        if key.startswith("decode_head_aug5."):
            alone[key.replace("_aug5", "")] = value
    plain = restore(saved(tmp_path / "plain.pth", alone)).network
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(network(image), plain(image), rtol=0, atol=0)
        *others, _ = network.forward_heads(image)
        assert not any(torch.allclose(head, plain(image)) for head in others)


# Through the commands


def test_a_published_file_is_evaluated_on_cityscapes(
    cli: Cli, narrow: None, tmp_path: Path
) -> None:
    path = saved(tmp_path / "released.pth", small("mit_b0", "prompt"))
    make.cityscapes(tmp_path / "cityscapes")
    done = cli("sfseg-eval", f"ckpt_path={path}", f"+data.root={tmp_path}", *SMALL)
    assert done.code == 0, done.output
    assert set(json.loads((done.run / "results.json").read_text())) == {"target"}
    assert "recognised as backbone=mit_b0 " in done.output
    assert "method=uniuvpt method.variant=release" in done.output
    without = cli("sfseg-eval", f"ckpt_path={path}", "+data.root=nowhere", "task_name=b")
    assert without.code == 3 and "point data.cityscapes_root at the data" in without.output


def test_a_published_file_is_evaluated_on_other_data(
    cli: Cli, narrow: None, tmp_path: Path
) -> None:
    path = saved(tmp_path / "released.pth", small("mit_b0", "gta"))
    toys = [
        "data=toyscapes", "data.size=[64,128]", "data.scenes.target_eval.length=2",
        "trainer.precision=32-true",
    ]  # fmt: skip
    done = cli("sfseg-eval", f"ckpt_path={path}", *toys, "data.num_workers=0")
    assert done.code == 0, done.output
    assert set(json.loads((done.run / "results.json").read_text())) == {"target"}
    other = saved(tmp_path / "synthia.pth", small("mit_b0", num_classes=16))
    refused = cli("sfseg-eval", f"ckpt_path={other}", *toys, "task_name=b")
    assert refused.code == 2 and "the checkpoint knows the 16 classes of synthia" in refused.output


def test_a_published_file_predicts(cli: Cli, narrow: None, tmp_path: Path, photo: Path) -> None:
    path = saved(tmp_path / "released.pth", small("swin_t", "prompt"))
    done = cli(
        "sfseg-predict", f"ckpt_path={path}", f"images={photo}", "output=out", "device=cpu",
        "input_size=[64,96]",
    )  # fmt: skip
    assert done.code == 0, done.output
    written = cv2.imread(str(tmp_path / "out" / "labels" / "one.png"), cv2.IMREAD_UNCHANGED)
    image = cv2.imread(str(photo / "one.png"))[..., ::-1].copy()
    with torch.inference_mode():
        logits = restore(path).network(torch.from_numpy(image).permute(2, 0, 1)[None])
    assert np.array_equal(written, logits.argmax(1)[0].numpy())


@pytest.mark.parametrize("kind", ["plain", "gta"])
def test_a_published_file_is_a_source_model(tmp_path: Path, narrow: None, kind: str) -> None:
    tensors = small("mit_b0", kind)
    path = Path(saved(tmp_path / "source.pth", tensors))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = ["method=uniuvpt", "backbone=mit_b0", "backbone.head.channels=8"]
        cfg = compose("train", overrides=overrides)
    network = network_of(cfg, CITYSCAPES, path)
    last = "decode_head_aug5" if kind == "gta" else "decode_head"
    torch.testing.assert_close(network.head.classifier.bias, tensors[f"{last}.conv_seg.bias"])


def test_safetensors_are_read_too(tmp_path: Path, narrow: None) -> None:
    tensors = small("mit_b0")
    save_file(tensors, tmp_path / "plain.safetensors")
    one = restore(tmp_path / "plain.safetensors").network
    other = restore(saved(tmp_path / "plain.pth", tensors)).network
    torch.testing.assert_close(dict(one.state_dict()), dict(other.state_dict()))


def test_the_format_before_zip_is_read_too(tmp_path: Path, narrow: None) -> None:
    path = tmp_path / "old.pth"
    torch.save(small("mit_b0"), path, _use_new_zipfile_serialization=False)
    assert restore(path).labels.num_classes == 19


# What is not understood


def below_backbone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key.startswith("backbone.")}


def other_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    convolutions = {f"decode_head.convs.{i}.conv.weight": torch.ones(1) for i in range(4)}
    return below_backbone(tensors) | convolutions


def other_depth(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if not key.startswith("backbone.block4")}


def backbone_alone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    inside = below_backbone(tensors)
    return {key.removeprefix("backbone."): value for key, value in inside.items()}


def norms_missing(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if "norm4" not in key}


def nothing(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            other_head,
            r"understood: backbone mit_b0, head none of daformer, .*, classes none of "
            r"19, 16; it has \d+ tensors, among them decode_head\.convs\.#\.conv\.weight \(4\);",
        ),
        (other_depth, "backbone none of swin_t, .*, mit_b5, .*, head daformer, classes 19;"),
        (nothing, "it has 0 tensors, among them none; give a run's"),
        (backbone_alone, r"among them patch_embed#\..*or a backbone's weights with backbone\.w"),
        (norms_missing, r"2 keys missing: backbone\.norm4\.weight, backbone\.norm4\.bias"),
    ],
)
def test_what_is_not_understood_is_said(
    tmp_path: Path,
    narrow: None,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    message: str,
) -> None:
    path = saved(tmp_path / "other.pth", change(small("mit_b0")))
    with pytest.raises(ConfigError, match=message) as raised:
        restore(path)
    assert "other.pth" in str(raised.value)


def test_other_numbers_of_classes_are_refused(tmp_path: Path, narrow: None) -> None:
    path = saved(tmp_path / "other.pth", small("mit_b0", num_classes=7))
    with pytest.raises(ConfigError, match="head daformer, classes none of 19, 16"):
        restore(path)


def test_objects_beside_the_tensors_end_with_the_way_out(tmp_path: Path, narrow: None) -> None:
    path = saved(tmp_path / "best.pth", small("mit_b0"), best_score=np.float64(0.5))
    with pytest.raises(ConfigError, match=r"nothing was executed; .*weights_only=False"):
        restore(path)


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors", "none.ckpt", "none.safetensors"])
def test_damaged_and_missing_files(tmp_path: Path, narrow: None, name: str) -> None:
    if name.startswith("cut"):
        content = Path(saved(tmp_path / "whole.pth", small("mit_b0"))).read_bytes()
        (tmp_path / name).write_bytes(content[:5000])
    with pytest.raises(ConfigError, match=name.replace(".", r"\.") + ".*(damaged|does not exist)"):
        restore(tmp_path / name)
