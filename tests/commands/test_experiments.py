"""Every experiment file: its settings fit together, and one real step of a small stand-in runs."""

import math
import pickle
import re
from collections.abc import Callable, Hashable, Sequence
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf

from sfseg.config.composition import CONF, build, plain
from sfseg.errors import ConfigError
from sfseg.methods.base import Method
from sfseg.networks.backbones.tiny import TinyTransformer
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.heads.mask2former.criterion import MaskCriterion
from sfseg.networks.heads.mask2former.mask2former_head import Mask2FormerHead
from sfseg.networks.segmenter import Segmenter
from sfseg.optim import count_parameters
from sfseg.runs.checkpoints import empty_backbone
from sfseg.runs.recipe import recipe_of
from sfseg.types import IGNORE, TrainingBatch

FOLDER = CONF / "experiment"
pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
]
FILES = sorted(p for p in FOLDER.rglob("*.yaml") if not p.name.startswith("_"))
NAMES = [path.relative_to(FOLDER).with_suffix("").as_posix() for path in FILES]


def composed(name: str) -> DictConfig:
    """Its configuration, which the caller may change."""
    cfg: DictConfig = pickle.loads(composed_once(name))
    return cfg


@cache
def composed_once(name: str) -> bytes:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return pickle.dumps(compose("train", overrides=[f"experiment={name}"]))


WITH_SOURCE = (
    "source_only/", "adaptsegnet/", "advent/", "clouds/", "daformer/", "datum/", "fda/", "hrda/",
    "mic/", "uplr/",
)  # fmt: skip
SOURCE_FREE = [name for name in NAMES if not name.startswith(WITH_SOURCE)]
RATES = {"lr", "plan", "schedule", "weight_decay", "parameter_rules", "optimizer"}
"""Settings of a method that its losses do not know of."""
STEPPED: set[Hashable] = set()
"""What has trained its step: fifty experiments share fourteen source models."""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SOURCE_FREE])
def test_it_trains_a_step(name: str) -> None:
    cfg = composed(name)
    crop = tuple(cfg.data.source_view.crop)
    with torch.device("meta"):
        method = around(own_network, cfg)
        same = (str(method.network), type(method), crop)
        is_new = same not in STEPPED
        # Lightning's trainer and a teacher's precision ask for a device that exists.
        needs_device = not method.automatic_optimization or hasattr(method, "teacher")
        if is_new and not needs_device:
            take_step(method, size=crop)
    if is_new and needs_device:
        take_step(around(smallest_network, cfg), size=(64, 64))
    STEPPED.add(same)


@pytest.mark.parametrize("recipe", [path.stem for path in (CONF / "recipe").glob("*.yaml")])
@pytest.mark.parametrize("method", ["source_only", "adaptsegnet", "advent_minent"])
def test_a_recipe_trains_a_step(method: str, recipe: str) -> None:
    """Of every kind of method that sees the source, with a backbone other than its own."""
    choices = [f"method={method}", f"recipe={recipe}", "backbone=tiny"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=choices)
    step = around(smallest_network, cfg)
    if step.automatic_optimization:
        step.trainer = cast(Trainer, SimpleNamespace(world_size=1, global_rank=0))
    take_step(step, size=(64, 64))


@pytest.mark.parametrize("name", SOURCE_FREE)
def test_it_and_its_source_model_train_a_step(name: str) -> None:
    """Of a small network with random weights in place of a source model's."""
    cfg = composed(name)
    if "fake_scale" in cfg.method:
        cfg.method.fake_scale, cfg.method.latent = 0.1, 4  # or most of the time goes into fakes
    source = recipe_of(cfg, is_there=False)
    for recipe in (cfg,) if source.name in STEPPED else (cfg, source.config):
        method = around(smallest_network, recipe)
        settings = {k: v for k, v in plain(recipe.method, resolve=True).items() if k not in RATES}
        same = (repr(settings), method.labels.num_classes, str(method.network))
        if same in STEPPED:
            continue
        STEPPED.add(same)
        if method.automatic_optimization:
            method.trainer = cast(Trainer, SimpleNamespace(world_size=1, global_rank=0))
        take_step(method, size=(32, 32) if method.automatic_optimization else (64, 64))
    STEPPED.add(source.name)


