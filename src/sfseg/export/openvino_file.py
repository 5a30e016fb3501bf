"""OpenVINO's form of a network: a graph (``.xml``) and its weights (``.bin``) beside it."""

import io
import tempfile
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from torch import Tensor, from_numpy

from sfseg.errors import ConfigError
from sfseg.export.onnx_file import INPUT, OnnxFile
from sfseg.export.tracing import reason

COMPARED = {"INFERENCE_PRECISION_HINT": "f32"}
"""Processors that multiply bfloat16 would else compute in it, and differ from torch by that."""


class OpenVinoFile(OnnxFile):
    """A network for OpenVINO, made from its ONNX model and run by OpenVINO on the processor."""

    def runner(self) -> "OpenVino":
        """What runs the model as it stands."""
        return OpenVino(self._model())

    def write(self, path: Path) -> int:
        """Write both files; returns their bytes.

        The graph comes last: where it is, its weights are.
        """
        import openvino

        model, weights = self._model(), path.with_suffix(".bin")
        for name, value in self.metadata.items():
            model.set_rt_info(value, ["sfseg", name])
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            made = Path(folder) / path.name
            # In half precision the weights would be rounded after they were compared.
            openvino.save_model(model, made, compress_to_fp16=False)
            size = made.stat().st_size + made.with_suffix(".bin").stat().st_size
            path.unlink(missing_ok=True)  # an older graph, to which these weights are wrong ones
            made.with_suffix(".bin").replace(weights)
            made.replace(path)
        return size

    def _model(self) -> Any:
        import openvino

        try:
            return openvino.Core().read_model(io.BytesIO(self.content))
        # OpenVINO's errors are RuntimeErrors of several kinds.
        except Exception as error:
            raise ConfigError(
                f"the network cannot be written for OpenVINO: {reason(error)}; export it as .onnx, "
                "or choose another head or backbone"
            ) from error


class OpenVino:
    """A model of OpenVINO, compiled for the processor in single precision.

    Args:
        model: of OpenVINO.
        threads: of one inference; 0: as many as there are.
    """

    def __init__(self, model: Any, *, threads: int = 0) -> None:
        import openvino

        settings = COMPARED | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
        self._compiled = openvino.Core().compile_model(model, "CPU", settings)
        self.names = [value.get_any_name() for value in self._compiled.outputs]

    def __call__(self, image: Shaped[Tensor, "B 3 H W"]) -> dict[str, Tensor]:
        """What the model hands out, by its names."""
        made = self._compiled({INPUT: image.numpy()})
        return {name: from_numpy(made[name].copy()) for name in self.names}
