from itertools import chain, islice

import pytest

from sfseg.data.sampling import EndlessBatches, EvalSampler


def batches(length, batch_size, count, **options):
    options = {"seed": 3, "purpose": "target", **options}
    return list(islice(EndlessBatches(length, batch_size, **options), count))


def tickets(length, count, **options):
    return [batch[0] for batch in batches(length, 1, count, **options)]


@pytest.mark.parametrize("length", [1, 2, 10, 13])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 30])
def test_every_pass_shows_every_sample_once(length, batch_size):
    passes = 30
    found = list(chain(*batches(length, batch_size, -(-passes * length // batch_size))))
    for number in range(passes):
        part = found[number * length : (number + 1) * length]
        assert {pass_number for pass_number, _ in part} == {number}
        assert sorted(index for _, index in part) == list(range(length))


def test_passes_and_domains_and_seeds_are_shuffled_apart():
    def first_pass(**options):
        return [index for _, index in tickets(50, 50, **options)]

    second = [index for _, index in tickets(50, 100)[50:]]
    orders = [first_pass(), second, first_pass(seed=4), first_pass(purpose="source")]
    orders.append(list(range(50)))
    assert len({tuple(order) for order in orders}) == len(orders)


@pytest.mark.parametrize("length", [5, 8, 13])
@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_ranks_share_what_one_would_do_alone(length, world_size):
    alone = batches(length, 8, 9)
    size = 8 // world_size
    ranks = [
        batches(length, size, 9, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    assert [list(chain(*step)) for step in zip(*ranks, strict=True)] == alone


@pytest.mark.parametrize("start", [0, 1, 3, 7, 1000])
@pytest.mark.parametrize("rank", [0, 1])
def test_starting_later_skips_batches(start, rank):
    options = {"rank": rank, "world_size": 2}
    expected = batches(7, 3, start + 5, **options)[start:]
    assert batches(7, 3, 5, start=lambda: start, **options) == expected


def test_iterating_again_starts_again():
    sampler = EndlessBatches(7, 3, seed=0, purpose="x")
    assert list(islice(sampler, 5)) == list(islice(sampler, 5))


def test_order_is_the_permutation_of_a_pass():
    sampler = EndlessBatches(7, 7, seed=0, purpose="x")
    for number, batch in enumerate(islice(sampler, 3)):
        assert batch == [(number, index) for index in sampler.order(number)]


def test_tickets_are_plain_integers():
    assert {type(part) for ticket in tickets(5, 7) for part in ticket} == {int}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "length must be at least 1 sample, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"rank": 2, "world_size": 2}, r"rank must be in \[0, 2\), got 2"),
        ({"rank": -1}, r"rank must be in \[0, 1\), got -1"),
    ],
)
def test_impossible_samplers_are_refused(arguments, message):
    values = {"length": 5, "batch_size": 2, "seed": 0, "purpose": "x", **arguments}
    with pytest.raises(ValueError, match=message):
        EndlessBatches(**values)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 5, 6, 7])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_shows_every_sample_once_over_all_ranks(length, world_size):
    samplers = [EvalSampler(length, rank=r, world_size=world_size) for r in range(world_size)]
    dealt = [list(sampler) for sampler in samplers]
    assert sorted(chain(*dealt)) == [(0, index) for index in range(length)]
    assert [len(sampler) for sampler in samplers] == [len(part) for part in dealt]
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    assert all(part == sorted(part) for part in dealt)
