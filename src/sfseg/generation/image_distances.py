"""FID and KID: how far apart two sets of images are in the features of an Inception network."""

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
    generated: Pictures, target: Pictures, *, weights: Path, device: torch.device
) -> Mapping[str, float]:
    """FID, and mean and standard deviation of KID, of two sets of images of one size.

    Both fall as the sets grow alike. FID is biased upwards for small sets, so compare it between
    sets of equal numbers only; KID is not.

    Args:
        generated: one set.
        target: the other one.
        weights: file of the Inception network's.
        device: of the network.

    Raises:
        ConfigError: too few images.
    """
    from torch_fidelity import calculate_metrics

    fewest = min(len(generated), len(target))
    if fewest < FEWEST:
        raise ConfigError(f"FID needs at least {FEWEST} images of each set, got {fewest}")
    found: dict[str, Any] = calculate_metrics(
        input1=generated, input2=target, fid=True, kid=True, verbose=False, cache=False,
        kid_subset_size=min(SUBSET, fewest), cuda=device.type == "cuda",
        feature_extractor_weights_path=str(weights),
    )  # fmt: skip
    return {
        "FID": float(found["frechet_inception_distance"]),
        "KID": float(found["kernel_inception_distance_mean"]),
        "KID, standard deviation": float(found["kernel_inception_distance_std"]),
    }


def checked_weights(path: Path) -> Path:
    """A file of the network's weights; torch-fidelity would run code that another file may hold.

    Raises:
        ConfigError: it cannot be read, or holds other things than tensors.
    """
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    # What is damaged fails in any of its readers, each with an exception of its own; torch's text
    # advises to run what the file holds, so it is not repeated.
    except Exception as error:
        raise ConfigError(
            f"inception={path} cannot be read ({type(error).__name__}): it is missing, damaged or "
            "no file of weights; nothing in it was executed. Leave it out to have it downloaded"
        ) from error
    return path


def cached_weights() -> Path | str:
    """The file that torch-fidelity names, from torch's cache or the net; else what to do."""
    try:
        torch.hub.load_state_dict_from_url(
            _address(), map_location="cpu", progress=False, weights_only=True
        )
    except OSError as error:
        return (
            f"FID and KID need the weights of their network, which cannot be downloaded: {error}. "
            f"Where there is a network, download {_address()}, and set inception=<that file>."
        )
    return Path(torch.hub.get_dir()) / "checkpoints" / _address().rpartition("/")[2]


def _address() -> str:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return str(URL_INCEPTION_V3)
