import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import DEBUG, Cli, command
from make import write
from PIL import Image
from torch import Tensor
from torch.nn.functional import one_hot

from sfseg.commands import predict
from sfseg.data.geometry import resize_image, resize_label
from sfseg.data.toyscapes.scenes import Toyscapes
from sfseg.errors import ConfigError
from sfseg.labels import CAMVID, CITYSCAPES, CROSS_CITY, LabelSpace
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.inference import resize
from sfseg.runs.checkpoints import restore
from sfseg.types import IGNORE


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


def test_predict_keeps_names_folders_and_sizes(cli: Cli, checkpoint: Path, photos: Path) -> None:
    done = cli(
        "sfseg-predict", f"ckpt_path={checkpoint}", f"images={photos}", "output=out",
        "confidence=true",
    )  # fmt: skip
    assert done.code == 0, done.output
    assert "prediction: input at their own size, whole" in done.output
    out = done.folder / "out"
    for name, size in (
        ("one.png", (128, 256)), ("two.png", (101, 77)), ("a/b/three.png", (64, 256))
    ):  # fmt: skip
        label = cv2.imread(str(out / "labels" / name), cv2.IMREAD_UNCHANGED)
        assert label.shape == size and label.dtype == np.uint8 and label.max() < 19
        assert cv2.imread(str(out / "overlays" / name)).shape[:2] == size
        confidence = cv2.imread(str(out / "confidence" / name), cv2.IMREAD_UNCHANGED)
        assert confidence.shape == size and confidence.max() > 0
    assert cv2.imread(str(out / "colours" / name)).shape[:2] == size
    assert len(list(out.rglob("*.png"))) == 12


def test_predict_equals_the_network(cli: Cli, checkpoint: Path, photos: Path) -> None:
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


def test_predict_reads_patterns_files_and_folders_named_like_numbers(
    cli: Cli, checkpoint: Path, photos: Path
) -> None:
    numbered = photos.rename(photos.parent / "2024_05")
    arguments = ["sfseg-predict", f"ckpt_path={checkpoint}", "overlays=false", "colours=false"]
    for number, (images, expected) in enumerate(
        [
            ("2024_05", ["a/b/three.png", "one.png", "two.png"]),
            ("2024_05/**/*.png", ["a/b/three.png", "one.png"]),
            ("[2024_05/one.png,2024_05/a/b]", ["one.png", "three.png"]),
            (f"{numbered}/two.jpg", ["two.png"]),
        ]
    ):
        done = cli(*arguments, f"images={images}", f"output=20{number}")
        assert done.code == 0, done.output
        out = done.folder / f"20{number}" / "labels"
        assert sorted(str(p.relative_to(out)) for p in out.rglob("*.png")) == expected


def test_predict_does_not_read_its_own_output(cli: Cli, checkpoint: Path, photos: Path) -> None:
    arguments = [f"ckpt_path={checkpoint}", f"images={photos}", f"output={photos}/out"]
    assert cli("sfseg-predict", *arguments).code == 0
    again = cli("sfseg-predict", *arguments, "overwrite=true", "colours=false", "overlays=false")
    assert again.code == 0 and "which are not read: 9" in again.output
    assert len(list((photos / "out" / "labels").rglob("*.png"))) == 3


def upright_folder(folder: Path, scale: int) -> dict[str, tuple[int, int]]:
    """Photos as people bring them, one of them broken; their sizes as viewers show them."""
    folder.mkdir()
    scene = Image.fromarray(Toyscapes("city", "test", length=1).image(0))
    lying, tag = scene.resize((40, 30)).rotate(90, expand=True), Image.Exif()
    tag[274] = 6
    lying.save(folder / "phone.jpg", exif=tag, quality=100)
    sizes = {"large": (60 * scale, 40 * scale), "tiny": (7, 5), "portrait": (48, 96)}
    for name, size in sizes.items():
        scene.resize(size).save(folder / f"{name}.png")
    (folder / "broken.jpg").write_bytes((folder / "phone.jpg").read_bytes()[:200])
    return {**{name: size[::-1] for name, size in sizes.items()}, "phone": (30, 40)}


