"""Samplers and translations from the command line, to the end of a run and to a picture."""

import json
from pathlib import Path

import cv2
import make
import numpy as np
import pytest
from conftest import DEBUG, SMALL, Cli

FOLDER = [
    *DEBUG[len(SMALL) :], "logger=none", "data=folder", "data.root=mine", "data.num_workers=0",
    "data.batch_size=2",
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pictures of 64x32 of both domains, and translated ones of the source."""
    for domain in ("source", "target"):
        classes = make.own_folder(tmp_path / "mine" / domain)
    classes.rename(tmp_path / "mine" / "classes.yaml")
    for k in range(3):
        make.write(tmp_path / "translated" / f"{k}.png", make.picture(50 + k))
    return tmp_path


def test_a_run_in_parts_with_weighted_images_in_the_targets_style(cli: Cli, root: Path) -> None:
    words = ["data/sampler=soft_balance", "data/translation=fda", "data.translation.beta=0.1"]
    done = cli("sfseg-train", *FOLDER, *words, "+method.plan.parts=[2]")
    assert done.code == 0, done.output
    assert "source: images are drawn with weights from" in done.output
    (kept,) = (root / "cache" / "statistics").iterdir()
    assert kept.suffix == ".npz"
    checkpoint = f"ckpt_path={done.run / 'checkpoints' / 'last.ckpt'}"
    evaluated = cli("sfseg-eval", checkpoint, "hydra.run.dir=evaluated")
    assert evaluated.code == 0, evaluated.output


def test_a_run_on_translated_images(cli: Cli, root: Path) -> None:
    translated = f"data.translated={root}/translated"
    done = cli("sfseg-train", *FOLDER, translated, "data/sampler=rare_class",
               "data.sampler.min_pixels=100", "data.cache=memmap")  # fmt: skip
    assert done.code == 0, done.output
    (root / "translated" / "1.png").unlink()
    done = cli("sfseg-train", *FOLDER, translated, "hydra.run.dir=other")
    assert done.code == 3 and "lacks 1 of 3 images of the source: images/train/1" in done.output
    done = cli("sfseg-data", "check", "data=folder", "data.root=mine", translated)
    assert done.code == 3 and "lacks 1 of 3 images of the source" in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["data/translation=fda", "data.translation.beta=0.01"],
            "beta=0.01 changes nothing but the mean colour of crops of 128x",
        ),
        (["data/sampler=soft_balance", "data.sampler.k=20"], "k=20 is more than the 19 classes"),
        (["data/sampler=rare_class", "data.sampler.min_pixels=9999"], "min_pixels=9999 leaves no"),
        (["data.translated=here"], "needs a source in files, got Toyscapes"),
        (["data/translation=fda", "data.translated=here"], "would translate images twice"),
        (["method=oracle", "data/sampler=rare_class"], "set data/sampler=uniform"),
        (["data/sampler=soft_balance", "data.sampler.normalise=sum"], "normalise must be one of"),
        (
            ["method=hrda", "start=backbone", "data.target_crop=[48,64]"],
            "data.target_crop must be [height, width] in multiples of 64",
        ),
        (
            ["method=mean_teacher", "+method/adapter=two_resolutions"],
            "method.adapter must not be two_resolutions for MeanTeacher, which looks at whole",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_work_is_refused_before_training(
    cli: Cli, words: list[str], message: str
) -> None:
    done = cli("sfseg-train", *DEBUG, "data.source_view.ratio=[1,1]", *words)
    assert done.code == 2 and message in done.output and "training:" not in done.output


def test_a_run_on_two_resolutions_is_evaluated_on_them(cli: Cli) -> None:
    words = ["method=hrda", "method.masked=1", "start=backbone", "hydra.run.dir=run"]
    done = cli("sfseg-train", *DEBUG, *words)
    assert done.code == 0, done.output
    last = ["ckpt_path=run/checkpoints/last.ckpt", "trainer.precision=32-true"]
    evaluated = cli("sfseg-eval", *last, "hydra.run.dir=again")
    assert evaluated.code == 0, evaluated.output
    first, again = (
        json.loads((done.folder / run / "results.json").read_text()) for run in ("run", "again")
    )
    assert first["target"] == again["target"]


def test_a_preview_shows_the_source_as_training_would(cli: Cli, root: Path) -> None:
    def tiles(*words: str) -> np.ndarray:
        folder = f"preview{len(list(root.iterdir()))}"
        done = cli("sfseg-data", "preview", "data=folder", "data.root=mine", "images=1", *words,
                   f"hydra.run.dir={folder}")  # fmt: skip
        assert done.code == 0, done.output
        return cv2.imread(str(root / folder / "preview.png"))

    plain = tiles()
    styled = tiles("data/translation=fda", "data.translation.beta=0.2")
    read = tiles(f"data.translated={root}/translated")
    middle = plain.shape[1] // 2
    for other in (styled, read):
        assert not np.array_equal(plain[:, :middle], other[:, :middle])
        np.testing.assert_array_equal(plain[:, middle:], other[:, middle:])
