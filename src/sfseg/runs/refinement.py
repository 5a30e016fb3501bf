"""The refiner of a run's pseudo-labels, as ``pseudo_labels.refine`` says."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from omegaconf import DictConfig

from sfseg.checks import require_options
from sfseg.errors import ConfigError

if TYPE_CHECKING:
    from sfseg.data.module import AdaptationData
    from sfseg.methods.base import Method
    from sfseg.methods.refinement import Refiner

log = logging.getLogger(__name__)
Refine = Literal["none", "sam"]
SAMPLED = 50


def check_refinement(cfg: DictConfig, method: "Method", typed: Sequence[str]) -> None:
    """Refuse a refiner that nothing would pass, and settings of one that is not there.

    Args:
        cfg: of the run.
        method: to be trained.
        typed: settings of the command line.

    Raises:
        ConfigError: names the setting and its way out.
    """
    refine = cfg.pseudo_labels.refine
    try:
        require_options(**{"pseudo_labels.refine": (refine, Refine)})
    except ValueError as error:
        raise ConfigError(str(error)) from error
    idle = [word for word in typed if word.lstrip("+").startswith("pseudo_labels.sam.")]
    if refine == "none" and idle:
        raise ConfigError(f"{idle[0]} has no effect; set pseudo_labels.refine=sam, or remove it")
    if refine != "none" and "pseudo_labels" not in cfg.method.needs and not method.labels_online:
        raise ConfigError(
            f"pseudo_labels.refine={refine} has no effect: this method, as it is set, makes no "
            "pseudo-labels; set pseudo_labels.refine=none, or choose one that does, such as "
            "method=clouds, uniuvpt, uplr, mean_teacher or dacs"
        )


def refiner_of(cfg: DictConfig, data: "AdaptationData") -> "Refiner | None":
    """What a run's pseudo-labels pass, its model loaded; None for ``none``.

    Args:
        cfg: of the run, checked.
        data: opened.

    Raises:
        ConfigError: there is no such model, or a number is out of its range.
    """
    if cfg.pseudo_labels.refine == "none":
        return None
    given = cfg.pseudo_labels.sam
    place = None
    if given.cache_dir is not None:
        place = Path(given.cache_dir).expanduser() / "embeddings"
    comes_again = views_come_again(data)
    refiner = loaded(cfg, place, comes_again=comes_again)
    what = "whole images and all crops" if comes_again else "whole images"
    kept = "kept nowhere" if place is None else f"of {what} kept in {place}"
    log.info("pseudo-labels: refined by %s, embeddings %s", given.model, kept)
    return refiner


def loaded(cfg: DictConfig, place: Path | None, *, comes_again: bool = False) -> "Refiner":
    """The refiner that the settings describe.

    Args:
        cfg: of a run.
        place: folder of the images' embeddings; None: they are kept nowhere.
        comes_again: whether images of training batches do.

    Raises:
        ConfigError: there is no such model, or a number is out of its range.
    """
    from sfseg.methods.refinement import Refiner
    from sfseg.networks.sam import SegmentAnything
    from sfseg.pseudo.embeddings import Embeddings

    given = cfg.pseudo_labels.sam
    try:
        return Refiner(
            SegmentAnything.load(str(given.model)),
            seed=cfg.seed,
            points=given.points,
            min_share=given.min_share,
            clear_overlaps=given.clear_overlaps,
            embeddings=None if place is None else Embeddings(place),
            views_come_again=comes_again,
        )
    except ValueError as error:
        raise ConfigError(f"pseudo_labels.sam: {error}") from error


def views_come_again(data: "AdaptationData") -> bool:
    """Whether the target's training crops show whole pictures that nothing else changes.

    Sizes of some pictures are looked at: a wrong answer costs time or room on the disk alone.
    """
    scenes, view = data.scenes["target_train"], data.views["target"]
    if data.colour is not None or view.crop is None:
        return False
    count = len(scenes)
    left_out = data.left_out["target_train"]
    some = np.unique(np.linspace(0, count - 1, min(count, SAMPLED)).astype(int)).tolist()
    sizes = [view.fixed_size(scenes.size(left_out.usable(k))) for k in some]
    crop = view.crop
    return all(size is not None and size[0] <= crop[0] and size[1] <= crop[1] for size in sizes)
