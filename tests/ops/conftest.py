import pytest
import torch


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations compute in single precision: let them believe that this is double.

    Then two ways to the same value differ by far less than any mistake, in whatever order a
    processor adds.
    """
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
