"""Batches of one image: whether batch normalisation finds the values whose variance it takes."""

from copy import deepcopy
from math import prod
from typing import TYPE_CHECKING, Any

from sfseg.errors import ConfigError
from sfseg.types import size_text

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from sfseg.data.module import AdaptationData
    from sfseg.methods.base import Method

ONE_VALUE = "Expected more than 1 value per channel"
"""Torch's words."""


def check_single(method: "Method", data: "AdaptationData", trainer: "Trainer") -> None:
    """Show a network the smallest crop as training does, and forget the result.

    Only where it would be alone in its batch. A copy sees it, so that nothing of the run changes.
    Several processes, whose statistics may be common, are not tried.

    Args:
        method: to be trained.
        data: opened for training.
        trainer: like the run's.

    Raises:
        ConfigError: a layer has one value per channel; names the batch size, the crop and the ways
            out.
    """
    import torch

    crops = [crop for name in data.domains if (crop := data.views[name].crop) is not None]
    if data.batch_size > 1 or trainer.world_size > 1 or not crops:
        return
    crop = min(crops, key=prod)
    plugin, device = trainer.precision_plugin, trainer.strategy.root_device
    gpus = [device] if device.type == "cuda" else []
    copied: Any = plugin.convert_module(deepcopy(method))
    copied.to(device).train()
    image = torch.zeros(1, 3, *crop, dtype=torch.uint8, device=device)
    try:
        with torch.random.fork_rng(gpus), torch.no_grad(), plugin.forward_context():
            copied(image)
    except ValueError as error:
        if ONE_VALUE not in str(error):
            raise
        raise ConfigError(
            f"data.batch_size=1 with crops of {size_text(crop)} pixels (width x height) leaves "
            "batch normalisation one value per channel, which has no variance; set it, of a method "
            "that adapts data.adaptation.batch_size, to 2 or more, or make the crops larger: "
            "data.source_view.crop, data.target_crop"
        ) from error
