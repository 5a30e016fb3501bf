"""What a run takes over from the checkpoint that it goes on from, and what it does not."""

from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from sfseg.config.composition import CONF
from sfseg.data.toyscapes.scenes import Toyscapes
from sfseg.errors import ConfigError
from sfseg.labels import CITYSCAPES
from sfseg.metrics import Scores
from sfseg.ops.inference import Inference
from sfseg.runs import preparation, refusals
from sfseg.storage.manifest import KEY

OLD = Scores.of(torch.eye(19), CITYSCAPES)
NEW = Scores.of(torch.ones(19, 19), CITYSCAPES)


@cache
def composed(*words: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=["method=tent", "ckpt_path=last.ckpt", *words])


def source_scores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: dict[str, Any], *words: str
) -> Any:
    """The method after preparing a run that goes on from a checkpoint of some content."""
    cfg = composed(*words)
    model = tmp_path / "model.ckpt"
    model.write_bytes(b"weights")
    monkeypatch.setattr(preparation, "network_of", lambda *_: torch.nn.Identity())
    monkeypatch.setattr(preparation, "read_checkpoint", lambda _: state)
    method = SimpleNamespace(
        inference=Inference(), protocol="whole images", source_scores_of={}, refiner=None
    )
    scenes = Toyscapes("city", "test", length=2)
    data = SimpleNamespace(
        labels=CITYSCAPES, eval_domains=("target",), needs=(), scenes={"target_eval": scenes}
    )

    def validate(evaluation: Any, **_: Any) -> None:
        evaluation.scores = {"target": NEW}

    trainer = SimpleNamespace(validate=validate)
    preparation.prepare(
        cfg, model, model=preparation.digest(model), trainer=trainer, method=method, data=data,
        folder=tmp_path,
    )  # type: ignore[arg-type]  # fmt: skip
    return method


def test_source_scores_of_another_evaluation_are_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = source_scores(monkeypatch, tmp_path, {})
    assert first.source_scores == {"target": NEW}
    kept = {"source_scores": {"target": asdict(OLD)}, "source_scores_of": first.source_scores_of}
    # NaN is no number to compare: IoU of all classes is.
    again = source_scores(monkeypatch, tmp_path, kept)
    assert again.source_scores["target"].iou == OLD.iou
    for changed in ({"protocol": "windows"}, {"model": "0"}, {"target_eval": "0"}):
        other = {**kept, "source_scores_of": {**first.source_scores_of, **changed}}
        found = source_scores(monkeypatch, tmp_path, other)
        assert found.source_scores == {"target": NEW}
        assert found.source_scores_of == first.source_scores_of
    elsewhere = source_scores(monkeypatch, tmp_path, kept, "data.shift=severe")
    assert elsewhere.source_scores == {"target": NEW}
    older = {"source_scores": kept["source_scores"]}
    assert source_scores(monkeypatch, tmp_path, older).source_scores == {"target": NEW}


@pytest.mark.parametrize(
    ("optimizer", "sizes", "message"),
    [
        ("torch.optim.SGD", [2], "choose the same method/optimizer"),
        ("torch.optim.AdamW", [1, 1], r"groups of \[\[1, 1\]\] parameters, this run of \[\[2\]\]"),
    ],
)
def test_optimisers_that_cannot_go_on_are_refused(
    monkeypatch: pytest.MonkeyPatch, optimizer: str, sizes: list[int], message: str
) -> None:
    groups = [{"params": list(range(size))} for size in sizes]
    content = {
        KEY: {"config": {"method": {"optimizer": {"_target_": optimizer}}}},
        "optimizer_states": [{"param_groups": groups}],
    }
    monkeypatch.setattr(refusals, "read_checkpoint", lambda _: content)
    cfg = OmegaConf.create(
        {"ckpt_path": "last.ckpt", "method": {"optimizer": {"_target_": "torch.optim.AdamW"}}}
    )
    mine = [torch.optim.AdamW(torch.nn.Linear(1, 1).parameters())]
    with pytest.raises(ConfigError, match=message):
        refusals.check_optimizers(cfg, mine)
    content[KEY]["config"]["method"]["optimizer"]["_target_"] = "torch.optim.AdamW"
    content["optimizer_states"] = [{"param_groups": [{"params": [0, 1]}]}]
    refusals.check_optimizers(cfg, mine)
