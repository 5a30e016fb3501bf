"""What transformers does to an image before its network sees it, and what of it is ours."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sfseg.errors import ConfigError
from sfseg.networks.segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter

log = logging.getLogger(__name__)

FILE = "preprocessor_config.json"
Size = tuple[int, int] | int | None


@dataclass(frozen=True)
class Preprocessing:
    """How images are shown to a network.

    mean: of the pixels in [0, 1], red, green and blue.
    std: their standard deviation.
    size: (height, width), the length of the shorter side, or None for the image's own.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: Size = None

    @classmethod
    def of(cls, network: Segmenter, size: Sequence[int] | int | None) -> "Preprocessing":
        """That of a network of ours, which normalises by itself.

        Args:
            network: with its mean and standard deviation.
            size: of the images that it is shown in evaluation.
        """
        mean, std = (tuple(map(float, part.flatten().tolist())) for part in
                     (network.mean, network.std))  # fmt: skip
        own = size if isinstance(size, int | None) else (int(size[0]), int(size[1]))
        return cls(mean, std, own)

    def settings(self) -> list[str]:
        """What a command line of ours says of it."""
        size = "null" if self.size is None else str(self.size).replace(" ", "")
        return [
            f"backbone.network.mean=[{','.join(map(repr, self.mean))}]",
            f"backbone.network.std=[{','.join(map(repr, self.std))}]",
            f"data.eval_size={size.replace('(', '[').replace(')', ']')}",
        ]

    def theirs(self) -> dict[str, Any]:
        """Arguments of an image processor of transformers."""
        height, width = self.size if isinstance(self.size, tuple) else (512, 512)
        size = {"height": height, "width": width}
        return {
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "do_resize": self.size is not None,
            "size": {"shortest_edge": self.size} if isinstance(self.size, int) else size,
            "do_reduce_labels": False,
        }


def read(content: dict[str, Any] | None, *, source: str) -> Preprocessing:
    """The preprocessing that a file describes; says what of it has no counterpart here.

    Args:
        content: of the file; None where there is none.
        source: the folder, for messages.

    Raises:
        ConfigError: pixels are not in a range that a network of ours can be shown.
    """
    if content is None:
        log.warning(
            "%s has no %s: the mean and standard deviation of ImageNet are taken, and images "
            "are shown in their own size", source, FILE,
        )  # fmt: skip
        return Preprocessing()
    content = content.get("image_processor", content)
    mean, std = _of_unit_range(content, source)
    reduced = content.get("do_reduce_labels", content.get("reduce_labels"))
    if reduced:
        log.warning(
            "%s was trained with do_reduce_labels: id 0 of its masks is void and class 0 has "
            "id 1, so masks of that kind need `values` in classes.yaml", source,
        )  # fmt: skip
    if (ignored := content.get("ignore_index")) not in (None, 255):
        log.warning("%s ignores id %s of masks; here void is 255", source, ignored)
    return Preprocessing(mean, std, _size(content, source))


def _of_unit_range(content: dict[str, Any], source: str) -> tuple[tuple[float, ...], ...]:
    """Mean and standard deviation of pixels in [0, 1], whatever range theirs had."""
    mean: Any = content.get("image_mean", IMAGENET_MEAN)
    std: Any = content.get("image_std", IMAGENET_STD)
    if not content.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    factor = content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 1.0
    try:
        highest = 1.0 if abs(255 * factor - 1) < 1e-6 else 255 * float(factor)
        means = tuple(float(value) / highest for value in mean)
        stds = tuple(float(value) / highest for value in std)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"source={source} has an unusable {FILE}: {error}; mend it") from error
    if len(means) != 3 or any(not 0 <= m <= 1 for m in means) or any(not 0 < s <= 1 for s in stds):
        raise ConfigError(
            f"source={source} normalises pixels of [0, 1] with mean {list(means)} and standard "
            f"deviation {list(stds)}, which no network here does; mend its {FILE}"
        )
    return means, stds


def _size(content: dict[str, Any], source: str) -> Size:
    size = content.get("size")
    if not content.get("do_resize", True) or size is None:
        return None
    if isinstance(size, int):
        return size, size
    if "height" in size and "width" in size:
        return int(size["height"]), int(size["width"])
    if "shortest_edge" in size:
        if (longest := size.get("longest_edge")) is not None:
            log.info("%s shows at most %s pixels of the longer side; here it may be more", source,
                     longest)  # fmt: skip
        return int(size["shortest_edge"])
    log.warning("%s has the size %s, which is passed over", source, size)
    return None
