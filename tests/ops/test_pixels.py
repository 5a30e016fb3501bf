import torch

from sfseg.ops.pixels import at_positions, enqueue, random_positions

CPU = torch.device("cpu")


def test_positions_differ_within_an_image_and_between_images():
    torch.manual_seed(0)
    places = random_positions(3, 50, count=20, device=CPU)
    assert places.shape == (3, 20) and int(places.min()) >= 0 and int(places.max()) < 50
    assert all(len(set(own.tolist())) == 20 for own in places)
    assert not torch.equal(places[0], places[1])


def test_a_small_image_gives_all_it_has():
    places = random_positions(2, 6, count=20, device=CPU)
    assert torch.equal(places.sort(dim=1).values, torch.arange(6).expand(2, -1))


def test_every_position_is_drawn_as_often():
    torch.manual_seed(0)
    drawn = random_positions(4000, 8, count=2, device=CPU).flatten().bincount(minlength=8)
    assert int((drawn - 1000).abs().max()) < 150


def test_vectors_of_positions():
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([[0, 7], [19, 7]])
    vectors = at_positions(maps, places)
    for image in range(2):
        for k, place in enumerate(places[image].tolist()):
            assert torch.equal(vectors[image, k], maps[image, :, place // 5, place % 5])


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
