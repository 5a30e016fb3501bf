"""Folders that stand alone on a command line, in the place of a setting."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString


def as_setting(words: Sequence[str], name: str) -> list[str]:
    """A command line on which the only folder that stands alone is that of a setting."""
    folders = bare_folders(words)
    if len(folders) != 1:
        return list(words)
    return [*(word for word in words if word not in folders), f"{name}={_quoted(folders[0])}"]


def as_list(words: Sequence[str], name: str) -> list[str]:
    """A command line on which folders that stand alone are those of a setting, a list."""
    folders = bare_folders(words)
    others = [word for word in words if word not in folders]
    return [*others, f"{name}=[{','.join(map(_quoted, folders))}]"] if folders else others


def bare_folders(words: Sequence[str]) -> list[str]:
    """Words that are no settings; names of folders may hold a ``=`` too."""
    return [word for word in words if not word.startswith("-") and _is_folder(word)]


def _is_folder(word: str) -> bool:
    key, equals, _ = word.partition("=")
    in_folder = "/" in key and not key.startswith("hydra/")
    return not equals or in_folder or Path(word).exists()


def _quoted(word: str) -> str:
    return str(QuotedString(word, Quote.double).with_quotes())
