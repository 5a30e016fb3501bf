"""Which parts of a source model train."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from sfseg.errors import ConfigError
from sfseg.networks.adapters.choices import norms_only, train_only
from sfseg.networks.backbones.tiny import TinyTransformer
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.heads.deeplab import DeepLabV2Head
from sfseg.networks.segmenter import Segmenter
from sfseg.optim import norm_parameters

AUX = "aux_head."


class Convolutions(nn.Module):
    """Two maps of strides 1; ``norm`` makes what follows each convolution."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.stride_multiple = 1
        self.stages = nn.ModuleList(
            nn.Sequential(OrderedDict(conv=nn.Conv2d(width, 4, 3, padding=1), norm=norm(4)))
            for width in (3, 4)
        )

    def forward(self, image):
        maps = []
        for stage in self.stages:
            maps.append(stage(maps[-1] if maps else image))
        return maps


def transformer():
    backbone = TinyTransformer(channels=(32, 32), depths=(1, 1), reductions=(2, 1))
    return Segmenter(backbone, DAFormerHead(backbone.channels, 3, channels=8))


def two_heads(norm=nn.BatchNorm2d, **options):
    heads = [DeepLabV2Head([4], 3) for _ in range(2)]
    return Segmenter(Convolutions(norm), heads[0], aux_head=heads[1], **options)


def trained(network):
    return {name for name, p in network.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("make", [transformer, two_heads])
def test_norms_are_those_that_weight_decay_spares(make):
    network = make()
    modes = [module.training for module in network.modules()]
    assert norms_only(network) is network
    assert trained(network) == set(norm_parameters(network)) != set()
    assert [module.training for module in network.modules()] == modes


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d, nn.InstanceNorm2d, lambda width: nn.GroupNorm(2, width)]
)
def test_every_kind_of_normalisation_counts(norm):
    if norm is nn.InstanceNorm2d:
        norm = lambda width: nn.InstanceNorm2d(width, affine=True)  # noqa: E731
    network = norms_only(two_heads(norm))
    expected = {f"backbone.stages.{k}.norm.{part}" for k in range(2) for part in ("weight", "bias")}
    assert trained(network) == expected


def test_norms_train_where_the_backbone_had_frozen_them():
    network = two_heads(batch_norm="frozen_affine")
    assert not any(".norm." in name for name in trained(network))
    assert len(trained(norms_only(network))) == 4


@pytest.mark.parametrize("norm", [nn.Identity, lambda width: nn.BatchNorm2d(width, affine=False)])
def test_a_network_without_weights_of_norms_is_refused(norm):
    with pytest.raises(ConfigError, match="none in Convolutions and DeepLabV2Head; choose another"):
        norms_only(two_heads(norm))


@pytest.mark.parametrize("levels", [False, True])
@pytest.mark.parametrize("part", ["all", "backbone", "norms"])
def test_parts(part, levels):
    network = two_heads()
    everything = trained(network)
    norms = set(norm_parameters(network))
    assert train_only(network, part, levels=levels) is network
    expected = {
        "all": everything if levels else {n for n in everything if not n.startswith(AUX)},
        "backbone": {n for n in everything if n.startswith("backbone.")},
        "norms": norms,
    }
    assert trained(network) == expected[part]


def test_statistics_of_a_frozen_head_stay():
    network = train_only(transformer(), "backbone").train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(torch.rand(2, 3, 16, 16))
    assert before and all(torch.equal(before[n], value) for n, value in network.named_buffers())


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="trainable must be one of all, backbone, norms, got 'he'"):
        train_only(two_heads(), "he")
