"""Scripts on generation: they run, and say what they measure."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("diffusers")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("bench_generate_images")


def test_batches_are_measured_beside_single_images(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.main(["--rounds", "1", "--images", "8", "--steps", "1"])
    text = capsys.readouterr().out
    assert re.search(r"batch 1: [\d.]+, batch 8: [\d.]+, ratio [\d.]+", text)
    difference = re.search(r"largest difference of a value: (\d+) of 255", text)
    assert difference is not None and int(difference[1]) <= 2


@pytest.mark.slow
def test_datum_runs_from_end_to_end(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    done = subprocess.run(
        [sys.executable, SCRIPTS / "datum_on_toyscapes.py", tmp_path / "datum",
         "--personalise-steps", "2", "--images", "4", "--sampling-steps", "2",
         "--train-steps", "2"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    made = {path.name for path in (tmp_path / "datum").iterdir()}
    assert {"photograph", "model", "personalised", "images", "report.html", "segmenter"} <= made
    assert "mIoU" in done.stdout
