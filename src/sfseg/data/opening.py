"""Open a set: the one place where a reader's arguments are looked at before it is called."""

import inspect
from functools import partial
from pathlib import Path

from sfseg.data.folder import Scenes, ScenesFactory
from sfseg.data.translation import translated
from sfseg.errors import ConfigError
from sfseg.labels import LabelSpace

TRANSLATED = "source_train"
"""The set of which there may be translated images."""


def opened(
    name: str,
    factory: ScenesFactory,
    labels: LabelSpace | None = None,
    translations: str | None = None,
) -> Scenes:
    """The scenes of a set.

    Args:
        name: of the set, such as ``source_train``.
        factory: opens it.
        labels: of the task, whose classes the set must have; None does not compare.
        translations: folder of images that stand for those of :data:`TRANSLATED`, of which others
            know nothing.

    Raises:
        ConfigError: an argument that the reader has not, lacks or refuses, or other classes.
        DataError: its files cannot be listed.
    """
    setting = f"data.scenes.{name}"
    _require_known(setting, factory)
    try:
        scenes = factory()
    except ValueError as error:
        raise ConfigError(f"{setting}: {error}") from error
    if labels is not None and scenes.labels.num_classes != labels.num_classes:
        raise ConfigError(
            f"{setting} has {scenes.labels.num_classes} classes ({scenes.labels.name}), the task "
            f"{labels.num_classes} ({labels.name}); point data.classes at the right label space"
        )
    if translations is not None and name == TRANSLATED:
        return translated(scenes, translations)
    return scenes


def missing_folder(factory: ScenesFactory) -> Path | None:
    """The folder that a reader is to read, if that does not exist."""
    root = factory.keywords.get("root") if isinstance(factory, partial) else None
    return None if root is None or Path(root).is_dir() else Path(root)


def _require_known(setting: str, factory: ScenesFactory) -> None:
    if not isinstance(factory, partial):
        return
    reader = factory.func
    names = [name for name in inspect.signature(reader).parameters if name != "self"]
    if unknown := [name for name in factory.keywords if name not in names]:
        raise ConfigError(
            f"{setting}.{unknown[0]} is no setting of {reader.__name__}, which has "
            f"{', '.join(names)}"
        )
    try:
        inspect.signature(reader).bind(*factory.args, **factory.keywords)
    except TypeError as error:
        raise ConfigError(f"{setting}: {reader.__name__} is {error}") from error
