"""``sfseg-generate report``: a page on a generated set beside images of the target."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from sfseg.commands.predict import model_of, sources
from sfseg.config.composition import as_typed, require_flags
from sfseg.errors import ConfigError

if TYPE_CHECKING:
    from sfseg.data.images import ValueRange
    from sfseg.generation.set_report import Findings, Set
    from sfseg.labels import LabelSpace
    from sfseg.prediction.predictor import Predictor

log = logging.getLogger(__name__)


def report(cfg: DictConfig) -> None:
    """Look at both sets and write the page.

    Raises:
        ConfigError: a setting that cannot work.
        DataError: a folder without images.
        OutputError: the page cannot be written.
    """
    import torch

    from sfseg.generation.set_report import look_at, open_set, write_page
    from sfseg.report import html
    from sfseg.runs.quiet import quiet_lightning

    quiet_lightning()
    require_flags(cfg, "distances")
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    out = Path(as_typed(cfg, "out")).expanduser()
    html.require_place(out)
    generated = open_set(sources(cfg), "images")
    target = open_set(sources(cfg, "target"), "target", range_of(cfg))
    segmenter, weights = segmenter_of(cfg), weights_of(cfg)
    if isinstance(weights, str):
        log.info("no distances: %s", weights)
    found = look_at(generated, target)
    if segmenter is not None:
        found.shares = shares(*segmenter, [found.generated, target], cfg.samples)
    found.distances = weights if isinstance(weights, str) else measured(cfg, weights, found)
    html.write_page(out, write_page(found).encode("utf-8", "backslashreplace"))
    log.info(
        "%d images, near-duplicates: %d pairs, copies of the target: %d; report: %s",
        len(found.generated), len(found.twins), len(found.copies), out,
    )  # fmt: skip


def range_of(cfg: DictConfig) -> "ValueRange":
    """Which stored values of the target's images become 0 to 255.

    Raises:
        ConfigError: no range.
    """
    from sfseg.data.images import value_range_of

    given = cfg.value_range
    try:
        return value_range_of(OmegaConf.to_object(given) if OmegaConf.is_list(given) else given)
    except ValueError as error:
        raise ConfigError(str(error).replace("data.value_range", "value_range")) from error


def segmenter_of(cfg: DictConfig) -> "tuple[LabelSpace, Predictor] | None":
    """The classes and the network that looks at images; None where none is given.

    Raises:
        ConfigError: a setting of it that cannot work.
    """
    from sfseg.commands.data import require_positive
    from sfseg.runs.checkpoints import restore

    if cfg.samples is not None:
        require_positive("samples", cfg.samples)
    if cfg.segmenter is None:
        return None
    try:
        restored = restore(Path(as_typed(cfg, "segmenter")).expanduser())
    except ConfigError as error:
        raise ConfigError(str(error).replace("ckpt_path=", "segmenter=")) from error
    return restored.labels, model_of(cfg, restored).predictor


def shares(
    labels: "LabelSpace", predict: "Predictor", sets: "Sequence[Set]", number: int | None
) -> list[tuple[str, float, float]]:
    """Each class and its shares of the pixels of both sets."""
    from sfseg.data.check import count_classes
    from sfseg.generation.set_report import class_shares

    count = partial(count_classes, num_classes=labels.num_classes)
    one, two = (class_shares(predict, count, each, number) for each in sets)
    return [(name, float(one[k]), float(two[k])) for k, name in enumerate(labels.classes)]


def weights_of(cfg: DictConfig) -> Path | str:
    """Weights of the network that FID and KID need, or why there will be none.

    Raises:
        ConfigError: a file that cannot be.
    """
    from sfseg.generation.image_distances import cached_weights, can_measure, checked_weights

    if not cfg.distances:
        return "Not asked for."
    if not can_measure():
        return "FID and KID need torch-fidelity: pip install torch-fidelity, then run this again."
    if cfg.inception is not None:
        return checked_weights(Path(as_typed(cfg, "inception")).expanduser())
    return cached_weights()


def measured(cfg: DictConfig, weights: Path, found: "Findings") -> Mapping[str, float]:
    """FID and KID of the sets."""
    from sfseg.generation.image_distances import Pictures, distances
    from sfseg.generation.pipelines import chosen_device

    own, target, size = found.generated, found.target, found.size
    sets = [Pictures(partial(s.cut, size=size), len(s)) for s in (own, target)]
    return distances(*sets, weights=weights, device=chosen_device(cfg.device))
