"""Settings of the trainer and of the data: each is honoured, or refused before training."""

import inspect
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf

from sfseg.config.composition import CONF
from sfseg.data.left_out import LeftOut
from sfseg.errors import ConfigError
from sfseg.ops.inference import Inference
from sfseg.runs.plan import check_added, check_plan
from sfseg.runs.protocol import protocol_of
from sfseg.runs.refusals import built_trainer, check_digits
from sfseg.runs.trainer_settings import HONOURED, REFUSED, check_trainer

AUTOMATIC = SimpleNamespace(automatic_optimization=True)


@cache
def base(*groups: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=["trainer=cpu", "output_dir=run", *groups])


def composed(*words: str) -> DictConfig:
    """As a command line composes it, but once for all that choose the same groups."""
    groups = [word for word in words if "." not in word.partition("=")[0]]
    cfg = base(*[word for word in groups if "every" not in word]).copy()
    for word in words:
        if word not in groups or "every" in word:
            key, _, value = word.lstrip("+").partition("=")
            OmegaConf.update(cfg, key, yaml.safe_load(value), force_add=True)
    return cfg


def test_every_setting_of_lightnings_trainer_is_decided_on() -> None:
    """A new one of Lightning's is refused in runs until somebody says what becomes of it."""
    known = set(inspect.signature(Trainer).parameters)
    assert not HONOURED & set(REFUSED)
    assert known == HONOURED | set(REFUSED)


