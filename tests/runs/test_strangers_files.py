"""A checkpoint may be a stranger's: nothing in its record opens a file or decides where one is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import nn

from sfseg.commands.evaluate import data_config
from sfseg.config.composition import CONF, build, plain
from sfseg.config.trust import require_allowed
from sfseg.errors import ConfigError
from sfseg.labels import CITYSCAPES
from sfseg.networks import build as building
from sfseg.networks.backbones import pyramid
from sfseg.runs.checkpoints import Restored, empty_backbone, restore, with_labels
from sfseg.storage.manifest import KEY


def composed(name: str, *words: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, overrides=list(words))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would be read or downloaded for a network."""
    found: list[str] = []

    def note(*arguments: Any, **options: Any) -> None:
        found.append(str(arguments[-1]))

    for module, name in (
        (pyramid, "_download"), (pyramid, "load_backbone"), (building, "load_backbone"),
        (building, "load_segmenter"), (pyramid, "classifier_tensors"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, note)
    return found


OWN = {
    "direct": {"weights": "theirs.pth", "pretrained": True},
    "checkpoint": {"checkpoint": "theirs.pth"},
    "by a detour": {"weights": "${backbone.lead}"},
    "head": {"head": {"_target_": "sfseg.networks.build.build_segmenter", "_partial_": True,
                      "name": "resnet18", "head": "${backbone.head}", "pretrained": True}},
    "aux": {"aux": {"_target_": "sfseg.networks.build.build_segmenter", "_partial_": True,
                    "name": "mit_b0", "head": "${backbone.head}", "weights": "theirs.pth"}},
}  # fmt: skip


@pytest.mark.parametrize("case", OWN)
def test_a_record_names_no_weights_to_start_from(case: str, opened: list[str]) -> None:
    cfg = composed("train", "backbone=resnet50", *SMALL)
    OmegaConf.set_struct(cfg, False)
    cfg.backbone.lead = "theirs.pth"
    cfg.backbone.network = OmegaConf.merge(cfg.backbone.network, {"name": "resnet18", **OWN[case]})
    node = empty_backbone(cfg)
    text = str(OmegaConf.to_container(node, resolve=True))
    assert "theirs" not in text and "True" not in text.replace("'_partial_': True", "")
    with torch.device("meta"):
        if case not in ("head", "aux"):
            build(node, num_classes=3)
    assert not opened


def test_a_record_names_no_file_of_classes_and_no_text_side() -> None:
    cfg = composed("train", "+backbone/head/class_head@backbone.head.class_head=text", *SMALL)
    cfg.data.classes = "theirs.yaml"
    cfg.backbone.head.class_head.pretrained = "theirs.bin"
    assert "theirs.yaml" in str(empty_backbone(cfg))
    node = with_labels(empty_backbone(cfg), CITYSCAPES)
    assert "theirs" not in str(node)
    head = build(node.head.class_head)(8, len(CITYSCAPES.classes))
    assert head.embeddings.shape[1] == cfg.backbone.head.class_head.dim
    assert node.head.class_head.labels == list(CITYSCAPES.classes)


def test_numbers_that_are_called_weights_stay() -> None:
    cfg = composed("train", *SMALL)
    OmegaConf.set_struct(cfg, False)
    cfg.backbone.network.head.weights = [1.0, 2.0]
    assert empty_backbone(cfg).head.weights == [1.0, 2.0]


@pytest.mark.parametrize(
    "target",
    ["sfseg.networks.weights.checkpoint.load_tensors",
     "sfseg.networks.backbones.pyramid.classifier_tensors"],
)  # fmt: skip
def test_no_configuration_calls_what_reads_weights(target: str) -> None:
    with pytest.raises(ConfigError, match="must not be called by a configuration"):
        require_allowed({"head": {"_target_": target}}, is_built=True)


def test_a_checkpoint_with_such_a_record_is_restored(tmp_path: Path, opened: list[str]) -> None:
    cfg = composed("train", *SMALL)
    network: nn.Module = build(cfg.backbone.network, num_classes=19)
    record = plain(cfg, resolve=False)
    record["backbone"]["network"] |= {"weights": "theirs.pth", "pretrained": True}
    record["method"]["adapter"] = {
        "_target_": "sfseg.networks.adapters.choices.heads_only", "_partial_": True
    }  # fmt: skip
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    content = {KEY: {"config": record, "labels": CITYSCAPES.to_dict()}, "state_dict": tensors}
    torch.save(content, tmp_path / "last.ckpt")
    assert restore(tmp_path / "last.ckpt").labels == CITYSCAPES
    assert not opened


@pytest.mark.parametrize("place", ["data.cache_dir", "data.module.cache.folder"])
def test_decoded_images_lie_where_this_process_keeps_them(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFSEG_CACHE", str(tmp_path / "mine"))
    run = OmegaConf.create(plain(composed("train", "data.cache=memmap", *SMALL), resolve=False))
    OmegaConf.update(run, place, str(tmp_path / "theirs"))
    OmegaConf.set_struct(run, True)
    restored = Restored(nn.Identity(), CITYSCAPES, run)  # type: ignore[arg-type]
    cfg = composed("eval", "ckpt_path=x", "output_dir=y")
    assert data_config(cfg, restored).module.cache.folder == str(tmp_path / "mine")
    cfg = composed("eval", "ckpt_path=x", "output_dir=y", f"+data.cache_dir={tmp_path}/else")
    assert data_config(cfg, restored).module.cache.folder == str(tmp_path / "else")
