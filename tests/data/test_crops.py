import logging

import numpy as np
import pytest
from make import Memory, picture

from sfseg.data.crops import fitted_crop, fitted_view
from sfseg.data.geometry import View, shown_share
from sfseg.errors import ConfigError, DataError


def scenes(*sizes):
    return Memory([np.zeros((*size, 3), np.uint8) for size in sizes])


@pytest.mark.parametrize(
    ("sizes", "resize", "crop"),
    [
        ([(128, 256)] * 4, None, (128, 256)),
        ([(600, 800)], None, (512, 512)),
        ([(400, 2000)], None, (400, 512)),
        # A few tiny or huge pictures do not decide.
        ([(128, 256)] * 4 + [(5, 7), (4000, 6000)], None, (128, 256)),
        ([(48, 64), (64, 48)], None, (48, 48)),
        ([(1052, 1914)], (100, 200), (100, 200)),
        ([], None, (512, 512)),
    ],
)
def test_a_crop_is_at_most_what_most_pictures_fill(sizes, resize, crop):
    assert fitted_crop(scenes(*sizes), resize) == crop


def test_a_picture_that_cannot_be_read_does_not_count():
    class Broken(Memory):
        def size(self, index):
            if index == 0:
                raise DataError("broken")
            return super().size(index)

    found = Broken([picture(k, (20, 30)) for k in range(3)])
    assert fitted_crop(found, None) == (20, 30)
    assert fitted_crop(scenes((9, 9), (20, 30)), None, left_out={0}) == (20, 30)


def test_what_is_given_stays_and_what_is_not_follows(caplog):
    found = scenes(*[(128, 256)] * 3)
    view = View(crop=None, ratio=(0.5, 2.0))
    assert fitted_view(view, found, "source").crop == (128, 256)
    assert not caplog.records
    assert fitted_view(View(crop=(100, 100)), found, "source") == View(crop=(100, 100))
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "key"), [("source", "source_view.crop"), ("target", "target_crop")]
)
def test_a_crop_that_is_mostly_padding_is_said(caplog, name, key):
    view = View(crop=(512, 512), ratio=(0.5, 2.0))
    with caplog.at_level(logging.WARNING):
        assert fitted_view(view, scenes((128, 256)), name) == view
    (line,) = caplog.messages
    assert line.startswith(f"{name}: crops of 512x512 pixels (width x height) are larger")
    assert f"data.{key}=[128,256]" in line


@pytest.mark.parametrize(
    ("resize", "said"),
    [((64, 128), "2.0 times wider"), ((128, 64), "2.0 times narrower"), ((64, 90), ""), (None, "")],
)
def test_pictures_that_resizing_squeezes_are_said(caplog, resize, said):
    with caplog.at_level(logging.WARNING):
        fitted_view(View(crop=(32, 32), resize=resize), scenes((64, 64)), "target")
    assert bool(caplog.messages) == bool(said)
    for line in caplog.messages:
        assert said in line and "one of 64x64 are resized to" in line
        assert line.endswith("data.target_view.resize=null keeps their own size")


def test_the_share_that_a_picture_fills():
    assert shown_share(View(crop=(512, 512)), (128, 256)) == 1 / 8
    assert shown_share(View(crop=(64, 64), resize=(32, 128)), (999, 999)) == 1 / 2
    assert shown_share(View(crop=(8, 8), ratio=(1.0, 2.0)), (8, 8)) == 1


def test_no_view_is_refused():
    with pytest.raises(
        ConfigError, match=r"data.target_view must be a view, got .*target_view.crop"
    ):
        fitted_view({"crop": [1, 1]}, scenes((8, 8)), "target")


def test_a_view_says_what_it_draws():
    assert str(View(crop=(128, 256))) == "crops of 256x128 from pictures at their own size"
    view = View(crop=(512, 512), resize=(720, 1280), ratio=(0.5, 2.0))
    assert str(view) == "crops of 512x512 from pictures at 0.5 to 2 times 1280x720"
