from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfseg.data.images import read_label
from sfseg.data.layouts import folder
from sfseg.errors import DataError
from sfseg.labels import LabelSpace
from sfseg.report.predictions import KINDS, Predictions

SPACE = LabelSpace("mine", ("road", "a | b", "Straße"), ((1, 2, 3), (40, 50, 60), (200, 0, 9)))
LABEL = np.array([[0, 1, 2], [2, 2, 0]], np.uint8)
IMAGE = np.full((2, 3, 3), 100, np.uint8)


def written(path: Path, ids: list[int] | None = None) -> Path:
    predictions = Predictions(path, KINDS, SPACE, ids=ids)
    predictions.write_classes()
    predictions.write(Path("a/b.png"), IMAGE, LABEL, LABEL * 100)
    return path


@pytest.mark.parametrize("ids", [None, [7, 24, 33]])
def test_labels_are_ids_and_colours_the_same_in_colour(
    tmp_path: Path, ids: list[int] | None
) -> None:
    written(tmp_path, ids)
    expected = np.array(ids or [0, 1, 2], np.uint8)[LABEL]
    with Image.open(tmp_path / "labels/a/b.png") as plain:
        assert plain.mode == "L"
        np.testing.assert_array_equal(np.asarray(plain), expected)
    with Image.open(tmp_path / "colours/a/b.png") as indexed:
        assert indexed.mode == "P"
        np.testing.assert_array_equal(np.asarray(indexed), expected)
        np.testing.assert_array_equal(
            np.asarray(indexed.convert("RGB")), np.array(SPACE.palette, np.uint8)[LABEL]
        )


@pytest.mark.parametrize("ids", [None, [7, 24, 33]])
@pytest.mark.parametrize("kind", ["labels", "colours"])
def test_predictions_are_masks_that_their_classes_yaml_reads(
    tmp_path: Path, ids: list[int] | None, kind: str
) -> None:
    written(tmp_path, ids)
    files = folder(tmp_path, classes=tmp_path / "classes.yaml", images="overlays", masks=kind)
    np.testing.assert_array_equal(files.label(0), LABEL)
    assert files.labels.classes == SPACE.classes and files.labels.palette == SPACE.palette


def test_only_what_is_wanted_is_written(tmp_path: Path) -> None:
    Predictions(tmp_path, ["confidence"], SPACE).write(Path("b.png"), IMAGE, LABEL, LABEL)
    assert [path.name for path in tmp_path.iterdir()] == ["confidence"]
    np.testing.assert_array_equal(read_label(tmp_path / "confidence/b.png"), LABEL)


def test_a_folder_that_takes_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "colours").touch()
    with pytest.raises(DataError, match=r"colours/b\.png cannot be written"):
        Predictions(tmp_path, ["colours"], SPACE).write(Path("b.png"), IMAGE, LABEL, LABEL)
