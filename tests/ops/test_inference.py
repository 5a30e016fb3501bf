import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sfseg.ops.inference import Inference, infer, label_map, most_likely, resize, slide

SIZES = [(1, 1), (1, 7), (17, 33), (32, 64), (31, 20)]
# (size, window, stride): odd, larger than the image, touching, with a short last step.
WINDOWS = [
    ((17, 33), (8, 8), (5, 3)),
    ((17, 33), (8, 8), (8, 8)),
    ((17, 33), (16, 32), None),
    ((40, 50), (16, 24), None),
    ((17, 33), (5, 40), (2, 40)),
    ((17, 33), (1, 1), (1, 1)),
    ((16, 32), (16, 16), (16, 16)),
    ((1, 1), (8, 8), None),
    ((9, 9), (8, 8), (7, 1)),
]


def picture(size, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, *size, generator=generator)


def pointwise(image):
    """Logits of four classes, pixel by pixel: any window, any mirror image does equally well."""
    if image.dtype == torch.uint8:
        image = image.float() / 255
    return 4 * torch.cat([image, 1 - image[:, :1]], dim=1)


def placed(image):
    """Logits that depend on the place in the window, so that windows contradict each other."""
    rows = torch.arange(image.shape[-2]).view(-1, 1) / 10
    columns = torch.arange(image.shape[-1]) / 7
    return pointwise(image) + torch.stack([rows + columns, rows * 0 - columns] * 2)


def starts(length, window, step):
    """Every step from 0 until a window reaches the end; that one is pushed back inside."""
    found, start = [], 0
    while True:
        found.append(min(start, length - window))
        if start + window >= length:
            return found
        start += step


@pytest.mark.parametrize("size", SIZES)
def test_whole_images_give_the_networks_own_logits(size):
    image = picture(size)
    assert torch.equal(infer(placed, image), placed(image))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("extra", [(0, 0), (5, 0), (9, 100)])
def test_a_window_as_large_as_the_image_shows_it_whole(size, extra):
    window = (size[0] + extra[0], size[1] + extra[1])
    image = picture(size)
    torch.testing.assert_close(infer(placed, image, window=window), placed(image))
    torch.testing.assert_close(slide(placed, image, window, window), placed(image))


@pytest.mark.parametrize(("size", "window", "stride"), WINDOWS)
def test_windows_do_not_matter_to_a_pointwise_network(size, window, stride):
    image = picture(size)
    torch.testing.assert_close(
        infer(pointwise, image, window=window, stride=stride), pointwise(image)
    )


@pytest.mark.parametrize(("size", "window", "stride"), WINDOWS)
def test_logits_are_the_mean_over_windows(size, window, stride):
    image = picture(size, batch=1)
    tall, wide = min(window[0], size[0]), min(window[1], size[1])
    step = stride or (math.ceil(tall / 1.5), math.ceil(wide / 1.5))
    total, count = np.zeros((4, *size)), np.zeros(size)
    for top in starts(size[0], tall, step[0]):
        for left in starts(size[1], wide, step[1]):
            place = np.s_[..., top : top + tall, left : left + wide]
            total[place] += placed(image[place]).numpy()[0]
            count[place] += 1
    assert count.min() >= 1
    found = slide(placed, image, window, stride)[0]
    np.testing.assert_allclose(found, total / count, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(30))
def test_windows_have_their_size_stay_inside_and_leave_nothing_out(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 40, 2))
    window = tuple(int(n) for n in rng.integers(1, 30, 2))
    stride = tuple(int(rng.integers(1, side + 1)) for side in window)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows, columns, rows]).float()[None]
    seen = np.zeros((height, width), int)

    def look(view):
        assert view.shape[-2:] == (min(window[0], height), min(window[1], width))
        np.add.at(seen, tuple(view[0, :2].long().numpy()), 1)
        return view

    assert torch.equal(slide(look, image, window, stride), image)
    assert seen.min() >= 1


@pytest.mark.parametrize(("length", "calls"), [(10, 1), (12, 2), (15, 2), (16, 3), (30, 5)])
def test_windows_are_few(length, calls):
    seen = []
    slide(lambda view: seen.append(0) or view, picture((10, length)), (10, 10), (10, 5))
    assert len(seen) == calls


@pytest.mark.parametrize("options", [{"flip": True}, {"flip": True, "window": (8, 9)}])
@pytest.mark.parametrize("size", SIZES)
def test_a_network_that_mirrors_with_its_input_gains_nothing_from_flips(size, options):
    image = picture(size)
    found = infer(pointwise, image, **options).softmax(dim=1)
    torch.testing.assert_close(found, pointwise(image).softmax(dim=1))


