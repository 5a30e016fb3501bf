"""Scenes are cut out of a run's sheets where they are, and large sheets are not read whole."""

import base64
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from written_run import write_panels

from sfseg.errors import DataError
from sfseg.report.drawing import write_png
from sfseg.report.pages import pictures
from sfseg.report.pages.pictures import SCENES, TILE, Layout, scenes, shrunk
from sfseg.report.pages.png_top import read_top


def grey(address: str) -> float:
    kind, _, data = address.partition(",")
    assert kind == "data:image/jpeg;base64"
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None and image.std() < 2
    return float(image.mean())


def layout_of(folder: Path) -> Layout:
    return Layout.of(json.loads((folder / "sheet.json").read_text()))


def test_tiles_are_those_of_their_scene_before_and_after(tmp_path: Path) -> None:
    write_panels(tmp_path, (0, 10), rows=3)
    before, after = (tmp_path / f"step_{step:06d}.png" for step in (0, 10))
    found = list(scenes(before, after, layout_of(tmp_path)))
    assert len(found) == 3
    for row, scene in enumerate(found):
        first = 40 + 10 * row
        assert [grey(p) for _, p in scene.fixed] == pytest.approx([first, first + 1], abs=1.5)
        changing = [(title, grey(a), grey(b)) for title, a, b in scene.changing]
        assert [title for title, _, _ in changing] == ["prediction", "error (red)"]
        for column, (_, old, new) in enumerate(changing, start=2):
            assert (old, new) == pytest.approx((first + column, first + column + 100), abs=1.5)


def test_of_many_scenes_some_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_panels(tmp_path, (0,), rows=20)
    path = tmp_path / "step_000000.png"

    def shown() -> list[float]:
        return [grey(one.fixed[0][1]) for one in scenes(path, path, layout_of(tmp_path))]

    every = shown()
    assert len(every) == SCENES and every == sorted(every)
    assert (every[0], every[-1]) == pytest.approx((40, 40 + 10 * 19), abs=1.5)
    # Of a sheet that is too large, those at its top.
    monkeypatch.setattr(pictures, "LARGEST", 1280 * (44 + 3 * 182 + 5))
    assert shown() == pytest.approx([40, 50, 60], abs=1.5)
    monkeypatch.setattr(pictures, "ROOM", 2 * sum(len(p) for _, p in first(path).fixed) + 10)
    assert len(shown()) < 3


def first(path: Path) -> pictures.Scene:
    return next(scenes(path, path, layout_of(path.parent)))


def test_a_sheet_of_another_size_is_refused(tmp_path: Path) -> None:
    write_panels(tmp_path, (0,), rows=2)
    layout = layout_of(tmp_path)
    path = tmp_path / "step_000000.png"
    write_png(path, np.zeros((50, 1280, 3), np.uint8))
    with pytest.raises(DataError, match=r"not of the size that panels/sheet.json says"):
        list(scenes(path, path, layout))
    for damage in (
        {"tile": 3},
        {"tile": [0, 5]},
        {"rows": []},
        {"columns": ["a"]},
        {"caption": "x"},
    ):
        content = {**json.loads((tmp_path / "sheet.json").read_text()), **damage}
        with pytest.raises(ValueError, match=r"sheet\.json"):
            Layout.of(content)


@pytest.mark.parametrize("rows", [1, 7, 99, 100, 1000, None])
def test_the_top_of_a_picture_is_that_of_the_picture(tmp_path: Path, rows: int | None) -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 37, 3), np.uint8)
    write_png(tmp_path / "a.png", image)
    assert (read_top(tmp_path / "a.png", rows) == image[:rows]).all()


def test_grey_pictures_are_read_and_damaged_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_png(path, np.full((20, 30), 9, np.uint8))
    assert read_top(path, 5).shape[1:] == (30, 3)
    write_png(path, np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    content = path.read_bytes()
    for cut in (0, 7, 20, 40):
        path.write_bytes(content[:cut])
        with pytest.raises(DataError, match=r"a\.png"):
            read_top(path, 5)
    path.write_bytes(content[:33] + b"\x00\x00\x01\x00IDAT" + bytes(300))
    with pytest.raises(DataError, match="cannot be read"):
        read_top(path, 5)
    with pytest.raises(DataError, match=r"none\.png cannot be read"):
        read_top(tmp_path / "none.png")


def test_pictures_are_made_as_wide_as_there_is_room() -> None:
    wide = shrunk(np.zeros((100, 4 * TILE, 3), np.uint8), TILE)
    data = np.frombuffer(base64.b64decode(wide.partition(",")[2]), np.uint8)
    assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape == (25, TILE, 3)