def around(network: Callable[[DictConfig, int], Segmenter], cfg: DictConfig) -> Method:
    """The method of an experiment, after a look at what else its settings say."""
    OmegaConf.to_container(cfg.data, resolve=True, throw_on_missing=True)
    labels = build(cfg.data.module.labels)
    built = network(cfg, labels.num_classes)
    if cfg.method.source_adapter is not None:
        built = build(cfg.method.source_adapter)(built)
    needs_source = {"source", "source_eval"} & set(cfg.method.needs)
    second = [
        name for name, setting in (("student", "transfer_only"), ("imagenet", "feature_distance"))
        if cfg.method.get(setting)
    ]  # fmt: skip
    method: Method = build(cfg.method)(
        **{name: network(cfg, labels.num_classes) for name in second},
        network=built,
        labels=labels,
        eval_domains=[*(cfg.data.eval_sets or ["target"]), *(["source"] if needs_source else [])],
        inference=build(cfg.evaluation),
    )
    if "optimized_metric" in cfg:  # a run of its own, not that of a source model
        assert cfg.optimized_metric in method.metric_names()
        assert 0 < cfg.eval_every <= cfg.trainer.max_steps
    return method


def own_network(cfg: DictConfig, num_classes: int) -> Segmenter:
    network: Segmenter = build(empty_backbone(cfg), num_classes=num_classes)
    return network


def smallest_network(cfg: DictConfig, num_classes: int) -> Segmenter:
    backbone = TinyTransformer(channels=(32, 32, 32, 32), depths=(1, 1, 1, 1))
    made = partial(DAFormerHead, num_classes=num_classes, channels=8, dilations=(1, 2))
    if cfg.backbone.head._target_.endswith("Mask2FormerHead"):
        made = partial(
            Mask2FormerHead, num_classes=num_classes, channels=32, queries=num_classes, heads=1,
            encoder_layers=1, decoder_layers=3, encoder_hidden=8, decoder_hidden=8,
            criterion=MaskCriterion(points=8),
        )  # fmt: skip
    aux = None if cfg.backbone.aux is None else made((32,))
    return Segmenter(backbone, made(backbone.channels), aux_head=aux)


def take_step(method: Method, size: Sequence[int]) -> None:
    """One step on images without a label, of which all that trains gets a gradient."""
    image = torch.zeros(2, 3, *size, dtype=torch.uint8)
    label = torch.full((2, *size), IGNORE, dtype=torch.uint8)
    scenes = {
        "image": image,
        "label": label,
        "pseudo_label": label,
        "index": torch.arange(2),
        # Its numbers are read, also where tensors have none.
        "geometry": torch.tensor([[*size, *size, 0, 0, *size, 0]] * 2, device="cpu"),
    }
    batch = {"source": scenes, "target": scenes}
    if method.automatic_optimization:
        optimizers = [method.configure_optimizers()["optimizer"]]
        method.training_step(batch, 0)["loss"].backward()
    else:
        optimizers = stepped(method, batch).optimizers
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    trained = [p for group in groups for p in group["params"] if p.requires_grad]
    assert trained and all(p.grad is not None for p in trained)


def stepped(method: Method, batch: TrainingBatch) -> Trainer:
    """The trainer of a step of a method that steps its optimisers itself."""
    trainer = Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(method, torch.utils.data.DataLoader([batch], batch_size=None, collate_fn=dict))
    return trainer


