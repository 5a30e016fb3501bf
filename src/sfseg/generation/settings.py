"""What a personalisation is asked for; numbers that cannot be are refused here."""

from dataclasses import dataclass, field
from typing import Literal

from sfseg.errors import ConfigError

Precision = Literal["32-true", "bf16-mixed"]
HALF = {"16-true", "bf16-true", "16", "bf16", "fp16", "16-mixed"}
"""Precisions that other programs offer, and in which this training would fail."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters (Hu et al., ICLR 2022, arXiv:2106.09685) in the attention's projections.

    Attributes:
        rank: of the update of a matrix.
        alpha: the update is multiplied by alpha / rank.
    """

    rank: int
    alpha: float

    def __post_init__(self) -> None:
        require_whole("lora.rank", self.rank)
        require_above("lora.alpha", self.alpha, 0)


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Prior preservation: pictures that are not of the place, learnt beside those that are.

    Attributes:
        weight: of their loss; 0 leaves them out.
        prompt: what they show.
        number: how many are drawn, where no folder of them is given.
        steps: of the pipeline's scheduler, of each of these.
    """

    weight: float = 0.0
    prompt: str = "a photo of an urban scene"
    number: int = 100
    steps: int = 50

    def __post_init__(self) -> None:
        require_above("prior.weight", self.weight, 0, or_equal=True)
        require_whole("prior.steps", self.steps)
        require_whole("prior.number", self.number)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Pictures that are drawn on the way.

    Attributes:
        every: optimiser steps between them; 0 draws none.
        number: side by side in one picture.
        prompt: of all.
        steps: of the pipeline's scheduler.
    """

    every: int = 0
    number: int = 4
    prompt: str = "a photo of a sks urban scene"
    steps: int = 50

    def __post_init__(self) -> None:
        require_whole("samples.every", self.every, least=0)
        require_whole("samples.number", self.number)
        require_whole("samples.steps", self.steps)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model is personalised; defaults are those of DATUM's release.

    Attributes:
        model: as the user named it.
        prompt: of the pictures of the place, with the identifier in it.
        identifier: one token, which comes to mean the place.
        steps: of the optimiser.
        keep_every: steps between models that are kept; the last one always is.
        save_every: steps between states that a killed run goes on from.
        batch_size: crops a step.
        crop: side of a crop in pixels.
        lr: of AdamW, constant.
        max_grad_norm: of all trained weights together.
        train_text_encoder: train the text encoder beside the U-Net.
        gradient_checkpointing: compute activations twice rather than keep them.
        precision: of products; weights are float32 in both.
        lora: train adapters alone; None trains all weights.
        seed: of crops, noise and adapters.
    """

    model: str
    prompt: str = "a photo of a sks urban scene"
    identifier: str = "sks"
    steps: int = 200
    keep_every: int = 200
    save_every: int = 100
    batch_size: int = 1
    crop: int = 512
    lr: float = 5e-6
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    train_text_encoder: bool = True
    gradient_checkpointing: bool = False
    precision: Precision = "32-true"
    lora: Lora | None = None
    prior: Prior = field(default_factory=Prior)
    samples: Samples = field(default_factory=Samples)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "keep_every", "save_every", "batch_size", "crop"):
            require_whole(name, getattr(self, name))
        require_whole("seed", self.seed, least=0)
        require_above("lr", self.lr, 0)
        require_above("weight_decay", self.weight_decay, 0, or_equal=True)
        require_above("max_grad_norm", self.max_grad_norm, 0)
        for name in ("train_text_encoder", "gradient_checkpointing"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be true or false, got {getattr(self, name)}")
        if self.precision in HALF:
            raise ConfigError(
                f"precision={self.precision} would hold or scale values in half precision, in "
                f"which steps of lr={self.lr:g} are lost in rounding or become NaN; choose "
                "bf16-mixed, which holds weights in float32, or 32-true"
            )
        if self.precision not in ("32-true", "bf16-mixed"):
            raise ConfigError(f"precision must be 32-true or bf16-mixed, got {self.precision}")


def require_whole(name: str, number: object, *, least: int = 1) -> None:
    """Refuse what is no whole number from ``least``.

    Raises:
        ConfigError: names the setting.
    """
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, got {number}")


def require_above(name: str, number: object, bound: float, *, or_equal: bool = False) -> None:
    """Refuse what is no number above a bound.

    Raises:
        ConfigError: names the setting.
    """
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not (is_number and (bound < number or (or_equal and number == bound))):  # type: ignore[operator]
        least = "at least" if or_equal else "above"
        raise ConfigError(f"{name} must be a number {least} {bound:g}, got {number}")
