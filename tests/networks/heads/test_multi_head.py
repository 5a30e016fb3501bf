import logging
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfseg.networks.backbones.mit import MixTransformer
from sfseg.networks.backbones.tiny import TinyTransformer
from sfseg.networks.build import build_segmenter
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.heads.deeplab import DeepLabV2Head
from sfseg.networks.heads.fcn import FCN8sHead
from sfseg.networks.heads.multi_head import LeaveOneOutSegmenter, with_leave_one_out
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.weights import key_maps
from sfseg.networks.weights.checkpoint import load_segmenter

HEAD = partial(DAFormerHead, channels=8, dilations=(1, 2, 3))
COUNTS = {
    "swin_base_patch4_window7_224": (110_394_922, 23_649_906),
    "mit_b5": (103_716_658, 22_273_650),
}


def tiny(**options: object) -> Segmenter:
    backbone = TinyTransformer(channels=(32, 32, 64, 64), depths=(1, 1, 1, 1))
    return Segmenter(backbone, HEAD(backbone.channels, 5), **options)


def mit() -> Segmenter:
    backbone = MixTransformer(head_dim=8, depths=(1, 1, 1, 1))
    return Segmenter(backbone, HEAD(backbone.channels, 5))


def image(height: int = 64, width: int = 96) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_those_of_the_paper(name: str) -> None:
    with torch.device("meta"):
        plain = build_segmenter(name=name, head=DAFormerHead, num_classes=19)
        network = with_leave_one_out(plain)
        network.freeze("backbone")
    total = sum(p.numel() for p in network.parameters())
    heads = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert (total, heads) == COUNTS[name]


def test_names_of_the_parts_stay_and_new_ones_are_numbered() -> None:
    plain = tiny()
    before = set(plain.state_dict())
    network = with_leave_one_out(plain, heads=3)
    added = set(network.state_dict()) - before
    head = {key.removeprefix("head.") for key in before if key.startswith("head.")}
    assert before <= set(network.state_dict())
    assert added == {f"leave_one_out.{i}.{key}" for i in range(3) for key in head}
    assert network.num_heads == 4 and network.num_classes == 5


def test_without_arguments_it_is_the_segmenter_that_it_was() -> None:
    plain = tiny(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), align_corners=True).eval()
    expected = plain(image(50, 70))
    network = with_leave_one_out(plain)
    assert not network.training and not network.leave_one_out.training
    assert torch.equal(network(image(50, 70)), expected)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 70)])
def test_all_heads_see_the_same_maps(height: int, width: int) -> None:
    network = with_leave_one_out(tiny()).eval()
    logits = network.forward_heads(image(height, width))
    assert len(logits) == 6 and all(x.shape == (2, 5, height, width) for x in logits)
    assert torch.equal(logits[-1], network(image(height, width)))
    for i, head in enumerate(network.leave_one_out):
        alone = Segmenter(network.backbone, head).eval()
        assert torch.equal(logits[i], alone(image(height, width)))
    chosen = network.forward_heads(image(height, width), heads=[5, 2])
    assert torch.equal(chosen[0], logits[5]) and torch.equal(chosen[1], logits[2])


def test_all_heads_pass_through_the_call() -> None:
    network = with_leave_one_out(tiny())
    calls: list[object] = []
    network.register_forward_hook(lambda *_: calls.append(None))
    passes: list[object] = []
    network.backbone.register_forward_hook(lambda *_: passes.append(None))
    network.forward_heads(image())
    assert len(calls) == len(passes) == 1


def test_every_head_starts_from_weights_of_its_own() -> None:
    torch.manual_seed(0)
    plain = tiny()
    with torch.no_grad():
        for parameter in plain.head.parameters():
            parameter.fill_(7.0)  # as if it were trained
        plain.head.bottleneck[1].running_mean.fill_(7.0)
    network = with_leave_one_out(plain)
    assert (plain.head.classifier.weight == 7).all()
    fresh = HEAD(plain.backbone.channels, 5)
    for name, start in fresh.state_dict().items():
        drawn = [head.state_dict()[name] for head in network.leave_one_out]
        assert all(x.shape == start.shape for x in drawn)
        if start.is_floating_point() and start.numel() > 1 and start.std() > 0:
            values = torch.stack([x.flatten() for x in drawn])
            assert all(not torch.equal(a, b) for a, b in zip(values[1:], values, strict=False))
            if start.numel() > 100:
                assert values.std().item() == pytest.approx(start.std().item(), rel=0.15)
        else:
            assert all(torch.equal(x, start) for x in drawn), name


