"""Memory that evaluation needs: seen to be there before a run begins, not after hours."""

import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, cast

from sfseg.errors import ConfigError
from sfseg.runs.protocol import evaluated_scenes
from sfseg.types import size_text

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from torch import Tensor

    from sfseg.data.geometry import Size
    from sfseg.data.module import AdaptationData
    from sfseg.methods.evaluation import Evaluation
    from sfseg.ops.inference import Inference
    from sfseg.types import Batch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shown:
    """A picture as evaluation shows it to the network.

    loader: number of the evaluation loader that it comes from.
    name: of the scene.
    full, size, label_size: height and width of its file, of what the network sees, and of what its
        prediction is scored at.
    count: pictures that the network sees at once.
    """

    loader: int
    name: str
    full: "Size"
    size: "Size"
    label_size: "Size"
    count: int

    @property
    def pixels(self) -> tuple[int, int]:
        """Of what the network sees, and of what is scored."""
        return prod(self.size), prod(self.label_size)


def check_largest(method: "Evaluation", data: "AdaptationData", trainer: "Trainer") -> None:
    """Evaluate the largest picture that evaluations will see, and forget the result.

    A copy of the method does it, as the trainer will, so that nothing of the run changes. Pictures
    of no more pixels than training crops are not tried: training needs more than they do. Every
    process does it for itself, and none waits for another.

    Args:
        method: to be trained.
        data: opened for training.
        trainer: like the run's.

    Raises:
        ConfigError: there is too little memory; names the picture, its size and the ways out.
        DataError: the size of a picture cannot be read.
    """
    import torch

    found = largest(data, trainer)
    if found is None or needs_less_than_training(found, data, method.inference):
        return
    device, seen = trainer.strategy.root_device, size_text(found.size)
    picture = f"{found.name}, the largest picture of the {data.eval_domains[found.loader]} eval set"
    if trainer.is_global_zero:
        log.info("evaluation: trying %s, at %s pixels on %s", picture, seen, device)
    try:
        _evaluate(method, _batch_of(found), found.loader, trainer)
    # As MemoryError, and as errors of torch.
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            f"{picture}, cannot be evaluated: there is too little memory on {device} for a network "
            f"that sees {found.count} x {seen} pixels (width x height) and is scored at "
            f"{size_text(found.label_size)}; set {_ways_out(found, data, method.inference)}"
        ) from error
    torch.cuda.empty_cache()


def largest(data: "AdaptationData", trainer: "Trainer") -> Shown | None:
    """The picture of most pixels that evaluations see, by the headers; None where they see none."""
    from sfseg.data.check import on_all_processors
    from sfseg.data.geometry import size_by

    pictures = []
    for loader, domain in enumerate(data.eval_domains):
        scenes, view = data.scenes[f"{domain}_eval"], data.judged.view_of(domain)
        indices = evaluated_scenes(data, domain, trainer)
        count = min(len(indices), data.eval_batch_size)
        for index, full in zip(indices, on_all_processors(scenes.size, indices), strict=True):
            sizes = size_by(view.size, full), size_by(view.label_size, full)
            pictures.append(Shown(loader, scenes.name(index), full, *sizes, count))
    return max(pictures, key=lambda shown: shown.pixels, default=None)


def needs_less_than_training(shown: Shown, data: "AdaptationData", inference: "Inference") -> bool:
    """Whether a batch of such pictures has no more pixels than one of training crops.

    Each of the pictures must have no more than one of the crops, too: what attention needs grows
    faster than their number.
    """
    crops = [prod(crop) for name in data.domains if (crop := data.views[name].crop) is not None]
    pixels = max(shown.pixels) * max(1.0, *inference.scales) ** 2
    return pixels <= max(crops, default=0) and shown.count <= data.batch_size


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was asked for that there is not, on whatever device."""
    import cv2
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    is_known = isinstance(error, RuntimeError | cv2.error)
    return is_known and any(
        words in text
        for words in ("out of memory", "alloc_failed", "can't allocate", "failed to allocate",
                      "not enough memory", "insufficient memory")
    )  # fmt: skip


def _evaluate(
    method: "Evaluation", batch: Mapping[str, Any], loader: int, trainer: "Trainer"
) -> None:
    """One step of an evaluation, of a copy that is gone when this returns."""
    import torch

    plugin, device = trainer.precision_plugin, trainer.strategy.root_device
    gpus = [device] if device.type == "cuda" else []
    copied: Any = plugin.convert_module(deepcopy(method))
    copied.to(device).eval()
    moved = cast("Batch", {name: part.to(device) for name, part in batch.items()})
    with torch.random.fork_rng(gpus), torch.no_grad(), plugin.forward_context():
        copied.validation_step(moved, 0, loader)


def _batch_of(shown: Shown) -> Mapping[str, "Tensor"]:
    """Black pictures of its size, as many as evaluation shows at once."""
    import torch

    from sfseg.data.geometry import Geometry

    geometry = torch.tensor([Geometry.whole(shown.full, shown.size)] * shown.count)
    return {
        "image": torch.zeros(shown.count, 3, *shown.size, dtype=torch.uint8),
        "label": torch.zeros(shown.count, *shown.label_size, dtype=torch.uint8),
        "index": torch.zeros(shown.count, dtype=torch.int64),
        "geometry": geometry,
    }


def _ways_out(shown: Shown, data: "AdaptationData", inference: "Inference") -> str:
    """Settings by which evaluation needs less memory."""
    domain = data.eval_domains[shown.loader]
    has_own = data.judged.view_of(domain) != data.eval_view
    size, label_size = (
        (f"data.eval_sets.{domain}.view.{name}" for name in ("size", "label_size"))
        if has_own
        else ("data.eval_size", "data.eval_label_size")
    )
    is_whole = inference.window is None
    ways = ["evaluation=slide" if is_whole else "a smaller evaluation.window"]
    ways += ["data.eval_batch_size=1"] if shown.count > 1 else []
    ways += [f"{label_size}=[height,width]"] if prod(shown.label_size) > prod(shown.size) else []
    return ", ".join([*ways, f"or a smaller {size}=[height,width]"])
