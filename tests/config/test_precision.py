"""The precision that a run takes unasked."""

import pytest
import torch

from sfseg.config import composition


@pytest.mark.parametrize(
    ("machine", "in_hardware", "in_library", "expected"),
    [
        ("x86_64", True, True, "bf16-mixed"),
        # Skylake to Ice Lake: the library takes bfloat16 and imitates it.
        ("x86_64", False, True, "32-true"),
        ("AMD64", False, True, "32-true"),
        ("x86_64", False, False, "32-true"),
        ("aarch64", False, True, "bf16-mixed"),
        ("arm64", False, False, "32-true"),
    ],
)
def test_half_precision_is_taken_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    in_hardware: bool,
    in_library: bool,
    expected: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(composition, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: in_hardware)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: in_library)
    assert composition.fast_precision() == expected


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_gpu_decides_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, supported: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert composition.fast_precision() == expected
