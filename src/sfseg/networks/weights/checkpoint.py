"""Reading weights from files without running anything that hides in them."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from sfseg.errors import ConfigError
from sfseg.networks.weights.key_maps import (
    NAMINGS,
    Tensors,
    backbone_names,
    below,
    naming_of,
    segmenter_names,
    unwrapped,
)
from sfseg.networks.weights.weight_files import (
    holds_program,
    local_file,
    patterns,
    require_intact,
    require_usable,
)

log = logging.getLogger(__name__)

_WRAPPERS = ("state_dict", "model")
_SHOWN = 3

# What a file may hold without being loaded, and why.
_BUFFERS = (r"(^|\.)(relative_position_index|attn_mask)$", "buffers that are computed anew")
_CLASSIFIER = (r"^(head|fc|classifier|norm)\.", "weights of a classifier")
_HEADS = (
    r"^(decode_head|auxiliary_head|aux_head|leave_one_out|auxiliary_decoders|attention_head)\.",
    "weights of heads that the model has not",
)


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Named tensors of a .safetensors file or of a file written by ``torch.save``.

    The latter may hold them directly or below ``state_dict`` or ``model``. Only tensors and
    plain containers are decoded: a file cannot execute code.

    Raises:
        ConfigError: the file is missing, an address, damaged or holds something else.
    """
    path = local_file(path, "weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        require_intact(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as cause:
        raise ConfigError(_unsafe_or_damaged(path, cause)) from cause
    # A damaged file fails in any of its readers, each with an exception of its own.
    except Exception as cause:
        if holds_program(path):
            raise ConfigError(
                f"weights must hold tensors only, got {path}, a program of TorchScript, as OpenAI "
                "publishes CLIP; nothing was executed; take the same weights as timm or open_clip "
                "publish them, or save the tensors alone in an environment of its own: "
                "torch.save(torch.jit.load(f).state_dict(), out)"
            ) from cause
        raise ConfigError(
            f"weights must be a readable file, got {path}, which is damaged or incomplete "
            f"({_first_line(cause)}); copy or download it again"
        ) from cause
    return _named_tensors(content, path)


def load_strictly(module: nn.Module, tensors: Tensors, *, source: str) -> None:
    """Fills every parameter and buffer of a module, or changes nothing.

    Args:
        module: receives the tensors.
        tensors: one per key of the module's ``state_dict``.
        source: where they come from, for the message.

    Raises:
        ConfigError: covers all keys that are missing, unexpected or of another shape, and tensors
            that are not finite.
    """
    require_same_keys(module.state_dict(), tensors, source=source)
    require_usable(tensors, source=source)
    module.load_state_dict(tensors)


def load_backbone(
    backbone: nn.Module,
    path: str | Path,
    *,
    adapt: Callable[[Tensors], Tensors] = dict,
    optional: tuple[str, ...] = (),
) -> None:
    """Fills a backbone from a file of its weights or of a whole segmenter, or changes nothing.

    Args:
        backbone: receives the tensors.
        path: names as in the authors' files, in mmseg, DAFormer or a run of this library. Of a
            network with prompts it takes the backbone that they were put into.
        adapt: brings any other names up to date; may leave out what the backbone does not use.
        optional: beginnings of names that keep their values where the file has none of them.

    Raises:
        ConfigError: the file cannot be read or does not fit.
    """
    raw = load_tensors(path)
    part = below(below(unwrapped(raw), "backbone."), "backbone.")
    named = backbone_names(part)
    adapted = adapt(named)
    tensors, aside = _sort_out(adapted, backbone.state_dict(), (_BUFFERS, _CLASSIFIER))
    aside["tensors without use in the backbone"] = len(named) - len(adapted)
    aside["tensors outside the backbone"] = len(raw) - len(part)
    _fill(backbone, tensors, aside, source=str(path), raw=raw, optional=optional)


def load_segmenter(segmenter: nn.Module, path: str | Path) -> None:
    """Fills backbone and head from a file of a whole segmenter, or changes nothing.

    Args:
        segmenter: receives the tensors.
        path: names as in mmseg, DAFormer or a run of this library.

    Raises:
        ConfigError: the file cannot be read, holds a backbone only or does not fit.
    """
    raw = load_tensors(path)
    model = unwrapped(raw)
    if not any(key.startswith("backbone.") for key in model):
        raise ConfigError(
            f"checkpoint must hold a whole segmenter, got {path} with {_naming(raw)}; "
            "backbone.weights takes a file of backbone weights alone"
        )
    expected = segmenter.state_dict()
    tensors, aside = _sort_out(segmenter_names(model), expected, (_BUFFERS, _HEADS))
    # A head may fit where the backbone is another one: then its names would only distract.
    backbone = {key: expected[key] for key in expected if key.startswith("backbone.")}
    _require_some_of(backbone, tensors, source=str(path), raw=raw)
    aside["tensors beside the model"] = len(raw) - len(model)
    _fill(segmenter, tensors, aside, source=str(path), raw=raw)


def require_same_keys(
    expected: Tensors, tensors: Tensors, *, source: str, raw: Tensors | None = None
) -> None:
    """Raise unless ``tensors`` has just the keys and shapes of ``expected``.

    Args:
        expected: of the model.
        tensors: of the file, under the model's names.
        source: the file, for the message.
        raw: the same tensors under the file's own names, if those were others.

    Raises:
        ConfigError: covers all keys that are missing, unexpected or of another shape.
    """
    _require_some_of(expected, tensors, source=source, raw=tensors if raw is None else raw)
    shared = [key for key in expected if key in tensors]
    reshaped = [key for key in shared if tensors[key].shape != expected[key].shape]
    example = "".join(
        f", e.g. {key} {tuple(tensors[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in reshaped[:1]
    )
    findings = [
        _listing("missing", [key for key in expected if key not in tensors]),
        _listing("unexpected", [key for key in tensors if key not in expected]),
        _listing("of another shape", reshaped) + example,
        *_class_counts(expected, tensors, reshaped),
    ]
    if any(findings):
        raise ConfigError(
            f"weights must fit the model, got {source} with "
            + "; ".join(finding for finding in findings if finding)
            + "; choose the model they were saved from"
        )


def _require_some_of(expected: Tensors, tensors: Tensors, *, source: str, raw: Tensors) -> None:
    if expected and not expected.keys() & tensors.keys():
        raise ConfigError(
            f"weights must fit the model, got {source} with none of its {len(expected)} tensors "
            f"but {_naming(raw)}; choose the model they were saved from"
        )


def _sort_out(
    tensors: Tensors, expected: Tensors, reasons: Sequence[tuple[str, str]]
) -> tuple[dict[str, Tensor], Counter[str]]:
    """The tensors to load, and how many others there are for which reason."""
    kept: dict[str, Tensor] = {}
    aside: Counter[str] = Counter()
    for key, tensor in tensors.items():
        why = [reason for pattern, reason in reasons if re.search(pattern, key)]
        if key in expected or not why:
            kept[key] = tensor
        else:
            aside[why[0]] += 1
    return kept, aside


def _fill(
    module: nn.Module,
    tensors: Tensors,
    aside: Counter[str],
    *,
    source: str,
    raw: Tensors,
    optional: tuple[str, ...] = (),
) -> None:
    own = {
        key: value
        for key, value in module.state_dict().items()
        if key.startswith(optional) and not any(name.startswith(optional) for name in tensors)
    }
    expected = {key: value for key, value in module.state_dict().items() if key not in own}
    require_same_keys(expected, tensors, source=source, raw=raw)
    require_usable(tensors, source=source)
    module.load_state_dict({**own, **tensors})
    left = ", ".join(f"{count} {reason}" for reason, count in aside.items() if count)
    left = f"; left aside: {left}" if left else ""
    stay = f"; not in the file and left at their start: {patterns(list(own))}" if own else ""
    log.info("%s: %d tensors loaded%s%s", source, len(tensors), left, stay)


def _naming(tensors: Tensors) -> str:
    naming, first = naming_of(tensors), ", ".join(list(tensors)[:_SHOWN])
    whose = f"{naming}'s names" if naming else f"names of another kind than {', '.join(NAMINGS)}"
    return f"{whose} ({first}{', ...' if len(tensors) > _SHOWN else ''})"


def _named_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise ConfigError(
            f"weights must be named tensors, got {path} with a {type(content).__name__} of other "
            f"things; save module.state_dict()"
        )
    return {str(key): value for key, value in content.items()}


def _unsafe_or_damaged(path: Path, cause: UnpicklingError) -> str:
    # torch.load reports a damaged pickle and a refused one with the same exception.
    refused = re.search(r"GLOBAL (\S+)", str(cause))
    if not refused and not is_zipfile(path):
        reason, way_out = "which is damaged or no weight file", "copy or download it again"
    else:
        names = sorted(get_unsafe_globals_in_checkpoint(path)) if is_zipfile(path) else []
        held = ", ".join(names) or (refused[1] if refused else "")
        held = f" ({held})" if held else ""
        reason = f"which also holds objects that would have to be executed to be read{held}"
        way_out = (
            "if you trust its authors, name what is plain data there, such as numpy's arrays, on "
            "the command line (trust=[numpy.dtype,...]), or save the tensors alone in an "
            "environment of its own: "
            'torch.save({"state_dict": torch.load(f, weights_only=False)["state_dict"]}, out)'
        )
    return f"weights must hold tensors only, got {path}, {reason}; nothing was executed; {way_out}"


def _class_counts(expected: Tensors, tensors: Tensors, reshaped: Sequence[str]) -> list[str]:
    """What a mismatch means if it is the number of outputs of the last layer that differs."""
    for key in reshaped:
        theirs, ours = tensors[key].shape, expected[key].shape
        if "classifier" in key and theirs[1:] == ours[1:]:
            return [f"checkpoint has {theirs[0]} classes, the model {ours[0]}"]
    return []


def _listing(what: str, keys: Sequence[str]) -> str:
    return f"{len(keys)} keys {what}: {patterns(keys)}" if keys else ""


def _first_line(cause: Exception) -> str:
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
