"""Rare classes and soft balance against their formulas, written as loops."""

import logging
import math
from collections import Counter

import numpy as np
import pytest
from make import Memory, picture

from sfseg.data.balanced_sampling import RareClass, SoftBalance, class_chances
from sfseg.data.folder import FolderDataset, Ticket, Wanted
from sfseg.data.geometry import View
from sfseg.data.sampling import Contents
from sfseg.errors import ConfigError
from sfseg.types import IGNORE

NAMES = ("road", "car", "bike", "train")
COUNTS = np.array(
    [[9000, 900, 0, 0], [8000, 0, 40, 0], [9000, 10, 0, 0], [5000, 4000, 400, 0], [0, 0, 0, 0]]
)
CONTENTS = Contents(len(COUNTS), NAMES, COUNTS)


def order(sampler, contents=CONTENTS, seed=3, focus=None):
    return sampler.order(contents, seed=seed, purpose="source", focus=focus)


def drawn(sampler, count, **options):
    made = order(sampler, **options)
    return [made(position) for position in range(count)]


def naive_soft_balance(counts, chosen, lambda_, alpha, mu, normalise):
    """phat of every image, by section 3 of UPLR's slides."""
    total = [sum(int(row[c]) for row in counts) for c in range(counts.shape[1])]
    present = [c for c, pixels in enumerate(total) if pixels]
    sum_of_all = sum(total[c] ** lambda_ for c in present)
    p_class = {c: total[c] ** lambda_ / sum_of_all / total[c] for c in present}
    scores = []
    for row in counts:
        inside = [c for c in chosen if row[c] > 0]
        whole = sum(int(row[c]) ** lambda_ for c in inside)
        scores.append(sum(int(row[c]) ** lambda_ / whole * p_class[c] for c in inside))
    scale = {"max": max(scores), "mean": sum(scores) / len(scores), "none": 1}[normalise] or 1
    return [0.1 + 1 / (1 + math.exp(-alpha * (p / scale - mu))) for p in scores]


