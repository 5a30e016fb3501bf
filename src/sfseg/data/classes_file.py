"""What a user's ``classes.yaml`` says: names, colours, and how masks hold them."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from sfseg.data.class_map import require_sensible
from sfseg.labels import BUILT_IN, Colour, LabelSpace, distinct_colour
from sfseg.nesting import require_small

KEYS = (
    "name", "classes", "palette", "values", "ignore", "map", "nearest", "channel", "subsets"
)  # fmt: skip
Channel = Literal["red", "green", "blue"]
CHANNELS: tuple[Channel, ...] = get_args(Channel)
WIDEST = 65535
"""Largest id that a mask may hold, that of 16 bits."""
NEAREST = 48.0
"""How far a colour may be from that of its class with ``nearest: true``."""


@dataclass(frozen=True)
class ClassesFile:
    """The content of one file, checked.

    name: short name for tables.
    classes: names of what the masks hold.
    colours: those of each class in colour masks, the first one is drawn; None without a palette.
    values: ids of each class in masks of ids.
    ignored_ids: ids that do not count.
    ignored_colours: colours that do not count.
    renamed: class -> its name in the task; None where its pixels do not count.
    nearest: how far a colour may be from that of its class, Euclidean; None: it must be equal.
    channel: the one that holds the ids of masks of three channels; None: they hold colours.
    subsets: metric name -> positions of the task's classes.
    """

    name: str
    classes: tuple[str, ...]
    colours: tuple[tuple[Colour, ...], ...] | None
    values: tuple[tuple[int, ...], ...]
    ignored_ids: tuple[int, ...] = ()
    ignored_colours: tuple[Colour, ...] = ()
    renamed: Mapping[str, str | None] = field(default_factory=dict)
    nearest: float | None = None
    channel: Channel | None = None
    subsets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Mapping[str, Any], where: str) -> "ClassesFile":
        """The settings of a file.

        Args:
            settings: as YAML gives them.
            where: the file, for messages.

        Raises:
            ValueError: an unknown key, a value of the wrong type, or one that contradicts another.
        """
        given = {key: value for key, value in settings.items() if value is not None}
        require_known(given, KEYS, f"{where} has the key", f"it knows {', '.join(KEYS)}")
        names = _names(given.get("classes"), where)
        ids, colours = _ignored(given.get("ignore", []), where)
        values = given.get("values", list(range(len(names))))
        palette = given.get("palette")
        file = cls(
            name=str(given.get("name", Path(where).absolute().parent.name)),
            classes=names,
            colours=None
            if palette is None
            else tuple(
                tuple(colour_of(c) for c in several)
                for several in _of_each_class(
                    "palette", palette, len(names), is_colour, "one colour [r, g, b]", where
                )
            ),
            values=_of_each_class("values", values, len(names), is_id, "one stored id", where),
            ignored_ids=ids,
            ignored_colours=colours,
            renamed=_renamed(given.get("map", {}), names, where),
            nearest=_nearest(given.get("nearest", False), where),
            channel=_channel(given.get("channel"), where),
            subsets=_subsets(given.get("subsets", {}), where),
        )
        _require_named_once(file, where)
        return file

    @property
    def targets(self) -> tuple[str | None, ...]:
        """Of each class, its name in the task; None where its pixels do not count."""
        return tuple(self.renamed.get(name, name) for name in self.classes)

    @property
    def task(self) -> tuple[str, ...]:
        """Names of the classes that are left, in their order."""
        return tuple(dict.fromkeys(name for name in self.targets if name is not None))

    def drawn(self, name: str) -> Colour | None:
        """The colour of one of the task's classes; None without a palette."""
        if self.colours is None:
            return None
        same = name in self.classes and self.targets[self.classes.index(name)] == name
        first = self.classes.index(name) if same else self.targets.index(name)
        return self.colours[first][0]


