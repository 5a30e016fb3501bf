"""CLOUDS from the command line: drawn generated images, a tiny SAM, and every experiment file."""

import json
from pathlib import Path

import make
import pytest
from conftest import DEBUG, Cli
from test_generalisation import STYLES, UNSEEN

from sfseg.config.composition import CONF

RUN = [*UNSEEN, "logger=none", "method=clouds", "data.scenes.source_eval=null"]
FILES = sorted(path.stem for path in (CONF / "experiment" / "clouds").glob("[!_]*.yaml"))


def test_both_phases_with_a_refiner_are_judged_on_unseen_sets(
    cli: Cli, tmp_path: Path, tiny_sam: Path
) -> None:
    make.generated(tmp_path / "made", 6)
    done = cli(
        "sfseg-train", *RUN, "data.generated=made", "data.adaptation.batch_size=3",
        "method.plan.repeat_factor=0.8", "pseudo_labels.refine=sam",
        f"pseudo_labels.sam.model={tiny_sam}", "method.teacher_every=1",
    )  # fmt: skip
    assert done.code == 0, done.output
    assert "trained now" in done.output, "the warm-up comes first"
    # A pass over 4 images of the source shows 0.8 x 6 generated ones.
    assert "steps of 1.3636 images of the source" in done.output
    assert "steps of 1.6364 images of the target" in done.output
    assert list(json.loads((done.run / "results.json").read_text())) == ["mean", *STYLES]
    checkpoint = f"ckpt_path={done.run / 'checkpoints' / 'last.ckpt'}"
    evaluated = cli("sfseg-eval", checkpoint, "hydra.run.dir=evaluated")
    assert evaluated.code == 0, evaluated.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "set data.generated=<their folder>"),
        (["data.generated=made", "backbone/head=daformer"], "set backbone/head=mask2former"),
        (["data.generated=made", "method.plan.repeat_factor=9"], "repeat_factor makes 1.8 of"),
        (["data.generated=made", "method.plan.repeat_factor=0"], "repeat_factor must be"),
        (["data.generated=made", "method.plan.repeat_factor=x"], "positive number, got 'x'"),
        (["data.generated=made", "method.teacher_every=2.5"], "must be a whole number, at least 1"),
        (["data.generated=made", "data.colour.hue=0.1"], "data.colour.hue=0.1 has no effect"),
        (["data.generated=made", "pseudo_labels.refine=sam", "pseudo_labels.sam.model=x"], "x"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_trained_is_refused_before_anything_is(
    cli: Cli, tmp_path: Path, words: list[str], message: str
) -> None:
    make.generated(tmp_path / "made", 4)
    done = cli("sfseg-train", *RUN, *words)
    assert done.code == 2 and message in done.output, done.output
    assert "training:" not in done.output and "trained now" not in done.output


def test_the_mask_head_goes_with_methods_that_know_no_masks(cli: Cli, tmp_path: Path) -> None:
    """Both heads of DACS, the student's and the teacher's, on generated images."""
    make.generated(tmp_path / "made", 4)
    words = ["method=dacs", "backbone/head=mask2former", "data.generated=made", "start=backbone"]
    done = cli("sfseg-train", *UNSEEN, "logger=none", *words)
    assert done.code == 0, done.output


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_an_experiment_runs_on_folders_of_its_data(
    cli: Cli, tmp_path: Path, name: str, tiny_sam: Path
) -> None:
    """With random weights, on small crops and in place of CLIP's ConvNeXt-L its smallest kin."""
    for kind in (make.gta5, make.synthia, make.cityscapes, make.bdd100k, make.mapillary, make.acdc):
        kind(tmp_path / "data" / kind.__name__)
    make.generated(tmp_path / "made", 5)
    debug = [word for word in DEBUG if not word.startswith("data.")]
    words = [
        f"experiment=clouds/{name}", "data.root=data", "data.generated=made", *debug,
        "trainer.max_steps=2", "source_model.steps=2", "data.source_view.crop=[64,64]",
        "data.batch_size=5", "data.adaptation.batch_size=5", "data.num_workers=0", "logger=none",
        "data.eval_resolution=native", "backbone.mask2former.points=64", "data.check_samples=2",
        "backbone.pretrained=false", "eval_every=2",
        *([] if name.endswith(("_no_sam", "_warmup")) else [f"pseudo_labels.sam.model={tiny_sam}"]),
        *(["backbone.network.name=test_convnext"] if "convnext" in name else []),
    ]  # fmt: skip
    done = cli("sfseg-train", *words)
    assert done.code == 0, done.output
    found = json.loads((done.run / "results.json").read_text())
    assert len(found) >= 4 and "mean" in found
