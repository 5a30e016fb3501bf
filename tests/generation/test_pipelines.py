"""Models that cannot be loaded, and what is said of them."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Cli
from safetensors.torch import save_file

from sfseg.errors import ConfigError
from sfseg.generation.dreambooth import DreamBooth
from sfseg.generation.pipelines import chosen_device, load_pipeline, require_libraries
from sfseg.generation.settings import Lora, Settings

httpx = pytest.importorskip("httpx")


@pytest.fixture
def copied(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def test_weights_come_as_they_are_asked_for(tiny: Path) -> None:
    assert load_pipeline(str(tiny)).unet.dtype == torch.float32
    assert load_pipeline(str(tiny), dtype=torch.bfloat16).text_encoder.dtype == torch.bfloat16


def test_what_is_no_model_is_told_apart(tiny: Path, tmp_path: Path) -> None:
    single = tmp_path / "model.safetensors"
    single.touch()
    with pytest.raises(ConfigError, match=r"is a single file.*from_single_file"):
        load_pipeline(str(single))
    with pytest.raises(ConfigError, match=r"has no model_index\.json"):
        load_pipeline(str(tmp_path))
    with pytest.raises(ConfigError, match=r"neither a folder nor owner/name of huggingface\.co"):
        load_pipeline(str(tmp_path / "nowhere" / "at" / "all"))


def test_a_damaged_folder_is_named(copied: Path) -> None:
    (copied / "unet" / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=f"model={copied} cannot be loaded"):
        load_pipeline(str(copied))
    (copied / "model_index.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"model_index\.json is damaged"):
        load_pipeline(str(copied))


def test_weights_that_are_no_safetensors_are_not_opened(copied: Path) -> None:
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    message = r"is a pickle, which may run code.*only safetensors are read.*safe_serialization=True"
    with pytest.raises(ConfigError, match=message):
        load_pipeline(str(copied))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"unet": ["diffusers", "UNet9"]},
            # Which part is looked at first, of which there are no files either, is not said.
            r"cannot be loaded: (OSError|ValueError).*of classes that the installed diffusers and",
        ),
        ({"_class_name": "NoPipeline"}, r"NoPipeline.*that the installed diffusers.* update"),
        ({"unet": ["mine", "UNet"]}, r"has unet of class UNet in mine\.py.*never executes code"),
        ({"_class_name": ["pipeline", "Mine"]}, r"class Mine in pipeline\.py.*never executes code"),
    ],
)
def test_classes_that_are_not_the_libraries_own(
    tiny: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    index = json.loads((tiny / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | change))
    (tmp_path / "mine.py").write_text("raise SystemExit('executed')")
    with pytest.raises(ConfigError, match=message):
        load_pipeline(str(tmp_path))


def test_any_truncated_part_is_named(copied: Path) -> None:
    (file,) = (copied / "vae").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=rf"{file} is truncated or damaged.*; restore it"):
        load_pipeline(str(copied))


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_parts_saved_while_an_adapter_was_loaded_are_refused(
    pipeline: Any, copied: Path, part: str
) -> None:
    DreamBooth(pipeline, Settings(model="tiny", crop=16, lora=Lora(rank=2, alpha=2)))
    (file,) = (copied / part).glob("*.safetensors")
    save_file(getattr(pipeline, part).state_dict(), file)
    with pytest.raises(
        ConfigError, match=r"saved while an adapter was loaded \(.*base_layer.*fuse"
    ):
        load_pipeline(str(copied))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ConfigError, match="truncated or damaged"):
        load_pipeline(str(copied))


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("GatedRepoError", 403, "model=a/b is gated.*OpenRAIL-M.*CompVis/.*a folder"),
        ("RepositoryNotFoundError", 401, r"model=a/b is not on huggingface\.co, or private"),
    ],
)
@pytest.mark.parametrize("at", ["model_info", "hf_hub_download"])
def test_models_that_the_hub_refuses(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, kind: str, status: int, message: str, at: str
) -> None:
    import diffusers.pipelines.pipeline_utils as hub
    import huggingface_hub.errors

    def refuse(*arguments: Any, **_: Any) -> None:
        request = httpx.Request("GET", "https://huggingface.co")
        response = httpx.Response(status, request=request)
        raise getattr(huggingface_hub.errors, kind)("refused", response=response)

    monkeypatch.setattr(hub, "model_info", lambda *arguments, **_: None)
    monkeypatch.setattr(hub, at, refuse)
    with pytest.raises(ConfigError, match=message):
        load_pipeline("a/b")


def test_a_model_of_the_hub_without_a_network(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*arguments: Any, **_: Any) -> None:
        raise httpx.ConnectError("no route")

    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.model_info", lost)
    with pytest.raises(ConfigError, match=r"not in the cache, and .* cannot be reached.*a folder"):
        load_pipeline("CompVis/stable-diffusion-v1-4")


def test_missing_libraries_are_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "sfseg.generation.pipelines.find_spec",
        lambda name: None if name in ("peft", "diffusers") else found(name),
    )
    with pytest.raises(
        ConfigError, match=r"needs diffusers, peft: pip install 'sfseg\[generate\]'"
    ):
        require_libraries()
    done = cli("sfseg-generate", "personalise", "images=a", "out=b")
    assert done.code == 2 and "pip install 'sfseg[generate]'" in done.output


def test_devices_are_tried() -> None:
    assert chosen_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"device=gpu cannot be used.*try auto"):
        chosen_device("gpu")


def test_the_tiny_model_says_what_it_is(tiny: Path, pipeline: Any) -> None:
    index = json.loads((tiny / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "PNDMScheduler"]
    tokens = pipeline.tokenizer("a sks", add_special_tokens=False).input_ids
    assert pipeline.tokenizer.convert_ids_to_tokens(tokens) == ["a</w>", "sks</w>"]
