"""Crops that follow the pictures, written into the settings of a run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from sfseg.config.composition import build
from sfseg.data.crops import fitted_crop
from sfseg.data.folder import Scenes
from sfseg.data.opening import FEW, opened

if TYPE_CHECKING:
    from sfseg.data.replacement import Replacement

SHORT = {"target": "data.target_crop", "source": "data.source_view.crop"}
"""Setting of the crops of a domain. That of the source is the target's where that has none."""


def fit_crops(cfg: DictConfig, needs: Sequence[str]) -> None:
    """Give those crops a size, in place, that are null and that a run draws.

    Nothing is opened for others.

    Args:
        cfg: of the run.
        needs: what its method asks for.

    Raises:
        ConfigError: a setting of a set cannot work.
        DataError: its files are not there.
    """
    for domain in SHORT:
        if not {domain, f"{domain}_labels"} & set(needs):
            continue
        view = OmegaConf.select(cfg, f"data.module.views.{domain}")
        factory = OmegaConf.select(cfg, f"data.module.scenes.{domain}_train")
        name = f"{domain}_train"
        has_images = factory is not None or (name == FEW and replacement_of(cfg) is not None)
        if not has_images or not OmegaConf.is_dict(view) or view.get("crop") is not None:
            continue
        resize = view.get("resize")
        scenes = listed(cfg, name)
        crop = fitted_crop(scenes, None if resize is None else tuple(resize))
        set_crop(cfg, domain, crop)


def set_crop(cfg: DictConfig, domain: str, crop: Sequence[int]) -> None:
    """Give the crops of a domain, which were null, a size (height, width), in place."""
    OmegaConf.update(cfg, SHORT[domain], list(crop))
    # A crop that was set to null follows no other setting.
    view = OmegaConf.select(cfg, f"data.module.views.{domain}")
    if view.get("crop") is None:
        view.crop = list(crop)


def listed(cfg: DictConfig, name: str) -> Scenes:
    """The scenes of a set, or those that stand for them, of which none is looked at."""
    module = cfg.data.module
    replacement = replacement_of(cfg)
    if name == FEW and replacement is not None:
        scenes: Scenes = replacement.listed(build(module.labels))
        return scenes
    return opened(name, build(module.scenes[name]))


def replacement_of(cfg: DictConfig) -> "Replacement | None":
    """What stands for the target's training images, if anything does."""
    found: Replacement | None = build(cfg.data.module.get("replacement"))
    return found if found is not None and found.is_given else None
