"""Images in place of the target's own, from the command line to the end of a run."""

import json
from pathlib import Path

import make
import pytest
from conftest import DEBUG, SMALL, Cli
from hydra import compose, initialize_config_dir

from sfseg.config.composition import CONF, plain

RUN = [*DEBUG, "logger=none", "start=backbone", "trainer.max_steps=2"]


def test_datum_trains_on_a_folder_and_is_judged_on_the_target(cli: Cli, tmp_path: Path) -> None:
    make.generated(tmp_path / "made", 5, black=(3,))
    done = cli("sfseg-train", *RUN, "method=datum", "data.generated=made", "data.n_shots=1")
    assert done.code == 0, done.output
    assert "target train: 1 of 4 images are seen: city/train/00000" in done.output
    assert "4 generated images of data.generated=made in place of" in done.output
    assert "1 black ones are left out; sizes: 128x64 (4)" in done.output
    assert "images of the target, 1 passes over its 4; crops of 64x64" in done.output
    assert set(json.loads((done.run / "results.json").read_text())) == {"source", "target"}
    checkpoint = f"ckpt_path={done.run / 'checkpoints' / 'last.ckpt'}"
    for path in (tmp_path / "made").iterdir():
        path.unlink()
    evaluated = cli("sfseg-eval", checkpoint, "hydra.run.dir=evaluated")
    assert evaluated.code == 0, evaluated.output


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "set data.generated=<their folder>"),
        (["data.generated=nowhere"], 3, "data.generated names nowhere, which does not exist"),
        (["data.generated=empty"], 3, "data.generated names empty, which holds no images"),
        (["data.generated=black"], 3, "all 2 images are black, as Stable Diffusion's safety"),
        (["data.generated=made", "data.shots=[x]"], 2, "data.shots names 'x', which no training"),
        (["data.generated=made", "data.n_shots=5"], 2, "data.n_shots=5 is more than the 4"),
        (["data.generated=made", "data.target_folders=[made]"], 2, "both say which images stand"),
        (["data.generated=2024"], 2, "data.generated must be names, got 2024, which YAML"),
        (["data.generated=made", "data.target_view.resize=[9,9]"], 2, "has no effect"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_trained_on_is_refused_before_training(
    cli: Cli, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    make.generated(tmp_path / "black", 2, black=range(2))
    make.generated(tmp_path / "made", 2)
    done = cli("sfseg-train", *RUN, "method=datum", *words)
    assert done.code == code and message in done.output and "training:" not in done.output


def test_own_images_of_two_folders_with_the_same_names(cli: Cli, tmp_path: Path) -> None:
    for domain in ("source", "target"):
        classes = make.own_folder(tmp_path / "mine" / domain, masks=domain == "source")
    classes.rename(tmp_path / "mine" / "classes.yaml")
    for part in ("a", "b"):
        make.own_folder(tmp_path / part, splits=["day"], masks=False)
    words = [
        "data=folder", "data.root=mine", "data.num_workers=0", "data.batch_size=2",
        "data.target_folders=[a/images,b/images]",
    ]  # fmt: skip
    run = [word for word in RUN if word not in SMALL]
    done = cli("sfseg-train", *run, *words, "method=dacs", "hydra.run.dir=run")
    assert done.code == 0, done.output
    assert "passes over its 6; crops of 64x32" in done.output
    done = cli("sfseg-data", "check", *words, "hydra.run.dir=check")
    found = json.loads((tmp_path / "check" / "check.json").read_text())["sets"]
    assert (found["target_train"]["scenes"], found["target_eval"]["scenes"]) == (6, 3)


def test_check_reads_the_generated_images(cli: Cli, tmp_path: Path) -> None:
    make.generated(tmp_path / "made", 3, black=(0,))
    done = cli("sfseg-data", "check", *SMALL, "data.generated=made")
    assert done.code == 0, done.output
    found = json.loads((done.run / "check.json").read_text())["sets"]["target_train"]
    assert found["scenes"] == 2 and not found["labelled"]


def test_every_shot_of_a_sweep_has_its_folder() -> None:
    words = ["data.generated=made/${data.shot_seed}", "experiment=datum/gta5_mit_b5"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for seed in range(3):
            cfg = compose("train", [*words, f"data.shot_seed={seed}"])
            module = plain(cfg.data.module, resolve=True)
            assert module["replacement"]["generated"] == f"made/{seed}"
            assert module["views"]["target"]["resize"] is None
            assert module["views"]["target"]["crop"] == [512, 512]
            assert cfg.method.pseudo_label_crop == [15, 120] and cfg.eval_every == 2000
