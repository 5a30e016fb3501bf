from itertools import chain, islice
from zlib import crc32

import numpy as np
import pytest

from sfseg.data.sampling import Contents, EndlessBatches, EvalSampler, Passes, Uniform, end_of_part


def endless(length, batch_size, *, seed=3, purpose="target", **options):
    passes = Passes(length, seed=seed, purpose=purpose)
    return EndlessBatches(lambda: passes, batch_size, **options)


def batches(length, batch_size, count, **options):
    return list(islice(endless(length, batch_size, **options), count))


def tickets(length, count, **options):
    return [batch[0] for batch in batches(length, 1, count, **options)]


@pytest.mark.parametrize("length", [1, 2, 10, 13])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 30])
def test_every_pass_shows_every_sample_once(length, batch_size):
    passes = 30
    found = list(chain(*batches(length, batch_size, -(-passes * length // batch_size))))
    for number in range(passes):
        part = found[number * length : (number + 1) * length]
        assert {ticket.pass_number for ticket in part} == {number}
        assert sorted(ticket.scene for ticket in part) == list(range(length))
        assert {ticket.wanted for ticket in part} == {None}


def test_passes_and_domains_and_seeds_are_shuffled_apart():
    def first_pass(**options):
        return [ticket.scene for ticket in tickets(50, 50, **options)]

    second = [ticket.scene for ticket in tickets(50, 100)[50:]]
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
    sampler = endless(7, 3)
    assert list(islice(sampler, 5)) == list(islice(sampler, 5))


def test_order_is_the_permutation_of_a_pass():
    passes = Passes(7, seed=0, purpose="x")
    for number, batch in enumerate(islice(EndlessBatches(lambda: passes, 7), 3)):
        rng = np.random.default_rng([0, number, 0, crc32(b"x/order")])
        assert batch == [(number, index, None) for index in rng.permutation(7)]


def test_uniform_makes_passes():
    order = Uniform().order(Contents(5), seed=1, purpose="source", focus=[2])
    passes = Passes(5, seed=1, purpose="source")
    assert [order(k) for k in range(12)] == [passes(k) for k in range(12)]


def test_tickets_are_plain_integers():
    assert {type(part) for ticket in tickets(5, 7) for part in ticket[:2]} == {int}


def test_an_iteration_ends_where_it_is_told_and_the_next_asks_anew():
    done, orders = [0], []

    def order():
        orders.append(Passes(7, seed=len(orders), purpose="x"))
        return orders[-1]

    sampler = EndlessBatches(order, 2, start=lambda: done[0], end={0: 3, 3: None}.get)
    first = list(sampler)
    done[0] = 3
    second = list(islice(sampler, 4))
    assert len(first) == 3 and len(orders) == 2
    for number, batch in enumerate(first + second):
        made = orders[number >= 3]
        assert batch == [made(2 * number), made(2 * number + 1)]


@pytest.mark.parametrize(
    ("parts", "steps", "adds_up"), [(1, 5, 1), (3, 10, 1), (4, 3, 1), (3, 7, 4)]
)
def test_parts_end_where_their_shares_of_the_steps_do(parts, steps, adds_up):
    bounds = sorted({k * steps // parts * adds_up for k in range(1, parts)} - {0})
    for start in range(steps * adds_up + 2):
        later = [bound for bound in bounds if bound > start]
        found = end_of_part(start, parts=parts, steps=steps, adds_up=adds_up)
        assert found == (later[0] if later else None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"rank": 2, "world_size": 2}, r"rank must be in \[0, 2\), got 2"),
        ({"rank": -1}, r"rank must be in \[0, 1\), got -1"),
    ],
)
def test_impossible_samplers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        endless(**{"length": 5, "batch_size": 2, **arguments})


def test_an_empty_set_has_no_passes():
    with pytest.raises(ValueError, match="length must be at least 1 sample, got 0"):
        Passes(0, seed=0, purpose="x")


@pytest.mark.parametrize("length", [0, 1, 2, 3, 5, 6, 7])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_shows_every_sample_once_over_all_ranks(length, world_size):
    samplers = [EvalSampler(length, rank=r, world_size=world_size) for r in range(world_size)]
    dealt = [list(sampler) for sampler in samplers]
    assert sorted(chain(*dealt)) == [(0, index, None) for index in range(length)]
    assert [len(sampler) for sampler in samplers] == [len(part) for part in dealt]
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    assert all(part == sorted(part) for part in dealt)
