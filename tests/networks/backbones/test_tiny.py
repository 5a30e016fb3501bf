import pytest
import torch

from sfseg.networks.backbones.tiny import TinyTransformer


def small(**options: object) -> TinyTransformer:
    torch.manual_seed(0)
    return TinyTransformer(channels=(32, 32, 64, 64), depths=(1, 1, 1, 1), **options)


def test_every_parameter_trains() -> None:
    network = small()
    sum(feature.square().mean() for feature in network(torch.rand(2, 3, 64, 96))).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_maps_that_the_pooling_squares_do_not_divide_work() -> None:
    maps = small()(torch.rand(1, 3, 36, 52))
    assert [tuple(feature.shape[-2:]) for feature in maps] == [(9, 13), (5, 7), (3, 4), (2, 2)]


def test_stages_can_be_run_one_by_one() -> None:
    network = small()
    x = image = torch.rand(1, 3, 36, 52)
    for stage, feature in enumerate(network(image)):
        x = network.run(stage, network.embed(stage, x))
        assert torch.equal(network.finish(stage, x), feature)


def test_checkpointing_changes_no_gradient() -> None:
    image = torch.rand(2, 3, 32, 64)
    gradients = []
    for recompute in (False, True):
        network = small(gradient_checkpointing=recompute)
        network(image)[-1].square().sum().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    torch.testing.assert_close(*gradients)


def test_drop_path_grows_with_depth() -> None:
    network = TinyTransformer(depths=(1, 1, 2, 1), drop_path_rate=0.4)
    rates = [block.drop_path.probability for stage in network.stages for block in stage]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_stages_must_be_described_completely() -> None:
    with pytest.raises(ValueError, match="one entry per stage, got 4, 2 and 4"):
        TinyTransformer(depths=(1, 1))


def test_widths_must_be_whole_heads() -> None:
    with pytest.raises(ValueError, match=r"multiples of head_dim=32, got \(32, 48, 64, 96\)"):
        TinyTransformer(channels=(32, 48, 64, 96))
