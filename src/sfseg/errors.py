"""Errors a user can mend, each with the exit code that a job script can act on."""

from os import PathLike


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
