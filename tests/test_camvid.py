"""The main job on photographs; skipped where they are not at hand."""

import json
import os
from pathlib import Path

import pytest
from conftest import Cli
from hydra import compose, initialize_config_dir

from sfseg.config.composition import CONF

ROOT = Path(os.environ.get("SFSEG_DATA", "data")).resolve() / "camvid"
needs_camvid = pytest.mark.skipif(
    not ROOT.is_dir(), reason=f"{ROOT} is no folder; SFSEG_DATA=<folder that holds camvid>"
)
TASK = ["data=camvid_day_to_dusk", f"data.root={ROOT}", "data.num_workers=0"]


@pytest.mark.parametrize("words", [["data.root=mine"], ["data.camvid_root=mine"]])
def test_the_folder_is_that_of_all_data_sets_or_its_own(words: list[str]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=["data=camvid_day_to_dusk", *words])
    assert {scenes.root for scenes in cfg.data.scenes.values()} == {"mine"}


@needs_camvid
def test_counts_of_the_task() -> None:
    from sfseg.data.layouts import camvid

    day, dusk = ["0006R0", "0016E5"], ["0001TP"]
    assert len(camvid(ROOT, "train", day)) == 305
    assert len(camvid(ROOT, "val", ["0016E5"])) == 101
    assert len(camvid(ROOT, "train", dusk)) == 62
    assert len(camvid(ROOT, "test", dusk)) == 62


@needs_camvid
def test_trains_and_prints_day_and_dusk(cli: Cli) -> None:
    done = cli("sfseg-train", *TASK, "trainer=debug", "trainer.precision=32-true")
    assert done.code == 0, done.output
    results = json.loads((done.run / "results.json").read_text())
    assert set(results) == {"target", "source"}
    assert len(results["target"]["IoU"]) == 11
