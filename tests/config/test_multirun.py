"""Settings beside a sweep over options of a group reach its jobs, as they would reach one run."""

from pathlib import Path

import pytest
from conftest import Cli
from hydra.core.override_parser.overrides_parser import OverridesParser

from sfseg.config.composition import CONF
from sfseg.config.multirun import left_to_jobs

SWEEP = ["-m", "data=toyscapes,folder"]


@pytest.mark.parametrize(
    "word",
    [
        "data.root=/a/b", "data.size=[64,128]", "data.rate=1e-3", "data.x={a: 1, b: [2,null]}",
        "data.x=", "data.x=${oc.env:HOME}", "data.x=a b", "data.x='a, b'", "data.x=True",
        "data.x='{split}.txt'", "seed=0", "tags=[]",
    ],
)  # fmt: skip
def test_a_setting_reaches_every_job_as_it_is(word: str) -> None:
    parser = OverridesParser.create()
    *others, swept = left_to_jobs([*SWEEP, word], CONF)
    assert others == SWEEP
    sweep = parser.parse_override(swept)
    assert sweep.is_sweep_override()
    (text,) = sweep.sweep_string_iterator()
    found, wanted = (
        parser.parse_override(f"{sweep.key_or_group}={text}"),
        parser.parse_override(word),
    )
    assert found.value() == wanted.value() and type(found.value()) is type(wanted.value())


@pytest.mark.parametrize(
    "word",
    [
        "seed=0,1", "seed=null", "data.root='2024_05'", "backbone=tiny", "hydra.sweep.dir=x",
        "hydra/launcher=basic", "+data.x=5", "~callbacks.panels", "--cfg", "data.x=(", "train",
    ],
)  # fmt: skip
def test_all_else_stays(word: str) -> None:
    assert left_to_jobs([*SWEEP, word], CONF) == [*SWEEP, word]


@pytest.mark.parametrize(
    "words", [["data=folder"], ["-m", "data=folder", "seed=0,1"], ["data=toyscapes,folder"]]
)
def test_without_a_sweep_over_options_nothing_changes(words: list[str]) -> None:
    words = [*words, "data.root=x"]
    assert left_to_jobs(words, CONF) == words


def test_a_pattern_finds_options_in_folders_and_of_ones_own(tmp_path: Path) -> None:
    (_, found) = left_to_jobs(["-m", "experiment=glob(uplr/*sr)"], CONF)
    assert found == "experiment=uplr/gta5_resnet101_deeplabv2_sr"
    methods = left_to_jobs(["-m", "method=glob(*,exclude=[uni*,s*])"], CONF)[1]
    options = methods.partition("=")[2].split(",")
    assert "uplr" in options and "sfda" not in options
    assert not any(option.startswith("_") for option in options)
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").touch()
    own = ["--config-dir", str(tmp_path)]
    assert left_to_jobs(["-m", *own, "method=glob(min*)"], CONF)[-1] == "method=mine,minent"


def test_a_pattern_that_matches_nothing_is_refused(cli: Cli) -> None:
    done = cli("sfseg-train", "-m", "experiment=glob(gta5*)")
    assert done.code == 2
    assert "experiment=glob(gta5*) matches none of adaptsegnet/gta5_resnet101" in done.output


@pytest.mark.parametrize(
    "choices", ["data=cityscapes_to_rio,cityscapes_to_rome", "experiment=glob(uplr/gta5*)"]
)
def test_a_root_beside_swept_data_is_looked_for_there(cli: Cli, choices: str) -> None:
    done = cli("sfseg-train", "-m", choices, "data.root=nowhere", "trainer=debug")
    assert done.code == 3
    assert "data." in done.output and "nowhere" in done.output
    assert "is no setting" not in done.output
