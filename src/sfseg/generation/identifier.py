"""The identifier: a word that is one token, and means nothing before training."""

import re
from typing import TYPE_CHECKING, Any

from sfseg.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

USUAL = "sks"
SHOWN = 3


def require_identifier(tokenizer: Any, identifier: str, prompt: str) -> None:
    """Refuse an identifier that is not one word and token, and a prompt that does not have it.

    The parts of a word of several tokens have meanings of their own, which would all be trained
    away, and the model would draw these.

    Args:
        tokenizer: of the pipeline.
        identifier: the word.
        prompt: of training; what lies past the tokenizer's longest is cut off, so that an
            identifier there would not be seen.

    Raises:
        ConfigError: says which tokens there are, and which identifiers would do.
    """
    tokens = tokenizer(identifier, add_special_tokens=False).input_ids
    if len(tokens) != 1:
        pieces = tokenizer.convert_ids_to_tokens(tokens)
        raise ConfigError(
            f"identifier={identifier} is {len(tokens)} tokens of this model "
            f"({', '.join(map(str, pieces))}), and must be one; rare words that are: "
            f"{', '.join(rare_words(tokenizer)) or 'none'}"
        )
    if tokens[0] in tokenizer.all_special_ids:
        raise ConfigError(
            f"identifier={identifier} is a special token of this model, or unknown to it, and must "
            f"be a word; rare words are: {', '.join(rare_words(tokenizer)) or 'none'}"
        )
    require_short(tokenizer, prompt, "prompt")
    if not re.search(rf"(?<!\w){re.escape(identifier)}(?!\w)", prompt, re.IGNORECASE):
        raise ConfigError(
            f"prompt={prompt!r} does not have the identifier {identifier!r}, which is to mean the "
            "place; write it as a word of the prompt, or set identifier=<the word that is there>"
        )


def require_short(tokenizer: Any, prompt: str, name: str) -> None:
    """Refuse a prompt of which the model would not see all.

    Raises:
        ConfigError: says how long it is.
    """
    longest = int(tokenizer.model_max_length)
    tokens = len(tokenizer(prompt).input_ids)
    if tokens > longest:
        raise ConfigError(
            f"{name}={prompt!r} has {tokens} tokens, of which this model sees {longest}; shorten it"
        )


def rare_words(tokenizer: Any) -> list[str]:
    """Some words that are one token: the usual one, and the last that the tokenizer has learnt.

    Byte-pair encoding joins frequent pairs first, so that later tokens are rarer words.
    """
    by_age = sorted(tokenizer.get_vocab().items(), key=lambda item: -int(item[1]))
    words = [token.removesuffix("</w>") for token, _ in by_age if token.endswith("</w>")]
    short = [word for word in words if re.fullmatch("[a-z]{3,4}", word)]
    usual = [USUAL] if USUAL in short else []
    return [*usual, *(word for word in short if word != USUAL)][:SHOWN]


def tokens_of(tokenizer: Any, prompt: str) -> "Tensor":
    """Token ids (1, L) of a prompt, filled up to the longest, as the pipeline does it."""
    ids: Tensor = tokenizer(
        prompt, padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
        return_tensors="pt",
    ).input_ids  # fmt: skip
    return ids
