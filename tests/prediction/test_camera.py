"""Cameras, of which a file of frames stands for one."""

import logging
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from conftest import Cli
from test_video import LABELS, frame, predictor, read, table, write_lossless

from sfseg.errors import DataError
from sfseg.prediction import camera
from sfseg.prediction.camera import Camera, is_camera
from sfseg.prediction.video import Look, predict_video


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is half a second later."""
    times = iter(range(1000))
    monkeypatch.setattr(camera, "time", SimpleNamespace(monotonic=lambda: next(times) / 2))


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six frames, which camera 0 hands out."""
    write_lossless(tmp_path / "frames.avi", [frame(10 * k) for k in range(6)])
    opened = cv2.VideoCapture
    monkeypatch.setattr(
        camera.cv2, "VideoCapture", lambda n: opened(str(tmp_path / "frames.avi") if n == 0 else "")
    )
    return tmp_path


def test_names_of_cameras() -> None:
    assert is_camera("camera:0") and is_camera("camera:12")
    assert not any(map(is_camera, ("camera", "camera:", "camera:a", "x/camera:0", "camera:0.mp4")))


def test_a_camera_is_recorded_for_some_time(plugged: Path, clock: None) -> None:
    film = Camera("camera:0", seconds=2)
    predict_video(film, plugged / "out", predictor(), LABELS, Look(opacity=0))
    shown, times = read(plugged / "out.mp4")
    assert times == pytest.approx([0, 0.5, 1, 1.5])
    assert [row[:2] for row in table(plugged / "out.csv")] == [[0, 2], [1, 2]]
    # What OpenCV hands out is blue first.
    assert np.abs(shown[1].astype(float) - frame(10)).mean() < 8
    assert not film.remark()


def test_an_interrupt_ends_the_recording_and_keeps_it(plugged: Path, clock: None) -> None:
    before = signal.getsignal(signal.SIGINT)
    frames = []
    for one in Camera("camera:0"):
        frames.append(one)
        if len(frames) == 3:
            os.kill(os.getpid(), signal.SIGINT)
    assert len(frames) == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_a_camera_that_ends_is_told_of(
    plugged: Path, clock: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        predict_video(Camera("camera:0"), plugged / "out", predictor(), LABELS, Look())
    assert len(read(plugged / "out.mp4")[0]) == 6
    assert "camera_0 hands out no more frames" in caplog.text


def test_a_camera_that_is_not_there_is_named(plugged: Path) -> None:
    with pytest.raises(DataError, match="images=camera:7 cannot be opened; see that"):
        Camera("camera:7")


def test_seconds_are_looked_at_before_anything_is_read(cli: Cli) -> None:
    done = cli("sfseg-predict", "ckpt_path=no.ckpt", "images=camera:0", "output=o", "seconds=0")
    assert done.code == 2 and "seconds must be positive, or null until Ctrl-C" in done.output