def test_flips_are_averaged_as_probabilities():
    image = picture((5, 7))
    mirrored = placed(image.flip(-1)).flip(-1).softmax(1)
    expected = (placed(image).softmax(1) + mirrored) / 2
    torch.testing.assert_close(infer(placed, image, flip=True).softmax(1), expected)


@pytest.mark.parametrize("size", [(17, 33), (8, 8), (1, 5)])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("window", [None, (6, 10)])
def test_several_scales_by_hand(size, flip, window):
    image, scales = picture(size), (0.5, 1.0, 1.75)

    def network(view):
        return placed(view) if window is None else slide(placed, view, window)

    views = []
    for scale in scales:
        scaled = [max(1, round(side * scale)) for side in size]
        view = F.interpolate(image, scaled, mode="bilinear", align_corners=False)
        for mirror in (False, True)[: 1 + flip]:
            logits = network(view.flip(-1) if mirror else view)
            logits = logits.flip(-1) if mirror else logits
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
            views.append(logits.softmax(1))
    expected = torch.stack(views).mean(0)
    found = infer(placed, image, window=window, scales=scales, flip=flip)
    assert found.shape == (2, 4, *size)
    torch.testing.assert_close(found.softmax(1), expected)
    torch.testing.assert_close(found.exp(), expected)


def test_bytes_and_shares_of_255_give_the_same():
    image = torch.randint(256, (1, 3, 9, 11), dtype=torch.uint8)
    options = {"scales": [0.5, 1.0, 2.0], "flip": True}
    torch.testing.assert_close(
        infer(pointwise, image, **options), infer(pointwise, image / 255, **options)
    )


def test_certainty_stays_finite():
    image = picture((4, 4))
    found = infer(lambda view: (pointwise(view) - 2) * 1e4, image, flip=True)
    assert found.isfinite().all()
    torch.testing.assert_close(found.softmax(1).sum(1), torch.ones(2, 4, 4))


def test_half_precision_is_summed_in_single():
    image = picture((9, 9))
    found = infer(lambda view: placed(view).bfloat16(), image, window=(4, 4), stride=(1, 1))
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found,
        infer(lambda view: placed(view).bfloat16().float(), image, window=(4, 4), stride=(1, 1)),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": []}, r"positive factors, got \[\]"),
        ({"scales": [1.0, 0.0]}, r"positive factors, got \[1.0, 0.0\]"),
        ({"scales": [-1.0]}, r"got \[-1.0\]"),
        ({"stride": [2, 2]}, r"stride \[2, 2\] needs a window; set window"),
        ({"window": [4, 4], "stride": [5, 4]}, r"\[1, window \[4, 4\]\], got \[5, 4\]"),
        ({"window": [4, 4], "stride": [4, 5]}, r"got \[4, 5\]"),
        ({"window": [4, 4], "stride": [0, 4]}, r"got \[0, 4\]"),
        ({"window": [0, 4]}, r"window must be .* got \[0, 4\]"),
    ],
)
def test_impossible_protocols_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Inference(**options)


@pytest.mark.parametrize(
    "options",
    [{}, {"window": [4, 6], "stride": [2, 3]}, {"scales": [0.5, 1.0], "flip": True}],
)
def test_a_protocol_is_infer_with_its_settings(options):
    image = picture((9, 11))
    assert torch.equal(Inference(**options)(placed, image), infer(placed, image, **options))


def test_resize_to_the_same_size_is_no_copy():
    logits = picture((5, 6))
    assert resize(logits, (5, 6)) is logits


@pytest.mark.parametrize("size", [(5, 6), (10, 12), (3, 2), (1, 1)])
def test_a_label_map_is_the_largest_interpolated_logit(size):
    logits = picture((5, 6))
    resized = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    found = label_map(logits, size)
    assert (found.dtype, found.shape) == (torch.uint8, (2, *size))
    np.testing.assert_array_equal(found, resized.numpy().argmax(axis=1))


@pytest.mark.parametrize("best", [0, 127, 128, 253])
def test_a_label_map_holds_any_id(best):
    logits = torch.zeros(1, 254, 2, 2)
    logits[:, best] = 1
    assert (label_map(logits, (2, 2)) == best).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 19, 6, 8), (1, 3), (3, 5, 7)])
def test_the_most_likely_class_is_the_first_of_the_largest(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    # Few values, so that many are equal.
    scores = torch.randint(3, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = most_likely(scores)
    assert np.array_equal(found.numpy(), scores.float().numpy().argmax(axis=1))