def load_label_space(source: str | Path) -> LabelSpace:
    """A built-in label space by name, or one from a user's YAML file.

    The file holds ``classes`` (names in the order of their ids, or a built-in label space) and,
    optionally, ``palette`` (RGB triples), ``map`` and ``subsets``; what else it may hold says how
    masks are read, see :class:`ClassesFile`.

    Raises:
        ValueError: neither a built-in name nor a readable file of that form.
    """
    if str(source) in BUILT_IN:
        return BUILT_IN[str(source)]
    file = described(source)
    return LabelSpace(
        name=file.name,
        classes=file.task,
        palette=tuple(file.drawn(name) or distinct_colour(k) for k, name in enumerate(file.task)),
        subsets=file.subsets,
    )


def described(source: str | Path) -> ClassesFile:
    """What masks of a label space hold: a user's file, or a built-in one as a file would say it.

    Raises:
        ValueError: as :func:`load_label_space`.
    """
    if str(source) in BUILT_IN:
        return ClassesFile.of(_settings_of(str(source)), str(source))
    # YAML reads a file called 2024 as a number.
    path = Path(str(source))
    if not path.is_file():
        is_lost = path.parent != Path() and not path.parent.is_dir()
        hint = f"; nor does the folder {path.parent}, check data.root" if is_lost else ""
        raise ValueError(
            f"classes must be one of {sorted(BUILT_IN)} or a YAML file with a list 'classes', "
            f"got {str(source)!r}, which does not exist{hint}"
        )
    settings = read_settings(path)
    name = settings["classes"]
    if isinstance(name, str):
        require_known([name], sorted(BUILT_IN), f"'classes' of {path} is", "list the names")
        settings = _settings_of(name) | {k: v for k, v in settings.items() if k != "classes"}
    return ClassesFile.of(settings, str(path))


def _settings_of(name: str) -> dict[str, Any]:
    """A built-in label space as a file would, without subsets, whose positions a map moves."""
    space = BUILT_IN[name]
    palette = [list(colour) for colour in space.palette]
    return {"name": name, "classes": list(space.classes), "palette": palette}


def read_settings(path: Path) -> dict[str, Any]:
    """The keys of a classes' file.

    Raises:
        ValueError: it cannot be read, is no valid YAML, or has no classes.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text in UTF-8: {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is no valid YAML: {error}") from error
    require_small(values, str(path))
    if not isinstance(values, dict) or not isinstance(values.get("classes"), list | str):
        found = [str(key) for key in values] if isinstance(values, dict) else []
        close = difflib.get_close_matches("classes", found, n=1)
        hint = f"; did you mean that by {close[0]!r}?" if close and close != ["classes"] else ""
        raise ValueError(f"{path} must hold a list 'classes' with one name per class id{hint}")
    return values


def require_known(
    found: Mapping[Any, Any] | Sequence[Any], known: Sequence[str], what: str, otherwise: str
) -> None:
    """Refuse a word that is not known, with the one that may have been meant.

    Args:
        found: words.
        known: what they may be.
        what: the beginning of the message.
        otherwise: what is said where none is close.

    Raises:
        ValueError: names the first word that is not known.
    """
    for word in found:
        if word not in known:
            close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
            way_out = f"did you mean {close[0]!r}?" if close else otherwise
            raise ValueError(f"{what} {word!r}, which is unknown; {way_out}")


def is_id(value: Any) -> bool:
    """Whether a value is an id that a mask may hold."""
    return type(value) is int and 0 <= value <= WIDEST


def is_colour(value: Any) -> bool:
    """Whether a value is a list of red, green and blue."""
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(v) is int and 0 <= v <= 255 for v in value)
    )


def colour_of(value: Sequence[int]) -> Colour:
    """Red, green and blue."""
    red, green, blue = value
    return red, green, blue


def _require_named_once(file: ClassesFile, where: str) -> None:
    ids = [k for several in file.values for k in several]
    colours = [c for several in file.colours or () for c in several]
    lists: dict[str, list[int | Colour]] = {
        "'values' and 'ignore'": [*ids, *file.ignored_ids],
        "'palette' and 'ignore'": [*colours, *file.ignored_colours],
    }
    for what, found in lists.items():
        twice = [entry for k, entry in enumerate(found) if entry in found[:k]]
        if twice:
            raise ValueError(
                f"{what} of {where} must name each id and colour once, got "
                f"{_listed(twice[0])} twice; a colour is a list of its own, [[r, g, b]]"
            )


def _listed(entry: int | Colour) -> str:
    return str(list(entry)) if isinstance(entry, tuple) else str(entry)


def _name(value: Any, key: str, where: str) -> str:
    """A class's name; YAML makes truth values of words such as ``on`` and ``no``."""
    is_text = isinstance(value, str | int | float) and not isinstance(value, bool)
    text = str(value)
    if not is_text or not text.strip() or not text.isprintable():
        raise ValueError(
            f"{key!r} of {where} must hold names of one line, got {value!r} "
            f"({type(value).__name__}); write names such as on, no or null in quotes"
        )
    return text


