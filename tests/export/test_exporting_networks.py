"""What networks compute while they are exported, and every network of ``conf/`` as a file."""

import pytest
import torch
from scripting import script

from sfseg.networks import layers, segmenter
from sfseg.ops import padding

pytest.importorskip("onnxruntime")
if not hasattr(torch.compiler, "is_exporting"):
    pytest.skip("torch exports from 2.7", allow_module_level=True)

tables = script("export_tables")


def require_right_file(name: str) -> None:
    found = tables.record(name)
    assert found["error"] is None
    assert max(row["classes"] for row in found["rows"]) > 1  # else equal labels would say nothing
    assert not ("GridSample" in found["operations"] and tables.GATHERED in name)


@pytest.mark.parametrize("head", ["daformer_small", "upernet"])
def test_an_exported_network_computes_the_same(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tables.network(["backbone=tiny", f"backbone/head={head}"]).double()
    image = tables.pictures()[1]
    with torch.no_grad():
        before = made(image)
        for module in (layers, padding, segmenter):
            monkeypatch.setattr(module, "is_exporting", lambda: True)
        torch.testing.assert_close(made(image), before)


@pytest.mark.slow
@pytest.mark.parametrize("name", tables.networks())
def test_every_network_becomes_a_right_file(name: str) -> None:
    require_right_file(name)


@pytest.mark.slow
def test_a_network_that_was_trained_in_less_memory_becomes_a_right_file() -> None:
    require_right_file("backbone=convnext_tiny,backbone.gradient_checkpointing=true")