def test_predict_writes_all_that_can_be_upright_and_lists_the_rest(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    sizes = upright_folder(tmp_path / "mixed", scale=4)
    done = cli(
        "sfseg-predict", f"ckpt_path={checkpoint}", "images=mixed", "output=out", "tile_pixels=5000"
    )
    assert done.code == 3 and "1 of 5 images were skipped" in done.output
    assert "broken.jpg" in done.output and "1 of 4 pictures have an EXIF" in done.output
    assert re.search(r"large\.png is seen in \d+ tiles", done.output)
    for kind in ("labels", "colours", "overlays"):
        found = {p.stem: cv2.imread(str(p)).shape[:2] for p in (tmp_path / "out" / kind).iterdir()}
        assert found == sizes
    scene = Toyscapes("city", "test", length=1).image(0)
    overlay = cv2.imread(str(tmp_path / "out" / "overlays" / "phone.png"))[..., ::-1]
    shown = overlay.astype(float) - cv2.resize(scene, (40, 30))
    flipped = overlay[::-1].astype(float) - cv2.resize(scene, (40, 30))
    assert np.abs(shown).mean() < np.abs(flipped).mean(), "upright"


@pytest.mark.slow
def test_predict_needs_less_than_4_gb_for_a_folder_of_photos(
    checkpoint: Path, tmp_path: Path
) -> None:
    upright_folder(tmp_path / "mixed", scale=100)
    words = [f"ckpt_path={checkpoint}", f"images={tmp_path}/mixed", f"output={tmp_path}/out"]
    program = (
        "import resource, sys; from shallow import make_shallow; make_shallow()\n"
        f"sys.argv[1:] = {[*words, f'hydra.run.dir={tmp_path}/run']}\n"
        "from sfseg.commands.predict import main\n"
        "try:\n    main()\n"
        "finally:\n    print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert len(list((tmp_path / "out" / "labels").iterdir())) == 4
    peak = int(done.stdout.rpartition("PEAK ")[2].split()[0]) / 2**20
    assert peak < 4, f"{peak:.2f} GB"


def test_one_picture_too_large_for_the_memory_does_not_lose_the_rest(
    cli: Cli, checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        MemoryError("Unable to allocate 9 GiB"),
    ]
    infer = predict.Predictor.__call__

    def call(self: Any, image: Any, path: Path) -> Any:
        if path.name != "two.jpg" and errors:
            raise errors.pop()
        return infer(self, image, path)

    monkeypatch.setattr(predict.Predictor, "__call__", call)
    done = cli("sfseg-predict", f"ckpt_path={checkpoint}", f"images={photos}", "output=out")
    assert done.code == 3 and "2 of 3 images were skipped" in done.output
    assert "one.png of 256x128 pixels is too large for the memory" in done.output
    assert "evaluation=slide" in done.output and "input_size=" in done.output
    assert [p.name for p in (done.folder / "out" / "labels").rglob("*.png")] == ["two.png"]


@pytest.mark.parametrize(
    ("labels", "choice", "expected"),
    [
        (CITYSCAPES, "ids", [7, 8, *range(11, 14), 17, *range(19, 29), 31, 32, 33]),
        (CROSS_CITY, "ids", [7, 8, 11, 19, 20, 21, *range(23, 27), 28, 32, 33]),
        (CITYSCAPES, "train_ids", None),
        (CAMVID, True, None),
        (CAMVID, False, None),
    ],
)
def test_labels_are_written_as_train_ids_or_ids(
    labels: LabelSpace, choice: object, expected: list[int] | None
) -> None:
    assert predict.stored_ids(choice, labels) == expected


def test_ids_are_refused_where_there_are_none() -> None:
    with pytest.raises(ConfigError, match=r"labels=ids needs .*camvid has pavement, tree, sign"):
        predict.stored_ids("ids", CAMVID)
    with pytest.raises(ConfigError, match=r"labels must be train_ids, ids or false, got color"):
        predict.stored_ids("color", CAMVID)


def test_predict_keeps_proportions(cli: Cli, checkpoint: Path, photos: Path) -> None:
    """Of a run whose evaluation brings all images to one size."""
    content = torch.load(checkpoint, weights_only=True)
    content["sfseg"]["config"]["data"]["eval_size"] = [64, 128]
    path = photos.parent / "sized.ckpt"
    torch.save(content, path)
    whole = Toyscapes("city", "test", length=1).image(0)
    cv2.imwrite(str(photos / "high.png"), whole[:, :32, ::-1])
    done = cli("sfseg-predict", f"ckpt_path={path}", f"images={photos}", "output=out")
    assert done.code == 0, done.output
    network = restore(path).network
    for name, image, size in (("one", whole, (64, 128)), ("high", whole[:, :32], (181, 45))):
        seen = np.ascontiguousarray(cv2.resize(image, size[::-1]))
        with torch.inference_mode():
            logits = network(torch.from_numpy(seen).permute(2, 0, 1)[None])
        expected = resize(logits, image.shape[:2]).argmax(1)[0].numpy()
        written = cv2.imread(str(done.folder / "out/labels" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert (written == expected).mean() > 0.99


def test_predict_reads_pictures_in_the_runs_value_range(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    data = content["sfseg"]["config"]["data"]
    data["value_range"] = [0, 3060]
    data["scenes"]["target_eval"]["value_range"] = "${data.value_range}"
    torch.save(content, tmp_path / "deep.ckpt")
    image = Toyscapes("city", "test", length=1).image(0)[..., ::-1]
    for folder, pixels in (("plain", image), ("deep", image.astype(np.uint16) * 12)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.png"), pixels)
    for folder, run in (("plain", checkpoint), ("deep", tmp_path / "deep.ckpt")):
        done = cli("sfseg-predict", f"ckpt_path={run}", f"images={folder}", f"output={folder}_out")
        assert done.code == 0, done.output
    dull = cli("sfseg-predict", f"ckpt_path={checkpoint}", "images=deep", "output=dull_out")
    assert "; set value_range=[" in dull.output and "of 255 values are used" in dull.output
    written = [(tmp_path / f"{f}_out/labels/a.png").read_bytes() for f in ("plain", "deep")]
    assert written[0] == written[1]
    done = cli(
        "sfseg-predict", f"ckpt_path={checkpoint}", "images=deep", "output=none", "value_range=[3]"
    )
    assert done.code == 2 and "value_range must be" in done.output and "data." not in done.output


Ious = dict[str, float]
"""Of each class, in [0, 1]."""


SEEN = (96, 192)
"""Size of the pictures that the network sees, height and width."""


def knowing(scenes: Toyscapes, size: tuple[int, int]) -> Callable[[Segmenter, Tensor], Tensor]:
    """A network that finds each scene's classes, three pixels beside where they are."""
    truths = {}
    for k in range(len(scenes)):
        seen = resize_image(scenes.image(k), size).transpose(2, 0, 1)
        truths[seen.tobytes()] = np.roll(resize_label(scenes.label(k), size), 3, axis=(0, 1))

    def forward(self: Segmenter, image: Tensor) -> Tensor:
        label = torch.from_numpy(truths[image[0].numpy().tobytes()]).long()
        found = torch.where(label == IGNORE, 0, label)
        return 9 * one_hot(found, 19).permute(2, 0, 1)[None].float()

    return forward


@pytest.fixture
def scored(cli: Cli, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ious:
    """By ``sfseg-eval``, of drawn streets in Cityscapes' tree; ``out`` has the predictions."""
    ids = np.zeros(256, np.uint8)
    ids[:19] = predict.stored_ids("ids", CITYSCAPES)
    scenes = Toyscapes("city", "test", length=8)
    monkeypatch.setattr(Segmenter, "forward", knowing(scenes, SEEN))
    for k in range(len(scenes)):
        city = ("aachen", "bochum")[k % 2]
        stem = f"val/{city}/{city}_{k:06d}_000019"
        stored = ids[scenes.label(k)]
        root = tmp_path / "data" / "cityscapes"
        write(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", scenes.image(k))
        write(root / "gtFine" / f"{stem}_gtFine_labelIds.png", stored)
        things = np.where(stored >= 24, stored.astype(np.uint16) * 1000, stored)
        write(root / "gtFine" / f"{stem}_gtFine_instanceIds.png", things)
    done = cli(
        "sfseg-eval", f"ckpt_path={checkpoint}", "data=gta5_to_cityscapes", "data.root=data",
        "with_source=false", "trainer.precision=32-true", "data.eval_size=[96,192]",
    )  # fmt: skip
    assert done.code == 0, done.output
    iou = json.loads((done.run / "results.json").read_text())["target"]["IoU"]
    done = cli(
        "sfseg-predict", f"ckpt_path={checkpoint}", "images=data/cityscapes/leftImg8bit/val",
        "output=out", "labels=ids", "precision=32-true", "input_size=[96,192]",
    )  # fmt: skip
    assert done.code == 0, done.output
    return {name: value for name, value in iou.items() if value is not None}


def test_ids_are_those_by_which_cityscapes_scores(scored: Ious, tmp_path: Path) -> None:
    counts = np.zeros((256, 256), np.int64)
    for path in (tmp_path / "out" / "labels").rglob("*.png"):
        name = path.name.replace("leftImg8bit", "gtFine_labelIds")
        (truth,) = (tmp_path / "data").rglob(name)
        np.add.at(counts, tuple(np.asarray(Image.open(p)).ravel() for p in (truth, path)), 1)
    ids = np.array(predict.stored_ids("ids", CITYSCAPES))
    hits, kept = np.diag(counts)[ids], counts[ids]
    iou = hits / np.maximum(1, kept.sum(1) + kept.sum(0)[ids] - hits)
    assert len(scored) == 18 and min(scored.values()) > 0.05, scored
    for name, value in zip(CITYSCAPES.classes, iou, strict=True):
        assert scored.get(name, 0) == pytest.approx(value, abs=1e-4)


@pytest.mark.skipif("SFSEG_CITYSCAPES" not in os.environ, reason="no Python of cityscapesscripts")
def test_cityscapes_own_script_finds_the_same_scores(scored: Ious, tmp_path: Path) -> None:
    """``SFSEG_CITYSCAPES`` is a Python that has cityscapesscripts, which needs an older numpy."""
    folders = {
        "CITYSCAPES_DATASET": f"{tmp_path}/data/cityscapes",
        "CITYSCAPES_RESULTS": f"{tmp_path}/out/labels",
        "CITYSCAPES_EXPORT_DIR": str(tmp_path),
    }
    module = "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(
        [os.environ["SFSEG_CITYSCAPES"], "-m", module], env=environment | folders, check=True
    )
    written = json.loads((tmp_path / "resultPixelLevelSemanticLabeling.json").read_text())
    for name, value in scored.items():
        print(f"{name:14} {100 * value:7.3f} {100 * written['classScores'][name]:7.3f}")  # noqa: T201
        assert 100 * value == pytest.approx(100 * written["classScores"][name], abs=0.01)
