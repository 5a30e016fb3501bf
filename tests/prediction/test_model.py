"""``sfseg.load``: what it returns equals what ``sfseg-predict`` writes, and it imports little."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import DEBUG, Cli, command
from hydra import compose, initialize_config_dir
from PIL import Image

import sfseg
from sfseg.config.composition import CONF, build
from sfseg.data.toyscapes.scenes import Toyscapes
from sfseg.errors import ConfigError, DataError
from sfseg.labels import CITYSCAPES
from sfseg.ops.inference import Inference
from sfseg.prediction.model import protocol
from sfseg.prediction.predictor import TILE_PIXELS

TESTS = Path(__file__).parents[1]
SCENE = Toyscapes("city", "test", length=1).image(0)
README = (TESTS.parent / "README.md").read_text()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps, made once."""
    folder = tmp_path_factory.mktemp("run")
    assert command("sfseg-train", *DEBUG, "logger=none", f"hydra.run.dir={folder}/run") == 0
    return folder / "run" / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> sfseg.Model:
    return sfseg.load(checkpoint, device="cpu", precision="32-true")


def stored(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ([], {}),
        (["tile_pixels=5000"], {"tile_pixels": 5000}),
        (
            ["input_size=64", "evaluation=multi_scale"],
            {"input_size": 64, "evaluation": "multi_scale"},
        ),
        (
            ["evaluation.window=[64,64]", "precision=bf16-mixed"],
            {"evaluation": Inference(window=(64, 64)), "precision": "bf16-mixed"},
        ),
        (["value_range=percentile"], {"value_range": "percentile"}),
    ],
)  # fmt: skip
def test_it_predicts_what_the_command_writes(
    cli: Cli, checkpoint: Path, tmp_path: Path, words: list[str], settings: dict[str, Any]
) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(SCENE).save(tmp_path / "photos" / "a.png")
    Image.fromarray(SCENE[:101, :77]).save(tmp_path / "photos" / "b.jpg")
    done = cli(
        "sfseg-predict", f"ckpt_path={checkpoint}", "images=photos", "output=out",
        "confidence=true", *words,
    )  # fmt: skip
    assert done.code == 0, done.output
    results = sfseg.load(checkpoint, **settings).predict(
        [tmp_path / "photos" / "a.png", str(tmp_path / "photos" / "b.jpg")]
    )
    for name, result in zip("ab", results, strict=True):
        out = tmp_path / "out"
        assert np.array_equal(result.label, stored(out / f"labels/{name}.png"))
        confidence = stored(out / f"confidence/{name}.png")
        assert np.array_equal((result.confidence * 255).round(), confidence)
        drawn = np.asarray(Image.open(out / f"overlays/{name}.png"))
        assert np.array_equal(np.asarray(result.overlay), drawn)
        result.colours.save(tmp_path / "colours.png")
        with Image.open(out / f"colours/{name}.png") as expected:
            assert np.array_equal(stored(tmp_path / "colours.png"), stored(Path(expected.filename)))
            assert result.colours.getpalette() == expected.getpalette()


def test_every_kind_of_picture_gives_the_same(model: sfseg.Model, tmp_path: Path) -> None:
    image = Image.fromarray(SCENE)
    image.save(tmp_path / "a.png")
    turned = torch.from_numpy(SCENE).permute(2, 0, 1)
    clear = image.copy()
    clear.putalpha(7)
    view = np.repeat(SCENE, 2, axis=0)[::2]
    view.setflags(write=False)
    kinds = [tmp_path / "a.png", str(tmp_path / "a.png"), image, clear, SCENE, view, turned]
    first, *others = model.predict(kinds)
    for other in others:
        assert np.array_equal(first.label, other.label)
        assert np.array_equal(first.certainty, other.certainty)
    alone = model.predict(image)
    assert np.array_equal(alone.label, first.label) and model.predict([]) == []
    grey = Image.fromarray(SCENE).convert("L")
    three = np.stack([np.asarray(grey)] * 3, axis=-1)
    assert np.array_equal(model.predict(grey).label, model.predict(three).label)


