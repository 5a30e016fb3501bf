"""Averages of networks whose own weights may be of half precision."""

import torch
from torch import nn

from sfseg.networks.teacher import Frozen, Teacher


def student() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(2, 3)


def test_a_teacher_moves_where_its_student_has_half_precision() -> None:
    both = nn.ModuleDict({"student": student(), "teacher": Teacher(student())}).to(torch.bfloat16)
    student_, teacher = both["student"], both["teacher"]
    assert isinstance(teacher, Teacher)
    start = student().weight.detach()
    torch.testing.assert_close(teacher.network.weight, start, rtol=0, atol=0)
    with torch.no_grad():
        student_.weight.fill_(1.0)
    for _ in range(3):
        teacher.follow(student_, 0.999)
    expected = 1 - (1 - start.double()) * 0.999**3
    torch.testing.assert_close(teacher.network.weight.double(), expected, rtol=1e-6, atol=1e-6)


def test_a_teacher_takes_images_and_maps_of_half_precision() -> None:
    teacher = Teacher(student()).to(torch.bfloat16)
    x = torch.rand(4, 2).bfloat16()
    torch.testing.assert_close(teacher(x), teacher.network(x.float()))
    assert [part.dtype for part in teacher.fitting([x, x])] == [torch.float32] * 2
    assert teacher.fitting(torch.zeros(1, dtype=torch.uint8)).dtype == torch.uint8


def test_a_teacher_follows_to_more_precision_and_to_devices() -> None:
    assert Teacher(student()).double().network.weight.dtype == torch.float64
    assert Teacher(student()).to("meta", torch.bfloat16).network.weight.device.type == "meta"
    assert Frozen(student()).bfloat16().network.weight.dtype == torch.bfloat16
