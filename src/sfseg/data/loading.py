"""Loader processes that neither disturb the run's random numbers nor each other."""

import os
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from sfseg.data.folder import FolderDataset, Sample, collate, collate_crops
from sfseg.data.geometry import View


def loader(
    dataset: FolderDataset, *, num_workers: int, seed: int, persistent: bool, **arguments: Any
) -> DataLoader[Sample]:
    """Batches of a dataset.

    Args:
        dataset: what is loaded.
        num_workers: processes that load it; 0 loads in this one.
        seed: of the run.
        persistent: keep the processes from one iteration to the next, and what they have learnt.
        **arguments: of the DataLoader.
    """
    return DataLoader(
        dataset,
        num_workers=num_workers,
        collate_fn=collate_crops if isinstance(dataset.view, View) else collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_one_thread,
        persistent_workers=persistent and num_workers > 0,
        # A loader without a generator draws its workers' seed from torch's global stream, so
        # that validating more often would change dropout in training.
        generator=torch.Generator().manual_seed(seed),
        **arguments,
    )


def available_cpus() -> int:
    """Processors this process may use: a batch system may give a job fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(0)
