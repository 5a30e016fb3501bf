"""``sfseg-generate images`` with a tiny model of Stable Diffusion's shape."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import Cli

from sfseg.errors import ConfigError
from sfseg.generation.model_card import licence_of
from sfseg.generation.sampling import Sampling, fingerprint, use_scheduler

SMALL = ["height=16", "width=24", "steps=2", "n_images=5", "batch_size=2", "device=cpu"]
TINY = Sampling(height=16, width=24, steps=2)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_resume_and_shares_give_the_bits_of_one_run(cli: Cli, tiny: Path) -> None:
    words = ("sfseg-generate", "images", f"model={tiny}", *SMALL)
    whole = cli(*words, "out=whole")
    assert whole.code == 0, whole.output
    assert "5 images made in whole" in whole.output
    expected = files(whole.folder / "whole")
    assert set(expected) == {f"im_{j}_p{j}.png" for j in range(5)} | {"manifest.json"}
    for share in ("1/2", "0/2"):
        assert cli(*words, "out=shared", f"shard={share}").code == 0
    assert files(whole.folder / "shared") == expected
    (whole.folder / "shared" / "im_2_p2.png").unlink()
    resumed = cli(*words, "out=shared")
    assert "images of this process: 5, of which 4 are there" in resumed.output
    assert files(whole.folder / "shared") == expected
    idle = cli(*words, "out=idle", "shard=3/4")  # of five images in batches of two
    assert idle.code == 0 and "shard=3/4 has nothing to do: shares are of whole" in idle.output
    other = cli(*words, "out=shared", "steps=3")
    assert other.code == 2
    assert "out=shared holds images of another steps, 2, not 3" in other.output


# diffusers 0.42 with numpy 2.4: np.array of a tensor in EulerDiscreteScheduler.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_manifest_says_how_images_were_made(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    model = tmp_path / "step_000200"
    shutil.copytree(tiny, model)
    record = {"base_model": str(tiny), "identifier": "sks", "prompt": "a photo of a sks lane"}
    (model / "personalised.json").write_text(json.dumps(record))
    words = ["images", f"model={model}", "out=set", *SMALL, "scheduler=euler", "classes=none"]
    done = cli("sfseg-generate", *words)
    assert done.code == 0, done.output
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["prompts"] == ["a photo of a sks lane"]
    assert manifest["images"][3] == {
        "file": "im_3_p0.png", "prompt": "a photo of a sks lane", "seed": 3
    }  # fmt: skip
    assert manifest["scheduler"] == "EulerDiscreteScheduler"
    assert manifest["licence"] == f"not stated, of {tiny}"
    assert (manifest["height"], manifest["width"], manifest["dtype"]) == (16, 24, "float32")
    assert {"torch", "diffusers", "transformers", "sfseg"} <= set(manifest["versions"])
    wrong = cli("sfseg-generate", *words, "classes=things", "identifier=xyz")
    assert wrong.code == 2 and "set identifier=sks" in wrong.output


def test_prompts_are_shown_without_a_model(cli: Cli) -> None:
    shown = cli(
        "sfseg-generate", "images", "print_prompts=true",
        "template=a photo of {cls} in a {identifier} scene from a car",
    )  # fmt: skip
    assert shown.code == 0, shown.output
    lines = shown.output.splitlines()
    assert lines[7] == "a photo of buses in a sks scene from a car" and len(lines) == 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=nowhere"], "model=nowhere is neither a folder nor"),
        (["height=20"], "both must be multiples of 8 for this model; nearest are height=16 or 24"),
        (["dtype=int8"], "dtype must be auto"),
        (["scheduler=fast"], "scheduler must be one of ddim"),
        (["template=a photo of {identifier}"], "must contain {cls}"),
        (["prompts=none.txt"], "as a file it cannot be read"),
        (["guidance=much"], "guidance must be a number at least 0, got much"),
        (["template=5"], "template='5' must contain {cls}"),
        (["safety_checker=abc"], "safety_checker must be true or false, got abc"),
        (["height=true"], "height must be a whole number of at least 1, got True"),
        (["shard=3/2"], "shard=3/2 must be"),
    ],
)
def test_bad_settings_begin_nothing(cli: Cli, tiny: Path, words: list[str], message: str) -> None:
    done = cli("sfseg-generate", "images", f"model={tiny}", "out=set", *SMALL, *words)
    assert done.code == 2
    assert message in done.output
    assert not (done.folder / "set").exists()


def test_batches_change_no_more_than_rounding(pipeline: Any) -> None:
    prompts, seeds = [f"a photo of sks {name}" for name in "abcdefgh"], list(range(8))
    together = TINY.images(pipeline, prompts, seeds)
    alone = [TINY.images(pipeline, [p], [s])[0] for p, s in zip(prompts, seeds, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert one.shape == (16, 24, 3) and one.std() > 5
        assert np.abs(one.astype(int) - other).max() <= 2


def test_the_identifier_and_the_seed_change_the_image(pipeline: Any) -> None:
    prompts = ["a photo of sks cars", "a photo of zwx cars", "a photo of sks cars"]
    first, other_word, other_seed = TINY.images(pipeline, prompts, [3, 3, 4])
    assert np.abs(first.astype(int) - other_word).max() > 2
    assert np.abs(first.astype(int) - other_seed).max() > 20


def test_the_fingerprint_is_that_of_the_weights(pipeline: Any) -> None:
    before = fingerprint(pipeline)
    assert fingerprint(copy.deepcopy(pipeline)) == before
    with torch.no_grad():
        next(pipeline.text_encoder.parameters()).view(-1)[0] += 1e-3
    assert fingerprint(pipeline) != before


def test_a_scheduler_keeps_the_settings_of_the_models_own(pipeline: Any) -> None:
    own = pipeline.scheduler
    assert use_scheduler(pipeline, None) == "PNDMScheduler"
    assert use_scheduler(pipeline, "dpm") == "DPMSolverMultistepScheduler"
    assert pipeline.scheduler.config.beta_end == own.config.beta_end == 0.012
    with pytest.raises(ConfigError, match="got 'fast'"):
        use_scheduler(pipeline, "fast")


def test_sizes_that_a_deep_vae_would_cut_are_refused() -> None:
    class Deep:
        vae_scale_factor = 16

    message = "multiples of 16 for this model; nearest are height=32 or 48, width=64"
    with pytest.raises(ConfigError, match=message):
        Sampling(height=40, width=64).require_fitting(Deep())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("head", "licence"),
    [
        ("---\nlicense: openrail++\ntags: [a]\n---\n# Model", "openrail++"),
        ("---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE\n---\n", "mine (LICENSE)"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "mit, apache-2.0"),
        ("---\nlicense: [\n---\n", "not stated"),
        ("# no head", "not stated"),
    ],
)
def test_the_licence_is_the_cards(tmp_path: Path, head: str, licence: str) -> None:
    (tmp_path / "README.md").write_text(head)
    assert licence_of(str(tmp_path)) == licence


def test_datum_trains_on_what_was_generated(cli: Cli, tiny: Path) -> None:
    from conftest import DEBUG

    made = cli("sfseg-generate", "images", f"model={tiny}", "out=set", *SMALL)
    assert made.code == 0, made.output
    path = made.folder / "set" / "im_1_p1.png"
    cv2.imwrite(str(path), np.zeros((16, 24, 3), np.uint8))
    done = cli(
        "sfseg-train", *DEBUG, "logger=none", "start=backbone", "trainer.max_steps=1",
        "method=datum", "data.generated=set", "hydra.run.dir=run",
    )  # fmt: skip
    assert done.code == 0, done.output
    assert "4 generated images of data.generated=set in place of" in done.output
