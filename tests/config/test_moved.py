"""What was written under modules' old names still opens."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import DEBUG, Cli

from sfseg.config.composition import CONF
from sfseg.config.moved import MOVED, today, with_todays_names
from sfseg.config.trust import require_allowed
from sfseg.errors import ConfigError

BEFORE = {new: old for old, new in MOVED.items()}


def with_old_names(config: Any) -> Any:
    """The configuration as it was written before the move."""
    if isinstance(config, dict):
        return {
            key: old(value) if key == "_target_" else with_old_names(value)
            for key, value in config.items()
        }
    return [with_old_names(part) for part in config] if isinstance(config, list) else config


def old(target: str) -> str:
    module, _, name = target.rpartition(".")
    return f"{BEFORE.get(module, module)}.{name}"


@pytest.mark.parametrize("module", MOVED)
def test_the_new_place_is_there_and_holds_what_the_old_one_no_longer_does(module: str) -> None:
    classes = vars(importlib.import_module(MOVED[module]))
    own = [name for name, value in classes.items() if getattr(value, "__module__", "") ==
           MOVED[module]]  # fmt: skip
    assert own
    try:
        there = vars(importlib.import_module(module))
    except ModuleNotFoundError:
        return
    assert not set(own) & set(there), "a package that took a module's name"


def test_every_moved_target_of_the_configuration_is_found_again() -> None:
    changed = 0
    for path in CONF.rglob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        before = with_old_names(config)
        changed += before != config
        assert with_todays_names(before) == config, path
    assert changed > 10


def test_names_of_others_stay() -> None:
    for target in ("torch.optim.AdamW", "sfseg.methods.tent.Tent", "mine", ""):
        assert today(target) == target
    config = {"match": "sfseg.loggers.MetricsCsv", "_target_": ["x"]}
    assert with_todays_names(config) == config


def test_a_run_of_before_is_evaluated_and_known_again(cli: Cli, tmp_path: Path) -> None:
    arguments = [*DEBUG, "backbone/head=segformer", "hydra.run.dir=run"]
    assert cli("sfseg-train", *arguments, "resume=auto").code == 0
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    content["sfseg"]["config"] = with_old_names(content["sfseg"]["config"])
    assert "sfseg.networks.segformer_head" in str(content["sfseg"]["config"])
    torch.save(content, last)
    (last.parent / "manifest.json").unlink()
    record = tmp_path / "run" / ".hydra" / "config.yaml"
    record.write_text(yaml.safe_dump(with_old_names(yaml.safe_load(record.read_text()))))

    again = cli("sfseg-train", *arguments, "resume=auto")
    assert again.code == 0 and "is complete" in again.output, again.output
    evaluated = cli(
        "sfseg-eval", f"ckpt_path={last}", "hydra.run.dir=eval", "trainer.accelerator=cpu",
        "trainer.precision=32-true", "trainer.limit_val_batches=2", "~callbacks.panels",
    )  # fmt: skip
    assert evaluated.code == 0, evaluated.output
    results = [tmp_path / name / "results.csv" for name in ("run", "eval")]
    assert results[0].read_text() == results[1].read_text()


def test_a_configuration_that_names_the_old_place_is_told_the_new_one() -> None:
    with pytest.raises(ConfigError, match=r"called sfseg\.report\.loggers\.MetricsCsv now"):
        require_allowed({"logger": {"_target_": "sfseg.loggers.MetricsCsv"}})
