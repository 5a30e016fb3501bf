"""ONNX files: written from a graph of torch, and run by onnxruntime."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.export import ExportedProgram

from sfseg.errors import ConfigError
from sfseg.export.agreement import Run
from sfseg.export.deployed import Deployed
from sfseg.export.tracing import quiet, reason
from sfseg.storage.atomic import write_whole

if TYPE_CHECKING:
    import onnx

INPUT = "image"
SYMBOLS = {0: "batch", 2: "height", 3: "width"}
"""Dimensions of the input that a file leaves open, and what they are called in it."""
LARGEST = 2**31 - 2**20
"""Bytes of a file, which is one message of protobuf; a little is left for the graph."""


def onnx_file(
    program: ExportedProgram, names: Sequence[str], metadata: Mapping[str, str]
) -> "onnx.ModelProto":
    """The graph as an ONNX model.

    Args:
        program: takes the image, returns a tuple.
        names: of the parts of that tuple.
        metadata: what the file says of itself.

    Raises:
        ConfigError: an operation that ONNX has not, of a layer that is named; a file that would be
            too large, or would take images of one size only.
    """
    weights = (*program.state_dict.values(), *program.constants.values())
    size = sum(part.nbytes for part in weights if isinstance(part, Tensor))
    if size > LARGEST:
        raise ConfigError(
            f"the network has {size / 2**30:.1f} GB of weights, more than the 2 GB that one ONNX "
            "file can hold; export a smaller backbone"
        )
    try:
        with torch.no_grad(), quiet():
            made = torch.onnx.export(
                program, dynamo=True, input_names=[INPUT], output_names=list(names), verbose=False
            )
    # Its own errors, and those of the passes over the graph.
    except Exception as error:
        raise ConfigError(
            f"the network cannot be written as ONNX: {_unsupported(error, program)}; choose "
            "another head or backbone"
        ) from error
    assert made is not None
    model = made.model_proto
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    _name_symbols(model)
    require_open(model)
    return model


def require_open(model: "onnx.ModelProto") -> None:
    """Refuse a file that takes one batch or one size only.

    Raises:
        ConfigError: names the dimension and the number it is fixed to.
    """
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for place, name in SYMBOLS.items():
        if not dims[place].dim_param:
            raise ConfigError(
                f"the exported {name} is fixed to {dims[place].dim_value}: a layer reads it as a "
                "number of Python; the file is not kept"
            )


def without_logits(model: "onnx.ModelProto") -> None:
    """Hand logits out no more; what is made of them stays."""
    kept = [value for value in model.graph.output if value.name != "logits"]
    del model.graph.output[:]
    model.graph.output.extend(kept)


class OnnxFile:
    """A network as an ONNX model, and how it is run and written.

    Args:
        program: of all that the model computes.
        model: what it was traced from.
        metadata: what the file says of itself.
    """

    def __init__(
        self, program: ExportedProgram, model: Deployed, metadata: Mapping[str, str]
    ) -> None:
        self.metadata = dict(metadata)
        self.proto = onnx_file(program, model.names, metadata)
        self._run: Run | None = None

    @property
    def content(self) -> bytes:
        """Of the ONNX file."""
        content: bytes = self.proto.SerializeToString()
        return content

    def __call__(self, image: Shaped[Tensor, "B 3 H W"]) -> Mapping[str, Tensor]:
        """What the file hands out, by its names."""
        if self._run is None:
            self._run = self.runner()
        return self._run(image)

    def runner(self) -> Run:
        """What runs the model as it stands."""
        return OnnxRuntime(self.content)

    def become(self, proto: "onnx.ModelProto") -> None:
        """Be another model, of the same inputs and outputs."""
        self.proto, self._run = proto, None

    def publish(self) -> None:
        """Leave out what is not handed out."""
        without_logits(self.proto)
        self.become(self.proto)

    def write(self, path: Path) -> int:
        """Write the file; returns its bytes."""
        content = self.content
        write_whole(path, lambda opened: opened.write(content))
        return len(content)


class OnnxRuntime:
    """An ONNX file in onnxruntime, on the processor.

    Args:
        content: of the file.
        threads: of one operation; 0: as many as there are.
    """

    def __init__(self, content: bytes, *, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Errors become exceptions; what it prints beside them is a second copy.
        options.log_severity_level = 4
        self.session: Any = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        self.names = [value.name for value in self.session.get_outputs()]

    def __call__(self, image: Shaped[Tensor, "B 3 H W"]) -> dict[str, Tensor]:
        """What the file hands out, by its names."""
        made = self.session.run(None, {INPUT: image.numpy()})
        return {name: torch.from_numpy(x) for name, x in zip(self.names, made, strict=True)}


def _name_symbols(model: "onnx.ModelProto") -> None:
    """Call open dimensions of inputs and outputs by their meaning, not ``s40``."""
    # Shapes in between would keep the old names; they follow from the graph.
    del model.graph.value_info[:]
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = {dims[place].dim_param: name for place, name in SYMBOLS.items()}
    names.pop("", None)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def _unsupported(error: BaseException, program: ExportedProgram) -> str:
    """The operation that an error is about, and the layer that asks for it."""
    cause: BaseException | None = error
    while cause is not None:
        found = re.search(r"OpOverload\(op='([\w.:]+)', overload='(\w+)'\)", str(cause))
        if found:
            operation = ".".join(found.groups()).replace("::", ".")
            return f"{operation} in {_layer(operation, program)} has no ONNX operation"
        cause = cause.__cause__
    return reason(error)


def _layer(operation: str, program: ExportedProgram) -> str:
    # The exporter has taken operations apart: aten.special_bessel_j0 to prims.bessel_j0.
    short = operation.split(".")[1]
    for node in program.graph.nodes:
        stack = list(node.meta.get("nn_module_stack", {}).values())
        if short in str(node.target) and stack:
            path, kind = stack[-1]
            name = str(kind).rpartition(".")[2]
            return f"{str(path).removeprefix('network.')} ({name})"
    return "a layer that it does not name"
