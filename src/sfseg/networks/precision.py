"""What keeps its precision in a network of half precision: averages, which would not move."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

Change = Callable[[Tensor], Tensor]
"""What ``nn.Module`` does to every tensor of its own: moves it to a device, casts it."""


def without_narrowing(change: Change) -> Change:
    """The same, except that no tensor becomes less precise."""

    def changed(tensor: Tensor) -> Tensor:
        found = change(tensor)
        return tensor.to(found.device) if found.itemsize < tensor.itemsize else found

    return changed


def cast(value: Any, like: Tensor) -> Any:
    """Numbers of a tensor, or of several, in the precision of another tensor."""
    if isinstance(value, list | tuple):
        return [cast(part, like) for part in value]
    is_number = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(like.dtype) if is_number else value
