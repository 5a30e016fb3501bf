"""Where in a step values stop being finite: terms of the loss, modules, gradients."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from sfseg.callbacks.base import trained
from sfseg.callbacks.kept_step import Backward


@dataclass(frozen=True)
class Share:
    """Of a tensor's or of several tensors' values, each in [0, 1]: those that are NaN, or infinite.

    largest: absolute value of all that are neither; 0 without any.
    """

    nan: float
    infinite: float
    largest: float

    @classmethod
    def of(cls, tensors: list[Tensor]) -> "Share":
        """Of the values of floating-point tensors."""
        sizes = [max(1, sum(tensor.numel() for tensor in tensors))] * 2
        counts = [sum(int(test(t).sum()) for t in tensors) for test in (torch.isnan, torch.isinf)]
        finite = [tensor[torch.isfinite(tensor)].abs() for tensor in tensors]
        largest = max((float(values.max()) for values in finite if values.numel()), default=0.0)
        nan, infinite = (count / size for count, size in zip(counts, sizes, strict=True))
        return cls(nan, infinite, largest)

    @property
    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return not (self.nan or self.infinite)


@dataclass(frozen=True)
class Origin:
    """A module out of which comes what is not finite, while nothing like it went in.

    name: of the module in the method.
    kind: its class.
    output: of what came out.
    entering: of what went in.
    """

    name: str
    kind: str
    output: Share
    entering: Share


class Diagnosis(Callback):
    """Watches the modules and gradients of a step; it changes no bit.

    To see the gradients of a step that :class:`sfseg.callbacks.finite.FiniteGuard` ends, it must
    come before that.

    passes: backward passes so far.
    origins: modules in the order in which they were run. The first module that shows something not
        finite is among them also where it was given that. Of modules inside each other it is the
        innermost, of one that is run several times the first run.
    gradients: those that are not finite when an optimiser is about to step, by parameter.
    """

    def __init__(self) -> None:
        self.passes: list[Backward] = []
        self.origins: list[Origin] = []
        self.gradients: dict[str, Share] = {}
        self._inside: list[int] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, module in pl_module.named_modules():
            if name:
                module.register_forward_pre_hook(self._enter, with_kwargs=True)
                module.register_forward_hook(self._leave(name), with_kwargs=True, always_call=True)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        step = trained(pl_module).step
        self.passes.append(Backward(step.iteration, loss.detach(), step.terms, {}))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is None or name in self.gradients:
                continue
            share = Share.of([parameter.grad])
            if not share.is_finite:
                self.gradients[name] = share

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._inside.append(len(self.origins))

    def _leave(self, name: str) -> Any:
        def look(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            known = self._inside.pop()
            share = Share.of(list(_floating(output)))
            if share.is_finite or len(self.origins) > known:
                return
            entering = Share.of(list(_floating([args, kwargs])))
            is_new = name not in {origin.name for origin in self.origins}
            if is_new and (entering.is_finite or not self.origins):
                self.origins.append(Origin(name, type(module).__name__, share, entering))

        return look


def _floating(value: Any) -> Iterator[Tensor]:
    """The tensors of nested containers that may hold what is not finite."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value.detach()
    elif isinstance(value, Mapping):
        yield from _floating(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _floating(part)
