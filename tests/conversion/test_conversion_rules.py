"""Names in both directions, classes, preprocessing, and when two networks count as equal."""

import logging
from functools import partial
from typing import Any

import pytest
import torch
from foreign_networks import narrow, stirred
from torch import Tensor, nn

from sfseg.conversion import equality
from sfseg.conversion.architecture import Architecture, head_outputs
from sfseg.conversion.labels import label_space, of_ids
from sfseg.conversion.naming import counted, names_of, to_ours, to_theirs
from sfseg.conversion.preprocessing import Preprocessing, read
from sfseg.errors import ConfigError
from sfseg.labels import CITYSCAPES
from sfseg.networks.build import build_segmenter
from sfseg.networks.heads.segformer import SegFormerHead
from sfseg.networks.segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter

RULES = (
    (r"^block(\d)\.", counted("layer_#_", -1)),
    (r"kv\.", "{key,value}."),
    (r"\.(first|second)$", ".both"),
)


def test_names_in_both_directions() -> None:
    assert names_of("block1.kv.weight", RULES) == ("layer_0_key.weight", "layer_0_value.weight")
    ours = {
        "block2.kv.weight": torch.arange(8).reshape(4, 2),
        "block1.norm": torch.tensor(3.0),
    }
    theirs = to_theirs(ours, RULES)
    assert theirs["layer_1_key.weight"].tolist() == [[0, 1], [2, 3]]
    assert theirs["layer_1_value.weight"].tolist() == [[4, 5], [6, 7]]
    back = to_ours(theirs, list(ours), RULES, without_use=r"^$", source="x")
    assert list(back) == list(ours)
    assert all(torch.equal(back[key], ours[key]) for key in ours)
    joined = to_theirs({"a.first": torch.zeros(2), "a.second": torch.ones(1)}, RULES)
    assert joined["a.both"].tolist() == [0, 0, 1]


def test_tensors_that_have_no_place_are_named() -> None:
    theirs = {"layer_0_norm": torch.zeros(1), "extra.0.bias": torch.zeros(1)}
    with pytest.raises(ConfigError, match=r"source=x has 1 tensors .* has not: extra\.0\.bias"):
        to_ours(theirs, ["block1.norm"], RULES, without_use=r"^$", source="x")
    kept = to_ours(theirs, ["block1.norm", "block1.b"], RULES, without_use="^extra", source="x")
    assert list(kept) == ["block1.norm"]


def test_classes_become_a_label_space() -> None:
    names = dict(enumerate(CITYSCAPES.classes))
    assert of_ids(names, None, source="x") is CITYSCAPES
    others = [[k, 0, 0] for k in range(19)]
    assert of_ids(names, others, source="x").palette[2] == (2, 0, 0)
    with pytest.raises(ConfigError, match=r"the ids \[1, 2\], which do not count from 0"):
        of_ids({1: "a", 2: "b"}, None, source="x")
    for names_, palette in ((["a", "a"], None), (["a", "b"], [[0, 0, 0]]), (["a", "b"], [1, 2])):
        with pytest.raises(ConfigError, match=r"unusable classes.*classes=<a built-in"):
            label_space(names_, palette, source="x")


def test_preprocessing_is_brought_to_pixels_between_0_and_1(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Checked by what a pixel becomes."""
    pixel = torch.tensor([17.0, 100.0, 200.0])
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    own = read({"do_rescale": False, "image_mean": mean, "image_std": std}, source="x")
    expected = (pixel - torch.tensor(mean)) / torch.tensor(std)
    found = (pixel / 255 - torch.tensor(own.mean)) / torch.tensor(own.std)
    torch.testing.assert_close(found, expected)
    plain = read({"do_normalize": False, "do_resize": False, "size": 3}, source="x")
    assert plain == Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), None)
    for size, wanted in (
        (512, (512, 512)),
        ({"height": 3, "width": 4}, (3, 4)),
        ({"shortest_edge": 5, "longest_edge": 9}, 5),
    ):
        assert read({"size": size}, source="x").size == wanted
    assert "backbone.network.mean=[0.485,0.456,0.406]" in read(None, source="x").settings()
    assert "mean and standard deviation of ImageNet are taken" in caplog.text
    read({"do_reduce_labels": True, "ignore_index": 0}, source="x")
    assert "class 0 has id 1" in caplog.text and "ignores id 0" in caplog.text
    with pytest.raises(ConfigError, match="which no network here does"):
        read({"image_mean": [2, 2, 2]}, source="x")
    with pytest.raises(ConfigError, match=r"unusable preprocessor_config\.json"):
        read({"image_std": "none"}, source="x")
    assert read({"size": [1, 2, 3]}, source="x").size is None


def test_preprocessing_there_and_back() -> None:
    for size in ((64, 96), 128, None):
        own = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, size)
        assert read(own.theirs(), source="x") == own


class Other(nn.Module):
    """The network again, or what a change makes of it, in the place of one of transformers."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return head_outputs(self.network, pixels)


def architecture(eps: float = 1e-5) -> Architecture:
    def unused(_: Any) -> Any:
        raise AssertionError

    return Architecture(
        name="Other", processor="", fits=unused, settings=unused, configuration=unused, rules=(),
        without_use=r"^$", norm_eps=lambda network: eps, outputs=head_outputs,
        their_outputs=lambda model, pixels: model(pixels),
    )  # fmt: skip


def segformer(norm_eps: float | None = None) -> Segmenter:
    head = partial(SegFormerHead, channels=8)
    built = build_segmenter(name="mit_b0", head=head, num_classes=3, norm_eps=norm_eps)
    stirred(built)
    return built


def test_networks_that_differ_are_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    narrow(monkeypatch)
    caplog.set_level(logging.INFO)
    same, other = segformer(1e-5), segformer(1e-5)
    other.load_state_dict(same.state_dict())
    equality.require_equal(architecture(), same, Other(other))
    assert "the outputs differ by 0.0e+00" in caplog.text
    with torch.no_grad():  # one number of the deepest stage
        other.backbone.get_submodule("block4.0.attn.proj").bias[3] += 0.3
    with pytest.raises(ConfigError, match=r"differs by .* of the spread.*nothing was written"):
        equality.require_equal(architecture(), same, Other(other))
    for parameter in other.head.classifier.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(ConfigError, match="the same of every place of an image"):
        equality.require_equal(architecture(), same, Other(other))


def test_the_eps_of_norms_is_told_apart_from_weights(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    narrow(monkeypatch)
    own, other = segformer(1e-4), segformer(1e-2)
    other.load_state_dict(own.state_dict())
    monkeypatch.setattr(equality, "EPS_TOLERANCE", 10.0)
    equality.require_equal(architecture(1e-2), own, Other(other))
    assert "LayerNorms have the eps 0.01 in transformers and another one here" in caplog.text
    monkeypatch.setattr(equality, "EPS_TOLERANCE", 1e-4)
    with pytest.raises(ConfigError, match=r"the weights agree, but .*norm_eps=0\.01"):
        equality.require_equal(architecture(1e-2), own, Other(other))
    assert own.backbone.get_submodule("norm1").eps == 1e-4  # it stays as it is
    with pytest.raises(ValueError, match=r"norm_eps must be positive, got 0"):
        segformer(0.0)
