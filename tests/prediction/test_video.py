"""Videos: frames in, frames out at their times, shares second by second, broken frames named."""

import csv
import logging
import re
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfseg.errors import ConfigError, DataError
from sfseg.labels import LabelSpace
from sfseg.ops.inference import Inference
from sfseg.prediction.frames import Frames, find_videos, in_thread, is_video, pyav, upright
from sfseg.prediction.predictor import Predictor
from sfseg.prediction.smoothing import Smoothing
from sfseg.prediction.video import Look, even, predict_video
from sfseg.report.drawing import Pixels, overlay

av = pytest.importorskip("av")
LABELS = LabelSpace("three", ("red", "green", "blue"), ((200, 0, 0), (0, 200, 0), (0, 0, 200)))
SIZE = (48, 64)


class Strongest(nn.Module):
    """The class of a pixel is its strongest colour."""

    def forward(self, image: Tensor) -> Tensor:
        return image.float() / 16


def predictor(**settings: Any) -> Predictor:
    given = {"device": "cpu", "precision": "32-true", "rule": None, "tile_pixels": 1 << 20}
    return Predictor(Strongest(), Inference(), **(given | settings))


def frame(reds: int, size: tuple[int, int] = SIZE) -> Pixels:
    """So many columns of red, the others blue."""
    image = np.full((*size, 3), (30, 20, 220), np.uint8)
    image[:, :reds] = (220, 30, 20)
    return image


def write_lossless(path: Path, frames: Sequence[Pixels], rate: Fraction = Fraction(2)) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "rgb24"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def read(path: Path) -> tuple[list[Pixels], list[float]]:
    with av.open(str(path)) as container:
        found = list(container.decode(video=0))
        return [f.to_ndarray(format="rgb24") for f in found], [float(f.time) for f in found]


def table(path: Path) -> list[list[float]]:
    header, *rows = csv.reader(path.read_text().splitlines())
    assert header == ["second", "frames", *LABELS.classes]
    return [[float(value) for value in row] for row in rows]


def close(shown: Pixels, expected: Pixels) -> bool:
    """But for what the codec loses, which is most where colours meet."""
    return float(np.abs(shown.astype(float) - expected).mean()) < 8


@pytest.mark.parametrize("layout", ["overlay", "side_by_side"])
def test_frames_come_out_at_their_times_and_shares_by_the_second(
    tmp_path: Path, layout: Any
) -> None:
    frames = [frame(reds) for reds in (0, 16, 32, 48, 64)]
    write_lossless(tmp_path / "a.avi", frames)
    look = Look(layout=layout, opacity=0.5)
    predict_video(Frames(tmp_path / "a.avi"), tmp_path / "out" / "a", predictor(), LABELS, look)
    shown, times = read(tmp_path / "out" / "a.mp4")
    assert times == pytest.approx([0, 0.5, 1, 1.5, 2], abs=1e-3)
    for image, written in zip(frames, shown, strict=True):
        expected = overlay(image, image.argmax(2).astype(np.uint8), LABELS.palette, 0.5)
        if layout == "side_by_side":
            expected = np.hstack([image, expected])
        assert written.shape == expected.shape and close(written, expected)
    expected_rows = [[0, 2, 0.125, 0, 0.875], [1, 2, 0.625, 0, 0.375], [2, 1, 1, 0, 0]]
    assert table(tmp_path / "out" / "a.csv") == expected_rows
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.csv", "a.mp4"]


def test_broken_frames_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_lossless(tmp_path / "a.mov", [frame(16 * k) for k in range(4)], Fraction(1))
    data = bytearray((tmp_path / "a.mov").read_bytes())
    starts = [found.start() for found in re.finditer(b"\x89PNG", data)]
    assert len(starts) == 4
    data[starts[1] + 12 : starts[1] + 40] = bytes(28)
    (tmp_path / "a.mov").write_bytes(data)
    with caplog.at_level(logging.WARNING):
        predict_video(Frames(tmp_path / "a.mov"), tmp_path / "out", predictor(), LABELS, Look())
    assert "a.mov: 1 broken frames are left out, at 1.00 s" in caplog.text
    assert [row[:3] for row in table(tmp_path / "out.csv")] == [
        [0, 1, 0],
        [2, 1, 0.5],
        [3, 1, 0.75],
    ]
    assert read(tmp_path / "out.mp4")[1] == pytest.approx([0, 2, 3], abs=1e-3)


def test_frames_of_other_sizes_are_shown_at_that_of_the_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = [(48, 64), (48, 64), (96, 96)]
    pictures = [cv2.imencode(".jpg", frame(32, size)[..., ::-1])[1].tobytes() for size in sizes]
    (tmp_path / "a.mjpeg").write_bytes(b"".join(pictures))
    with caplog.at_level(logging.WARNING):
        predict_video(Frames(tmp_path / "a.mjpeg"), tmp_path / "out", predictor(), LABELS, Look())
    assert "frames have 96x96 pixels; they are shown at 64x48" in caplog.text
    shown, _ = read(tmp_path / "out.mp4")
    assert [image.shape for image in shown] == [(48, 64, 3)] * 3
    (row,) = table(tmp_path / "out.csv")
    assert row[:2] == [0, 3] and row[2] == pytest.approx((0.5 + 0.5 + 1 / 3) / 3, abs=0.02)


