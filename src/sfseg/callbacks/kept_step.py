"""What a training step began with, so that it can be taken back, or kept to be run again."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from sfseg.callbacks.base import trained
from sfseg.data.module import AdaptationData
from sfseg.storage.lightning_state import datamodule_of
from sfseg.storage.manifest import KEY

KEPT, FORMAT = "kept_step", 1
"""Under which a file says that it is of a kept step, and of which version."""


@dataclass(frozen=True)
class Backward:
    """A backward pass.

    iteration: of training.
    loss: as it was propagated, scaled in mixed precision.
    terms: of the loss, by name.
    images: positions of the batch's images in their set, by domain.
    """

    iteration: int
    loss: Tensor
    terms: Mapping[str, Tensor]
    images: Mapping[str, Tensor]


@dataclass(frozen=True)
class Part:
    """A batch of a step, as it came.

    batch: the tensors themselves, by domain and name.
    batch_idx: number that its ``training_step`` is given.
    iteration: of training, before it.
    random: states of all generators before it, see :func:`random_states`.
    versions: how often each tensor had been changed in place, by domain and name.
    """

    batch: Mapping[str, Mapping[str, Any]]
    batch_idx: int
    iteration: int
    random: Mapping[str, Any]
    versions: Mapping[str, int]


class Places:
    """Where a module keeps its tensors: to look for them takes longer than to copy buffers.

    Args:
        module: about to be trained; it gets no other parts while it is.
    """

    def __init__(self, module: LightningModule) -> None:
        owners = dict(module.named_modules())
        parts = [name.rpartition(".")[::2] for name, _ in module.named_buffers()]
        self.parameters = list(module.named_parameters())
        self._buffers = [(owners[owner], name) for owner, name in parts]

    def buffers(self) -> list[Tensor]:
        """Those that are there now, always in the same order."""
        return [getattr(owner, name) for owner, name in self._buffers]


class Beginning:
    """A module before a step, which may be of several batches whose gradients add up.

    Buffers are copied; weights are not, since they change with the optimiser's step alone. Where
    they have changed before, :meth:`content` says so.

    Args:
        module: about to be trained.
        places: of its tensors.
    """

    def __init__(self, module: LightningModule, places: Places) -> None:
        self._places = places
        self._buffers = [buffer.clone() for buffer in places.buffers()]
        self._undo_method = trained(module).undo_step()
        self._versions = [parameter._version for _, parameter in places.parameters]
        self._left_out = 0
        self.parts: list[Part] = []
        self.passes: list[Backward] = []

    def add(self, module: LightningModule, batch: Any, batch_idx: int) -> None:
        """One more batch, by reference.

        Where a method steps its optimisers itself, nobody knows how many come before it does: the
        last one alone is held.
        """
        if self.parts and not module.automatic_optimization:
            self._left_out += 1
            self.parts, self.passes = [], []
        self.parts.append(
            Part(
                batch,
                batch_idx,
                trained(module).iteration,
                random_states(module.device),
                {name: tensor._version for name, tensor in _tensors(batch)},
            )
        )

    def undo(self) -> None:
        """Take the module back, but for its parameters."""
        for buffer, before in zip(self._places.buffers(), self._buffers, strict=True):
            buffer.copy_(before)
        self._undo_method()

    def content(
        self, trainer: Trainer, module: LightningModule, record: Mapping[str, Any], failure: str
    ) -> dict[str, Any]:
        """All that running the step again needs, not yet copied; :func:`storable` does that.

        All processes call it. What the method keeps beside its buffers is taken back.

        Args:
            trainer: of the run.
            module: in the middle of the step.
            record: of the run, see :class:`sfseg.callbacks.provenance.Provenance`.
            failure: what is not finite.
        """
        self._undo_method()
        method: dict[str, Any] = {}
        module.on_save_checkpoint(method)
        method["iteration"] = self.parts[0].iteration
        pairs = zip(self._places.buffers(), self._buffers, strict=True)
        before = {id(buffer): kept for buffer, kept in pairs}
        state = module.state_dict(keep_vars=True)
        data = datamodule_of(trainer)
        views = data.views if isinstance(data, AdaptationData) else {}
        return {
            KEPT: FORMAT,
            KEY: record,
            "failure": failure,
            "iteration": trained(module).iteration,
            "rank": trainer.global_rank,
            "world_size": trainer.world_size,
            "device": trainer.strategy.root_device.type,
            "precision": trainer.precision,
            "torch": str(torch.__version__),
            "crops": {domain: view.crop for domain, view in views.items()},
            "changed": self._changed(),
            "left_out": self._left_out,
            "state_dict": {name: before.get(id(value), value) for name, value in state.items()},
            "method": method,
            "optimizer_states": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "schedule_states": [c.scheduler.state_dict() for c in trainer.lr_scheduler_configs],
            "precision_state": trainer.precision_plugin.state_dict(),
            "batches": [
                {"batch": part.batch, "batch_idx": part.batch_idx, "random": part.random}
                for part in self.parts
            ],
            "passes": [
                {"iteration": done.iteration, "loss": done.loss, "terms": done.terms}
                for done in self.passes
            ],
        }

    def _changed(self) -> list[str]:
        """Parameters and tensors of the batches that are not as they were."""
        parameters = zip(self._places.parameters, self._versions, strict=True)
        found = [name for (name, own), version in parameters if own._version != version]
        for part in self.parts:
            found += [
                f"batch {name}"
                for name, tensor in _tensors(part.batch)
                if tensor._version != part.versions[name]
            ]
        return found


def random_states(device: torch.device) -> dict[str, Any]:
    """States of the generators of torch, of the device, of NumPy and of Python."""
    states = {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - whoever draws from it
        "python": random.getstate(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Set what :func:`random_states` has found, as it was or as a file holds it."""
    torch.set_rng_state(states["torch"])
    kind, words, *rest = states["numpy"]
    np.random.set_state((kind, np.asarray(words).astype(np.uint32), *rest))  # noqa: NPY002
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def storable(value: Any) -> Any:
    """Plain containers of copies in memory, as ``torch.load`` reads them with ``weights_only``.

    Raises:
        TypeError: something else is in them.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.astype(np.int64))
    if isinstance(value, Mapping):
        return {storable(key): storable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [storable(part) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)  # of subclasses, such as NumPy's numbers, the value alone
    raise TypeError(f"a {type(value).__name__} is no tensor, number, text, list or dictionary")


def _tensors(batch: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Tensor]]:
    return [
        (f"{domain} {name}", value)
        for domain, part in batch.items()
        for name, value in part.items()
        if isinstance(value, Tensor)
    ]
