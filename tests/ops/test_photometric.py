"""SSD's colours: against the standard library's HSV, and as often as they should come."""

import colorsys

import pytest
import torch

from sfseg.ops import photometric as module
from sfseg.ops.photometric import photometric, scale_saturation


def test_saturation_is_that_of_hsv() -> None:
    torch.manual_seed(0)
    image = torch.rand(3, 3, 4, 5, dtype=torch.float64)
    factor = torch.tensor([0.0, 0.6, 9.0], dtype=torch.float64)
    found = scale_saturation(image, factor)
    for b in range(3):
        for y in range(4):
            for x in range(5):
                hue, saturation, value = colorsys.rgb_to_hsv(*image[b, :, y, x].tolist())
                more = min(saturation * float(factor[b]), 1)
                expected = colorsys.hsv_to_rgb(hue, more, value)
                assert found[b, :, y, x].tolist() == pytest.approx(expected, abs=1e-9)


def test_grey_stays_grey_whatever_the_saturation() -> None:
    grey = torch.full((1, 3, 2, 2), 0.4)
    assert torch.equal(scale_saturation(grey, torch.tensor([1.5])), grey)
    assert not scale_saturation(torch.zeros(1, 3, 2, 2), torch.tensor([1.5])).any()


def test_values_stay_in_range_and_each_change_comes_to_half_of_the_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    image = torch.rand(400, 3, 2, 2)
    seen = photometric(image)
    assert bool((seen >= 0).all()) and bool((seen <= 1).all())
    # None of four changes comes to one image in sixteen.
    same = (seen - image).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert 0.03 < float(same.float().mean()) < 0.11
    hues = []
    monkeypatch.setattr(module, "shift_hue", lambda view, turns: hues.append(turns) or view)
    photometric(image)
    assert 0.4 < float((hues[0] != 0).float().mean()) < 0.6
    assert 0.09 < float(hues[0].abs().max()) <= 0.1


def test_images_change_by_themselves_and_padding_does_not() -> None:
    image = torch.rand(8, 3, 4, 4)
    valid = torch.zeros(8, 4, 4, dtype=torch.bool)
    valid[:, :2] = True
    torch.manual_seed(1)
    whole = photometric(image)
    torch.manual_seed(1)
    part = photometric(image, valid)
    assert torch.equal(part[:, :, 2:], image[:, :, 2:])
    assert torch.equal(part[:, :, :2], whole[:, :, :2])
    other = image.clone()
    other[3] = 0
    torch.manual_seed(1)
    others = photometric(other)
    kept = [k for k in range(8) if k != 3]
    assert torch.equal(others[kept], whole[kept])
