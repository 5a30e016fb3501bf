"""Errors a user can mend, each with the exit code that a job script can act on."""

from collections.abc import Iterator
from os import PathLike
from typing import Literal

HubReason = Literal["gated", "missing", "offline"]
"""Why a model of Hugging Face's hub could not be had, see :func:`hub_reason`."""
OFFLINE = {"ConnectionError", "TransportError", "Timeout"}
"""Names of classes of errors without an answer, of Python and of all clients that there are."""


class SfsegError(Exception):
    """Base of all errors below; the message names the argument, its value and the way out."""

    exit_code = 1


class ConfigError(SfsegError):
    """A setting, a checkpoint or a combination of both that cannot work."""

    exit_code = 2


class DataError(SfsegError):
    """A file or folder that is missing, broken or not what it should be.

    Args:
        message: names the file and what is wrong with it.
        kind: the same in a few words that do not change from file to file, for reports.
        path: the file.
        pixels: how many of its pixels are wrong, where that can be said.
    """

    exit_code = 3

    def __init__(
        self,
        message: object = "",
        *,
        kind: str = "",
        path: str | PathLike[str] | None = None,
        pixels: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.path = path
        self.pixels = pixels


class NumericError(SfsegError):
    """A loss, a gradient or a weight that is not finite: training on would destroy the weights."""

    exit_code = 4


class OutputError(SfsegError):
    """A disk that is full, or a folder that takes no files any more."""

    exit_code = 5


class PreemptedError(SfsegError):
    """The machine is needed for something else; the run is saved and can go on later."""

    exit_code = 143


class LostProcessError(SfsegError):
    """Another process of the run has ended or does not answer."""

    exit_code = 6


def hub_reason(error: BaseException) -> HubReason | None:
    """What an error of a download, or one that it was raised from, comes down to; None: else.

    ``gated``: the owner asks for consent; ``missing``: no such repository, or a private one;
    ``offline``: neither the network nor the cache has it.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    kinds: tuple[tuple[HubReason, tuple[type[BaseException], ...]], ...] = (
        ("gated", (GatedRepoError,)),  # which is a RepositoryNotFoundError too
        ("missing", (RepositoryNotFoundError,)),
        ("offline", (LocalEntryNotFoundError,)),
    )
    causes = list(_causes(error))
    for reason, errors in kinds:
        if any(isinstance(cause, errors) for cause in causes):
            return reason
    # Its client is requests, httpx or httpx2, by its version: none of them need be here.
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    return "offline" if names & OFFLINE else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
