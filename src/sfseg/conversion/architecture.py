"""What has to be known of an architecture to convert its networks, and what may be asked of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sfseg.errors import ConfigError
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.weights.key_maps import Rules


def no_tensors(config: Any) -> dict[str, Tensor]:
    """Of architectures without constants in their files."""
    return {}


@dataclass(frozen=True)
class Architecture:
    """A class of transformers' and the network of ours that computes the same.

    name: of the class.
    processor: name of the class that prepares its images.
    fits: whether a network of ours is one; may raise a ConfigError where it is but for a detail.
    settings: of its configuration, what a command line of ours says to build the network.
    configuration: of a network of ours, the arguments of transformers' configuration but classes.
    rules: from our names to those in transformers' files.
    without_use: pattern of names in these files that have no place in a network of ours.
    norm_eps: eps of the LayerNorms of its backbone.
    outputs: of a network of ours and normalised pixels, what is compared.
    their_outputs: the same of theirs.
    constants: of a configuration, tensors of the files that are no weights.
    """

    name: str
    processor: str
    fits: Callable[[Segmenter], bool]
    settings: Callable[[Any], list[str]]
    configuration: Callable[[Segmenter], dict[str, Any]]
    rules: Rules
    without_use: str
    norm_eps: Callable[[Segmenter], float]
    outputs: Callable[[Segmenter, Tensor], list[Tensor]]
    their_outputs: Callable[[Any, Tensor], list[Tensor]]
    constants: Callable[[Any], dict[str, Tensor]] = no_tensors


def require_values(config: Any, wanted: Mapping[str, Any], *, what: str) -> None:
    """Refuse a configuration whose network is not one of ours in some number.

    Args:
        config: of transformers.
        wanted: attribute -> the only value that a network of ours has.
        what: which configuration this is, for the message.

    Raises:
        ConfigError: names all that differ.
    """
    found = {key: _plain(getattr(config, key)) for key in wanted}
    differing = [
        f"{key}={found[key]} in place of {_plain(value)}"
        for key, value in wanted.items()
        if found[key] != _plain(value)
    ]
    if differing:
        raise ConfigError(
            f"source has a {what} that no network here computes: {', '.join(differing)}"
        )


def variant(found: tuple[Any, ...], known: Mapping[tuple[Any, ...], Any], *, what: str) -> Any:
    """The network of ours with these numbers.

    Raises:
        ConfigError: there is none; names those that there are.
    """
    if found not in known:
        shown = "; ".join(map(str, known))
        raise ConfigError(f"source has a {what} of {found}, which is none of {shown}")
    return known[found]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def head_outputs(network: Segmenter, pixels: Tensor) -> list[Tensor]:
    """Logits (B, K, h, w) of the head's own size, of normalised pixels (B, 3, H, W)."""
    logits: Tensor = network.head(network.backbone(network.padded(pixels)))
    return [logits]
