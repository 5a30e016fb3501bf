"""Files of torch.export, in eight bits, and of other pixels."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from scripting import script
from small_network import CLASSES, small_network
from torch import Tensor
from torch.export import ExportedProgram

from sfseg.export.agreement import compare, require_agreement
from sfseg.export.deployed import Deployed

pytest.importorskip("onnxruntime")
if not hasattr(torch.compiler, "is_exporting"):
    pytest.skip("torch exports from 2.7", allow_module_level=True)

from sfseg.export.int8 import in_eight_bits
from sfseg.export.onnx_file import OnnxFile, OnnxRuntime
from sfseg.export.scoring import change
from sfseg.export.torch_file import METADATA, UNGUARDED, TorchFile
from sfseg.export.tracing import traced
from sfseg.labels import CITYSCAPES

SAID = {"classes": json.dumps(["a", "b"])}
pictures = script("export_tables").pictures


def documented(name: str) -> dict[str, Any]:
    """What a program of the documentation has made, run in the current folder."""
    page = Path(__file__).parents[2] / "docs" / "export.md"
    (code,) = re.findall(rf"```python\n(# {name}\n.*?)```", page.read_text(), re.S)
    made: dict[str, Any] = {}
    exec(code, made)
    return made


@pytest.fixture(scope="module")
def model() -> Deployed:
    torch.manual_seed(0)
    return Deployed(small_network(), "labels", confidence=True).eval()


@pytest.fixture(scope="module")
def program(model: Deployed) -> ExportedProgram:
    return traced(model)


@pytest.fixture(scope="module")
def onnx(program: ExportedProgram, model: Deployed) -> OnnxFile:
    return OnnxFile(program, model, SAID)


def test_a_file_of_torch_export_runs_without_this_library(
    program: ExportedProgram,
    model: Deployed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = TorchFile(program, model, SAID)
    require_agreement(model, compare(model, file, pictures()))
    file.publish()
    assert file.names == ["labels", "confidence"]
    path = tmp_path / "new" / "model.pt2"
    assert file.write(path) == path.stat().st_size
    extra = {METADATA: ""}
    module = torch.export.load(path, extra_files=extra).module(**UNGUARDED)
    assert json.loads(extra[METADATA]) == SAID
    image = pictures()[1][:1]
    label, confidence = module(image)
    expected = model(image)
    assert torch.equal(label, expected[1]) and torch.equal(confidence, expected[2])
    assert [entry.name for entry in path.parent.iterdir()] == ["model.pt2"]
    monkeypatch.chdir(path.parent)
    assert documented("run_pt2.py")["logits"].shape == (1, 160, 224)  # labels, in this file


def test_pixels_may_be_floats() -> None:
    torch.manual_seed(0)
    model = Deployed(small_network(), "logits", input="float32").eval()
    file = OnnxFile(traced(model), model, {})
    require_agreement(model, compare(model, file, pictures()[:2]))
    (image,) = OnnxRuntime(file.content).session.get_inputs()
    assert image.type == "tensor(float)"


def test_eight_bits_are_close_and_keep_what_the_file_says(
    model: Deployed, onnx: OnnxFile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    images = [image[None] for image in pictures()[2]]
    made = in_eight_bits(onnx.proto, images)
    kinds = {node.op_type for node in made.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert {entry.key: entry.value for entry in made.metadata_props} | SAID == {
        entry.key: entry.value for entry in made.metadata_props
    }
    run = OnnxRuntime(made.SerializeToString(), threads=1)
    rows = compare(model, run, pictures())
    require_agreement(model, rows, int8=True)
    assert max(row.difference or 0 for row in rows) > 1e-4  # else nothing was quantised
    assert not caplog.records and logging.getLogger().level == logging.INFO


class Shifted:
    """A file whose classes are all one too high."""

    def __init__(self, run: OnnxFile) -> None:
        self.run = run

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.run(image)["logits"].roll(1, dims=1)}


def test_scores_of_a_file_beside_another(model: Deployed, onnx: OnnxFile) -> None:
    labels = CITYSCAPES.only("first", range(CLASSES))
    image = pictures()[2][0]
    label = onnx(image[None])["logits"].argmax(dim=1)[0].to(torch.uint8)
    alike = change(model, onnx, onnx, [(image, label), (image, label)], labels)
    assert alike.images == 2 and alike.before is not None and alike.after is not None
    assert alike.before.miou == alike.after.miou and alike.beside.miou["mIoU"] == 1
    assert alike.before.pixel_accuracy == 1
    worse = change(model, onnx, Shifted(onnx), [(image, label)], labels)
    assert worse.after is not None and worse.after.pixel_accuracy == 0
    unlabelled = change(model, onnx, Shifted(onnx), [(image, None)], labels)
    assert unlabelled.before is None and unlabelled.beside.pixel_accuracy == 0
