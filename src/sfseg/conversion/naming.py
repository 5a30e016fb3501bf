"""Names of tensors in another library, written down once and read in both directions.

Rules, patterns and their replacements, bring a name of ours to theirs. What is one tensor here and
several there, one below the other, has their names between braces: ``attn.kv.`` becomes
``attention.{key,value}.``. As all names of a network of ours are known, so is the way back.
"""

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sfseg.errors import ConfigError
from sfseg.networks.weights.key_maps import Rules, Tensors
from sfseg.networks.weights.weight_files import patterns


def names_of(key: str, rules: Rules) -> tuple[str, ...]:
    """What one tensor of ours is called by them, in the order in which it holds theirs."""
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    if match := re.fullmatch(r"(.*)\{([^{}]+)\}(.*)", key):
        before, names, after = match.groups()
        return tuple(f"{before}{name}{after}" for name in names.split(","))
    return (key,)


def to_theirs(tensors: Tensors, rules: Rules) -> dict[str, Tensor]:
    """Our tensors under their names; several of ours with one name are one of theirs."""
    parts: dict[str, list[Tensor]] = {}
    for key, tensor in tensors.items():
        names = names_of(key, rules)
        pieces = tensor.chunk(len(names)) if len(names) > 1 else (tensor,)
        for name, piece in zip(names, pieces, strict=True):
            parts.setdefault(name, []).append(piece)
    return {
        name: (torch.cat(several) if len(several) > 1 else several[0]).contiguous()
        for name, several in parts.items()
    }


def to_ours(
    tensors: Tensors, keys: Sequence[str], rules: Rules, *, without_use: str, source: str
) -> dict[str, Tensor]:
    """Their tensors under our names; those that are missing there are missing here.

    Args:
        tensors: of a whole network of theirs.
        keys: of the network of ours that it shall become.
        rules: from ours to theirs.
        without_use: pattern of names that have no place in a network of ours.
        source: where they come from, for the message.

    Raises:
        ConfigError: some are of no use, though nobody said so.
    """
    wanted = {key: names_of(key, rules) for key in keys}
    used = {name for names in wanted.values() for name in names}
    left = [name for name in tensors if name not in used and not re.search(without_use, name)]
    if left:
        raise ConfigError(
            f"source={source} has {len(left)} tensors that the network it was recognised as has "
            f"not: {patterns(left)}; it would compute something else without them"
        )
    return {
        key: torch.cat([tensors[name] for name in names]) if len(names) > 1 else tensors[names[0]]
        for key, names in wanted.items()
        if all(name in tensors for name in names)
    }


def counted(name: str, step: int) -> Callable[[re.Match[str]], str]:
    """A replacement with the pattern's first group, a number, counted from another one.

    Args:
        name: with ``#`` in the place of the number.
        step: what is added to it.
    """
    return lambda match: name.replace("#", str(int(match[1]) + step))
