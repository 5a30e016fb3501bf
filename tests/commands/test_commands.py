import json
from pathlib import Path

import pytest
import torch
from conftest import DEBUG, Cli, command


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps, made once."""
    folder = tmp_path_factory.mktemp("run")
    assert command("sfseg-train", *DEBUG, "logger=none", f"hydra.run.dir={folder}/run") == 0
    return folder / "run" / "checkpoints" / "last.ckpt"


def test_eval_repeats_the_runs_own_scores(cli: Cli, checkpoint: Path) -> None:
    trained = json.loads((checkpoint.parents[1] / "results.json").read_text())
    done = cli(
        "sfseg-eval", f"ckpt_path={checkpoint}", "trainer=debug", "trainer.precision=32-true"
    )
    assert done.code == 0, done.output
    assert json.loads((done.run / "results.json").read_text()) == trained


@pytest.mark.parametrize("protocol", ["slide", "multi_scale"])
def test_eval_protocols(cli: Cli, checkpoint: Path, protocol: str) -> None:
    window = ["evaluation.window=[32,48]", "evaluation.stride=null"] if protocol == "slide" else []
    done = cli(
        "sfseg-eval", f"ckpt_path={checkpoint}", f"evaluation={protocol}", *window,
        "trainer.limit_val_batches=1", "with_source=false", "trainer.precision=32-true",
    )  # fmt: skip
    assert done.code == 0, done.output
    assert set(json.loads((done.run / "results.json").read_text())) == {"target"}


def test_eval_on_changed_data(cli: Cli, checkpoint: Path) -> None:
    done = cli(
        "sfseg-eval", f"ckpt_path={checkpoint}", "+data.shift=severe",
        "trainer.limit_val_batches=1", "trainer.precision=32-true",
    )  # fmt: skip
    assert done.code == 0, done.output
    refused = cli("sfseg-eval", f"ckpt_path={checkpoint}", "+data.shfit=severe", "task_name=b")
    assert refused.code == 2 and "data.shfit" in refused.output


def test_eval_refuses_data_of_other_classes(cli: Cli, checkpoint: Path) -> None:
    done = cli(
        "sfseg-eval", f"ckpt_path={checkpoint}", "data=camvid_day_to_dusk", "data.root=nowhere"
    )
    assert done.code == 2 and "19 classes" in done.output and "11" in done.output


def test_eval_of_a_checkpoint_from_before_evaluation_had_two_sizes(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    data = content["sfseg"]["config"]["data"]
    data["module"] |= {"eval_size": data["module"].pop("eval_view")["size"]}
    data["module"].pop("replacement")
    data["module"]["check_samples"] = data["module"].pop("checks")["samples"]
    for key in ("cache", "eval_label_size", "cache_dir", "limits", "on_error", "max_skipped"):
        data["module"].pop(key, None)
        data.pop(key)
    torch.save(content, tmp_path / "old.ckpt")
    done = cli(
        "sfseg-eval", f"ckpt_path={tmp_path}/old.ckpt", "+data.on_error=skip",
        "trainer.precision=32-true",
    )  # fmt: skip
    assert done.code == 0, done.output
    assert "whole images at scale 1" in done.output
