"""The doctor finds what is there, says what is not, and measures what settings cost."""

import json
import shutil
from importlib import metadata
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import SMALL, Cli

from sfseg.commands.doctor import USAGE, lines_of
from sfseg.labels import CITYSCAPES
from sfseg.runs import environment
from sfseg.runs.environment import GIB, Fact, preset_for, presets
from sfseg.runs.noise import Noise

CPU = ["trainer=cpu", "trainer.precision=32-true"]


def test_it_lists_what_is_installed(cli: Cli) -> None:
    done = cli("sfseg-doctor")
    assert done.code == 0, done.output
    for name in ("torch", "lightning", "hydra-core", "timm"):
        assert any(
            line.split() == [name, metadata.version(name)] for line in done.output.splitlines()
        )
    assert "Devices" in done.output and "GiB" in done.output


def test_a_folder_that_takes_no_files_is_a_failure(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFSEG_LOG_DIR", "/proc/logs")
    monkeypatch.setattr("os.access", lambda *_: False)  # tests may run as root
    done = cli("sfseg-doctor")
    assert done.code == 2
    assert "! SFSEG_LOG_DIR" in done.output and "set SFSEG_LOG_DIR" in done.output


def test_what_is_missing_has_its_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version

    def without(name: str) -> str:
        if name in {"av", "timm"}:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(environment, "version", without)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.delenv("CXX", raising=False)
    found = environment.environment()
    video = next(fact for fact in found["Extras"] if fact.name == "video")
    assert "av" in video.value and video.advice == "pip install 'sfseg[video]'"
    broken = [fact for facts in found.values() for fact in facts if fact.is_broken]
    assert [fact.name for fact in broken] == ["timm"]
    compiler = next(fact for fact in found["Fast paths"] if fact.name == "compile")
    assert ("no C++ compiler" in compiler.value) != torch.cuda.is_available()


def test_lines_can_be_pasted() -> None:
    lines = lines_of({"A": [Fact("x", "1"), Fact("long", "2", "mend it", is_broken=True)]})
    assert lines == ["A", "  x     1", "! long  2  -> mend it", ""]


def test_presets_are_for_cards_of_their_name() -> None:
    assert list(presets()) == ["4gb", "8gb", "12gb", "24gb", "80gb"]
    # What torch says of cards that are sold as 8, 24 and 80 GB.
    assert [preset_for(gib) for gib in (7.79, 23.65, 79.2)] == ["8gb", "24gb", "80gb"]
    assert preset_for(2.0) is None
    assert preset_for(11.0) == "8gb"


def test_memory_is_what_the_system_says() -> None:
    text = Path("/proc/meminfo").read_text()
    total = 1024 * int(text.split("MemTotal:")[1].split()[0])
    assert 0.01 * GIB < environment.memory_bytes() <= total + 4096


def test_it_measures_settings(cli: Cli) -> None:
    done = cli("sfseg-doctor", "method=tent", *SMALL, *CPU)
    assert done.code == 0, done.output
    (written,) = done.folder.rglob("doctor.json")
    record = json.loads(written.read_text())
    assert "2 x 64x64 of the target" in done.output
    assert f"{record['parameters']:,}, {record['trainable']:,} of them train" in done.output
    assert 0 < record["trainable"] < 0.02 * record["parameters"]
    assert record["seconds"] > 0 and record["peak_mib"] >= 0
    assert record["images_per_second"] == pytest.approx(2 / record["seconds"])


def test_a_preset_says_whether_it_fits(cli: Cli) -> None:
    done = cli("sfseg-doctor", "method=source_only", "preset=4gb", *CPU, "data.batch_size=1")
    assert done.code == 0, done.output
    assert "1 x 256x256 of the source" in done.output and "GiB of 4: fits" in done.output


def test_too_little_memory_names_the_presets(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("sfseg.runs.noise.measure", measure)
    done = cli("sfseg-doctor", "method=tent", *CPU)
    assert done.code == 2 and "preset=4gb|8gb|12gb|24gb|80gb" in done.output


def test_a_misspelt_setting_is_told(cli: Cli) -> None:
    done = cli("sfseg-doctor", "methd=tent")
    assert done.code == 2 and "methd" in done.output
    assert cli("sfseg-doctor", "--help").output.startswith(USAGE)


@pytest.mark.parametrize("needs", [["source"], ["target"], ["source", "target"]])
def test_noise_is_what_a_method_asks_for(needs: list[str]) -> None:
    sizes = {"source": (6, 8), "target": (4, 10)}
    first, second, third = islice(Noise(needs, 3, sizes, CITYSCAPES.num_classes), 3)
    batch = first
    assert sorted(batch) == sorted(needs)
    for domain, part in batch.items():
        assert part["image"].shape == (3, 3, *sizes[domain])
        labels = set(part["label"].unique().tolist())
        assert labels == {255} if domain == "target" else labels <= set(range(19))
        assert set(part["pseudo_label"].unique().tolist()) <= set(range(19))
    assert third is batch and second is not batch
