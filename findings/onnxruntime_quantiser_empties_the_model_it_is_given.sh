#!/usr/bin/env bash
# onnxruntime 1.32.0, onnx 1.23.2: what prepares a model for quantisation takes the weights out of it.
#
# Expected: quant_pre_process takes a path or a ModelProto, writes the prepared model to the given
#   file and leaves the model that it was handed as it was.
# Seen: with skip_symbolic_shape=True, a ModelProto that is handed over loses its weights. Its tensors
#   say from then on that they lie in a file foo.bin, which nobody has written; the caller's model
#   cannot be run any more and serialises to a few hundred bytes. Given by its path, the same model
#   is prepared and stays whole.
# What it did to us: an exporter that held the network as a ModelProto could not quantise it, and would
#   have written a file without weights.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6 sympy==1.14.0
cat > "$folder/look.py" <<'PY'
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.shape_inference import quant_pre_process

folder = Path(sys.argv[1])


def network():
    """A convolution of a picture, with 16 kB of weights."""
    weight = np.random.default_rng(0).normal(size=(64, 3, 5, 5)).astype(np.float32)
    picture, maps = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 32, 32])
        for name, channels in (("picture", 3), ("maps", 64))
    )
    node = helper.make_node("Conv", ["picture", "weight"], ["maps"], pads=[2, 2, 2, 2])
    graph = helper.make_graph(
        [node], "network", [picture], [maps], [numpy_helper.from_array(weight, "weight")]
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


def runs(content):
    try:
        onnxruntime.InferenceSession(content)
    except Exception as error:
        return f"no, {type(error).__name__}"
    return "yes"


by_path, by_proto = network(), network()
before = by_proto.ByteSize()
onnx.save(by_path, folder / "given.onnx")
quant_pre_process(str(folder / "given.onnx"), str(folder / "made.onnx"), skip_symbolic_shape=True)
print("by its path: prepared", (folder / "made.onnx").stat().st_size > 16000, end=", ")
print("and the file still runs:", runs((folder / "given.onnx").read_bytes()))
try:
    quant_pre_process(by_proto, str(folder / "other.onnx"), skip_symbolic_shape=True)
    ended = "returned"
except Exception as error:
    ended = type(error).__name__
(weight,) = by_proto.graph.initializer
place = {entry.key: Path(entry.value).name for entry in weight.external_data}["location"]
print(f"as a ModelProto: {ended}; {before} bytes became {by_proto.ByteSize()}, weights in {place}")
print("and the model still runs:", runs(by_proto.SerializeToString()))
assert runs((folder / "given.onnx").read_bytes()) == "yes"
assert runs(by_proto.SerializeToString()).startswith("no")
assert weight.data_location == TensorProto.EXTERNAL and place == "foo.bin"
assert by_proto.ByteSize() < 1000 < 16000 < before
PY
"$folder/venv/bin/python" "$folder/look.py" "$folder"
