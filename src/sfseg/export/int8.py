"""Convolutions in eight bits: smaller files, faster where the processor multiplies bytes."""

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Shaped
from torch import Tensor

from sfseg.errors import ConfigError
from sfseg.export.onnx_file import INPUT
from sfseg.export.tracing import reason

if TYPE_CHECKING:
    import onnx


def in_eight_bits(
    model: "onnx.ModelProto", images: Iterable[Shaped[Tensor, "1 3 H W"]]
) -> "onnx.ModelProto":
    """A model whose convolutions multiply bytes (static quantisation, in QDQ form).

    Weights have a scale per output channel. Activations have one per tensor, from the smallest to
    the largest value that the images show. Matrix products stay as they are: attention loses more
    by it than it gains.

    Args:
        model: in single precision.
        images: of the domain that the file is for, as it takes them; each is seen once.

    Raises:
        ConfigError: the model cannot be quantised.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, _quiet():
        given, prepared, made = (Path(folder) / f"{name}.onnx" for name in ("a", "b", "c"))
        try:
            # Batch norm is folded into convolutions before their ranges are looked at.
            given.write_bytes(model.SerializeToString())
            quant_pre_process(str(given), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(made),
                _Reader(images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv"],
            )
        # Whatever its passes over the graph raise.
        except Exception as error:
            raise ConfigError(
                f"the network cannot be quantised: {reason(error)}; set int8=false"
            ) from error
        quantised: onnx.ModelProto = onnx.load(str(made))
    kept = {entry.key for entry in quantised.metadata_props}
    quantised.metadata_props.extend(e for e in model.metadata_props if e.key not in kept)
    return quantised


class _Reader:
    """Images in the form that ONNX Runtime calibrates on."""

    def __init__(self, images: Iterable[Tensor]) -> None:
        self._images: Iterator[Tensor] = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image.numpy()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Meanwhile, the quantiser's advice to prepare a model, which was done, is not shown."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
