"""FID and KID: how far apart two sets of images are in the features of an Inception network."""

import pickle
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sfseg.data.geometry import Image
from sfseg.errors import ConfigError

SUBSET = 1000
"""Images of KID's subsets, where there are as many."""
FEWEST = 2
"""Images of a set; one has no covariance."""


class Pictures(Dataset[Tensor]):
    """Images (3, H, W) uint8 that are read when they are asked for."""

    def __init__(self, read: Callable[[int], Image], length: int) -> None:
        self.read = read
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        if index >= self.length:
            raise IndexError(index)
        return torch.from_numpy(self.read(index)).permute(2, 0, 1)


def can_measure() -> bool:
    """Whether torch-fidelity, which has the network, is installed."""
    return find_spec("torch_fidelity") is not None


def distances(
    generated: Pictures, target: Pictures, *, weights: str | None, device: torch.device
) -> Mapping[str, float]:
    """FID, and mean and standard deviation of KID, of two sets of images of one size.

    Both fall as the sets grow alike. FID is biased upwards for small sets, so compare it between
    sets of equal numbers only; KID is not.

    Args:
        generated: one set.
        target: the other one.
        weights: a file of the Inception network's; None: torch-fidelity downloads it once.
        device: of the network.

    Raises:
        ConfigError: too few images, or weights that cannot be had.
    """
    from torch_fidelity import calculate_metrics

    fewest = min(len(generated), len(target))
    if fewest < FEWEST:
        raise ConfigError(f"FID needs at least {FEWEST} images of each set, got {fewest}")
    found: dict[str, Any] = calculate_metrics(
        input1=generated, input2=target, fid=True, kid=True, verbose=False, cache=False,
        kid_subset_size=min(SUBSET, fewest), cuda=device.type == "cuda",
        feature_extractor_weights_path=str(inception_weights(weights)),
    )  # fmt: skip
    return {
        "FID": float(found["frechet_inception_distance"]),
        "KID": float(found["kernel_inception_distance_mean"]),
        "KID, standard deviation": float(found["kernel_inception_distance_std"]),
    }


def inception_weights(given: str | None) -> Path:
    """A file that torch-fidelity may open, which would run code that it holds.

    Args:
        given: the file; None: the one that torch-fidelity names, from torch's cache or its address.

    Raises:
        ConfigError: it cannot be had, or holds other things than tensors.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    name = str(URL_INCEPTION_V3).rpartition("/")[2]
    try:
        if given is None:
            torch.hub.load_state_dict_from_url(
                URL_INCEPTION_V3, map_location="cpu", progress=False, weights_only=True
            )
            return Path(torch.hub.get_dir()) / "checkpoints" / name
        torch.load(given, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError) as error:
        raise ConfigError(
            f"the weights of FID's network, inception={given}, cannot be had: {error}. Download "
            f"{URL_INCEPTION_V3} and set inception=<that file>, or set distances=false"
        ) from error
    return Path(given)
