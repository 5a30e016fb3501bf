import itertools
import zlib

import numpy as np
import pytest

from sfseg.randomness import generator, key, seed32

BASE = (7, 3, 11, "target/geometry")
OTHERS = [
    (8, 3, 11, "target/geometry"),
    (7, 4, 11, "target/geometry"),
    (7, 3, 12, "target/geometry"),
    (7, 3, 11, "source/geometry"),
    (3, 7, 11, "target/geometry"),
    (7, 11, 3, "target/geometry"),
]


def test_a_generator_is_numpys_own_for_the_four_words():
    words = (7, 3, 11, zlib.crc32(b"target/geometry"))
    assert key(*BASE) == words
    expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))
    np.testing.assert_array_equal(generator(*BASE).random(9), expected.random(9))


@pytest.mark.parametrize("other", OTHERS)
def test_every_part_of_the_key_counts(other):
    assert seed32(*other) != seed32(*BASE)
    assert (generator(*other).random(9) != generator(*BASE).random(9)).all()


def test_draws_do_not_depend_on_what_was_drawn_before():
    expected = generator(*BASE).random(5)
    for other in OTHERS:
        generator(*other).random(100)
    np.testing.assert_array_equal(generator(*BASE).random(5), expected)


def test_seeds_of_a_run_fit_32_bits_and_do_not_repeat():
    purposes = ("source/colour", "target/colour")
    seeds = [seed32(0, *k) for k in itertools.product(range(3), range(200), purposes)]
    assert all(0 <= seed < 1 << 32 for seed in seeds)
    assert len(set(seeds)) == len(seeds)


def test_neighbours_are_uncorrelated():
    first = np.array([generator(0, 0, index, "x").random() for index in range(2000)])
    assert abs(first.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.08


def test_seeds_are_the_same_on_every_machine_and_release():
    assert seed32(0, 0, 0, "source/colour") == 2345289388
    assert seed32(1 << 40, 5, 1234, "target/order") == 1362346869


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**40])
def test_any_seed_that_lightning_takes_is_taken(seed):
    assert 0 <= generator(seed, 0, 0, "x").random() < 1
