"""A user's own folder from the command line: what follows its pictures, and what is refused."""

import json
import shutil
from pathlib import Path

import make
import pytest
import torch
import yaml
from conftest import Cli, command
from omegaconf import OmegaConf
from torch import Tensor

from sfseg.networks.segmenter import Segmenter
from sfseg.runs import memory

RUN = [
    "trainer=debug", "trainer.precision=32-true", "trainer.max_steps=1", "eval_every=9",
    "data.num_workers=0", "data.batch_size=2", "logger=none", "~callbacks.panels",
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 64x32 of both domains, and a source model of one step."""
    folder = tmp_path_factory.mktemp("own")
    for domain in ("source", "target"):
        classes = make.own_folder(folder / domain)
    shutil.copy(classes, folder / "classes.yaml")
    words = [*RUN, "data=folder", f"data.root={folder}", f"hydra.run.dir={folder}/run"]
    assert command("sfseg-train", *words) == 0
    return folder


def resolved(run: Path) -> dict:
    settings: dict = yaml.safe_load((run / ".hydra" / "resolved.yaml").read_text())
    return settings


def test_crops_of_small_pictures_are_no_larger_than_these(root: Path) -> None:
    views = resolved(root / "run")["data"]["module"]["views"]
    assert views["source"]["crop"] == [32, 64]


def test_the_targets_crops_have_a_short_setting(cli: Cli, root: Path) -> None:
    source = f"source_checkpoint={root}/run/checkpoints/last.ckpt"
    words = ["method=tent", "data=folder", f"data.root={root}", source]
    done = cli("sfseg-train", *RUN, *words, "data.target_crop=[16,24]")
    assert done.code == 0, done.output
    assert resolved(done.run)["data"]["module"]["views"]["target"]["crop"] == [16, 24]
    said = (
        "1 steps of 2 images of the target, 0.667 passes over its 3; crops of 24x16 from pictures"
    )
    assert said in done.output and "at 0.5 to 2 times their own size" in done.output
    assert "is larger" not in done.output


def test_a_source_model_is_made_with_the_crops_of_its_pictures(root: Path) -> None:
    from hydra import compose, initialize_config_dir

    from sfseg.config.composition import CONF
    from sfseg.runs.recipe import recipe_of

    recipes = []
    for words in ([], ["data.target_crop=[8,8]"], ["data.source_view.crop=[8,8]"]):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose(
                "train", ["data=folder", f"data.root={root}", "method=tent", "output_dir=x", *words]
            )
        recipes.append(recipe_of(cfg))
    assert recipes[0].record()["data"]["views"]["source"]["crop"] == [32, 64]
    # The target's crops are none of its business.
    assert recipes[0].name == recipes[1].name != recipes[2].name
    assert cfg.data.source_view.crop == [8, 8]


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["data.size=[64,160]", "data.adaptation.target_view.crop=null"], "data.adaptation"),
        (["data=folder", "data.root=ROOT", "data.target_view.crop=null"], "data"),
    ],
)
def test_a_crop_that_is_set_to_null_follows_the_pictures(
    root: Path, words: list[str], key: str
) -> None:
    from hydra import compose, initialize_config_dir

    from sfseg.config.composition import CONF
    from sfseg.runs.crops import fit_crops

    given = [word.replace("ROOT", str(root)) for word in words]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["method=sfda", "output_dir=x", *given])
    fit_crops(cfg, cfg.method.needs)
    size = [64, 160] if key == "data.adaptation" else [32, 64]
    views = cfg.method.plan.target_view, cfg.data.module.views.target
    assert [view.crop for view in views] == [size, size]
    assert OmegaConf.select(cfg, f"{key}.target_view.crop") == size


def test_a_checkpoint_is_scored_where_its_source_is_not(cli: Cli, root: Path) -> None:
    shutil.copytree(root / "target", Path("alone") / "target")
    shutil.copy(root / "classes.yaml", "alone")
    words = [f"ckpt_path={root}/run/checkpoints/last.ckpt", "+data.root=alone"]
    done = cli("sfseg-eval", *words)
    assert done.code == 0, done.output
    assert (
        "the source is left out: folder" in done.output
        and "alone/source does not exist" in done.output
    )
    assert set(json.loads((done.run / "results.json").read_text())) == {"target"}
    wanted = cli("sfseg-eval", *words, "with_source=true", "task_name=wanted")
    assert wanted.code == 3 and "point data.source_root at the data" in wanted.output


def test_frames_of_a_game_and_a_street_of_ones_own(cli: Cli, root: Path, tmp_path: Path) -> None:
    make.gta5(tmp_path / "gta5")
    make.own_folder(tmp_path / "street", num_classes=19, splits=(".",))
    done = cli(
        "sfseg-train", *RUN, "data=gta5_to_folder", f"data.root={tmp_path}",
        "data.target_root=street", "data.source_view.resize=[36,64]",
        "data.source_view.crop=[32,32]",
    )  # fmt: skip
    assert done.code == 0, done.output
    assert "19 classes of cityscapes" in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["data=folder"],
            "sfseg: data.root must be given, it has no default; add data.root=<folder",
        ),
        (["data=gta5_to_folder"], "data.target_root must be given, it has no default"),
        (
            ["data=folder", "data.root=ROOT", "+data.scenes.source_train.foo=1"],
            "data.scenes.source_train.foo is no setting of folder, which has root, split, classes",
        ),
        (
            ["data=folder", "data.root=ROOT", "+data.scenes.source_train.images=2024"],
            "data.scenes.source_train.images must be a name, got 2024, which YAML reads as",
        ),
        (
            ["data=folder", "data.root=ROOT", "data.classes=2024"],
            "a YAML file with a list 'classes', got '2024', which does not exist",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_one_sentence_says_what_is_wrong(
    cli: Cli, root: Path, words: list[str], message: str
) -> None:
    done = cli("sfseg-train", *RUN, *(word.replace("ROOT", str(root)) for word in words))
    assert done.code == 2 and message in done.output, done.output
    assert "Traceback" not in done.output and "full_key" not in done.output


def test_training_tries_the_largest_evaluation_picture_first_and_is_not_changed_by_it(
    cli: Cli, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*RUN, "data=folder", f"data.root={root}", "data.source_view.crop=[16,16]"]
    words += ["trainer.max_steps=2", "seed=3"]
    tried = cli("sfseg-train", *words, "hydra.run.dir=tried")
    assert tried.code == 0, tried.output
    said = "evaluation: trying images/val/0.png, the largest picture of the target eval set, at"
    assert tried.output.count(said) == 1
    monkeypatch.setattr(memory, "check_largest", lambda *arguments: None)
    assert cli("sfseg-train", *words, "hydra.run.dir=untried").code == 0
    first, second = (
        torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in ("tried", "untried")
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert Path("tried/results.json").read_text() == Path("untried/results.json").read_text()


def test_an_evaluation_that_does_not_fit_ends_a_run_before_its_folder_is_taken(
    cli: Cli, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: Segmenter, image: Tensor) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")

    monkeypatch.setattr(Segmenter, "forward", forward)
    words = [*RUN, "data=folder", f"data.root={root}", "data.target_crop=[16,16]", "method=tent"]
    done = cli("sfseg-train", *words, "data.source_view.crop=[16,16]", "hydra.run.dir=run")
    assert done.code == 2, done.output
    assert "cannot be evaluated" in done.output and "evaluation=slide" in done.output
    assert "training source_only first" not in done.output and not Path("run/run.json").exists()
