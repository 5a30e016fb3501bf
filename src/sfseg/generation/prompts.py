"""Where the prompts of a set come from: DATUM's, CLOUDS' form, or a file."""

from pathlib import Path

from sfseg.errors import ConfigError
from sfseg.generation.datum_prompts import datum_prompts
from sfseg.generation.street_prompts import street_prompts

KINDS = ("datum", "clouds")


def prompts_of(
    source: str, *, classes: str = "things", template: str | None = None, identifier: str = "sks"
) -> list[str]:
    """The prompts of a set; image j follows prompt j modulo their number.

    Args:
        source: ``datum``, ``clouds``, or the path of a text file with one prompt a line.
        classes: of ``datum``, see :func:`datum_prompts`.
        template: of ``datum``.
        identifier: of ``datum``.

    Raises:
        ConfigError: no such source, a file without prompts, or a template that cannot be.
    """
    if source == "datum":
        return datum_prompts(classes, template, identifier)
    if template is not None:
        raise ConfigError(f"template={template!r} belongs to prompts=datum, not to {source}")
    return street_prompts() if source == "clouds" else read_prompts(Path(source))


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        ConfigError: no file, no text, or no prompt in it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(
            f"prompts={path} must be one of {', '.join(KINDS)}, or a text file with one prompt a "
            f"line; as a file it cannot be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompts={path} is no text in UTF-8: {error}") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ConfigError(f"prompts={path} is empty; write one prompt a line")
    return prompts