@pytest.mark.parametrize(
    "word",
    [
        "+trainer.limit_train_batches=2", "+trainer.limit_train_batches=1.0",
        "trainer.num_sanity_val_steps=1", "trainer.log_every_n_steps=0",
        "+trainer.min_steps=3", "+trainer.max_time=00:00:01:00", "+trainer.profiler=simple",
        "+trainer.enable_checkpointing=true", "trainer.gradient_clip_val=1",
        "+trainer.overfit_batches=0", "trainer.max_steps=100.0", "+trainer.max_epochs=-1",
    ],
)  # fmt: skip
def test_a_setting_is_honoured(word: str) -> None:
    cfg = composed(word)
    check_trainer(cfg, steps_itself=False)
    built_trainer(cfg, AUTOMATIC, [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+trainer.logger=false"], r"trainer.logger=False is not for a run: logger=csv"),
        (["+trainer.callbacks=[]"], r"\+callbacks.<name>="),
        (["+trainer.barebones=true"], "logger=none"),
        (["+trainer.enable_checkpointing=false"], "checkpoint.every_steps=null"),
        (["+trainer.overfit_batches=2"], "data.source_list"),
        (["+trainer.limit_test_batches=2"], "trainer.limit_val_batches"),
        (["+trainer.limit_predict_batches=2"], "trainer.limit_val_batches"),
        (["trainer.check_val_every_n_epoch=1"], "eval_every is the number of batches"),
        (["+trainer.reload_dataloaders_every_n_epochs=1"], "drawn without end"),
        (["trainer.use_distributed_sampler=true"], "each one once"),
        (["+trainer.enable_autolog_hparams=false"], "logger=none"),
        (["+trainer.model_registry=x"], "are in its folder"),
        (["+trainer.gpus=2"], "trainer.gpus is no setting"),
        (["trainer.max_steps=-1"], "trainer.max_steps must be a number of steps"),
        (["trainer.max_steps=null"], "trainer.max_steps must be a number of steps"),
        (["trainer.max_steps=2.5"], "trainer.max_steps must be a number of steps"),
        (["trainer.max_steps=3", "+trainer.min_steps=4"], "trainer.min_steps=4 is more than"),
        (["+trainer.max_epochs=2"], "say with trainer.limit_train_batches"),
        (["+trainer.min_epochs=2"], "say with trainer.limit_train_batches"),
        (["+trainer.limit_train_batches=0.5"], "must be a number of batches, got 0.5"),
        (
            ["+trainer.limit_train_batches=3", "trainer.accumulate_grad_batches=2"],
            "must be a multiple of trainer.accumulate_grad_batches=2",
        ),
        (["trainer.accumulate_grad_batches=0"], "accumulate_grad_batches must be a whole number"),
        (["eval_every=0"], "eval_every must be a whole number, at least 1, got 0"),
        (["eval_every=0.5"], "eval_every must be a whole number, at least 1, got 0.5"),
        (["trainer.val_check_interval=9"], "follows eval_every=500, got 9; set eval_every"),
        (["trainer.log_every_n_steps=-1"], "trainer.log_every_n_steps must be a whole number"),
        (["trainer.log_every_n_steps=null"], "trainer.log_every_n_steps must be a whole number"),
        (["method.log_every=3"], "follows trainer.log_every_n_steps=20, got 3; set that"),
        (["trainer.default_root_dir=elsewhere"], "hydra.run.dir=<folder> chooses it"),
        (["trainer.limit_val_batches=0"], "set optimized_metric=null too"),
        (["+trainer.gradient_clip_algorithm=value"], "without trainer.gradient_clip_val"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_setting_is_refused_by_name(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_trainer(composed(*words), steps_itself=False)


@pytest.mark.parametrize("word", ["gradient_clip_val=1", "accumulate_grad_batches=2"])
def test_a_method_that_steps_itself_has_neither_clipping_nor_sums(word: str) -> None:
    check_trainer(composed(f"trainer.{word}"), steps_itself=False)
    with pytest.raises(ConfigError, match="for a method with several optimisers"):
        check_trainer(composed(f"trainer.{word}"), steps_itself=True)


@pytest.mark.parametrize(
    "words",
    [["trainer.devices=0"], ["trainer.precision=31"], ["trainer.accelerator=abacus"],
     ["trainer=ddp_cpu", "+trainer.sync_batchnorm=true"]],
    ids=lambda words: words[-1],
)  # fmt: skip
def test_what_lightning_refuses_is_refused_before_training(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="trainer"):
        built_trainer(composed(*words), AUTOMATIC, [])


@pytest.mark.parametrize(
    ("words", "follows"),
    [
        (["method=mean_teacher", "data.batch_size=2"], "data.adaptation.batch_size=4; set that"),
        (["method=mean_teacher", "data.steps=7"], "data.adaptation.steps=300; set that, or both"),
        (
            ["method=mean_teacher", "data.source_view.flip=0"],
            "for the source model alone: .* data.adaptation.target_view.flip=0.5",
        ),
        (
            ["method=mean_teacher", "++data.target_view.flip=0"],
            "no effect: .* data.adaptation.target_view.flip=0.5; set that$",
        ),
        (["method=dacs", "data.batch_size=2"], "data.adaptation.batch_size=4; set that"),
        (
            ["method=dacs", "start=backbone", "data.batch_size=2"],
            "no effect: the run follows data.adaptation.batch_size=4",
        ),
        (["method=bn_adapt", "data.adaptation.steps=7"], "method.plan.steps=50"),
        (["method=sfda_transfer", "data.adaptation.batch_size=2"], "method.plan.batch_size=8"),
        (["trainer=debug", "data.steps=7"], "the run follows trainer.max_steps=3"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_data_settings_that_the_adaptation_does_not_follow(words: list[str], follows: str) -> None:
    with pytest.raises(ConfigError, match=follows):
        check_plan(composed(*words), words)


@pytest.mark.parametrize(
    "words",
    [
        ["method=mean_teacher", "data.batch_size=2", "data.adaptation.batch_size=3"],
        ["method=mean_teacher", "data.batch_size=2", "method.plan.batch_size=3"],
        ["method=mean_teacher", "data.steps=7", "trainer.max_steps=7"],
        ["method=mean_teacher", "data=folder", "data.batch_size=2", "data.source_view.flip=0"],
        ["method=adaptsegnet", "data.source_view.flip=0", "data.source_view.crop=[64,64]"],
        ["method=dacs", "data.source_view.ratio=[1.0,1.0]"],
        ["method=sfda_transfer", "data.batch_size=2", "data.adaptation.batch_size=2"],
        ["data.batch_size=2", "data.adaptation.batch_size=2", "data.source_view.flip=0"],
        ["method=oracle", "data.source_view.flip=0", "data.steps=9"],
        ["method=tent", "data.target_crop=[8,8]"],
        ["method=oracle", "data.target_crop=[8,8]"],
        ["method=tent", "data=folder", "data.target_crop=[8,8]", "data.source_view.crop=[9,9]"],
        ["method=tent", "data=gta5_to_cityscapes", "data.target_crop=[8,8]"],
    ],
    ids=lambda words: " ".join(words),
)
def test_data_settings_that_say_what_is_meant(words: list[str]) -> None:
    check_plan(composed(*words), words)


def test_what_is_added_to_the_data_must_be_read() -> None:
    for word in ("+data.folder=x", "++data.folder=x"):
        with pytest.raises(
            ConfigError, match=r"data\.folder=x has no effect: nothing .*; remove it"
        ):
            check_added(composed(word), [word])
    # Here something refers to it, or another part of the program judges it.
    for words in (
        ["+data.flip=1", "data.source_view.flip=${data.flip}"],
        ["+data.source_view.cap=8"],
        ["+data.cap=8", "data.source_view.flip=${first:${data.cap},8}"],
        ["++data.size=[8,8]"],
        ["+data.scenes.source_train.foo=1"],
        ["+trainer.foo=1"],
    ):
        check_added(composed(*words), words)


def test_half_precision_needs_an_optimiser_that_it_does_not_break() -> None:
    weights = [torch.nn.Parameter(torch.ones(1))]
    cfg = composed("trainer.precision=16-true")
    with pytest.raises(
        ConfigError, match=r"eps=1e-08 0, and steps NaN; set \+method.optimizer.eps"
    ):
        check_digits(cfg, [torch.optim.AdamW(weights)])
    check_digits(cfg, [torch.optim.AdamW(weights, eps=1e-4)])
    check_digits(cfg, [torch.optim.SGD(weights, lr=0.1)])
    check_digits(composed("trainer.precision=bf16-true"), [torch.optim.AdamW(weights)])
    # The second one is the method's own: its eps is no setting.
    for first in (torch.optim.AdamW(weights), torch.optim.SGD(weights, lr=0.1)):
        with pytest.raises(ConfigError, match=r"NaN; take trainer\.precision=16-mixed or bf16"):
            check_digits(cfg, [first, torch.optim.Adam(weights)])


class Data:
    """Evaluation sets of a target of 5 images and a source of 4, of which one is left out."""

    protocol = "3 classes"
    eval_domains = ("target", "source")
    eval_batch_size = 2

    def __init__(self) -> None:
        self.scenes = {"target_eval": range(5), "source_eval": range(4)}
        self.left_out = {n: LeftOut(n, len(part), 1) for n, part in self.scenes.items()}
        self.left_out["source_eval"].indices.add(1)


def protocol(**settings: Any) -> str:
    trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False, **settings)
    return protocol_of(Data(), Inference(), trainer)  # type: ignore[arg-type]


def test_the_protocol_counts_images_where_they_are_not_all() -> None:
    end = "whole images at scale 1, precision"
    assert protocol() == f"3 classes, {end} 32-true"
    assert protocol(limit_val_batches=9, precision="bf16-mixed") == f"3 classes, {end} bf16-mixed"
    counted = "target: 2 of 5 images, source: 2 of 4 images"
    assert protocol(limit_val_batches=1) == f"3 classes, {counted}, {end} 32-true"
    assert protocol(fast_dev_run=True) == protocol(limit_val_batches=1)
    # Two of three batches, one of two.
    counted = "target: 4 of 5 images, source: 2 of 4 images"
    assert protocol(limit_val_batches=0.7) == f"3 classes, {counted}, {end} 32-true"
    two = {"strategy": "ddp", "devices": 2}
    assert (
        protocol(limit_val_batches=1, **two) == f"3 classes, target: 4 of 5 images, {end} 32-true"
    )


def test_evaluations_of_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"limit_val_batches=0\.1 must be 0 or leave some"):
        protocol(limit_val_batches=0.1)
    with pytest.raises(ConfigError, match="source eval set has 3 images for 4 processes"):
        protocol(strategy="ddp", devices=4)
