"""Open a set: the one place where a reader's arguments are looked at before it is called."""

import inspect
import logging
from functools import partial
from pathlib import Path
from types import UnionType
from typing import get_args

from sfseg.data.files import pairing_hint
from sfseg.data.folder import Scenes, ScenesFactory
from sfseg.data.replacement import Replacement
from sfseg.data.shots import Shots
from sfseg.data.translation import translated
from sfseg.errors import ConfigError
from sfseg.labels import LabelSpace

log = logging.getLogger(__name__)

TRANSLATED = "source_train"
"""The set of which there may be translated images."""
FEW = "target_train"
"""The set of which a run may see a few images alone, or others in their place."""
NAMES = {str, Path, type(None)}
"""Types of arguments that are paths or names."""


def opened(
    name: str,
    factory: ScenesFactory,
    labels: LabelSpace | None = None,
    translations: str | None = None,
    shots: Shots | None = None,
    replacement: Replacement | None = None,
    *,
    setting: str | None = None,
) -> Scenes:
    """The scenes of a set.

    Args:
        name: of the set, such as ``source_train``.
        factory: opens it.
        labels: of the task, whose classes the set must have; None does not compare.
        translations: folder of images that stand for those of :data:`TRANSLATED`, of which others
            know nothing.
        shots: which scenes of :data:`FEW` are seen; None: all. Where images are generated, it is
            these of the set that they were generated from: they must be there, and are not seen.
        replacement: what stands for the images of :data:`FEW`; None: nothing.
        setting: where the factory was set, for messages; None: among ``data.scenes``.

    Raises:
        ConfigError: an argument that the reader has not, lacks or refuses, or other classes.
        DataError: its files cannot be listed.
    """
    setting = setting or f"data.scenes.{name}"
    _require_known(setting, factory)
    if name == FEW and replacement is not None and replacement.is_given:
        assert labels is not None, "those of the task"
        if replacement.generated is not None and shots is not None:
            if shots.are_few:
                shots.of(_read(setting, factory, labels))
            shots = None
        scenes: Scenes = replacement.images(labels)
    else:
        scenes = _read(setting, factory, labels)
    if translations is not None and name == TRANSLATED:
        return translated(scenes, translations)
    return shots.of(scenes) if shots is not None and name == FEW else scenes


def _read(setting: str, factory: ScenesFactory, labels: LabelSpace | None) -> Scenes:
    """The scenes of a set as its reader finds them."""
    try:
        scenes = factory()
    except ValueError as error:
        raise ConfigError(f"{setting}: {error}") from error
    if labels is not None and scenes.labels.num_classes != labels.num_classes:
        raise ConfigError(
            f"{setting} has {scenes.labels.num_classes} classes ({scenes.labels.name}), the task "
            f"{labels.num_classes} ({labels.name}); point data.classes at the right label space"
        )
    return scenes


def missing_folder(factory: ScenesFactory) -> Path | None:
    """The folder that a reader is to read, if that does not exist."""
    root = factory.keywords.get("root") if isinstance(factory, partial) else None
    # Of another type it is refused where the set is opened.
    return Path(root) if isinstance(root, str | Path) and not Path(root).is_dir() else None


def require_labels(scenes: Scenes, name: str) -> None:
    """Say that a set that should have labels has none, with what is known of the reason.

    Raises:
        ConfigError: training would need them.
    """
    title, hint = name.replace("_", " "), pairing_hint(scenes)
    why = f"; {hint}" if hint else ""
    if name.endswith("train"):
        raise ConfigError(f"the {title} set has no labels, but training needs them{why}")
    log.warning("the %s set has no labels: predictions are drawn, not scored%s", title, why)


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
    _require_names(setting, factory)


def _require_names(setting: str, factory: "partial[Scenes]") -> None:
    """Refuse numbers where paths or names are meant, as YAML reads a folder called 2024."""
    for name, parameter in inspect.signature(factory.func).parameters.items():
        kind = parameter.annotation
        kinds = set(get_args(kind)) if isinstance(kind, UnionType) else {kind}
        value = factory.keywords.get(name)
        if kinds <= NAMES and not isinstance(value, str | Path | None):
            place = factory.keywords.get("argument") if name == "root" else None
            raise ConfigError(
                f"{place or f'{setting}.{name}'} must be a name, got {value!r}, which YAML reads "
                f"as another value: put it in quotes, '{value}'"
            )
