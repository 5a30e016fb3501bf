import copy
import json
from typing import Any

import pytest
import torch
from small_network import CLASSES, TurnsWide, small_network
from torch import Tensor, nn

from sfseg.data.toyscapes.scenes import Toyscapes
from sfseg.errors import ConfigError
from sfseg.export.agreement import compare, require_agreement
from sfseg.export.deployed import Deployed
from sfseg.export.tracing import traced

pytest.importorskip("onnxruntime")
if not hasattr(torch.compiler, "is_exporting"):
    pytest.skip("torch exports from 2.7", allow_module_level=True)

from sfseg.export.onnx_file import OnnxRuntime, onnx_file, require_open, without_logits

SIZES = ((64, 96), (67, 131))


def pictures() -> list[Tensor]:
    scenes = Toyscapes("city", "test", length=2)
    two = torch.stack([torch.from_numpy(scenes.image(k)).permute(2, 0, 1) for k in range(2)])
    return [two[..., :height, :width].contiguous() for height, width in SIZES]


@pytest.fixture(scope="module")
def exported() -> tuple[Deployed, Any]:
    torch.manual_seed(0)
    model = Deployed(small_network(), "labels", confidence=True).eval()
    return model, onnx_file(traced(model), model.names, {"classes": json.dumps(["a", "b"])})


def test_a_file_agrees_at_other_sizes_and_batches(exported: tuple[Deployed, Any]) -> None:
    model, file = exported
    run = OnnxRuntime(file.SerializeToString(), threads=1)
    rows = compare(model, run, pictures())
    assert [(row.size, row.batch) for row in rows] == [(s, b) for s in SIZES for b in (2, 1)]
    assert min(row.classes for row in rows) > 1  # else equal labels would say nothing
    require_agreement(model, rows)
    assert run.session.get_modelmeta().custom_metadata_map["classes"] == '["a", "b"]'
    (image,) = run.session.get_inputs()
    assert (image.shape, image.type) == (["batch", 3, "height", "width"], "tensor(uint8)")
    shapes = {value.name: (value.shape, value.type) for value in run.session.get_outputs()}
    pixels = ["batch", "height", "width"]
    assert shapes == {
        "logits": (["batch", CLASSES, "height", "width"], "tensor(float)"),
        "labels": (pixels, "tensor(uint8)"),
        "confidence": (pixels, "tensor(uint8)"),
    }


def test_labels_need_no_logits(exported: tuple[Deployed, Any]) -> None:
    model, file = exported
    file = copy.deepcopy(file)
    without_logits(file)
    run = OnnxRuntime(file.SerializeToString(), threads=1)
    assert run.names == model.published == ["labels", "confidence"]
    rows = compare(model, run, pictures()[:1])
    assert all(row.difference is None and row.equal > 0.999 for row in rows)
    require_agreement(model, rows)


class LooksAtValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0 else -x


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_a_branch_on_a_size_is_refused() -> None:
    model = Deployed(small_network(TurnsWide()), "logits").eval()
    file = onnx_file(traced(model), model.names, {})
    rows = compare(model, OnnxRuntime(file.SerializeToString(), threads=1), pictures())
    with pytest.raises(ConfigError, match=r"wrong at 64x96 pixels, batch 2: 0\..* it is not kept"):
        require_agreement(model, rows)


def test_a_layer_that_cannot_be_traced_is_named() -> None:
    model = Deployed(small_network(LooksAtValues()), "logits").eval()
    with pytest.raises(ConfigError, match=r"torch\.export stops in head\.odd \(LooksAtValues\)"):
        traced(model)


def test_an_operation_that_onnx_has_not_is_named_with_its_layer() -> None:
    model = Deployed(small_network(Bessel()), "logits").eval()
    with pytest.raises(ConfigError, match=r"bessel_j0.* in head\.odd \(Bessel\) has no ONNX"):
        onnx_file(traced(model), model.names, {})


def test_a_fixed_dimension_is_named(exported: tuple[Deployed, Any]) -> None:
    file = copy.deepcopy(exported[1])
    file.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 96
    with pytest.raises(ConfigError, match="the exported height is fixed to 96"):
        require_open(file)
