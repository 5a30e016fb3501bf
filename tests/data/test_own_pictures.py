"""The examples of docs/own_data/pictures: each kind of image, read as the table says."""

import filecmp
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from sfseg.data.check import check_scenes, look
from sfseg.data.layouts import folder
from sfseg.data.odd_pictures import remarks
from sfseg.errors import DataError

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "own_data" / "pictures"
RANGES = {"twelve_bits": [0, 3060], "thermal": "percentile"}
SAID = {
    "turned": ["orientation tag"],
    "four_bands": ["more bands"],
    "twelve_bits": ["few values"],
    "thermal": ["few values"],
}


def opened(kind, value_range=None):
    root = PICTURES / kind
    return folder(root, classes=root / "classes.yaml", value_range=value_range)


@pytest.mark.parametrize(
    "kind", ["turned", "alpha", "four_bands", "twelve_bits", "thermal", "grey"]
)
def test_each_example_shows_the_same_scene(kind):
    files = opened(kind, RANGES.get(kind))
    check_scenes(files, kind, with_labels=True, samples=None)
    shown, expected = files.image(0).astype(float), opened("alpha").image(0).astype(float)
    if kind in {"thermal", "grey"}:
        shown, expected = shown[..., :1], expected.mean(-1, keepdims=True)
    assert np.corrcoef(shown.ravel(), expected.ravel())[0, 1] > 0.97
    assert kind == "thermal" or np.abs(shown - expected).mean() < 3


@pytest.mark.parametrize(
    "kind", ["turned", "alpha", "four_bands", "twelve_bits", "thermal", "grey"]
)
def test_what_is_said_of_each_example(kind):
    seen = look(opened(kind), 0, with_labels=True)
    assert not seen.faults
    assert [name for name, _ in remarks([seen.facts])] == SAID.get(kind, [])


def test_floating_point_is_refused():
    with pytest.raises(DataError, match=r"a\.tif is not supported: samples of float32"):
        opened("floating").image(0)


def test_the_table_names_every_example_and_the_script_writes_them(tmp_path):
    spec = importlib.util.spec_from_file_location("make", ROOT / "scripts/make_own_pictures.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(tmp_path)
    text = (ROOT / "docs" / "own_data.md").read_text()
    names = [p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()]
    assert filecmp.cmpfiles(tmp_path, PICTURES, names, shallow=False)[2] == []
    for kind in {name.parts[0] for name in names}:
        assert f"[{kind}](own_data/pictures/{kind})" in text
