"""``pseudo_labels.refine``: which methods take it, and what is refused before training."""

import copy
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from sfseg.config.composition import CONF
from sfseg.data.geometry import View
from sfseg.errors import ConfigError
from sfseg.methods.labelling import Selection
from sfseg.runs.preparation import label_selection_of
from sfseg.runs.refinement import check_refinement, refiner_of, views_come_again


@cache
def base(method: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=["output_dir=x", method])


def composed(*words: str, method: str = "method=uniuvpt") -> DictConfig:
    cfg = copy.deepcopy(base(method))
    for word in ("pseudo_labels.refine=sam", *words):
        key, _, value = word.partition("=")
        OmegaConf.update(cfg, key, yaml.safe_load(value))
    return cfg


def method(labels_online: bool = False) -> Any:
    return SimpleNamespace(labels_online=labels_online)


def test_methods_that_keep_or_make_labels_take_it() -> None:
    check_refinement(composed(), method(), [])
    check_refinement(composed(method="method=mean_teacher"), method(labels_online=True), [])


def test_others_refuse_it() -> None:
    with pytest.raises(
        ConfigError, match=r"has no effect: this method, as it is set,.*refine=none, or choose"
    ):
        check_refinement(composed(method="method=tent"), method(), [])


def test_unknown_names_and_settings_that_reach_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be one of none, sam, got 'crf'"):
        check_refinement(composed("pseudo_labels.refine=crf"), method(), [])
    off = composed("pseudo_labels.refine=none")
    with pytest.raises(ConfigError, match=r"pseudo_labels\.sam\.points=3 has no effect"):
        check_refinement(off, method(), ["pseudo_labels.sam.points=3"])
    check_refinement(off, method(), ["pseudo_labels.refine=none"])


def test_it_is_no_part_of_the_selection() -> None:
    cfg = composed("pseudo_labels.discard=0.5")
    assert label_selection_of(cfg) == Selection(discard=0.5)


class Target:
    """A DataModule with target images of a size."""

    colour: object = None

    def __init__(self, size: tuple[int, int], **view: Any) -> None:
        self.scenes = {"target_train": self}
        self.left_out = {"target_train": SimpleNamespace(usable=lambda k: k)}
        self.views = {"target": View(**view)}
        self.size = lambda index: size

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("size", "view", "expected"),
    [
        ((64, 96), {"crop": (64, 96)}, True),
        ((128, 192), {"crop": (64, 96), "resize": (64, 96)}, True),
        ((64, 97), {"crop": (64, 96)}, False),
        ((64, 96), {"crop": (64, 96), "ratio": (0.5, 1.0)}, False),
    ],
)
def test_crops_come_again_that_are_whole_pictures(
    size: tuple[int, int], view: dict[str, Any], expected: bool
) -> None:
    data: Any = Target(size, **view)
    assert views_come_again(data) is expected
    data.colour = object()
    assert not views_come_again(data), "each pass has other colours"


def test_a_refiner_is_built_as_set_or_refused(tiny_sam: Any, tmp_path: Any) -> None:
    data: Any = Target((64, 96), crop=(64, 96))
    words = [f"pseudo_labels.sam.model={tiny_sam}", "pseudo_labels.sam.points=3", "seed=4"]
    refiner = refiner_of(composed(*words, f"data.cache_dir={tmp_path}"), data)
    assert refiner is not None and (refiner.points, refiner.seed) == (3, 4)
    assert refiner.embeddings is not None and refiner.views_come_again
    assert refiner.embeddings.folder == tmp_path / "embeddings"
    bare = refiner_of(composed(*words, "pseudo_labels.sam.cache_dir=null"), data)
    assert bare is not None and bare.embeddings is None
    assert refiner_of(composed("pseudo_labels.refine=none"), data) is None
    with pytest.raises(ConfigError, match=r"pseudo_labels\.sam: min_share must be in \[0, 1\]"):
        refiner_of(composed(*words, "pseudo_labels.sam.min_share=2"), data)
