"""What a source model is known by: two runs share one if, and only if, it would be the same."""

import copy
import os
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from make import ids, own_folder, write
from omegaconf import DictConfig, OmegaConf

from sfseg.config.composition import CONF, build
from sfseg.errors import ConfigError, DataError
from sfseg.runs.recipe import MACHINE, TRAINER, Recipe, recipe_of

PALETTE = [[k, 2 * k, 255 - k] for k in range(19)]
GROUPS = ("data", "method", "callbacks", "logger", "source_model", "backbone/head")


@cache
def of_groups(*groups: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=["method=uniuvpt", "trainer.precision=32-true", *groups])


def composed(*overrides: str) -> DictConfig:
    """The configuration with these overrides; groups are composed once, values set in a copy."""
    groups = [o for o in overrides if "." not in o.partition("=")[0] and o[0] != "+"]
    groups = [o for o in groups if o.partition("=")[0] in GROUPS]
    cfg = copy.deepcopy(of_groups(*groups))
    for override in overrides:
        if override not in groups:
            key, _, value = override.lstrip("+").partition("=")
            OmegaConf.update(cfg, key, yaml.safe_load(value), force_add=override[0] == "+")
    return cfg


def recipe(*overrides: str) -> Recipe:
    return recipe_of(composed(*overrides))


def of_folder(root: Path, *overrides: str) -> Recipe:
    return recipe("data=folder", f"data.root={root}", "data.classes=cityscapes", *overrides)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a labelled source and a target, of Cityscapes' classes."""
    root = tmp_path / "project"
    for domain in ("source", "target"):
        own_folder(root / domain, num_classes=19)
    return root


@pytest.mark.parametrize(
    "setting",
    [
        "method.alpha=0", "method.lr=1", "trainer.max_steps=7", "data.shift=severe",
        "data.adaptation.steps=9", "data.adaptation.batch_size=2", "data.num_workers=1",
        "data.eval_batch_size=3", "data.cache=memmap", "data.check_samples=null",
        "eval_every=3", "backbone.compile=true", "backbone.channels_last=true",
        "trainer.gradient_clip_val=1", "trainer.accumulate_grad_batches=2",
        "trainer.log_every_n_steps=1", "trainer.limit_val_batches=1",
        "+trainer.limit_train_batches=1", "+trainer.overfit_batches=1", "+trainer.max_epochs=1",
        "+trainer.max_time=00:00:00:01", "+trainer.fast_dev_run=1", "callbacks=[default,ema]",
        "checkpoint.every_steps=3", "logger=none", "method=sfda",
    ],
)  # fmt: skip
def test_what_does_not_change_the_weights_does_not_change_the_name(setting: str) -> None:
    assert recipe(setting).name == recipe().name


@pytest.mark.parametrize(
    "setting",
    [
        "seed=1", "data.scene_seed=1", "source_model.steps=9", "source_model=source_gta",
        "backbone/head=upernet", "data.batch_size=3", "source_model.method.lr=1",
        "data.colour.hue=0.1", "trainer.precision=64-true", "data.source_view.flip=0",
        "data.on_error=skip", "backbone.gradient_checkpointing=true", "matmul_precision=highest",
        "backbone.batch_norm=frozen", "data.scenes.source_train.length=5",
    ],
)  # fmt: skip
def test_what_changes_the_weights_changes_the_name(setting: str) -> None:
    assert recipe(setting).name != recipe().name


def test_trial_settings_do_not_reach_the_trainer_of_the_source_model() -> None:
    trials = [
        "+trainer.fast_dev_run=true", "+trainer.max_time=00:00:00:01", "+trainer.max_epochs=1",
        "+trainer.limit_train_batches=1", "+trainer.overfit_batches=1",
        "+trainer.detect_anomaly=true",
    ]  # fmt: skip
    assert recipe(*trials).config.trainer == recipe().config.trainer
    assert recipe().config.trainer.max_steps == recipe().steps == 500


def test_its_trainer_takes_nothing_of_the_adaptations_but_the_machine() -> None:
    """Least of all how gradients are treated: a name does not tell that."""
    training = [
        "trainer.gradient_clip_val=1", "+trainer.gradient_clip_algorithm=value",
        "trainer.accumulate_grad_batches=2", "trainer.max_steps=7",
        "+trainer.min_steps=3", "+trainer.reload_dataloaders_every_n_epochs=1",
    ]  # fmt: skip
    assert recipe(*training).config.trainer == recipe().config.trainer
    every = {"_target_", "max_steps", *TRAINER, *MACHINE}
    assert set(recipe(*training).config.trainer) <= every
    assert not {"gradient_clip_val", "accumulate_grad_batches"} & every


TWO = ["trainer.accelerator=cpu", "trainer.devices=2", "+trainer.strategy=ddp"]


def test_how_images_of_a_step_are_dealt_does_not_change_the_name() -> None:
    head, whole = "backbone/head=deeplabv2", "data.batch_size=8"
    assert recipe(*TWO, "data.batch_size=4", head).name == recipe(whole, head).name
    assert recipe(*TWO, whole, head).name != recipe(whole, head).name
    assert recipe(*TWO).config.trainer.strategy == "ddp"


