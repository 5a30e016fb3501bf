"""What a command says of itself in place of its work: its version, help and configuration."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

import yaml

from sfseg import __version__

VERSION = f"sfseg {__version__}\n"
HELP = {"--help", "-h"}
FLAGS = HELP | {"--cfg", "-c", "--info", "-i", "--hydra-help"}
NAMES = {
    "check": "sfseg-data check",
    "preview": "sfseg-data preview",
    "personalise": "sfseg-generate personalise",
    "images": "sfseg-generate images",
    "report": "sfseg-generate report",
    "run_report": "sfseg-report",
}
"""How those commands are called that are not called ``sfseg-`` and their configuration's name."""
CHOICES, EXAMPLES = "== Choices ==", "== Examples =="


def asks(words: Sequence[str]) -> bool:
    """Whether a command line asks for words and no work."""
    return any(word.partition("=")[0] in FLAGS for word in words)


@contextmanager
def told(words: Sequence[str], folder: Path, config_name: str) -> Iterator[None]:
    """What is printed meanwhile is shown at the end, help without what is of other commands.

    Args:
        words: of the command line.
        folder: of the configuration.
        config_name: what the command composes.
    """
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        text = printed.getvalue()
        tell(own_help(text, folder, config_name) if HELP & set(words) else text)


def tell(text: str) -> None:
    """Print, also to one who stops reading, such as ``head``."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would try once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def own_help(text: str, folder: Path, config_name: str) -> str:
    """Help without the choices and examples of other commands.

    A command has those groups of which its configuration chooses one.
    """
    defaults = yaml.safe_load((folder / f"{config_name}.yaml").read_text(encoding="utf-8"))
    groups = {group for entry in defaults["defaults"] if isinstance(entry, dict) for group in entry}
    name = NAMES.get(config_name, f"sfseg-{config_name}")
    kept, part = [], ""
    for line in text.splitlines(keepends=True):
        part = line.strip() if line.startswith("== ") else part
        if part == CHOICES and ": " in line and not {line.split(":")[0], _top(line)} & groups:
            continue
        if part == EXAMPLES and line.startswith("sfseg-") and not line.startswith(f"{name} "):
            continue
        kept.append(line)
    return "".join(kept)


def _top(line: str) -> str:
    """The group at the top, such as ``method`` of ``method/optimizer: adamw, sgd``."""
    return line.split(":")[0].split("/")[0]
