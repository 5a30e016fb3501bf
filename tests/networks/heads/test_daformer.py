import pytest
import torch
from torch import nn

from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.layers import DilatedConv2d

SWIN_B = (128, 256, 512, 1024)
MIT_B5 = (64, 128, 320, 512)


@pytest.mark.parametrize(("widths", "count"), [(SWIN_B, 3_941_651), (MIT_B5, 3_712_275)])
def test_parameters_are_those_of_uni_uvpts_table(widths: tuple[int, ...], count: int) -> None:
    with torch.device("meta"):
        head = DAFormerHead(widths, 19)
    assert sum(parameter.numel() for parameter in head.parameters()) == count


def test_logits_have_the_size_of_the_finest_map() -> None:
    head = DAFormerHead((8, 16), 5, channels=12, dilations=(1, 3))
    logits = head([torch.rand(2, 8, 9, 13), torch.rand(2, 16, 5, 7)])
    assert logits.shape == (2, 5, 9, 13)
    assert head.num_classes == 5


@pytest.mark.parametrize("dilation", [1, 2, 6, 18])
@pytest.mark.parametrize("groups", [1, 8])
def test_faster_convolution_equals_the_dilated_one(dilation: int, groups: int) -> None:
    torch.manual_seed(0)
    ours = DilatedConv2d(
        8, 8, 3, padding=dilation, dilation=dilation, groups=groups, bias=False
    ).double()
    image = torch.rand(2, 8, 13, 29, dtype=torch.float64)
    results = []
    for conv in (ours.forward, lambda x: nn.Conv2d.forward(ours, x)):
        inputs = image.clone().requires_grad_()
        output = conv(inputs)
        results.append([output, *torch.autograd.grad(output.square().sum(), [inputs, ours.weight])])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("argument", "values"),
    [("in_channels", ()), ("in_channels", (8, 0)), ("dilations", ()), ("dilations", (0, 6))],
)
def test_impossible_shapes_are_refused(argument: str, values: tuple[int, ...]) -> None:
    arguments = {"in_channels": (8,), "num_classes": 5, "dilations": (1,)} | {argument: values}
    with pytest.raises(ValueError, match=f"{argument} must be positive integers"):
        DAFormerHead(**arguments)


def test_dropout_is_of_whole_channels() -> None:
    assert isinstance(DAFormerHead((8,), 5, dropout=0.1).dropout, nn.Dropout2d)
