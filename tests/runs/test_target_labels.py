"""Labels of the target's training images, where there are any, reach no source-free run."""

import shutil
from pathlib import Path

import make
import numpy as np
import pytest
from conftest import DEBUG, Cli
from hydra import compose, initialize_config_dir
from test_kills import CORRECTING, METHODS, require_equal, selected, state

from sfseg.config.composition import CONF
from sfseg.data.toyscapes.scenes import Toyscapes

FAST = "uniuvpt"
"""With the most parts that could look at them; the others are in the slow suite."""


def needs(method: str) -> set[str]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return set(compose("train", overrides=[f"method={method}"]).method.needs)


def generated(method: str, folder: Path) -> list[str]:
    """Setting of generated images, of a method that needs some."""
    if "generated" not in needs(method):
        return []
    return [f"data.generated={make.generated(folder / 'generated')}"]


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random ids in place of all labels of the target's training images."""
    label = Toyscapes.label

    def poisoned(scenes: Toyscapes, index: int) -> np.ndarray:
        true = label(scenes, index)
        if (scenes.domain, scenes.split) != ("city", "train"):
            return true
        return np.random.default_rng(index).integers(19, size=true.shape).astype(np.uint8)

    monkeypatch.setattr(Toyscapes, "label", poisoned)


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=[pytest.mark.slow] * (m != FAST)) for m in METHODS],
)  # fmt: skip
def test_random_labels_of_the_target_change_no_bit(
    cli: Cli, method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if "source_model" not in needs(method) or "target_labels" in needs(method):
        pytest.skip("trains on labels")
    more = [*CORRECTING, "method.scales=[0.5,1.0]", "trainer.max_steps=4"] if method == FAST else []
    words = [
        *DEBUG, f"method={method}", "source_model.steps=2", "select=label_free", *more,
        "callbacks.label_free_score.images=2", *generated(method, tmp_path),
    ]  # fmt: skip
    runs: list[Path] = []
    for name in ("plain", "poisoned"):
        if name == "poisoned":
            poison(monkeypatch)
        done = cli("sfseg-train", *words, f"hydra.run.dir={name}")
        assert done.code == 0, done.output
        runs.append(done.folder / name)
    kept = [state(run) for run in runs]
    for each in kept:
        for name in list(each["callbacks"]):
            if name.startswith("LabelCorrection"):
                # Counts of what was right, which the labels are for.
                for opening in each["callbacks"][name]["openings"]:
                    del opening["right_before"], opening["right_after"], opening["known"]
    require_equal(*kept)
    require_equal(*map(selected, runs))
    stores = [run / "pseudo_labels" / "labels.u8" for run in runs]
    assert stores[0].exists() == ("pseudo_labels" in needs(method))
    assert not stores[0].exists() or stores[0].read_bytes() == stores[1].read_bytes()
    shutil.rmtree(runs[0].parent / "cache")
