"""Shells complete groups, options and settings; the container is made from what is there."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Cli

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("method=uni", ["method=uniuvpt"]),
        ("preset=8", ["preset=8gb", "preset=80gb"]),
        ("trainer.max_s", ["trainer.max_steps="]),
        ("data=toyscapes data.shi", ["data.shift="]),
    ],
)
def test_words_are_completed(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: str, offered: list[str]
) -> None:
    line = f"sfseg-train {words}"
    for name, value in {"COMP_LINE": line, "COMP_POINT": str(len(line))}.items():
        monkeypatch.setenv(name, value)
    done = cli("sfseg-train", "-sc", "query=bash")
    assert sorted(done.output.split()) == sorted(offered)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_takes_the_function(cli: Cli) -> None:
    done = cli("sfseg-train", "-sc", "install=bash")
    shell = subprocess.run(
        ["bash", "-c", f"{done.output}\ncomplete -p"], capture_output=True, text=True, check=True
    )
    assert re.search(r"-F hydra_bash_completion .*sfseg-train|sfseg-train", shell.stdout)


def test_a_container_is_made_from_what_is_there() -> None:
    lines = (ROOT / "Containerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)
