"""Two processes on the CPU: they share one run folder and count every image once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEBUG, Cli


@pytest.mark.filterwarnings("ignore:.*")
def test_two_processes_score_as_one_does(cli: Cli, tmp_path: Path) -> None:
    two = ["trainer=ddp_cpu", "trainer.max_steps=2", "trainer.precision=32-true"]
    settings = [s for s in DEBUG if not s.startswith("trainer")]
    # Five images on two ranks: a sampler that pads would count one of them twice.
    odd = ["data.scenes.target_eval.length=5", "data.eval_batch_size=1"]
    done = subprocess.run(
        [sys.executable, "-m", "sfseg.train", *settings, *two, *odd, "hydra.run.dir=two"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.rglob("run.json"))) == 1
    assert done.stdout.count("mIoU13") == 1
    alone = cli(
        "sfseg-eval", "ckpt_path=two/checkpoints/last.ckpt", "trainer.precision=32-true",
        "hydra.run.dir=one",
    )  # fmt: skip
    assert alone.code == 0, alone.output
    results = [json.loads((tmp_path / run / "results.json").read_text()) for run in ("two", "one")]
    assert results[0] == results[1]