@pytest.mark.parametrize(
    ("name", "millions", "of_source_model"),
    [
        ("gta5_swin_b", 28.0, 90.7),
        ("gta5_mit_b5", 11.7, 85.2),
        ("synthia_swin_b_source_gta", 28.0, 110.4),
        ("synthia_mit_b5_source_gta", 11.7, 103.7),
        ("gta5_swin_b_no_prompts", 3.9, 90.7),
    ],
)
def test_parameters_are_those_of_uni_uvpts_table(
    name: str, millions: float, of_source_model: float
) -> None:
    """Of their 28.6 and 12.3 million, 0.6 belong to a convolution that nothing uses."""
    cfg = composed(f"uniuvpt/{name}")
    with torch.device("meta"):
        networks = [
            around(own_network, recipe).network
            for recipe in (cfg, recipe_of(cfg, is_there=False).config)
        ]
    (_, trained), (total, _) = (count_parameters(network.parameters()) for network in networks)
    assert (round(trained / 1e6, 1), round(total / 1e6, 1)) == (millions, of_source_model)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_its_header_says_how_and_what_to_expect(path: Path) -> None:
    name = path.relative_to(FOLDER).with_suffix("").as_posix()
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert header[0] == "# @package _global_"
    command = f"# sfseg-train experiment={name} data.root=<folder>"
    assert any(line.startswith(command) for line in header)
    assert re.search(r"Expected.*\d\d\.\d|No number", " ".join(header))


def test_recipes_say_what_the_papers_say() -> None:
    expected = {
        "source_only/gta5_swin_b": ("AdamW", 6e-6, 400_000),
        "source_only/synthia_mit_b5": ("AdamW", 2e-6, 400_000),
        "source_only/gta5_resnet101_deeplabv2": ("SGD", 2.5e-4, 250_000),
        "source_only/gta5_resnet50_deeplabv3": ("SGD", 2.5e-4, 62_420),
        "adaptsegnet/gta5_resnet101_deeplabv2": ("SGD", 2.5e-4, 250_000),
        "fda/synthia_resnet101_deeplabv2": ("SGD", 2.5e-4, 150_000),
    }
    for name, (optimizer, rate, horizon) in expected.items():
        method = composed(name).method
        assert method.optimizer._target_ == f"torch.optim.{optimizer}"
        assert (method.lr, method.schedule.steps) == (rate, horizon)


def test_settings_of_recipes() -> None:
    """What the releases do and the defaults do not."""
    for name, path, value in (
        ("gta5_resnet101_deeplabv2", "backbone.network.align_corners", True),
        ("gta5_resnet101_deeplabv2", "data.source_view.crop", [720, 1280]),
        ("gta5_resnet101_deeplabv2", "data.source_view.flip", 0.0),
        ("gta5_resnet101_deeplabv2", "method.aux_weight", 0.1),
        ("synthia_resnet101_deeplabv2", "data.source_view.crop", [760, 1280]),
        ("synthia_resnet101_deeplabv2", "data.classes", "synthia"),
        ("synthia_swin_b", "data.classes", "cityscapes"),
        ("gta5_vgg16_fcn8s", "data.source_view.crop", [720, 1280]),
        ("gta5_swin_b", "method.normalize", "all"),
        ("gta5_resnet50_deeplabv3", "method.optimizer.nesterov", True),
        ("gta5_resnet50_deeplabv3", "data.batch_size", 8),
        ("cross_city_resnet101_deeplabv2", "data.eval_label_size", [512, 1024]),
        ("cross_city_resnet50_deeplabv3", "data.eval_label_size", None),
    ):
        found = OmegaConf.select(composed(f"source_only/{name}"), path)
        assert found == value, (name, path, found)


def test_recipes_of_methods_that_see_the_source() -> None:
    """Heads, steps, and views of both domains: whole frames, or crops of one size."""
    frames = [[720, 1280], [512, 1024]]
    for name, levels, steps, views in (
        ("adaptsegnet/gta5", 2, 150_000, frames),
        ("adaptsegnet/synthia", 2, 150_000, [[760, 1280], [512, 1024]]),
        ("advent/gta5", 2, 120_000, frames),
        ("fda/gta5", 1, 100_000, [[512, 1024]] * 2),
    ):
        cfg = composed(f"{name}_resnet101_deeplabv2")
        assert (cfg.backbone.aux is None) == (levels == 1) and cfg.trainer.max_steps == steps
        module = plain(cfg.data.module, resolve=True)
        assert [module["views"][d]["crop"] for d in ("source", "target")] == views
        assert {view["flip"] for view in module["views"].values()} == {0.0}
        assert module["batch_size"] == 1 and module["colour"] is None
        assert cfg.data.classes == ("cityscapes" if "gta5" in name else "synthia")


