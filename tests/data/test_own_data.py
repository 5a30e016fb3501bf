"""The examples of docs/own_data.md: each kind of mask, read by its own classes' file."""

from pathlib import Path

import numpy as np
import pytest

from sfseg.data.check import look
from sfseg.data.layouts import folder
from sfseg.types import IGNORE

DOCS = Path(__file__).parents[2] / "docs"
KINDS = sorted(p.parent.name for p in (DOCS / "own_data").glob("*/classes.yaml"))
SETTINGS = {"mask_suffix": {"mask_suffix": "_mask"}}
ODD = {
    "nearest_colours": ["lossy label file"],
    "three_equal_channels": ["ids in three channels"],
}
SHOWN = np.array([["road", "road", "car"], ["void", "person", "road"]])
"""In blocks of 8x8 pixels."""


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_mask_is_read_as_the_same_classes(kind: str) -> None:
    root = DOCS / "own_data" / kind
    files = folder(root, classes=root / "classes.yaml", **SETTINGS.get(kind, {}))
    names = dict(enumerate(files.labels.classes)) | {IGNORE: "void"}
    expected = SHOWN.repeat(8, axis=0).repeat(8, axis=1)
    if "background" in names.values():
        void = {"void"} if len(files.labels.classes) > 2 else set()
        others = set(SHOWN.flat) - set(files.labels.classes) - void
        expected = np.where(np.isin(expected, list(others)), "background", expected)
    label = files.label(0)
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(np.vectorize(names.get)(label), expected)
    assert files.image(0).shape == (*label.shape, 3)
    found = look(files, 0, with_labels=True)
    assert [finding.kind for finding in found.findings] == ODD.get(kind, [])


def test_the_page_lists_every_example() -> None:
    text = (DOCS / "own_data.md").read_text(encoding="utf-8")
    assert len(KINDS) >= 16
    assert all(f"[{kind}](own_data/{kind})" in text for kind in KINDS)
