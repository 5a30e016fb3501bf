"""What CLIP makes of names: one direction for each, of sentences that name it."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sfseg.errors import ConfigError
from sfseg.networks.weights.checkpoint import load_tensors
from sfseg.networks.weights.weight_files import require_usable

log = logging.getLogger(__name__)

TEMPLATES = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)
"""Sentences of ViLD (Gu et al., ICLR 2022, arXiv:2104.13921), in the selection of CLOUDS."""


@lru_cache(maxsize=4)
def text_embeddings(names: tuple[str, ...], *, model: str, pretrained: str) -> Float[Tensor, "N D"]:
    """Directions of names: of each the mean over the sentences, of length 1 before and after.

    A process computes them once: all its networks share what CLIP's text side says.

    Args:
        names: such as "traffic light".
        model: name of an architecture of open_clip.
        pretrained: a tag of its weights, which are taken from the cache or the network, or a local
            file in open_clip's format.

    Raises:
        ConfigError: open_clip is not installed, or the weights cannot be had.
    """
    with _without_progress():
        clip, tokenizer = _text_side(model, pretrained)
    log.info("%d names encoded by %s, %s", len(names), model, pretrained)
    directions = []
    with torch.no_grad():
        for name in names:  # one at a time: all sentences at once would take gigabytes
            sentences = tokenizer([template.format(name) for template in TEMPLATES])
            mean = F.normalize(clip.encode_text(sentences).float(), dim=-1).mean(dim=0)
            directions.append(F.normalize(mean, dim=-1))
        return torch.stack(directions)


@contextmanager
def _without_progress() -> Iterator[None]:
    """open_clip reports each of its steps, and what it raises, in nobody's name.

    Its warnings stay.
    """

    def matters(record: logging.LogRecord) -> bool:
        return record.levelno == logging.WARNING

    root = logging.getLogger()
    root.addFilter(matters)  # of what is logged in nobody's name alone
    try:
        yield
    finally:
        root.removeFilter(matters)


def _text_side(model: str, pretrained: str) -> tuple[Any, Any]:
    try:
        import open_clip
    except ModuleNotFoundError as cause:
        raise ConfigError(
            "backbone/head/class_head=text needs open_clip, which encodes the classes' names: pip "
            "install 'sfseg[clouds]'; or choose backbone/head/class_head=linear"
        ) from cause
    if model not in open_clip.list_models():
        raise ConfigError(
            f"backbone.head.class_head.model must be an architecture of open_clip, got {model}; "
            "open_clip.list_models() names them"
        )
    if Path(pretrained).is_file():
        # open_clip would load what is not finite.
        require_usable(load_tensors(pretrained), source=pretrained)
    elif pretrained not in (tags := open_clip.list_pretrained_tags_by_model(model)):
        raise ConfigError(
            "backbone.head.class_head.pretrained must be a file or a tag of weights of "
            f"{model} ({', '.join(tags) or 'there are none'}), got {pretrained}"
        )
    try:
        with warnings.catch_warnings():
            # Weights that were trained with another activation than the architecture's.
            warnings.filterwarnings("error", message="QuickGELU mismatch")
            clip = open_clip.create_model(model, pretrained=pretrained)
    except Exception as cause:  # each layer of the download raises errors of its own
        raise ConfigError(
            f"backbone.head.class_head.pretrained={pretrained} cannot be had for {model} "
            f"({type(cause).__name__}: {_first_sentence(str(cause))}); give a file of "
            "open_clip's weights, an architecture that they fit, such as RN50-quickgelu for "
            "openai, or choose backbone/head/class_head=linear"
        ) from cause
    return clip.eval(), open_clip.get_tokenizer(model)


def _first_sentence(text: str) -> str:
    """What comes before the next sentence, without its full stop."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", text.strip())[0].removesuffix(".")
