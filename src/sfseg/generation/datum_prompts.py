"""DATUM's prompts: one for each class of Cityscapes (Benigmim et al., CVPRW 2023)."""

from string import Formatter

from sfseg.errors import ConfigError

THINGS = (
    "traffic lights", "traffic signs", "persons", "riders", "cars", "trucks", "trains", "buses",
    "motorcycles", "bicycles",
)  # fmt: skip
"""In the release's order, by which image j follows prompt j mod 10."""
STUFF = (
    "roads", "sidewalks", "buildings", "walls", "fences", "poles", "vegetation", "terrain", "sky",
)  # fmt: skip
"""The other classes of Cityscapes, plural as well; the release has no names for them."""
CLASSES = {"things": THINGS, "things+stuff": (*THINGS, *STUFF), "none": ("",)}
# The slides write "a photo of a V* [CLS]"; the release, which this follows, omits the article.
TEMPLATE = "a photo of {identifier} {cls}"
WITHOUT_CLASS = "a photo of a {identifier} urban scene"
"""Template of ``classes=none``: the prompt that the model is personalised with."""


def datum_prompts(classes: str, template: str | None, identifier: str) -> list[str]:
    """One prompt for each class, or one alone.

    Args:
        classes: ``things``, ``things+stuff``, or ``none`` for one prompt without a class.
        template: of a prompt, with places ``{identifier}`` and ``{cls}``; None: the release's.
        identifier: the word that the personalised model knows the target's look by.

    Raises:
        ConfigError: no such choice, or a template that lacks a place or has another one.
    """
    if classes not in CLASSES:
        raise ConfigError(f"classes must be one of {', '.join(CLASSES)}, got {classes!r}")
    if not identifier.strip():
        raise ConfigError(
            "identifier must be the word that the model was personalised with, such as sks, got "
            f"{identifier!r}"
        )
    wanted = {"identifier"} if classes == "none" else {"identifier", "cls"}
    if template is None:
        template = WITHOUT_CLASS if classes == "none" else TEMPLATE
    _require_places(template, wanted, classes)
    return [template.format(identifier=identifier, cls=name) for name in CLASSES[classes]]


def _require_places(template: str, wanted: set[str], classes: str) -> None:
    try:
        fields = [field for field in Formatter().parse(template) if field[1] is not None]
    except ValueError as error:
        raise ConfigError(f"template={template!r} cannot be read: {error}") from error
    for _, name, form, conversion in fields:
        if form or conversion:
            raise ConfigError(
                f"template={template!r} must not format {{{name}}}; write the place alone"
            )
    places = {str(name) for _, name, _, _ in fields}
    for name in sorted(wanted - places):
        raise ConfigError(
            f"template={template!r} must contain {{{name}}} with classes={classes}; a file with "
            "one prompt a line, prompts=<file>, may hold any text"
        )
    for name in sorted(places - wanted):
        raise ConfigError(
            f"template={template!r} must not contain {{{name}}} with classes={classes}, which "
            f"fills {', '.join(f'{{{place}}}' for place in sorted(wanted))}"
        )