def test_batch_normalisation_of_each_process_alone_changes_the_name() -> None:
    state = torch.get_rng_state()
    two = [*TWO, "data.batch_size=4"]
    names = {recipe(*settings).name for settings in (two, ["data.batch_size=8"])}
    assert len(names) == 2
    assert recipe(*two, "+trainer.sync_batchnorm=true").name in names
    # Whoever looks for a model draws nothing from the run's numbers.
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_files_elsewhere_are_the_same_content(project: Path, tmp_path: Path) -> None:
    before = of_folder(project)
    moved = project.rename(tmp_path / "moved")
    assert of_folder(moved).name == before.name


def test_two_projects_at_one_relative_root_are_two(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    for number in (1, 2):
        folder = tmp_path / f"project {number}"
        own_folder(folder / "data" / "source", num_classes=19, count=2 + number)
        own_folder(folder / "data" / "target", num_classes=19)
        monkeypatch.chdir(folder)
        names.append(of_folder(Path("data")).name)
    assert names[0] != names[1]


def test_mended_masks_are_other_content(project: Path) -> None:
    before = of_folder(project)
    mask = project / "source" / "masks" / "train" / "0.png"
    write(mask, ids(7, 19))
    os.utime(mask, ns=(0, mask.stat().st_mtime_ns + 1_000_000_000))
    assert of_folder(project).name != before.name


def test_masks_of_the_target_do_not_matter(project: Path) -> None:
    before = of_folder(project)
    write(project / "target" / "masks" / "train" / "0.png", ids(7, 19))
    assert of_folder(project).name == before.name


@pytest.mark.parametrize(
    "settings",
    [
        {"values": [*range(1, 19), 0]}, {"ignore": [77]}, {"ignore": [[1, 2, 3]]},
        {"nearest": True}, {"channel": "red"}, {"map": {"class 1": "class 0"}},
        {"map": {"class 1": None}}, {"palette": None},
    ],
    ids=lambda settings: next(iter(settings)),
)  # fmt: skip
def test_labels_that_are_read_in_another_way_are_other_content(
    project: Path, settings: dict
) -> None:
    def named(settings: dict) -> str:
        classes = {"classes": [f"class {k}" for k in range(19)], "palette": PALETTE, **settings}
        (project / "classes.yaml").write_text(yaml.safe_dump(classes))
        return recipe("data=folder", f"data.root={project}").name

    assert named({}) == named({}) != named(settings)


def test_a_source_of_other_classes_is_other_content(project: Path) -> None:
    (project / "classes.yaml").write_text("classes: [road, car]\n")
    (project / "source.yaml").write_text("classes: cityscapes\nmap: {truck: car}\n")
    names = {
        recipe("data=folder", f"data.root={project}", f"data.source_classes={classes}").name
        for classes in ("cityscapes", project / "source.yaml")
    }
    assert len(names) == 2


def test_weight_files_count_by_their_content(tmp_path: Path) -> None:
    def named(path: Path) -> str:
        return recipe(f"backbone.weights={path}").name

    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    torch.save({"a": torch.ones(2)}, first)
    shutil.copy(first, second)
    before = named(first)
    assert named(second) == before
    torch.save({"a": torch.zeros(2)}, first)
    assert named(first) != before


def test_a_recipe_is_found_by_its_folders_when_the_files_are_gone(
    project: Path, tmp_path: Path
) -> None:
    before = of_folder(project)
    (project / "source").rename(tmp_path / "gone")
    with pytest.raises(DataError, match=r"source"):
        of_folder(project)
    cfg = composed("data=folder", f"data.root={project}", "data.classes=cityscapes")
    without = recipe_of(cfg, is_there=False)
    assert without.differs_in_content_alone(before.record())
    cfg.seed = 1
    assert not recipe_of(cfg, is_there=False).differs_in_content_alone(before.record())
    assert not without.differs_in_content_alone([])


def test_a_source_that_is_not_set_is_named() -> None:
    with pytest.raises(ConfigError, match=r"data\.scenes\.source_train, got null"):
        recipe("data.scenes.source_train=null")


def test_keys_of_the_users_own_come_along() -> None:
    own = recipe("+mine.hue=0.3", "data.colour.hue=${mine.hue}")
    assert own.settings["data"]["colour"]["hue"] == 0.3
    assert own.config.mine.hue == 0.3


@pytest.mark.parametrize("part", ["data.module", "method", "backbone.network", "trainer"])
def test_the_record_of_the_source_run_keeps_its_links(part: str) -> None:
    """A tool that changes a setting of the record must find what refers to it."""
    config = recipe().config
    before = OmegaConf.to_yaml(config)
    build(OmegaConf.select(config, part), **({"num_classes": 3} if "network" in part else {}))
    assert OmegaConf.to_yaml(config) == before
    assert "${data.source_view}" in OmegaConf.to_yaml(config.data.module)
