"""In which numbers a network computes, by the names that trainers have for it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

FULL = {"32-true": torch.float32, "64-true": torch.float64}
HALF = {"16-true": torch.float16, "bf16-true": torch.bfloat16}
MIXED = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
SHORT = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}


def full_name(precision: object, device: torch.device) -> str:
    """The name of a precision on a device; processors take bfloat16 for float16 where it is mixed.

    Raises:
        ValueError: there is none of that name.
    """
    name = SHORT.get(str(precision), str(precision))
    known = (*FULL, *HALF, *MIXED)
    if name not in known:
        raise ValueError(f"it must be one of {', '.join(known)}")
    return "bf16-mixed" if name == "16-mixed" and device.type == "cpu" else name


def converted(network: nn.Module, name: str) -> nn.Module:
    """The network, of which weights are stored in a precision; those of a mixed one stay."""
    dtype = (HALF | {"64-true": torch.float64}).get(name)
    return network if dtype is None else network.to(dtype=dtype)


def computing(name: str, device: torch.device) -> AbstractContextManager[object]:
    """In what a network of that precision is to be called."""
    if name in MIXED:
        return torch.autocast(device.type, dtype=MIXED[name], cache_enabled=False)
    dtype = (HALF | FULL)[name]
    return nullcontext() if dtype == torch.float32 else _creating(dtype)


@contextmanager
def _creating(dtype: torch.dtype) -> Iterator[None]:
    """Tensors that are made meanwhile have this type unless they are given another."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)
