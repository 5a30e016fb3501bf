"""Errors a user can mend, each with the exit code that a job script can act on."""


class SfsegError(Exception):
    """Base of all errors below; the message names the argument, its value and the way out."""

    exit_code = 1


class ConfigError(SfsegError):
    """A setting, a checkpoint or a combination of both that cannot work."""

    exit_code = 2


class DataError(SfsegError):
    """A file or folder that is missing, broken or not what it should be."""

    exit_code = 3
