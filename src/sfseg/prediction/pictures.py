"""What people hand over as a picture: files, Pillow's images, arrays, tensors."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from sfseg.report.drawing import Pixels

Picture: TypeAlias = str | PathLike[str] | PILImage.Image | np.ndarray[Any, Any] | Tensor
"""A file; an image; an array (H, W, 3) or a tensor (3, H, W), RGB in 0..255."""
ORIENTATION = 0x0112
"""Tag of EXIF."""
BYTES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
"""Modes of Pillow that hold at most 8 bits a channel."""


def pixels_of(picture: Picture, read: Callable[[Path], Pixels]) -> tuple[Pixels, str]:
    """A picture as (H, W, 3) RGB in 0..255, and what it is called in messages.

    Grey becomes RGB and a fourth band is dropped, where Pillow says that it is one.

    Args:
        picture: see :data:`Picture`.
        read: reads a file.

    Raises:
        ValueError: a type, shape or range that no picture has; says how to come to one.
        DataError: a file that cannot be read.
    """
    if isinstance(picture, str | PathLike):
        return read(Path(picture).expanduser()), str(picture)
    if isinstance(picture, PILImage.Image):
        return _of_pillow(picture), "the image"
    if isinstance(picture, Tensor):
        return _of_tensor(picture), "the tensor"
    if isinstance(picture, np.ndarray):
        return _of_array(picture), "the array"
    raise ValueError(
        "a picture must be a path, a PIL image, an array (H, W, 3) or a tensor (3, H, W), got "
        f"{type(picture).__name__}"
    )


def _of_pillow(image: PILImage.Image) -> Pixels:
    if image.mode not in BYTES:
        raise ValueError(
            f"an image must have 8 bits a channel, got mode {image.mode}; give the path of its "
            "file, which is read with value_range, or image.convert('RGB')"
        )
    turned = image.getexif().get(ORIENTATION, 1)
    if turned not in (0, 1):
        raise ValueError(
            f"an image must stand upright, got one whose EXIF orientation is {turned}; give "
            "PIL.ImageOps.exif_transpose(image), or the path of its file"
        )
    return np.asarray(image.convert("RGB"))


def _of_array(array: np.ndarray[Any, Any]) -> Pixels:
    if array.dtype != np.uint8:
        raise ValueError(
            f"an array must be uint8 in 0..255, got {array.dtype}; "
            + _as_bytes(array.dtype.kind == "f", "image", "astype(np.uint8)")
        )
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        shape, advice = array.shape, "show one picture as height, width, red, green and blue"
        if array.ndim == 2:
            advice = "of a grey one take np.stack([image] * 3, axis=-1)"
        elif array.ndim == 3 and shape[0] == 3:
            advice = "take image.transpose(1, 2, 0)"
        elif array.ndim == 3 and shape[2] == 4:
            advice = "take image[..., :3]"
        elif array.ndim == 4:
            advice = "give several pictures as a list: list(images)"
        raise ValueError(f"an array must be (H, W, 3), got {shape}; {advice}")
    return np.ascontiguousarray(array)


def _of_tensor(tensor: Tensor) -> Pixels:
    if tensor.dtype != torch.uint8:
        raise ValueError(
            f"a tensor must be uint8 in 0..255, got {str(tensor.dtype).removeprefix('torch.')}; "
            + _as_bytes(tensor.is_floating_point(), "image", "to(torch.uint8)")
        )
    if tensor.ndim != 3 or tensor.shape[0] != 3 or 0 in tensor.shape:
        shape, advice = tuple(tensor.shape), "show one picture as red, green and blue"
        if tensor.ndim == 2:
            advice = "of a grey one take image.expand(3, -1, -1)"
        elif tensor.ndim == 3 and shape[2] == 3:
            advice = "take image.permute(2, 0, 1)"
        elif tensor.ndim == 4:
            advice = "give several pictures as a list: list(images)"
        raise ValueError(f"a tensor must be (3, H, W), got {shape}; {advice}")
    return np.ascontiguousarray(tensor.detach().cpu().permute(1, 2, 0).numpy())


def _as_bytes(is_floating: bool, name: str, cast: str) -> str:
    """How values of another type become bytes."""
    if is_floating:
        return f"of values in [0, 1] take ({name} * 255).round().{cast}"
    return f"bring it to 0..255, then take {name}.{cast}"
