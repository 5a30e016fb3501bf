"""Two processes on the CPU: they share one run folder and count every image once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DEBUG
from hydra import compose, initialize_config_dir
from zygote import Parent, Zygote

from sfseg.config.composition import CONF, build
from sfseg.pseudo.reader import PseudoLabels

AS_SHIPPED = """
import sys, shallow, zygote
shallow.make_as_shipped()
zygote.main_of(sys.argv[0])()
"""
"""A command with the networks of a process that is no test."""


@pytest.mark.filterwarnings("ignore:.*")
def test_two_processes_score_as_one_does(tmp_path: Path, parent: Parent) -> None:
    # The second process is started when the source model is to be trained.
    two = [
        "method=tent", "source_model.steps=2", "trainer=ddp_cpu", "trainer.max_steps=2",
        "trainer.precision=32-true",
    ]  # fmt: skip
    settings = [s for s in DEBUG if not s.startswith("trainer")]
    # Five images on two ranks: a sampler that pads would count one of them twice.
    odd = ["data.scenes.target_eval.length=5", "data.eval_batch_size=1"]

    def call(name: str, *arguments: str) -> str:
        # By its script, which Lightning calls once more for the second process.
        script = str(Path(sys.executable).with_name(name))
        cache = str(tmp_path / "cache")
        zygote = Zygote(parent, tmp_path, SFSEG_CACHE=cache)
        code, said = zygote.call(script, *arguments, code=AS_SHIPPED)
        assert code == 0, said
        return said

    said = call("sfseg-train", *settings, *two, *odd, "hydra.run.dir=two")
    assert len(list(tmp_path.rglob("run.json"))) == said.count(", trained now") == 1
    assert said.count("mIoU13") == 1
    last = "ckpt_path=two/checkpoints/last.ckpt"
    call("sfseg-eval", last, "trainer.precision=32-true", "hydra.run.dir=one")
    results = [json.loads((tmp_path / run / "results.json").read_text()) for run in ("two", "one")]
    assert results[0]["target"].pop("source_only")
    assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.filterwarnings("ignore:.*")
def test_corrections_of_all_processes_land_on_their_pixels(tmp_path: Path, processes: int) -> None:
    here = Path(__file__).parents[1]
    settings = [s for s in DEBUG if not s.startswith("trainer")]
    base = [
        *settings, "method=colours", "trust=[colours]", "trainer.precision=32-true",
        "data.colour.probability=0", "data.eval_batch_size=1", "data.batch_size=1",
        # Crops of half an image, some mirrored, at its own scale.
        "data.target_view={_target_: sfseg.data.geometry.View, crop: [40, 56], flip: 0.5}",
    ]  # fmt: skip

    def run(name: str, *more: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "sfseg.commands.train", f"--config-dir={here / 'conf'}", *base,
             *more, f"hydra.run.dir={name}"],
            cwd=tmp_path,
            env={
                **os.environ, "SFSEG_CACHE": str(tmp_path / "cache"),
                "PYTHONPATH": os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")]),
            },
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    run("source", "method=source_only", "trainer=debug")
    base += [
        "source_checkpoint=source/checkpoints/last.ckpt",
        "callbacks.early_learning.every=0.5", "callbacks.early_learning.window=0.5",
        "callbacks.early_learning.threshold=1e-6", "callbacks.early_learning.curve=cubic",
        "callbacks.label_correction.quantile=0.3",
    ]  # fmt: skip
    run("start", "trainer=debug", "trainer.max_steps=1")
    run(
        "end", "pseudo_labels.start_from=start/pseudo_labels", "trainer.max_steps=24",
        "trainer=cpu" if processes == 1 else "trainer=ddp_cpu",
    )  # fmt: skip
    with initialize_config_dir(str(CONF), version_base="1.3"):
        scenes = build(compose("train", overrides=settings).data.scenes.target_train)()
    start, end = (PseudoLabels(tmp_path / name / "pseudo_labels") for name in ("start", "end"))
    checkpoint = torch.load(tmp_path / "end/checkpoints/last.ckpt", weights_only=True)
    (kept,) = [v for k, v in checkpoint["callbacks"].items() if "LabelCorrection" in k]
    changed = 0
    for k in range(len(scenes)):
        before, after = start.read(k).label, end.read(k).label
        moved = before != after
        expected = scenes.image(k)[..., 0] // 86 * 2
        np.testing.assert_array_equal(after[moved], expected[moved])
        changed += int(moved.sum())
        assert moved.any(), f"image {k} was never corrected"
    assert changed == sum(opening["changed"] for opening in kept["openings"])
