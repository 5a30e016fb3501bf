"""Samplers and translations from the command line: composed, honoured, or refused."""

import copy
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from sfseg.config.composition import CONF, build
from sfseg.data.balanced_sampling import RareClass, SoftBalance
from sfseg.data.sampling import Uniform
from sfseg.data.translation import FourierTranslation
from sfseg.errors import ConfigError, DataError
from sfseg.runs.recipe import recipe_of
from sfseg.runs.source_settings import check_source, check_start, require_source


@cache
def base(*groups: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", ["trainer.precision=32-true", "output_dir=x", *groups])


def composed(*words: str) -> DictConfig:
    groups = [word for word in words if "." not in word.partition("=")[0]]
    cfg = copy.deepcopy(base(*groups))
    for word in words:
        if word not in groups:
            key, _, value = word.partition("=")
            OmegaConf.update(cfg, key, value)
    return cfg


@pytest.mark.parametrize(
    ("words", "sampler", "translation"),
    [
        ([], Uniform(), None),
        (["data/sampler=rare_class"], RareClass(min_pixels=50), None),
        (["data=gta5_to_cityscapes", "data/sampler=rare_class"], RareClass(), None),
        (["data=gta5_to_cityscapes", "data/sampler=soft_balance"], SoftBalance(), None),
        (["data/translation=fda"], Uniform(), FourierTranslation(0.05)),
    ],
)
def test_groups_build_what_they_say(words: list[str], sampler: object, translation: object) -> None:
    module = composed(*words).data.module
    assert build(module.sampler) == sampler and build(module.translation) == translation
    assert module.translated is None and module.parts == [1]


def test_a_method_chooses_the_sampler_and_the_parts(tmp_path: Path) -> None:
    """In its own file, for any data, and a command line still wins."""
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(
        "defaults:\n  - source_only\n"
        "  - override /data/sampler@_global_.data.sampler: soft_balance\n"
        "  - override /data/translation@_global_.data.translation: fda\n"
        "  - _self_\nplan:\n  parts: [3, 1]\n"
    )
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "rare.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data/sampler: rare_class\n"
    )

    def module(*words: str) -> DictConfig:
        words = ("method=mine", f"hydra.searchpath=[{tmp_path}]", *words)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("train", list(words)).data.module

    for data in ("toyscapes", "camvid_day_to_dusk"):
        found = module(f"data={data}")
        assert build(found.sampler) == SoftBalance() and found.parts == [3, 1]
        assert build(found.translation) == FourierTranslation()
    assert build(module("data/sampler=uniform").sampler) == Uniform()
    assert build(module("experiment=rare").sampler) == RareClass(min_pixels=50)
    weighted = module("data.sampler.lambda_=0.3", "data.sampler.k=4")
    assert build(weighted.sampler) == SoftBalance(lambda_=0.3, k=4)


@pytest.mark.parametrize(
    "words",
    [
        [], ["data/sampler=rare_class", "data/translation=fda"], ["data.translated=x"],
        ["method=tent", "data/sampler=soft_balance"], ["method=oracle"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_reaches_training_or_its_source_model_is_taken(words: list[str]) -> None:
    check_source(composed(*words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=oracle", "data/sampler=rare_class"], "set data/sampler=uniform"),
        (["method=oracle", "data/translation=fda"], "does not train on; set data/translation=none"),
        (["method=oracle", "data.translated=x"], "data.translated=x is for images of the source"),
        (["method=tent", "data/translation=fda"], "source-free method must not know"),
        (["method=tent", "data.translated=x"], "set data.translated=null, or choose a method"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_reaches_nothing_or_too_much_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_source(composed(*words))


def test_a_source_model_is_another_under_another_sampler() -> None:
    names = [
        recipe_of(composed("method=tent", *words)).name
        for words in (
            [], ["data/sampler=uniform"], ["data/sampler=rare_class"],
            ["data/sampler=rare_class", "data.sampler.temperature=1"],
        )
    ]  # fmt: skip
    assert names[0] == names[1] and len(set(names)) == 3
    # Those trained before there were samplers are found again.
    settings = recipe_of(composed("method=tent")).settings["data"]
    assert "sampler" not in settings


@pytest.mark.parametrize("method", ["adaptsegnet", "source_only"])
def test_a_method_that_sees_the_source_says_so_where_there_is_none(method: str) -> None:
    cfg = composed(f"method={method}", "data=gta5_to_cityscapes", "data.root=/nowhere")
    words = "data.gta5_root=/nowhere/gta5 is not there, .* or choose a source-free method"
    with pytest.raises(DataError, match=words):
        require_source(cfg, build(cfg.data.module))


def test_a_beginning_that_there_is_not_is_refused() -> None:
    check_start(composed("start=backbone"))
    with pytest.raises(ConfigError, match="start must be source_model or backbone, got 'nothing'"):
        check_start(composed("start=nothing"))


def test_a_source_free_method_asks_for_no_source() -> None:
    cfg = composed("method=tent", "data=gta5_to_cityscapes", "data.root=/nowhere")
    require_source(cfg, build(cfg.data.module))