@pytest.mark.parametrize("normalise", ["max", "mean", "none"])
@pytest.mark.parametrize("lambda_", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("chosen", [(0, 1, 2, 3), (2,), (2, 1)])
def test_weights_are_those_of_the_formula(normalise, lambda_, chosen):
    sampler = SoftBalance(lambda_=lambda_, normalise=normalise)
    expected = naive_soft_balance(COUNTS, chosen, lambda_, 10, 0.2, normalise)
    weights = sampler.weights(sampler.scores(COUNTS, chosen))
    np.testing.assert_allclose(weights, expected, rtol=1e-12)
    chances = order(sampler, focus=chosen).chances
    np.testing.assert_allclose(chances, np.divide(expected, sum(expected)), rtol=1e-12)


def test_images_come_as_often_as_they_weigh():
    sampler, count = SoftBalance(), 5000
    expected = naive_soft_balance(COUNTS, range(4), 0.5, 10, 0.2, "max")
    found = Counter(ticket.scene for ticket in drawn(sampler, count))
    for index, weight in enumerate(expected):
        chance = weight / sum(expected)
        deviation = math.sqrt(chance * (1 - chance) / count)
        assert abs(found[index] / count - chance) < 5 * deviation


def test_an_image_of_a_rare_class_comes_more_often():
    counts = np.tile([10000, 0, 0, 0], (50, 1))
    counts[7, 2] = 100
    contents = Contents(50, NAMES, counts)
    chances = order(SoftBalance(lambda_=0), contents).chances
    assert chances[7] > 1.5 * chances[0]
    first = order(SoftBalance(k=1), contents, focus=[2, 0]).chances
    assert first[7] == first.max() > 3 * first[0]


def test_a_draw_is_a_function_of_seed_and_position():
    for sampler in (SoftBalance(), RareClass(min_pixels=30)):
        whole = drawn(sampler, 40)
        made = order(sampler)
        assert [made(position) for position in reversed(range(40))] == whole[::-1]
        assert [ticket.pass_number for ticket in whole] == list(range(40))
        assert {type(part) for ticket in whole for part in ticket[:2]} == {int}
        assert whole != drawn(sampler, 40, seed=4)


def test_the_printed_formula_warns_with_its_spread(caplog):
    order(SoftBalance(normalise="none"))
    assert "source: the weights of images differ by" in caplog.text
    assert "are drawn all alike; data.sampler.normalise=max rescales their scores" in caplog.text
    caplog.clear()
    order(SoftBalance())
    assert "differ by" not in caplog.text
    order(SoftBalance(alpha=0))
    assert "differ by 0 in all (0.6 to 0.6)" in caplog.text


def test_classes_that_no_image_contains_are_named_and_do_not_count(caplog):
    made = order(SoftBalance(k=1), focus=[3, 2])
    assert "source: no image contains train, which take no part" in caplog.text
    np.testing.assert_array_equal(made.chances, order(SoftBalance(k=1), focus=[2]).chances)
    np.testing.assert_array_equal(made.chances, order(SoftBalance(classes=["bike"])).chances)
    # Nothing that could be preferred: all alike.
    assert len(set(order(SoftBalance(), focus=[3]).chances)) == 1


def test_all_classes_count_until_some_are_named(caplog):
    with caplog.at_level(logging.INFO):
        every = order(SoftBalance(k=2)).chances
        some = order(SoftBalance(k=2), focus=[1, 2, 0]).chances
    np.testing.assert_array_equal(every, order(SoftBalance()).chances)
    np.testing.assert_array_equal(some, order(SoftBalance(classes=NAMES[1:3])).chances)
    assert "source: images with these are preferred: car, bike" in caplog.text


@pytest.mark.parametrize("sampler", [SoftBalance(), RareClass(min_pixels=30)])
def test_scenes_that_are_left_out_are_not_drawn(sampler):
    counts = COUNTS.copy()
    counts[3] = 0
    contents = Contents(len(counts), NAMES, counts, frozenset([3]))
    assert 3 not in {ticket.scene for ticket in drawn(sampler, 500, contents=contents)}


def test_rare_classes_come_by_a_softmax_of_their_shares():
    sampler, count = RareClass(temperature=0.1, min_pixels=30), 5000
    total = COUNTS.sum(axis=0)
    powers = [math.exp((1 - total[c] / total.sum()) / 0.1) for c in range(3)]
    found = drawn(sampler, count)
    for c in range(3):
        chance = powers[c] / sum(powers)
        images = [k for k, row in enumerate(COUNTS) if row[c] > 30]
        mine = Counter(ticket.scene for ticket in found if ticket.wanted.class_id == c)
        deviation = math.sqrt(chance * (1 - chance) / count)
        assert abs(mine.total() / count - chance) < 5 * deviation
        assert set(mine) <= set(images)
        for index in images:
            share = 1 / len(images)
            assert abs(mine[index] / mine.total() - share) < 5 * math.sqrt(share / mine.total())
    assert {ticket.wanted[1:] for ticket in found} == {(15.0, 10)}


def test_without_bounds_all_classes_come_equally_often():
    np.testing.assert_array_equal(class_chances(np.array([0.9, 0.1, 0.0]), math.inf), [1 / 3] * 3)
    assert class_chances(np.array([0.9, 0.1, 0.0]), 1e-9).tolist() == [0, 0, 1]


def test_a_class_of_few_pixels_takes_no_part(caplog):
    made = order(RareClass(min_pixels=500))
    assert made.classes.tolist() == [0, 1]
    assert "more than data.sampler.min_pixels=500 pixels of bike, which are not" in caplog.text
    assert "no image contains train" in caplog.text
    with pytest.raises(ConfigError, match=r"min_pixels=9000 leaves no image.*of a class are 9000"):
        order(RareClass(min_pixels=9000))


def test_crops_are_drawn_again_until_they_show_the_class():
    label = np.zeros((40, 40), np.uint8)
    label[:12, :12] = 1
    label[20:] = IGNORE
    samples = FolderDataset(
        Memory([picture(0, (40, 40))], [label]), view=View((8, 8)), seed=1, purpose="source"
    )
    first = [samples[number, 0] for number in range(60)]

    def shown(redraws, pixels=30):
        wanted = Wanted(1, pixels, redraws)
        return [samples[Ticket(number, 0, wanted)] for number in range(60)]

    def pixels(found):
        return [int((sample["label"] == 1).sum()) for sample in found]

    assert pixels(shown(0)) == pixels(first)
    assert pixels(shown(9, pixels=-1)) == pixels(first)
    often = pixels(shown(400))
    assert min(often) > 30
    some = pixels(shown(10))
    assert sum(p > 30 for p in pixels(first)) < sum(p > 30 for p in some) < 60
    # A crop that shows enough at once stays as it was.
    kept = [a == b for a, b in zip(pixels(first), some, strict=True) if a > 30]
    assert kept and all(kept)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoftBalance(normalise="sum"), "normalise must be one of max, mean, none"),
        (lambda: SoftBalance(lambda_=1.5), r"lambda_ must be in \[0, 1\], got 1.5"),
        (lambda: SoftBalance(alpha=-1), "alpha must be finite and not negative"),
        (lambda: SoftBalance(k=0), "k must be at least 1, got 0"),
        (lambda: RareClass(temperature=0), "temperature must be positive, got 0"),
        (lambda: RareClass(temperature=".inf"), "without bounds it is inf on the command line"),
        (lambda: RareClass(redraws=-1), "redraws must be at least 0, got -1"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_settings_of_other_classes_are_refused():
    with pytest.raises(ConfigError, match=r"data\.sampler\.k=5 is more than the 4 classes"):
        order(SoftBalance(k=5))
    with pytest.raises(ConfigError, match=r"sampler\.classes=tram is none of road, car"):
        order(SoftBalance(classes=["car", "tram"]))
