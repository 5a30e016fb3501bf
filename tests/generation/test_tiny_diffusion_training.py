"""The tiny model learns drawn streets when it is asked to, and only then."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

SCRIPTS = Path(__file__).parents[2] / "scripts"
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("diffusers")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("train_tiny_diffusion")


def test_prompts_name_the_things_of_the_label(training: ModuleType) -> None:
    label = np.zeros((16, 16), dtype=np.uint8)
    assert training.prompts_of(label) == [""]
    label[:8, :4], label[:8, 4:8], label[0, 15], label[15] = 13, 15, 11, 255
    assert training.prompts_of(label) == ["a photo of cars", "a photo of buses"]


def test_things_are_those_of_the_prompts(training: ModuleType) -> None:
    from sfseg.generation.datum_prompts import THINGS

    assert sorted(training.PLURALS.values()) == sorted(THINGS)


def test_vae_and_unet_learn(
    training: ModuleType, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "WINDOW", (16, 16))
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    known = training.streets(2)
    images = known.images[..., :16, :32].contiguous()

    before = training.reconstruction_error(pipeline, images)
    training.train_vae(pipeline, images, 8, rng)
    assert training.reconstruction_error(pipeline, images) < 0.9 * before

    latents = training.encoded(pipeline, images)
    assert latents.shape == (2, 2, 4, 8, 16)
    before = training.mean_noise_error(pipeline, latents, known.prompts)
    assert before == training.mean_noise_error(pipeline, latents, known.prompts)
    training.train_unet(pipeline, latents, known.prompts, 8, rng)
    assert training.mean_noise_error(pipeline, latents, known.prompts) < 0.95 * before


def test_without_training_the_weights_are_those_of_the_seed(
    training: ModuleType, tiny: Path
) -> None:
    drawn = importlib.import_module("tiny_diffusion").pipeline(0)
    for part, file in WEIGHTS.items():
        written, wanted = load_file(tiny / part / file), getattr(drawn, part).state_dict()
        assert written.keys() <= wanted.keys() and written
        assert all(torch.equal(written[key], wanted[key]) for key in written)
    assert drawn.vae.config.scaling_factor == 0.18215


@pytest.mark.slow
def test_a_trained_folder_is_the_same_again_and_draws(
    training: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sfseg.generation.pipelines import load_pipeline

    script = importlib.import_module("tiny_diffusion")
    for name in ("a", "b"):
        script.main([str(tmp_path / name), "--train", "--vae-steps", "2", "--unet-steps", "2"])
    assert "U-Net 2/2: loss" in capsys.readouterr().out
    for part, file in WEIGHTS.items():
        one, other = (load_file(tmp_path / name / part / file) for name in ("a", "b"))
        assert all(torch.equal(one[key], other[key]) for key in one)
    made = load_pipeline(str(tmp_path / "a"))
    assert made.vae.config.scaling_factor != 0.18215
    picture = made("a photo of cars", height=64, width=128, num_inference_steps=2).images[0]
    assert picture.size == (128, 64)
