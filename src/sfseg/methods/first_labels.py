"""A new store of pseudo-labels: filled by a model, or without any labels yet."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import torch

from sfseg.methods.evaluation import Evaluation
from sfseg.methods.labeller import Labeller
from sfseg.methods.labelling import relabel
from sfseg.ops.processes import is_first
from sfseg.pseudo.identity import Identity
from sfseg.pseudo.patch import Patch
from sfseg.pseudo.store import PseudoLabelStore
from sfseg.types import IGNORE, Batch


def empty_labels(folder: Path, identity: Identity) -> None:
    """A new store in which every image is IGNORE, for a method that makes its labels later.

    All processes of a run call it; the first one writes.

    Raises:
        ConfigError: the folder holds something already, which stays as it is.
        DataError: the disk is full.
    """
    with new_store(folder, identity, unlabelled=range(len(identity.names))):
        pass


def select_labels(
    model: Evaluation,
    batches: Callable[[], Iterable[Batch]],
    folder: Path,
    identity: Identity,
    labeller: Labeller,
    *,
    device: torch.device,
    context: AbstractContextManager[object],
    left_out: Collection[int] = (),
) -> None:
    """Fill a new store with a model's labels, see :func:`relabel`.

    Args:
        model: predicts by its own protocol, or mirrored too.
        batches: makes this process's batches of one image each, at the size that labels are kept.
        folder: of the new store.
        identity: what the labels are for.
        labeller: chooses pixels.
        device: where the model runs.
        context: of its forward passes, such as autocast.
        left_out: images without a batch, which are IGNORE everywhere.

    Raises:
        ConfigError: the folder holds something already, which stays as it is.
        DataError: an image cannot be read, or the disk is full.
    """
    with new_store(folder, identity, unlabelled=left_out) as store:
        relabel(model.to(device), batches, store, labeller, context=context)


@contextmanager
def new_store(
    folder: Path, identity: Identity, *, unlabelled: Collection[int] = ()
) -> Iterator[PseudoLabelStore | None]:
    """A store to be filled, committed at the end; None on all processes but the one that writes.

    Args:
        folder: of the store.
        identity: what the labels are for.
        unlabelled: images that are IGNORE everywhere.

    Raises:
        ConfigError: the folder holds something already, which stays as it is.
        DataError: an image has no label at the end, or the disk is full.
    """
    if not is_first():
        yield None
        return
    with PseudoLabelStore.create(folder, identity, durable=False) as store:
        for index in unlabelled:
            store.write(Patch(index, np.full(identity.sizes[index], IGNORE, np.uint8)))
        yield store
        store.commit()
