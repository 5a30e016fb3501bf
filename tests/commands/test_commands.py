import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import DEBUG, Cli, command

from sfseg.data.toyscapes.scenes import Toyscapes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps, made once."""
    folder = tmp_path_factory.mktemp("run")
    assert command("sfseg-train", *DEBUG, "logger=none", f"hydra.run.dir={folder}/run") == 0
    return folder / "run" / "checkpoints" / "last.ckpt"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images of different sizes, one in a sub-folder."""
    folder = tmp_path / "photos"
    (folder / "a" / "b").mkdir(parents=True)
    image = Toyscapes("city", "test", length=1).image(0)[..., ::-1]
    cv2.imwrite(str(folder / "one.png"), image)
    cv2.imwrite(str(folder / "two.jpg"), image[:101, :77])
    cv2.imwrite(str(folder / "a" / "b" / "three.png"), image[:64])
    return folder


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


def test_predict_keeps_names_folders_and_sizes(cli: Cli, checkpoint: Path, photos: Path) -> None:
    done = cli(
        "sfseg-predict", f"ckpt_path={checkpoint}", f"images={photos}", "output=out",
        "confidence=true",
    )  # fmt: skip
    assert done.code == 0, done.output
    out = done.folder / "out"
    for name, size in (
        ("one.png", (128, 256)), ("two.png", (101, 77)), ("a/b/three.png", (64, 256))
    ):  # fmt: skip
        label = cv2.imread(str(out / "labels" / name), cv2.IMREAD_UNCHANGED)
        assert label.shape == size and label.dtype == np.uint8 and label.max() < 19
        assert cv2.imread(str(out / "overlays" / name)).shape[:2] == size
        confidence = cv2.imread(str(out / "confidence" / name), cv2.IMREAD_UNCHANGED)
        assert confidence.shape == size and confidence.max() > 0
    assert len(list(out.rglob("*.png"))) == 9


def test_predict_equals_the_network(cli: Cli, checkpoint: Path, photos: Path) -> None:
    from sfseg.runs.checkpoints import restore

    image = Toyscapes("city", "test", length=1).image(0)
    for precision in ("32-true", "bf16-mixed"):
        done = cli(
            "sfseg-predict", f"ckpt_path={checkpoint}", f"images={photos}", f"output={precision}",
            f"precision={precision}",
        )  # fmt: skip
        assert f"whole images at scale 1, precision {precision}" in done.output
        with torch.inference_mode(), torch.autocast("cpu", enabled=precision == "bf16-mixed"):
            logits = restore(checkpoint).network(torch.from_numpy(image).permute(2, 0, 1)[None])
        path = photos.parent / precision / "labels" / "one.png"
        written = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(written, logits.float().argmax(1)[0].numpy())
    refused = cli(
        "sfseg-predict", f"ckpt_path={checkpoint}", f"images={photos}", "output=none", "precision=9"
    )
    assert refused.code == 2 and "precision=9 cannot be used" in refused.output


def test_predict_reports_broken_images_and_writes_the_rest(
    cli: Cli, checkpoint: Path, photos: Path
) -> None:
    data = (photos / "one.png").read_bytes()
    (photos / "cut.png").write_bytes(data[: len(data) // 2])
    done = cli("sfseg-predict", f"ckpt_path={checkpoint}", f"images={photos}", "output=out")
    assert done.code == 3 and "cut.png" in done.output and "1 of 4" in done.output
    assert len(list((done.folder / "out" / "labels").rglob("*.png"))) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_predict_refuses_a_device_that_is_not_there(
    cli: Cli, checkpoint: Path, photos: Path
) -> None:
    arguments = [f"ckpt_path={checkpoint}", f"images={photos}", "output=out"]
    done = cli("sfseg-predict", *arguments, "device=cuda")
    assert done.code == 2 and "device=cuda" in done.output and "Traceback" not in done.output


def test_predict_never_overwrites_unasked(cli: Cli, checkpoint: Path, photos: Path) -> None:
    arguments = ["sfseg-predict", f"ckpt_path={checkpoint}", f"images={photos}", "output=out"]
    assert cli(*arguments).code == 0
    again = cli(*arguments)
    assert again.code == 2 and "overwrite=true" in again.output
    assert cli(*arguments, "overwrite=true").code == 0


def test_eval_of_a_checkpoint_from_before_evaluation_had_two_sizes(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    data = content["sfseg"]["config"]["data"]
    data["module"] |= {"eval_size": data["module"].pop("eval_view")["size"]}
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


def test_predict_leaves_out_images_above_its_limit(
    cli: Cli, checkpoint: Path, photos: Path
) -> None:
    arguments = [f"ckpt_path={checkpoint}", f"images={photos}", "output=out", "max_pixels=9000"]
    done = cli("sfseg-predict", *arguments)
    assert done.code == 3 and "more than the limit of 9000" in done.output
    assert len(list((done.folder / "out" / "labels").rglob("*.png"))) < 3


@pytest.mark.parametrize("setting", ["input_size=0.5", "input_size=[3]", "max_pixels=0"])
def test_predict_refuses_sizes_that_cannot_be(
    cli: Cli, checkpoint: Path, photos: Path, setting: str
) -> None:
    done = cli(
        "sfseg-predict", f"ckpt_path={checkpoint}", f"images={photos}", "output=out", setting
    )
    assert done.code == 2 and "Traceback" not in done.output
    assert setting.split("=")[0] in done.output


def test_predict_refuses_names_that_collide(cli: Cli, checkpoint: Path, photos: Path) -> None:
    cv2.imwrite(str(photos / "one.jpg"), np.zeros((64, 64, 3), np.uint8))
    done = cli("sfseg-predict", f"ckpt_path={checkpoint}", f"images={photos}", "output=out")
    assert done.code == 3 and "one.jpg" in done.output and "one.png" in done.output
    assert not (done.folder / "out").exists()
