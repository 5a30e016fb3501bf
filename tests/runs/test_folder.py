import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
import yaml

from sfseg.errors import ConfigError
from sfseg.runs.folder import PACKAGES, claim, git_state, is_first_process, versions

CONFIG = {"seed": 3, "tags": ["a", "b"], "lr": "${backbone.lr}", "backbone": {"lr": 0.1}}
RESOLVED = CONFIG | {"lr": 0.1}
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


def take(folder, config=CONFIG):
    claim(folder, config, ["seed=3", "backbone=tiny"], RESOLVED).release()


def test_the_record_holds_what_is_needed_to_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sfseg-train", "seed=3"])
    run = tmp_path / "a" / "b"
    take(run)
    record = json.loads((run / "run.json").read_text())
    assert record["command"] == ["sfseg-train", "seed=3"]
    assert record["seed"] == 3 and record["tags"] == ["a", "b"]
    assert record["versions"] == versions()
    assert datetime.fromisoformat(record["started"]).tzinfo is not None
    stored = {p.stem: yaml.safe_load(p.read_text()) for p in (run / ".hydra").iterdir()}
    assert stored == {
        "config": CONFIG,
        "resolved": RESOLVED,
        "overrides": ["seed=3", "backbone=tiny"],
    }
    assert list(stored["config"]) == list(CONFIG)


@pytest.mark.parametrize("tags", [None, []])
def test_a_run_may_have_neither_tags_nor_seed(tmp_path, tags):
    claim(tmp_path, {"tags": tags}, [], {}).release()
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["tags"], record["seed"]) == ([], None)


def test_a_folder_is_taken_once_and_the_first_run_stays(tmp_path):
    take(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="holds another run, which stays as it is; choose"):
        take(tmp_path, {"seed": 4})
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_one_of_many_at_once_gets_the_folder(tmp_path):
    def attempt(seed):
        try:
            take(tmp_path / "run", {"seed": seed})
        except ConfigError:
            return None
        return seed

    with ThreadPoolExecutor(8) as pool:
        winners = [seed for seed in pool.map(attempt, range(8)) if seed is not None]
    assert len(winners) == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["seed"] == winners[0]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file/run cannot be written"):
        take(tmp_path / "file" / "run")


def test_a_file_in_the_folders_place_is_no_run(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        take(tmp_path / "run")


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "1", "LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "3"}, False),
        ({"SLURM_PROCID": "0"}, True),
    ],
)
def test_the_first_process_by_its_environment(monkeypatch, environment, first):
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is first


def test_versions_name_every_package(monkeypatch):
    monkeypatch.setattr("sfseg.runs.folder.PACKAGES", (*PACKAGES, "no-such-package"))
    found = versions()
    assert list(found) == [*PACKAGES, "no-such-package"]
    assert found["no-such-package"] == "not installed"
    assert found["torch"][0].isdigit() and found["sfseg"] != "not installed"


def test_git_state_is_the_commit_and_whether_files_differ(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, timeout=20)

    assert git_state(tmp_path) is None
    git("init", "--quiet")
    assert git_state(tmp_path) is None, "no commit yet"
    git("commit", "--quiet", "--allow-empty", "--message", "first")
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40 and state["dirty"] is False
    (tmp_path / "new.py").touch()
    assert git_state(tmp_path) == {"commit": state["commit"], "dirty": True}
    assert git_state(tmp_path, ":!*.py")["dirty"] is False
    assert git_state(tmp_path, ":!*.md")["dirty"] is True


def test_no_git_is_no_state(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None
