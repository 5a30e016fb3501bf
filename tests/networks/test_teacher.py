"""A moving average of a network: what it takes over, how fast, and in which precision."""

import pytest
import torch
from torch import nn

from sfseg.networks.teacher import Frozen, Teacher


def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def moved(network: nn.Module) -> nn.Module:
    """After a step and an image: other weights, other running statistics."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
        network.train()(torch.randn(2, 3, 4, 4))
    return network


@pytest.mark.parametrize("momentum", [0.75, 0.0, 1.0])
def test_weights_follow_and_buffers_are_copied(momentum: float) -> None:
    network = student()
    teacher = Teacher(network)
    before = [p.clone() for p in teacher.parameters()]
    moved(network)
    assert network[1].running_mean.any() and not teacher.network[1].running_mean.any()
    teacher.follow(network, momentum)
    rows = zip(teacher.parameters(), before, network.parameters(), strict=True)
    for mine, old, theirs in rows:
        torch.testing.assert_close(mine, momentum * old + (1 - momentum) * theirs)
    buffers = dict(network.named_buffers())
    assert set(buffers) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    for name, mine in teacher.network.named_buffers():
        assert torch.equal(mine, buffers[name]), name


def test_a_copy_shares_nothing_and_stays_in_eval_mode() -> None:
    network = student()
    frozen = Frozen(network).train()
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    frozen(torch.randn(2, 3, 4, 4))
    moved(network)
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    assert not any(p.requires_grad for p in frozen.parameters())


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(2, 3)


def test_a_teacher_moves_where_its_student_has_half_precision() -> None:
    both = nn.ModuleDict({"student": linear(), "teacher": Teacher(linear())}).to(torch.bfloat16)
    student_, teacher = both["student"], both["teacher"]
    assert isinstance(teacher, Teacher)
    start = linear().weight.detach()
    torch.testing.assert_close(teacher.network.weight, start, rtol=0, atol=0)
    with torch.no_grad():
        student_.weight.fill_(1.0)
    for _ in range(3):
        teacher.follow(student_, 0.999)
    expected = 1 - (1 - start.double()) * 0.999**3
    torch.testing.assert_close(teacher.network.weight.double(), expected, rtol=1e-6, atol=1e-6)


def test_a_teacher_takes_images_and_maps_of_half_precision() -> None:
    teacher = Teacher(linear()).to(torch.bfloat16)
    x = torch.rand(4, 2).bfloat16()
    torch.testing.assert_close(teacher(x), teacher.network(x.float()))
    assert [part.dtype for part in teacher.fitting([x, x])] == [torch.float32] * 2
    assert teacher.fitting(torch.zeros(1, dtype=torch.uint8)).dtype == torch.uint8


def test_a_teacher_follows_to_more_precision_and_to_devices() -> None:
    assert Teacher(linear()).double().network.weight.dtype == torch.float64
    assert Teacher(linear()).to("meta", torch.bfloat16).network.weight.device.type == "meta"
    assert Frozen(linear()).bfloat16().network.weight.dtype == torch.bfloat16