def test_smoothing_is_the_exponential_mean_of_probabilities() -> None:
    smoothing, scores = Smoothing(0.75), torch.randn(5, 1, 4, 3, 2, dtype=torch.float64)
    mean = scores[0].softmax(1)
    for k, one in enumerate(scores):
        smoothing.begin_image()
        mean = 0.75 * mean + 0.25 * one.softmax(1) if k else mean
        assert torch.allclose(smoothing(one).softmax(1).double(), mean, atol=1e-6)


def test_smoothing_remembers_every_tile_and_forgets_other_sizes() -> None:
    smoothing = Smoothing(0.5)
    tiles = [torch.tensor([9.0, 0]).view(1, 2, 1, 1), torch.tensor([0, 9.0]).view(1, 2, 1, 1)]
    for _ in range(2):
        smoothing.begin_image()
        for tile in tiles:
            assert torch.allclose(smoothing(tile).softmax(1), tile.softmax(1))
    smoothing.begin_image()
    other = torch.randn(1, 2, 3, 3)
    assert torch.allclose(smoothing(other).softmax(1), other.softmax(1))


@pytest.mark.parametrize("tile_pixels", [1 << 20, 4096])
def test_a_smoothed_video_flickers_less(tmp_path: Path, tile_pixels: int) -> None:
    size = (96, 128)
    frames = [frame(128, size), frame(0, size), frame(128, size), frame(0, size)]
    write_lossless(tmp_path / "a.avi", frames, Fraction(1))
    for smoothing, reds in ((0.0, [1, 0, 1, 0]), (0.8, [1, 1, 1, 1])):
        infer = predictor(tile_pixels=tile_pixels)
        predict_video(
            Frames(tmp_path / "a.avi"), tmp_path / "b", infer, LABELS, Look(smoothing=smoothing)
        )
        assert [row[2] for row in table(tmp_path / "b.csv")] == reds


@pytest.mark.parametrize("strength", [-0.1, 1, 1.5, "much", float("nan")])
def test_no_other_strength_is_taken(strength: Any) -> None:
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\), got"):
        Smoothing(strength)
    with pytest.raises(ConfigError, match="smoothing must be"):
        Look(smoothing=strength)


def test_no_other_layout_is_taken() -> None:
    with pytest.raises(ConfigError, match="video must be one of overlay, side_by_side, got both"):
        Look(layout="both")  # type: ignore[arg-type]


def test_sides_become_even_without_moving_a_pixel() -> None:
    image = frame(3, (5, 7))
    assert even(image).shape == (6, 8, 3) and np.array_equal(even(image)[:5, :7], image)
    assert even(frame(2)) is not None and even(frame(2)).shape == (*SIZE, 3)


def test_turned_frames_stand_upright() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1).repeat(3, 2)
    assert np.array_equal(upright(image, 0), image)
    assert np.array_equal(upright(image, -90), cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE))
    assert np.array_equal(upright(image, 90), cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE))
    assert np.array_equal(upright(image, 180), image[::-1, ::-1])


def test_files_that_are_no_video_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"a\.mp4 cannot be read as a video"):
        Frames(tmp_path / "a.mp4")
    (tmp_path / "b.mjpeg").write_bytes(cv2.imencode(".jpg", frame(3))[1].tobytes()[:200])
    with pytest.raises(DataError, match=r"b\.mjpeg"):
        predict_video(Frames(tmp_path / "b.mjpeg"), tmp_path / "b", predictor(), LABELS, Look())
    assert not list(tmp_path.glob("*b.mp4*")) and not list(tmp_path.glob("b.csv"))


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write_lossless(tmp_path / "a.avi", [frame(3)])
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"b\.mp4 cannot be written"):
        predict_video(
            Frames(tmp_path / "a.avi"), tmp_path / "file" / "b", predictor(), LABELS, Look()
        )


def test_videos_are_found_by_name_and_pattern(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mov", "c.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "folder.mp4").mkdir()
    assert is_video("x/A.MP4") and not is_video("x.jpg") and not is_video(f"{tmp_path}/folder.mp4")
    assert find_videos([f"{tmp_path}/a.mp4", f"{tmp_path}/*.mov"]) == [
        tmp_path / "a.mp4", tmp_path / "b.mov"
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"images=.*d\.mp4 does not exist"):
        find_videos([f"{tmp_path}/d.mp4"])
    (tmp_path / "a.avi").touch()
    with pytest.raises(DataError, match=r"would both be written as a\.mp4"):
        find_videos([f"{tmp_path}/a.mp4", f"{tmp_path}/a.avi"])


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"pip install 'sfseg\[video\]'"):
        pyav()


def test_a_thread_keeps_the_order_and_hands_errors_on() -> None:
    assert list(in_thread(range(20))) == list(range(20)) and list(in_thread([])) == []

    def failing() -> Any:
        yield 1
        raise ValueError("two")

    found = in_thread(failing())
    assert next(found) == 1
    with pytest.raises(ValueError, match="two"):
        next(found)