def _names(values: Any, where: str) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise ValueError(f"{where} must hold a list 'classes' with one name per class id")
    names = tuple(_name(value, "classes", where) for value in values)
    if twice := [name for k, name in enumerate(names) if name in names[:k]]:
        raise ValueError(
            f"'classes' of {where} must be distinct, got {twice[0]!r} twice; several ids of one "
            "class stand in 'values': [[1, 2], 3]"
        )
    return names


def _of_each_class(
    key: str, entries: Any, count: int, is_one: Callable[[Any], bool], what: str, where: str
) -> tuple[tuple[Any, ...], ...]:
    """What a list holds for each class, where one thing stands for a list of one."""
    if not isinstance(entries, list) or len(entries) != count:
        got = len(entries) if isinstance(entries, list) else f"{entries!r}"
        raise ValueError(
            f"{key!r} of {where} must list {what} for each of the {count} classes, got {got}"
        )
    found = []
    for entry in entries:
        several = [entry] if is_one(entry) else entry
        if not isinstance(several, list) or not several or not all(map(is_one, several)):
            raise ValueError(
                f"{key!r} of {where} must list {what}, or a list of several, for each class, got "
                f"{entry!r}; ids are from 0 to {WIDEST}, colours from 0 to 255"
            )
        found.append(tuple(several))
    return tuple(found)


def _ignored(entries: Any, where: str) -> tuple[tuple[int, ...], tuple[Colour, ...]]:
    if not isinstance(entries, list) or not all(is_id(e) or is_colour(e) for e in entries):
        raise ValueError(
            f"'ignore' of {where} must list ids from 0 to {WIDEST} or colours [r, g, b], got "
            f"{entries!r}"
        )
    ids = tuple(entry for entry in entries if is_id(entry))
    return ids, tuple(colour_of(entry) for entry in entries if not is_id(entry))


def _renamed(entries: Any, names: Sequence[str], where: str) -> dict[str, str | None]:
    if not isinstance(entries, dict):
        raise ValueError(f"'map' of {where} must be like {{rider: person}}, got {entries!r}")
    found = {
        _name(old, "map", where): None if new is None else _name(new, "map", where)
        for old, new in entries.items()
    }
    require_known(found, names, f"'map' of {where} has the class", f"there are {list(names)}")
    require_sensible(found, names, where)
    return found


def _nearest(value: Any, where: str) -> float | None:
    if isinstance(value, bool):
        return NEAREST if value else None
    if not isinstance(value, int | float) or not 0 < value < 442:
        raise ValueError(
            f"'nearest' of {where} must be true, false or the largest distance of colours, from 1 "
            f"to 441, got {value!r}"
        )
    return float(value)


def _channel(value: Any, where: str) -> Channel | None:
    chosen = next((name for name in CHANNELS if name == value), None)
    if value is not None and chosen is None:
        raise ValueError(f"'channel' of {where} must be one of {list(CHANNELS)}, got {value!r}")
    return chosen


def _subsets(entries: Any, where: str) -> dict[str, tuple[int, ...]]:
    if not isinstance(entries, dict) or not all(
        isinstance(ids, list) and all(type(k) is int for k in ids) for ids in entries.values()
    ):
        raise ValueError(
            f"'subsets' of {where} must be like {{vehicles: [1, 2]}}, a name and class ids, got "
            f"{entries!r}"
        )
    return {_name(name, "subsets", where): tuple(ids) for name, ids in entries.items()}
