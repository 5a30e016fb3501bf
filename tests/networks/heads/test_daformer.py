import pytest
import torch
from torch import nn

from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.heads.multi_head import drawn_anew
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


def test_weights_start_as_in_the_published_code() -> None:
    """Standard deviations for 64 channels, and again where a head is drawn anew."""
    torch.manual_seed(0)
    for head in (
        made := DAFormerHead((8, 8, 8, 8), 19, channels=64, init="fan_out"),
        drawn_anew(made),
    ):
        for conv, expected in (
            (head.branches[0][0], 0.1768),
            *((branch[0][0], 0.0295) for branch in head.branches[1:]),
            *((branch[1][0], 0.1768) for branch in head.branches[1:]),
            (head.bottleneck[0], 0.0589),
            (head.classifier, 0.01),
        ):
            assert float(conv.weight.detach().std()) == pytest.approx(expected, rel=0.1)
        assert not head.classifier.bias.any()


def test_weights_start_by_default_as_pytorchs() -> None:
    torch.manual_seed(0)
    head = DAFormerHead((8, 8), 5, channels=8)
    torch.manual_seed(0)
    layer = nn.Linear(8, 8)
    assert torch.equal(head.embeddings[0].weight, layer.weight)
    state = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    head.reset_parameters()
    assert all(torch.equal(tensor, state[name]) for name, tensor in head.state_dict().items())
    # A uniform distribution of variance 1 over three times the inputs.
    assert float(head.bottleneck[0].weight.detach().abs().max()) <= (8 * 4 * 9) ** -0.5
    with pytest.raises(ValueError, match="init must be one of default, fan_out, got 'kaiming'"):
        DAFormerHead((8,), 5, init="kaiming")  # type: ignore[arg-type]


def test_dropout_is_of_whole_channels() -> None:
    assert isinstance(DAFormerHead((8,), 5, dropout=0.1).dropout, nn.Dropout2d)