def test_a_result_says_what_it_holds(model: sfseg.Model) -> None:
    result = model.predict(SCENE)
    assert result.label.shape == SCENE.shape[:2] and result.label.dtype == np.uint8
    assert 0 <= result.confidence.min() <= result.confidence.max() <= 1
    assert result.confidence.dtype == np.float32
    assert model.classes == result.classes == CITYSCAPES.classes
    assert model.palette == result.palette == CITYSCAPES.palette
    assert sum(result.shares.values()) == pytest.approx(1)
    for k, name in enumerate(model.classes):
        assert result.shares[name] == pytest.approx((result.label == k).mean())
    palette = np.array(model.palette)
    assert np.array_equal(np.asarray(result.colours.convert("RGB")), palette[result.label])
    assert result.overlay is result.overlay and "array" not in repr(result)
    assert model.to("cpu") is model and model.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (lambda: SCENE / 255, r"float64; of values in \[0, 1\] take \(image \* 255\)"),
        (lambda: SCENE.astype(np.int64), r"got int64; bring it to 0\.\.255, then .*astype"),
        (lambda: SCENE.transpose(2, 0, 1), r"got \(3, 128, 256\); take image.transpose\(1, 2, 0\)"),
        (lambda: SCENE[..., 0], r"got \(128, 256\); of a grey one take np.stack"),
        (lambda: np.dstack([SCENE, SCENE[..., 0]]), r"take image\[\.\.\., :3\]"),
        (lambda: SCENE[None], r"several pictures as a list"),
        (lambda: SCENE[:0], r"got \(0, 256, 3\)"),
        (lambda: torch.from_numpy(SCENE), r"got \(128, 256, 3\); take image.permute\(2, 0, 1\)"),
        (lambda: torch.rand(3, 8, 8), r"float32; of values in \[0, 1\] .*to\(torch.uint8\)"),
        (lambda: torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"several pictures as a list"),
        (lambda: torch.zeros(8, 8, dtype=torch.uint8), r"image.expand\(3, -1, -1\)"),
        (lambda: Image.fromarray(SCENE[..., 0].astype(np.int32)), r"8 bits a channel, got mode I"),
        (lambda: 3, r"got int"),
        (lambda: None, r"got NoneType"),
    ],
)
def test_what_is_no_picture_is_refused(
    model: sfseg.Model, picture: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.predict(picture())
    with pytest.raises(ValueError, match=message):
        model.predict([SCENE, picture()])


def test_pictures_that_lie_on_their_side_are_not_predicted_so(
    model: sfseg.Model, tmp_path: Path
) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.fromarray(SCENE).rotate(90, expand=True).save(tmp_path / "a.png", exif=tag)
    with (
        Image.open(tmp_path / "a.png") as lying,
        pytest.raises(ValueError, match="orientation is 6"),
    ):
        model.predict(lying)
    upright = model.predict(tmp_path / "a.png")
    assert np.array_equal(upright.label, model.predict(SCENE).label)


def test_files_that_cannot_be_read_are_named(model: sfseg.Model, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.png cannot be read: No such file"):
        model.predict(tmp_path / "missing.png")
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(DataError, match=r"a\.png"):
        model.predict(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "nowhere"}, "device=nowhere cannot be used"),
        ({"precision": "9"}, "precision=9 cannot be used: it must be one of 32-true"),
        ({"tile_pixels": 9}, "tile_pixels must be a whole number from 4096, got 9"),
        ({"input_size": (3,)}, "input_size must be"),
        ({"evaluation": "best"}, "evaluation must be one of default, multi_scale, slide, got best"),
        ({"value_range": (3,)}, "value_range must be"),
        ({"max_pixels": 0}, "max_pixels must be"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    checkpoint: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        sfseg.load(checkpoint, **settings)
    assert "data." not in str(caught.value)


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.ckpt"):
        sfseg.load(tmp_path / "missing.ckpt")
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(ConfigError, match=r"other\.ckpt"):
        sfseg.load(tmp_path / "other.ckpt")


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "evaluation").glob("*.yaml")))
def test_protocols_are_those_of_the_command(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = compose("predict", overrides=[f"evaluation={name}"]).evaluation
    assert protocol(name) == build(node)


def test_defaults_are_those_of_the_command() -> None:
    shipped = yaml.safe_load((CONF / "predict.yaml").read_text())
    defaults = sfseg.load.__kwdefaults__
    assert shipped["tile_pixels"] == defaults["tile_pixels"] == TILE_PIXELS
    for name in ("input_size", "device", "value_range", "max_pixels"):
        assert shipped[name] == defaults[name]


def test_half_of_all_bits_is_another_type(checkpoint: Path) -> None:
    for precision, dtype in (("bf16-true", torch.bfloat16), ("64", torch.float64)):
        network = sfseg.load(checkpoint, device="cpu", precision=precision).predictor.network
        assert {p.dtype for p in network.parameters()} == {dtype}
    wide = sfseg.load(checkpoint, device="cpu", precision=64).predict(SCENE)
    usual = sfseg.load(checkpoint, device="cpu", precision="32-true").predict(SCENE)
    assert (wide.label == usual.label).mean() > 0.999
    assert torch.get_default_dtype() == torch.float32


UNNEEDED = [
    "lightning", "pytorch_lightning", "wandb", "albumentations", "sklearn", "torchmetrics",
    "transformers", "timm", "torchvision",
]  # fmt: skip


def test_the_readmes_lines_run_and_import_little(checkpoint: Path, tmp_path: Path) -> None:
    """In a process of its own; nothing is imported by ``import sfseg`` alone."""
    _, _, rest = README.partition("```python\nimport sfseg\n")
    lines = rest.partition("```")[0]
    assert "sfseg.load(" in lines and "model.predict(" in lines
    (tmp_path / "last.ckpt").write_bytes(checkpoint.read_bytes())
    (tmp_path / "b.png").unlink(missing_ok=True)
    for name in ("a.jpg", "c.jpg"):
        Image.fromarray(SCENE).save(tmp_path / name)
    program = (
        "import sys, sfseg\n"
        "assert not {'torch', 'numpy', 'hydra'} & set(sys.modules)\n"
        "from shallow import make_shallow; make_shallow()\n"
        f"{lines}\n"
        f"print('IMPORTED', sorted(set({UNNEEDED}) & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "IMPORTED []" in done.stdout
    with Image.open(tmp_path / "b.png") as drawn:
        assert drawn.size == SCENE.shape[1::-1]


def test_the_command_takes_videos_beside_pictures(
    cli: Cli, checkpoint: Path, model: sfseg.Model, tmp_path: Path
) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "drive.mov"), "w") as container:
        stream = container.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = *SCENE.shape[:2], "rgb24"
        for image in (SCENE, SCENE[:, ::-1].copy()):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    Image.fromarray(SCENE).save(tmp_path / "a.png")
    (tmp_path / "broken.mp4").write_text("no video")
    done = cli(
        "sfseg-predict", f"ckpt_path={checkpoint}", "images=[a.png,drive.mov,broken.mp4]",
        "output=out", "precision=32-true", "device=cpu", "batch_size=2",
    )  # fmt: skip
    assert done.code == 3 and "1 of 3 images and videos were skipped" in done.output
    assert "broken.mp4 cannot be read as a video" in done.output
    assert "1 images in out: labels" in done.output and "drive.mov is in out/videos" in done.output
    rows = (tmp_path / "out" / "videos" / "drive.csv").read_text().splitlines()
    assert rows[0].split(",")[2:] == list(model.classes)
    for row, image in zip(rows[1:], (SCENE, SCENE[:, ::-1]), strict=True):
        shares = [float(value) for value in row.split(",")[2:]]
        assert shares == pytest.approx(list(model.predict(image).shares.values()), abs=1e-6)
    assert sorted(p.name for p in (tmp_path / "out" / "videos").iterdir()) == [
        "drive.csv", "drive.mp4"
    ]  # fmt: skip
    refused = cli(
        "sfseg-predict", f"ckpt_path={checkpoint}", "images=drive.mov", "output=no", "smoothing=1"
    )
    assert refused.code == 2 and "smoothing must be in [0, 1), got 1" in refused.output


def test_what_the_package_does_not_have_is_said() -> None:
    assert {"load", "Model", "Result"} <= set(dir(sfseg))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sfseg.nothing  # noqa: B018
