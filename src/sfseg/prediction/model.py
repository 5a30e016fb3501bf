"""A trained network in Python: ``sfseg.load`` and what it returns."""

import logging
from collections.abc import Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, overload

import yaml

from sfseg.config.composition import CONF, fast_precision
from sfseg.config.trust import trusting
from sfseg.data.geometry import EvalView, SizeRule, rule_text
from sfseg.data.images import ValueRange, read_image, value_range_of
from sfseg.data.paths import Limits
from sfseg.errors import ConfigError
from sfseg.labels import Colour
from sfseg.ops.inference import Inference
from sfseg.prediction.pictures import Picture, pixels_of
from sfseg.prediction.predictor import TILE_PIXELS, Predictor
from sfseg.prediction.result import Result
from sfseg.runs.checkpoints import Restored, restore

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


class Model:
    """A trained network that predicts pictures as ``sfseg-predict`` does, to the bit.

    Args:
        restored: from a checkpoint.
        input_size: what the network sees: the length of the shorter side, or (height, width), of
            which pictures of other proportions take the number of pixels; None: as in the run's
            evaluation.
        tile_pixels: what the network sees at once; of larger pictures, tiles.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        precision: by Lightning's names, such as ``bf16-mixed``; None: as in training, that where
            the hardware has it, else ``32-true``.
        evaluation: protocol, or a name of one: ``default``, ``slide``, ``multi_scale``.
        value_range: which stored values of files become 0 to 255: (lowest, highest) or
            ``percentile``; None: as in the run's data.
        max_pixels: larger files are refused.

    Raises:
        ConfigError: a setting that cannot be.
    """

    def __init__(
        self,
        restored: Restored,
        *,
        input_size: SizeRule = None,
        tile_pixels: int = TILE_PIXELS,
        device: "str | torch.device" = "auto",
        precision: str | int | None = None,
        evaluation: Inference | str = "default",
        value_range: ValueRange = None,
        max_pixels: int = Limits().max_pixels,
    ) -> None:
        try:
            self.max_pixels = Limits(max_pixels=max_pixels).max_pixels
        except ValueError as error:
            raise ConfigError(str(error)) from error
        chosen = restored.value_range if value_range is None else value_range
        try:
            self.value_range = value_range_of(chosen)
        except ValueError as error:
            raise ConfigError(str(error).replace("data.value_range", "value_range")) from error
        try:
            view = EvalView(size=input_size or restored.config.data.eval_size)
        except ValueError as error:
            raise ConfigError(str(error).replace("eval_size", "input_size")) from error
        inference = protocol(evaluation) if isinstance(evaluation, str) else evaluation
        precision = fast_precision() if precision is None else precision
        self.labels = restored.labels
        self.predictor = Predictor(
            restored.network,
            inference,
            device=device,
            precision=precision,
            rule=view.size,
            tile_pixels=tile_pixels,
        )
        log.info(
            "prediction: input %s, %s, precision %s", rule_text(view.size), inference, precision
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a label map holds their positions."""
        return self.labels.classes

    @property
    def palette(self) -> tuple[Colour, ...]:
        """Their colours, RGB in 0..255."""
        return self.labels.palette

    @property
    def device(self) -> "torch.device":
        """Where it computes."""
        return self.predictor.device

    def to(self, device: "str | torch.device") -> "Model":
        """The same model, on another device.

        Raises:
            ConfigError: it cannot be used.
        """
        self.predictor.to(device)
        return self

    @overload
    def predict(self, pictures: Picture) -> Result: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, pictures: Sequence[Picture]) -> list[Result]: ...
    def predict(self, pictures: Picture | Sequence[Picture]) -> Result | list[Result]:
        """The classes of a picture's pixels; of a list of pictures, a list of results.

        Args:
            pictures: paths, PIL images, uint8 arrays (H, W, 3) or uint8 tensors (3, H, W); RGB.

        Raises:
            ValueError: no picture, such as an array of floats; says how to make it one.
            DataError: a file that cannot be read.
        """
        if isinstance(pictures, list | tuple):
            return [self._predict(picture) for picture in pictures]
        return self._predict(pictures)  # type: ignore[arg-type]

    def _predict(self, picture: Picture) -> Result:
        read = partial(read_image, max_pixels=self.max_pixels, value_range=self.value_range)
        image, name = pixels_of(picture, read)
        return Result(image, *self.predictor(image, name), self.classes, self.palette)


def load(
    path: str | PathLike[str],
    *,
    trust: Sequence[str] = (),
    input_size: SizeRule = None,
    tile_pixels: int = TILE_PIXELS,
    device: "str | torch.device" = "auto",
    precision: str | int | None = None,
    evaluation: Inference | str = "default",
    value_range: ValueRange = None,
    max_pixels: int = Limits().max_pixels,
) -> Model:
    """The network of a run's checkpoint, or of a file that another project has published.

    Args:
        path: such as a run's ``checkpoints/last.ckpt``.
        trust: modules of your own that its configuration may name, as on the command line.
        input_size: this and the rest, see :class:`Model`.
        tile_pixels: likewise.
        device: likewise.
        precision: likewise.
        evaluation: likewise.
        value_range: likewise.
        max_pixels: likewise.

    Raises:
        ConfigError: a setting that cannot be, or a file that holds no such network.
    """
    with trusting(trust):
        restored = restore(Path(path).expanduser())
    return Model(
        restored,
        input_size=input_size,
        tile_pixels=tile_pixels,
        device=device,
        precision=precision,
        evaluation=evaluation,
        value_range=value_range,
        max_pixels=max_pixels,
    )


def protocol(name: str) -> Inference:
    """An evaluation protocol by the name that it has for the commands.

    Raises:
        ConfigError: there is none of that name.
    """
    folder = CONF / "evaluation"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"evaluation must be one of {', '.join(known)}, got {name}")
    settings: dict[str, object] = {}
    for stem in dict.fromkeys(["default", name]):
        settings |= yaml.safe_load((folder / f"{stem}.yaml").read_text(encoding="utf-8"))
    return Inference(**{key: settings[key] for key in ("window", "stride", "scales", "flip")})  # type: ignore[arg-type]
