"""How the source is chosen and shown, where a method would not see it or must not see it so."""

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from sfseg.config.composition import build
from sfseg.data.opening import missing_folder
from sfseg.data.sampling import Uniform
from sfseg.errors import ConfigError, DataError

if TYPE_CHECKING:
    from sfseg.data.module import AdaptationData


STARTS = ("source_model", "backbone")
"""What methods that see the source may begin with."""


def check_start(cfg: DictConfig) -> None:
    """Refuse another beginning than there is.

    Raises:
        ConfigError: names the two.
    """
    if cfg.start not in STARTS:
        raise ConfigError(f"start must be {' or '.join(STARTS)}, got {cfg.start!r}")


def require_source(cfg: DictConfig, data: "AdaptationData") -> None:
    """Refuse a method that trains on the source where that is not there.

    Args:
        cfg: of the run.
        data: not opened yet.

    Raises:
        DataError: names the folder, and methods that do without.
    """
    if "source" not in cfg.method.needs:
        return
    if folder := missing_folder(data.factories["source_train"]):
        settings = cfg.data.scenes.source_train
        raise DataError(
            f"{settings.get('argument', 'the folder')}={folder} is not there, and this method "
            "trains on labelled images of the source; give their folder, or choose a source-free "
            "method, such as uniuvpt, sfda or mean_teacher, with source_checkpoint=<its model>"
        )


def check_source(cfg: DictConfig) -> None:
    """Refuse settings of the source that reach nothing, or show the target to a source model.

    Args:
        cfg: of the run.

    Raises:
        ConfigError: names the setting and its way out.
    """
    needs, data = cfg.method.needs, cfg.data
    if "source" in needs:
        return
    sampler, translation, folder = map(data.get, ("sampler", "translation", "translated"))
    if "source_model" not in needs and not isinstance(build(sampler), Uniform | None):
        raise ConfigError(
            "data/sampler chooses images of the source, which this method does not train on; set "
            "data/sampler=uniform"
        )
    if folder is not None:
        given, off = f"data.translated={folder}", "data.translated=null"
    elif build(translation) is not None:
        given, off = "data/translation", "data/translation=none"
    else:
        return
    if "source_model" not in needs:
        raise ConfigError(
            f"{given} is for images of the source, which this method does not train on; set {off}"
        )
    raise ConfigError(
        f"{given} shows the source in the style of the target, which the source model of a "
        f"source-free method must not know; set {off}, or choose a method that needs the source"
    )