def test_a_head_may_correct_its_layers_start() -> None:
    class Own(DeepLabV2Head):
        def reset_parameters(self) -> None:
            for classifier in self.classifiers:
                nn.init.constant_(classifier.weight, 0.25)

    backbone = TinyTransformer(channels=(32, 32, 32, 32), depths=(1, 1, 1, 1))
    network = with_leave_one_out(Segmenter(backbone, Own(backbone.channels, 5)), heads=1)
    assert (network.leave_one_out[0].classifiers[0].weight == 0.25).all()


def test_only_chosen_heads_learn_and_the_backbone_can_be_frozen() -> None:
    network = with_leave_one_out(tiny())
    assert network.freeze("backbone") is network and not network.train().backbone.training
    label = torch.zeros(2, 64, 96, dtype=torch.long)
    logits = network.forward_heads(image(), heads=[1, 5])
    sum(F.cross_entropy(x, label) for x in logits).backward()
    assert all(p.grad is None for p in network.backbone.parameters())
    for i, head in enumerate([*network.leave_one_out, network.head]):
        assert all((p.grad is not None) == (i in (1, 5)) for p in head.parameters())
    moved = [head.bottleneck[1].running_mean.any() for head in network.leave_one_out]
    assert moved == [False, True, False, False, False]


def test_freezing_before_holds_after() -> None:
    network = with_leave_one_out(tiny().freeze("backbone"))
    assert not network.train().backbone.training and network.leave_one_out.training
    assert not any(p.requires_grad for p in network.backbone.parameters())


def test_a_compiled_network_stays_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiling itself takes a minute: what is asked for is enough.
    asked: list[object] = []

    def compiled(call: object, **options: object) -> object:
        asked.append(options)
        return call

    monkeypatch.setattr(torch, "compile", compiled)
    plain = tiny()
    plain.compile(dynamic=False)
    network = with_leave_one_out(plain)
    assert len(asked) == 2 and asked[0] == asked[1]
    assert len(network.forward_heads(image())) == 6
    with_leave_one_out(tiny())
    assert len(asked) == 2


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="heads must be at least 1, beside the global one, got 0"):
        with_leave_one_out(tiny(), heads=0)
    backbone = TinyTransformer(channels=(32, 32, 32, 32), depths=(1, 1, 1, 1))
    with torch.device("meta"):
        head = FCN8sHead((64, 128, 256, 512, 512, 512), 5)
    with pytest.raises(ValueError, match=r"head must be one that starts .* got FCN8sHead; choose"):
        with_leave_one_out(Segmenter(backbone, head))


# Files of Uni-UVPT's source models


def released_head(head: nn.Module) -> dict[str, Tensor]:
    """A DAFormer head under mmseg's names."""
    names: dict[str, Tensor] = {}
    for key, tensor in head.state_dict().items():
        part, *middle, kind = key.split(".")
        if part == "classifier":
            name = "conv_seg"
        elif part == "embeddings":
            name = f"embed_layers.{middle[0]}.proj"
        else:
            inside = "bottleneck" if part == "bottleneck" else f"aspp_modules.{middle.pop(0)}"
            last = ("conv", "bn")[int(middle.pop())]
            separable = [("depthwise_conv", "pointwise_conv")[int(i)] for i in middle]
            name = ".".join(["fuse_layer", inside, *separable, last])
        names[f"{name}.{kind}"] = tensor
    return names


def released(network: LeaveOneOutSegmenter) -> dict[str, Tensor]:
    """The segmenter as Uni-UVPT's code saves it: MiT has the names that ours has."""
    names = {k: v for k, v in network.state_dict().items() if k.startswith("backbone.")}
    heads = [network.head, *network.leave_one_out, network.head]
    titles = ["decode_head", *(f"decode_head_aug{i}" for i in range(len(heads) - 1))]
    for title, head in zip(titles, heads, strict=True):
        names |= {f"{title}.{key}": tensor for key, tensor in released_head(head).items()}
    return names


