"""Runs that are killed, kept models, adapters' files, and the command."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from omegaconf import OmegaConf
from PIL import Image

from sfseg.commands.generate import read_texts
from sfseg.errors import ConfigError, DataError, OutputError
from sfseg.generation.begun import entries, require_same_pictures
from sfseg.generation.crops import Crops
from sfseg.generation.dreambooth import DreamBooth
from sfseg.generation.kept import write_folder
from sfseg.generation.lora import merged
from sfseg.generation.personalisation import Personalisation
from sfseg.generation.pipelines import load_pipeline
from sfseg.generation.samples import draw
from sfseg.generation.settings import Lora, Samples, Settings
from sfseg.report.loggers import MetricsCsv

Photographs = Callable[..., Path]
SHORT = Settings(model="tiny", crop=16, lr=1e-3, steps=4, keep_every=3, save_every=2)


class KilledError(Exception):
    pass


def crops(folder: Path, **changed: Any) -> Crops:
    settings = {"resize": 24, "crop": 16, "seed": 0, **changed}
    return Crops(sorted(folder.glob("*.png")), **settings)


def begun(pipeline: Any, settings: Settings, photographs: Path, out: Path) -> Personalisation:
    return Personalisation(DreamBooth(pipeline, settings), crops(photographs), None, out)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


def run(
    model: Path, settings: Settings, pictures: Path, out: Path, *, killed_at: int = -1
) -> dict[str, bytes]:
    """Begin a run, or go on with it; what is in its folder then, but for its states."""
    personalisation = begun(load_pipeline(str(model)), settings, pictures, out)
    step = personalisation.training.step

    def killed(number: int, images: torch.Tensor) -> float:
        if number == killed_at:
            raise KilledError
        return step(number, images)

    personalisation.training.step = killed  # type: ignore[method-assign]
    logger = MetricsCsv(save_dir=str(out), name="csv", version="")
    logger.resume_from(personalisation.done - 1)
    personalisation.run([logger])
    return {name: data for name, data in files(out).items() if not name.startswith("state/")}


@pytest.fixture
def whole(tiny: Path, photographs: Photographs, tmp_path: Path) -> dict[str, bytes]:
    """What a run leaves behind that nothing has interrupted."""
    found = run(tiny, SHORT, photographs(2), tmp_path / "whole")
    kept = {f"step_{k:06d}/unet/diffusion_pytorch_model.safetensors" for k in (3, 4)}
    assert kept | {"csv/metrics.csv", "step_000004/personalised.json"} <= set(found)
    return found


def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(
    whole: dict[str, bytes], tiny: Path, photographs: Photographs, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    for at in (0, 3):
        with pytest.raises(KilledError):
            run(tiny, SHORT, photographs(2), out, killed_at=at)
        torch.rand(3)  # the state of torch's own generator is of no account
    assert (out / "step_000003").is_dir()  # later than the state
    assert run(tiny, SHORT, photographs(2), out) == whole


def test_more_steps_and_pictures_on_the_way_change_no_step(
    whole: dict[str, bytes], tiny: Path, photographs: Photographs, tmp_path: Path
) -> None:
    samples = Samples(every=1, number=2, prompt="a sks", steps=1)
    out, shorter = tmp_path / "out", replace(SHORT, steps=3, samples=samples)
    run(tiny, shorter, photographs(2), out)
    found = run(tiny, replace(shorter, steps=4), photographs(2), out)
    drawn = sorted(name for name in found if name.startswith("samples/"))
    assert drawn == [f"samples/step_{k:06d}.png" for k in range(1, 5)]
    assert {name: data for name, data in found.items() if name not in drawn} == whole
    first, last = (np.asarray(Image.open(out / drawn[k])) for k in (0, -1))
    assert first.shape == (16, 32, 3) and not np.array_equal(first, last)


def test_adapters_of_a_killed_run_are_those_of_one_that_was_not(
    tiny: Path, photographs: Photographs, tmp_path: Path
) -> None:
    settings = replace(SHORT, model=str(tiny), lora=Lora(rank=2, alpha=4), steps=3)
    whole = run(tiny, settings, photographs(), tmp_path / "whole")
    with pytest.raises(KilledError):
        run(tiny, settings, photographs(), tmp_path / "killed", killed_at=2)
    assert run(tiny, settings, photographs(), tmp_path / "killed") == whole


def test_a_kept_model_draws_what_was_trained(
    pipeline: Any, photographs: Photographs, tmp_path: Path
) -> None:
    begun_run = begun(pipeline, SHORT, photographs(), tmp_path / "out")
    begun_run.run([])
    begun_run.training.set_training(False)
    kept = load_pipeline(str(tmp_path / "out" / "step_000004"))
    earlier = load_pipeline(str(tmp_path / "out" / "step_000003"))
    wanted = draw(pipeline, "a photo of sks cars", [7], size=16, steps=3)
    assert np.array_equal(draw(kept, "a photo of sks cars", [7], size=16, steps=3), wanted)
    assert not np.array_equal(draw(earlier, "a photo of sks cars", [7], size=16, steps=3), wanted)
    assert kept.scheduler.config == pipeline.scheduler.config


def test_adapters_come_back_with_their_strength(
    pipeline: Any, tiny: Path, photographs: Photographs, tmp_path: Path
) -> None:
    settings = replace(SHORT, model=str(tiny), lora=Lora(rank=2, alpha=8), lr=1e-2)
    begun_run = begun(pipeline, settings, photographs(), tmp_path / "out")
    begun_run.run([])
    begun_run.training.set_training(False)
    folder = tmp_path / "out" / "step_000004"

    def drawn(of: Any) -> np.ndarray:
        # Latents: a tiny VAE makes the same grey of all of them.
        draw = torch.Generator().manual_seed(7)
        return np.asarray(
            of("a sks", height=16, width=16, num_inference_steps=3, generator=draw,
               output_type="latent").images
        )  # fmt: skip

    trained, base = drawn(pipeline), load_pipeline(str(tiny))
    plain = drawn(base)
    effect = np.abs(trained - plain).max()
    base.load_lora_weights(folder)
    again = drawn(base)
    assert effect > 1e-3
    np.testing.assert_allclose(again, trained, atol=effect * 1e-3)
    np.testing.assert_allclose(drawn(load_pipeline(str(folder))), trained, atol=effect * 1e-3)
    # By hand: the file's matrices, at alpha / rank.
    by_hand = load_pipeline(str(tiny))
    from safetensors.torch import load_file

    matrices = load_file(folder / "pytorch_lora_weights.safetensors")
    downs = [key for key in matrices if ".down." in key or ".lora_A." in key]
    assert len(downs) == len(matrices) / 2
    for key in downs:
        up = key.replace(".down.", ".up.").replace(".lora_A.", ".lora_B.")
        part, _, rest = key.partition(".")
        name = rest.partition(".lora")[0]
        with torch.no_grad():
            weight = getattr(by_hand, part).get_submodule(name).weight
            weight += 8 / 2 * matrices[up] @ matrices[key]
    np.testing.assert_allclose(drawn(by_hand), trained, atol=effect * 1e-3)


def test_merging_leaves_the_adapters_as_they_are(
    pipeline: Any, tiny: Path, photographs: Photographs, tmp_path: Path
) -> None:
    begun_run = begun(pipeline, replace(SHORT, lora=Lora(rank=2, alpha=4)), photographs(), tmp_path)
    begun_run.training.step(0, begun_run.images(0))
    before = {name: weight.clone() for name, weight in pipeline.unet.state_dict().items()}
    names = set(load_pipeline(str(tiny)).unet.state_dict())
    assert set(merged(pipeline, begun_run.training.trained).unet.state_dict()) == names
    after = pipeline.unet.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_a_state_of_other_pictures_or_weights_is_refused(
    pipeline: Any, photographs: Photographs, tmp_path: Path
) -> None:
    begun(pipeline, replace(SHORT, steps=1), photographs(), tmp_path / "out").run([])
    with pytest.raises(ConfigError, match="has other weights"):
        begun(pipeline, replace(SHORT, train_text_encoder=False), photographs(), tmp_path / "out")
    with pytest.raises(ConfigError, match="has begun with other pictures"):
        begun(pipeline, SHORT, photographs(seed=1), tmp_path / "out")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "half").write_text("1")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"No space left.*repeat the command"):
        write_folder(tmp_path / "model", write)
    assert list(tmp_path.iterdir()) == []


def test_windows_follow_from_seed_and_number(photographs: Photographs) -> None:
    folder = photographs(2, size=(24, 48))
    some, others = crops(folder), crops(folder, seed=1)
    batch = some.batch(0, 6)
    assert batch.shape == (6, 3, 16, 16) and batch.dtype == torch.float32
    assert torch.equal(batch[4:], some.batch(4, 2)) and not torch.equal(batch, others.batch(0, 6))
    assert batch.min() >= -1 and batch.max() <= 1
    for k, window in enumerate(batch):
        picture = np.asarray(Image.open(folder / f"{k % 2}.png"))
        shown = ((window.permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
        places = np.lib.stride_tricks.sliding_window_view(picture, (16, 16, 3))[:, :, 0]
        assert (places == shown).all(axis=(2, 3, 4)).any()


def test_windows_are_of_the_resized_picture(tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 4, 32, axis=0)
    Image.fromarray(np.repeat(ramp, 3, axis=2)).save(tmp_path / "ramp.png")
    slopes = {
        resize: float(crops(tmp_path, resize=resize).batch(0, 1)[0, 0, 0].diff().mean())
        for resize in (16, 32, None)
    }
    assert slopes[16] == pytest.approx(2 * slopes[32], rel=0.02)
    assert slopes[None] == slopes[32] == pytest.approx(4 / 127.5, rel=1e-3)


def test_pictures_that_do_not_fit_are_refused(photographs: Photographs) -> None:
    folder = photographs(size=(12, 40))
    with pytest.raises(ConfigError, match=r"0\.png has 40x12 pixels, fewer than crop=16.*crop=12"):
        crops(folder)
    with pytest.raises(ConfigError, match=r"crop=16 does not fit.*resize=8"):
        crops(folder, resize=8)


def test_all_pictures_that_do_not_fit_are_named(photographs: Photographs) -> None:
    folder = photographs(2, size=(12, 40))
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(folder / "2.png")
    with pytest.raises(DataError, match=r"2\.png is black.*take them out of the folder"):
        crops(folder)
    (folder / "2.png").unlink()
    with pytest.raises(ConfigError, match=r"0\.png has 40x12 .*1\.png has .*or take them out"):
        crops(folder)


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    texts = {"prompt": "a", "model": "a", "identifier": "a", "out": "~/runs"}
    cfg = OmegaConf.create({**texts, "prior": {"prompt": "a"}, "samples": {"prompt": "a"}})
    read_texts(cfg)
    assert cfg.out == "/home/me/runs"


def test_given_pictures_of_prior_preservation_are_known_by_content(
    photographs: Photographs, tmp_path: Path
) -> None:
    places = crops(photographs())
    record = {"images": entries(places), "prior_images": entries(places)}
    (tmp_path / "out" / "step_000002").mkdir(parents=True)
    (tmp_path / "out" / "step_000002" / "personalised.json").write_text(json.dumps(record))
    require_same_pictures(tmp_path / "out", places, crops(photographs()))
    for others in (None, crops(photographs(seed=1))):
        with pytest.raises(ConfigError, match="has begun with other pictures"):
            require_same_pictures(tmp_path / "out", places, others)


QUICK = [
    "crop=16", "resize=24", "steps=2", "save_every=1", "precision=32-true", "device=cpu",
]  # fmt: skip


def test_the_command_trains_and_goes_on(
    cli: Cli, tiny: Path, photographs: Photographs, tmp_path: Path
) -> None:
    words = ["personalise", f"images={photographs()}", f"model={tiny}", "out=2024_05", *QUICK]
    done = cli("sfseg-generate", *words, "prior.weight=1", "prior.number=2", "prior.steps=2")
    out = tmp_path / "2024_05"
    assert done.code == 0, done.output
    record = json.loads((out / "step_000002" / "personalised.json").read_text())
    assert record["base_model"] == str(tiny) and record["prompt"] == "a photo of a sks urban scene"
    assert record["steps"] == 2 and record["images"][0]["file"].endswith("0.png")
    assert len(list((out / "others").iterdir())) == 2
    assert (out / "csv" / "metrics.csv").read_text().splitlines()[0] == "step,train/loss"
    assert json.loads((out / "run.json").read_text())["finished"]
    (out / ".step_000003.half.partial").mkdir()
    prior = ["prior.weight=1", "prior.number=2", "prior.steps=2"]
    again = cli("sfseg-generate", *words, *prior)
    assert again.code == 0 and "nothing is left to do" in again.output
    longer = cli("sfseg-generate", *words, *prior, "steps=3")
    assert longer.code == 0 and "going on after step 2 of 3" in longer.output
    assert (out / "step_000003").is_dir() and not list(out.glob(".*.partial"))
    other = cli("sfseg-generate", *words, *prior, "lr=1e-4")
    assert other.code == 2 and "lr: 5e-06 there, 0.0001 here" in other.output
    refused = cli("sfseg-generate", *words, *prior, "resume=null")
    assert refused.code == 2 and "holds a run" in refused.output
    past = cli("sfseg-generate", *words, *prior, "steps=1")
    assert past.code == 2 and "steps=1, but the run in 2024_05 has done 3" in past.output
    assert "kept: step_000002, step_000003" in past.output
    out.rename(tmp_path / "moved")
    (tmp_path / "photographs").rename(tmp_path / "elsewhere")
    moved = ["out=./moved", "images=elsewhere", f"model={os.path.relpath(tiny, tmp_path)}"]
    again = cli("sfseg-generate", *words, *prior, *moved, "steps=3")
    assert again.code == 0 and "nothing is left to do" in again.output, again.output
    shutil.rmtree(tmp_path / "moved" / "state")
    longer = cli("sfseg-generate", *words, *prior, *moved, "steps=4")
    assert longer.code == 0 and "has no state to go on from" in longer.output
    moved[1] = f"images={photographs(seed=1)}"
    for steps in (4, 5):
        other = cli("sfseg-generate", *words, *prior, *moved, f"steps={steps}")
        assert other.code == 2 and "has begun with other pictures" in other.output


@pytest.mark.parametrize(
    ("changed", "code", "message"),
    [
        (["images=nowhere"], 3, "images=nowhere does not exist"),
        (["images=empty"], 3, "images=empty holds no image files"),
        (["crop=64"], 2, "crop=64 does not fit into pictures whose shorter side is resize=24"),
        (["prompt=a street"], 2, "does not have the identifier 'sks'"),
        (["precision=bf16-true"], 2, "lost in rounding or become NaN"),
        (["adapter=dora"], 2, "adapter must be null or lora, got dora"),
        (["model=nowhere"], 2, "model=nowhere is neither a folder nor owner/name"),
        (["out=photographs/new"], 2, "out=photographs/new is inside images="),
        (["out=photographs/0.png/new"], 2, "photographs/0.png is a file; choose a folder"),
        (["out=/proc/sfseg"], 5, "the run folder /proc/sfseg cannot be written"),
        (["identifier=123"], 2, "identifier=123 is 3 tokens"),
        (["prompt=5"], 2, "prompt='5' does not have the identifier 'sks'"),
        (["out=photographs"], 2, "out=photographs is not empty: it has 0.png"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_command_refuses(
    cli: Cli,
    tiny: Path,
    photographs: Photographs,
    tmp_path: Path,
    changed: list[str],
    code: int,
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    usual = [f"images={photographs()}", f"model={tiny}", "out=out", *QUICK]
    done = cli("sfseg-generate", "personalise", *usual, *changed)
    assert done.code == code and message in done.output, done.output
    assert not list(tmp_path.rglob("run.json")) and not list(tmp_path.rglob("state"))
