import torch

from sfseg.ops.pixels import at_positions, enqueue, random_positions


def maps(batch, *size):
    return torch.zeros(batch, 1, *size)


def test_positions_differ_within_an_image_and_between_images():
    torch.manual_seed(0)
    places = random_positions(maps(3, 5, 10), count=20)
    assert places.shape == (3, 20) and int(places.min()) >= 0 and int(places.max()) < 50
    assert all(len(set(own.tolist())) == 20 for own in places)
    assert not torch.equal(places[0], places[1])


def test_a_small_image_gives_all_it_has():
    places = random_positions(maps(2, 2, 3), count=20)
    assert torch.equal(places.sort(dim=1).values, torch.arange(6).expand(2, -1))


def test_every_position_is_drawn_as_often():
    torch.manual_seed(0)
    drawn = random_positions(maps(4000, 2, 4), count=2).flatten().bincount(minlength=8)
    assert int((drawn - 1000).abs().max()) < 150


def test_no_position_is_drawn_that_is_not_valid():
    valid = torch.rand(5, 4, 6, generator=torch.Generator().manual_seed(0)) < 0.6
    fewest = int(valid.sum(dim=(1, 2)).min())
    torch.manual_seed(0)
    for count in (3, 24):
        places = random_positions(maps(5, 4, 6), count=count, valid=valid)
        assert places.shape == (5, min(count, fewest))
        assert valid.flatten(1).gather(1, places).all()
    torch.manual_seed(0)
    everywhere = random_positions(maps(5, 4, 6), count=3, valid=torch.ones_like(valid))
    torch.manual_seed(0)
    assert torch.equal(everywhere, random_positions(maps(5, 4, 6), count=3))


def test_vectors_of_positions():
    values = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([[0, 7], [19, 7]])
    vectors = at_positions(values, places)
    for image in range(2):
        for k, place in enumerate(places[image].tolist()):
            assert torch.equal(vectors[image, k], values[image, :, place // 5, place % 5])


def test_a_queue_holds_the_latest() -> None:
    queue, queued, put = torch.zeros(5, 2), torch.tensor(0), []
    for k in range(4):
        fresh = torch.full((2, 2), float(k + 1)) + torch.tensor([[0.0], [0.5]])
        put = [*fresh.tolist(), *put]
        enqueue(queue, queued, fresh)
        assert int(queued) == min(len(put), 5)
        assert queue[: int(queued)].tolist() == put[:5]
    enqueue(queue, queued, torch.arange(14.0).view(7, 2))
    assert queue.tolist() == torch.arange(10.0).view(5, 2).tolist()
    empty = torch.zeros(0, 2)
    enqueue(empty, queued, torch.ones(2, 2))
    assert int(queued) == 0