def saved(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    torch.save({"meta": {"iter": 40000}, "state_dict": dict(tensors)}, path)
    return path


@pytest.fixture
def trained() -> LeaveOneOutSegmenter:
    torch.manual_seed(0)
    network = with_leave_one_out(mit())
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return network


@pytest.fixture
def loaded(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, logger="sfseg.networks.weights.checkpoint"):
        yield caplog


def test_names_of_the_released_format(trained: LeaveOneOutSegmenter) -> None:
    """Written down from the files; guards the two helpers above."""
    names = set(released(trained))
    for title in ("decode_head", "decode_head_aug0", "decode_head_aug5"):
        assert {
            f"{title}.conv_seg.weight",
            f"{title}.embed_layers.3.proj.bias",
            f"{title}.fuse_layer.aspp_modules.0.conv.weight",
            f"{title}.fuse_layer.aspp_modules.0.bn.running_var",
            f"{title}.fuse_layer.aspp_modules.1.depthwise_conv.conv.weight",
            f"{title}.fuse_layer.aspp_modules.2.depthwise_conv.bn.running_mean",
            f"{title}.fuse_layer.aspp_modules.2.pointwise_conv.bn.num_batches_tracked",
            f"{title}.fuse_layer.bottleneck.conv.weight",
            f"{title}.fuse_layer.bottleneck.bn.bias",
        } <= names
    assert not any(name.startswith("decode_head_aug6") for name in names)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_published_source_models_fill_all_heads(
    tmp_path: Path, trained: LeaveOneOutSegmenter, loaded: pytest.LogCaptureFixture, prefix: str
) -> None:
    theirs = released(trained)
    path = saved(tmp_path / "gta.pth", {prefix + key: value for key, value in theirs.items()})
    network = with_leave_one_out(mit())
    load_segmenter(network, path)
    torch.testing.assert_close(dict(network.state_dict()), dict(trained.state_dict()))
    assert loaded.messages == [
        f"{path}: {len(trained.state_dict())} tensors loaded; left aside: "
        f"{len(trained.head.state_dict())} weights of heads that the model has not"
    ]


def test_a_plain_segmenter_takes_the_global_head(
    tmp_path: Path, trained: LeaveOneOutSegmenter, loaded: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path / "gta.pth", released(trained))
    network = mit()
    load_segmenter(network, path)
    torch.testing.assert_close(network.eval()(image()), trained.eval()(image()))
    count = len(network.head.state_dict())
    assert f"left aside: {6 * count} weights of heads that the model has not" in loaded.text


def test_the_last_head_counts_not_the_one_it_replaced(
    tmp_path: Path, trained: LeaveOneOutSegmenter
) -> None:
    theirs = released(trained)
    for key in [key for key in theirs if key.startswith("decode_head.")]:
        theirs[key] = torch.full_like(theirs[key], -1)
    network = with_leave_one_out(mit())
    load_segmenter(network, saved(tmp_path / "gta.pth", theirs))
    torch.testing.assert_close(dict(network.state_dict()), dict(trained.state_dict()))
    for key in [key for key in theirs if key.startswith("decode_head.")]:
        del theirs[key]
    load_segmenter(network, saved(tmp_path / "gta.pth", theirs))


def test_a_run_of_this_library_is_read_by_a_plain_segmenter(
    tmp_path: Path, trained: LeaveOneOutSegmenter, loaded: pytest.LogCaptureFixture
) -> None:
    own = {f"network.{key}": value for key, value in trained.state_dict().items()}
    network = mit()
    load_segmenter(network, saved(tmp_path / "last.ckpt", own))
    torch.testing.assert_close(network.eval()(image()), trained.eval()(image()))
    count = 5 * len(network.head.state_dict())
    assert f"left aside: {count} weights of heads that the model has not" in loaded.text


def test_numbers_may_have_two_digits() -> None:
    names = [f"decode_head_aug{i}.conv_seg.bias" for i in range(12)]
    tensors = {name: torch.tensor(float(i)) for i, name in enumerate(names)}
    ours = key_maps.segmenter_names(tensors)
    expected = {f"leave_one_out.{i}.classifier.bias": float(i) for i in range(11)}
    found = {name: value.item() for name, value in ours.items()}
    assert found == expected | {"head.classifier.bias": 11.0}
