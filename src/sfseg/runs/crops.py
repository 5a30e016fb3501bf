"""Crops that follow the pictures, written into the settings of a run."""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from sfseg.config.composition import build
from sfseg.data.crops import fitted_crop
from sfseg.data.opening import opened

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
    for domain, setting in SHORT.items():
        if not {domain, f"{domain}_labels"} & set(needs):
            continue
        view = OmegaConf.select(cfg, f"data.module.views.{domain}")
        factory = OmegaConf.select(cfg, f"data.module.scenes.{domain}_train")
        if factory is None or not OmegaConf.is_dict(view) or view.get("crop") is not None:
            continue
        name = f"{domain}_train"
        resize = view.get("resize")
        crop = fitted_crop(opened(name, build(factory)), None if resize is None else tuple(resize))
        OmegaConf.update(cfg, setting, list(crop))
        # A crop that was set to null follows no other setting.
        view = OmegaConf.select(cfg, f"data.module.views.{domain}")
        if view.get("crop") is None:
            view.crop = list(crop)
