"""Addresses of models on Hugging Face's hub: ``hf://owner/name`` and ``hf://owner/name@v1``."""

import re
from os import PathLike, fspath
from typing import NamedTuple

from sfseg.errors import ConfigError

# A path object has made one slash of two.
ADDRESS = re.compile(
    r"hf:/{1,2}(?P<repo>[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*)"
    r"(?:@(?P<revision>[A-Za-z0-9_][\w.-]*(?:/[A-Za-z0-9_][\w.-]*)*))?",
    re.ASCII,
)
WEB = re.compile(
    r"https?:/{1,2}(?:www\.)?(?:huggingface\.co|hf\.co)(?:/([\w.-]+/[\w.-]+))?", re.ASCII
)


class HubAddress(NamedTuple):
    """A repository of models.

    repo: ``owner/name``.
    revision: a branch, a tag or a commit; None: the newest of the main branch.
    """

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")

    @property
    def page(self) -> str:
        """Where a browser finds it."""
        return f"huggingface.co/{self.repo}"


def hub_address(place: str | PathLike[str], argument: str) -> HubAddress | None:
    """The address that a setting holds; None where it holds a path of this machine.

    Args:
        place: as given.
        argument: what gave it, for messages.

    Raises:
        ConfigError: it begins like an address of the hub, and is none.
    """
    text = fspath(place)
    if (web := WEB.match(text)) is not None:
        example = web[1] or "owner/name"
        raise ConfigError(
            f"{argument}={text} is a page of the hub; write {argument}=hf://{example}"
        )
    if not text.startswith("hf:"):
        return None
    found = ADDRESS.fullmatch(text)
    if found is None or ".." in text or "--" in found["repo"] or found["repo"].endswith(".git"):
        raise ConfigError(
            f"{argument}={text} is no address of the hub, which is hf://owner/name or "
            "hf://owner/name@revision, of letters, digits, '-', '_' and '.'; a revision is a "
            "branch, a tag or a commit"
        )
    return HubAddress(found["repo"], found["revision"])
