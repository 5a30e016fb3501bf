import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import DEBUG, Cli, Done, command
from omegaconf import OmegaConf
from PIL import Image
from small_network import CLASSES, TurnsWide, small_network
from torch import nn

from sfseg.data.toyscapes.scenes import Toyscapes
from sfseg.export import installed
from sfseg.labels import CITYSCAPES
from sfseg.runs import checkpoints

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps, made once."""
    folder = tmp_path_factory.mktemp("run")
    assert command("sfseg-train", *DEBUG, "logger=none", f"hydra.run.dir={folder}/run") == 0
    return folder / "run" / "checkpoints" / "last.ckpt"


def test_what_cannot_be_is_said_before_anything_is_exported(
    cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*settings: str) -> str:
        given = dict(word.split("=") for word in settings)
        usual = {"ckpt_path": str(checkpoint), "output": "new.onnx"}
        done = cli("sfseg-export", *(f"{key}={value}" for key, value in (usual | given).items()))
        assert done.code == 2, done.output
        assert not (done.folder / "new.onnx").exists()
        return done.output

    Path("old.onnx").write_text("kept")
    assert "output=old.onnx exists; choose another or set overwrite=true" in refused(
        "output=old.onnx"
    )
    assert Path("old.onnx").read_text() == "kept"
    assert "must be a file that ends in .onnx (ONNX), .xml (OpenVINO) or .pt2" in refused(
        "output=model.pt"
    )
    Path("there.bin").write_text("kept")
    assert "output=there.bin exists" in refused("output=there.xml")
    assert "int8 must be false for new.pt2" in refused("output=new.pt2", "int8=true")
    assert "int8 must be true or false, got no" in refused("int8=no")
    Path("folder.onnx").mkdir()
    assert "output=folder.onnx is a folder" in refused("output=folder.onnx", "overwrite=true")
    assert "input must be one of uint8, float32, got uint16" in refused("input=uint16")
    assert "old.onnx is a file; choose another" in refused("output=old.onnx/a.onnx")
    assert "outputs must be one of logits, labels, got masks" in refused("outputs=masks")
    assert "confidence must be false where outputs is logits" in refused("confidence=true")
    assert "is no file" in refused(f"ckpt_path={checkpoint.parents[1]}")
    torch.save({"state_dict": {}}, "other.ckpt")
    refused("ckpt_path=other.ckpt")
    monkeypatch.setattr(installed, "find_spec", lambda name: None if "runtime" in name else 1)
    assert "needs onnxruntime: pip install 'sfseg[export]'" in refused()
    quantised = refused("output=new.xml", "int8=true")
    assert "needs onnxruntime: pip install 'sfseg[openvino]'" in quantised


def test_only_a_file_that_agrees_is_kept(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    config = OmegaConf.create({"data": {"eval_size": None}, "trainer": {"precision": "bf16-mixed"}})
    labels = CITYSCAPES.only("first", range(CLASSES))

    def call(network: nn.Module) -> Done:
        restored = checkpoints.Restored(network, labels, config)
        monkeypatch.setattr(checkpoints, "restore", lambda path: restored)
        monkeypatch.setattr("sfseg.commands.export.SIZES", ((64, 96), (67, 131)))
        settings = ["output=new/model.onnx", "outputs=labels"]
        return cli("sfseg-export", "ckpt_path=a.ckpt", *settings)

    wrong = call(small_network(TurnsWide()))
    assert wrong.code == 2 and "wrong at 64x96 pixels" in wrong.output, wrong.output
    assert not Path("new").exists()
    done = call(small_network())
    assert done.code == 0 and "computed in bf16-mixed" in done.output, done.output
    assert [path.name for path in Path("new").iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession("new/model.onnx")
    assert [value.name for value in session.get_outputs()] == ["labels"]
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == list(labels.classes)
    assert json.loads(said["palette"])[0] == list(labels.palette[0])


@pytest.mark.slow
def test_a_trained_network_runs_as_the_page_says(cli: Cli, checkpoint: Path) -> None:
    scenes = Toyscapes("city", "test", length=1)
    Image.fromarray(scenes.image(0)[:101, :77]).save("photo.png")
    done = cli("sfseg-export", f"ckpt_path={checkpoint}", "output=model.onnx")
    assert done.code == 0, done.output
    rows = re.findall(r"\d+ x \d+ .* [12] .* (\S+) .* ([01]\.\d+)", done.output)
    assert len(rows) == 6 and all(float(equal) >= 0.999 for _, equal in rows), done.output
    (code,) = re.findall(
        r"```python\n(# run.py\n.*?)```", (ROOT / "docs" / "elsewhere.md").read_text(), re.S
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.endswith("covers most of the photo\n"), ran.stderr


@pytest.mark.parametrize("labelled", [True, False])
def test_eight_bits_are_calibrated_and_scored_on_the_runs_own_data(
    cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, *, labelled: bool
) -> None:
    torch.manual_seed(0)
    config = checkpoints.restore(checkpoint).config
    network, labels = small_network(num_classes=19), CITYSCAPES
    if not labelled:
        config.data.scenes.target_eval = {
            "_target_": "sfseg.data.layouts.folder",
            "_partial_": True,
            "root": "gone",
        }
    restored = checkpoints.Restored(network, labels, config)
    monkeypatch.setattr(checkpoints, "restore", lambda path: restored)
    monkeypatch.setattr("sfseg.commands.export.SIZES", ((64, 96), (67, 131)))
    monkeypatch.setattr("sfseg.commands.export_int8.SCORED_ON", 2)
    monkeypatch.setattr("sfseg.commands.export_int8.CALIBRATED_ON", 3)
    done = cli("sfseg-export", "ckpt_path=a.ckpt", "output=model.onnx", "int8=true")
    assert done.code == 0, done.output
    assert "calibrated on 3 images" in done.output
    assert ("of the run's target" in done.output) == labelled
    assert f"int8, {2 if labelled else 3} images" in done.output
    assert Path("model.onnx").is_file()


@pytest.mark.slow
def test_labels_are_those_of_predict(cli: Cli, checkpoint: Path) -> None:
    import numpy as np
    import onnxruntime

    scenes = Toyscapes("city", "test", length=1)
    Image.fromarray(scenes.image(0)).save("photo.png")
    settings = ["outputs=labels", "confidence=true", "images=photo.png", "output=model.onnx"]
    done = cli("sfseg-export", f"ckpt_path={checkpoint}", *settings)
    assert done.code == 0, done.output
    session = onnxruntime.InferenceSession("model.onnx")
    assert [value.name for value in session.get_outputs()] == ["labels", "confidence"]
    made = session.run(None, {"image": scenes.image(0).transpose(2, 0, 1)[None]})
    predicted = cli(
        "sfseg-predict", f"ckpt_path={checkpoint}", "images=photo.png", "output=out",
        "confidence=true", "precision=32-true", "device=cpu",
    )  # fmt: skip
    assert predicted.code == 0, predicted.output
    label, confidence = (
        np.asarray(Image.open(f"out/{kind}/photo.png")).astype(int)
        for kind in ("labels", "confidence")
    )
    assert (made[0][0] == label).mean() >= 0.999
    assert (abs(made[1][0].astype(int) - confidence) <= 1).mean() >= 0.999
