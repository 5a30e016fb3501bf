import pytest
import torch
import torch.nn.functional as F

from sfseg.ops import depthwise
from sfseg.ops.depthwise import dilated_depthwise


@pytest.mark.parametrize("size", [(9, 13), (4, 30), (1, 1), (16, 3), (12, 12)])
@pytest.mark.parametrize("dilation", [1, 2, 6])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_it_equals_the_library_in_value_and_gradient(
    size: tuple[int, int],
    dilation: int,
    order: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(depthwise, "_CHANNELS", 2)  # several pieces, the last one short
    torch.manual_seed(0)
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    x = x.contiguous(memory_format=order).requires_grad_()
    weight = torch.randn(5, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(2, 5, *size, dtype=torch.float64)
    theirs = F.conv2d(x, weight, padding=dilation, dilation=dilation, groups=5)
    ours = dilated_depthwise(x, weight, dilation)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (x, weight), gradient),
        torch.autograd.grad(theirs, (x, weight), gradient),
    )


def test_one_channel_of_many_images() -> None:
    x, weight = (torch.rand(shape, dtype=torch.float64) for shape in ((130, 1, 4, 4), (1, 1, 3, 3)))
    theirs = F.conv2d(x, weight, padding=2, dilation=2)
    torch.testing.assert_close(dilated_depthwise(x, weight, 2), theirs)