def test_a_recipe_gives_way_to_the_command_line() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(
            "train", ["method=adaptsegnet", "recipe=modern", "backbone=tiny", "method.lr=1e-3"]
        )
    assert (cfg.backbone.network.name, cfg.method.lr) == ("tiny", 1e-3)
    assert cfg.method.adversarial_loss == "least_squares" and cfg.method.normalize == "all"
    assert cfg.method.schedule.warmup == 1500 and not cfg.method.parameter_rules


def test_recipes_of_uni_uvpt() -> None:
    """Rates of the adaptation and of its source model, and their steps and batches."""
    for name, rate, source_rate, source_steps, metric in (
        ("gta5_swin_b", 6e-6, 6e-6, 400_000, "mIoU"),
        ("synthia_mit_b5", 4e-6, 2e-6, 400_000, "mIoU16"),
        ("gta5_swin_b_source_gta", 6e-6, 1e-5, 40_000, "mIoU"),
        ("synthia_mit_b5_source_gta", 4e-6, 4e-6, 40_000, "mIoU16"),
        ("gta5_swin_b_offline", 6e-6, 6e-6, 400_000, "mIoU"),
    ):
        cfg = composed(f"uniuvpt/{name}")
        source = recipe_of(cfg, is_there=False).config
        assert (cfg.method.lr, source.method.lr) == (rate, source_rate)
        assert (cfg.trainer.max_steps, source.trainer.max_steps) == (80_000, source_steps)
        assert (cfg.data.module.batch_size, source.data.module.batch_size) == (1, 2)
        assert (cfg.method.schedule.warmup, source.method.schedule.warmup) == (0, 1500)
        assert cfg.data.module.views.target.resize == cfg.data.eval_size == [512, 1024]
        assert cfg.data.module.views.target.crop == source.data.source_view.crop == [512, 512]
        assert cfg.optimized_metric == f"val/target/{metric}"


def test_early_learning_is_measured_as_in_uni_uvpt() -> None:
    node = composed("uniuvpt/gta5_swin_b").callbacks.early_learning
    callback = build(node)
    assert (callback.curve, callback.rule, callback.threshold) == ("cubic", "paper", 0.95)
    images = 2975
    assert math.ceil(callback.every * images) == 200
    assert round(callback.window / callback.every) * 200 == 1000


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("uniuvpt/gta5_swin_b_")])
def test_a_row_of_a_table_differs_from_the_full_one_in_itself(name: str) -> None:
    """Nothing but the method's settings, or with another source model what belongs to that."""
    full, row = (plain(composed(n), resolve=False) for n in ("uniuvpt/gta5_swin_b", name))
    changed = {key for key in full if full[key] != row[key]}
    if name.endswith("source_gta"):
        assert changed == {"source_model", "data", "tags"} and full["method"] == row["method"]
    else:
        assert changed == {"method"}


def test_weight_decay_of_norms_is_dropped_for_transformers_only() -> None:
    for name, dropped in (("gta5_mit_b5_segformer", True), ("gta5_resnet101_daformer", False)):
        rules = composed(f"source_only/{name}").method.parameter_rules
        assert any(rule.match == "<norm>" for rule in rules) == dropped


@pytest.mark.parametrize("name", [name for name in NAMES if "mit_b5" in name])
def test_weights_that_are_not_downloaded_must_be_given(name: str) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.weights=<mit_b5\.pth> takes the published"):
        build(composed(name).backbone.network, num_classes=19)
    assert "backbone.weights=<mit_b5.pth>" in (FOLDER / f"{name}.yaml").read_text()


def test_sizes_of_sfda_are_its_own() -> None:
    data = composed("source_only/gta5_resnet50_deeplabv3").data
    assert data.source_view.crop == data.source_view.resize == data.eval_size == [256, 512]
