"""A segmenter with auxiliary decoders: what they see, and what stays as it was."""

from functools import partial

import pytest
import torch
from torch import Tensor

from sfseg.networks.backbones.tiny import TinyTransformer
from sfseg.networks.heads.auxiliary_decoders import AuxiliarySegmenter, with_auxiliary_decoders
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.heads.fcn import FCN8sHead
from sfseg.networks.segmenter import Segmenter

HEAD = partial(DAFormerHead, channels=8, dilations=(1, 2))


def tiny(**options: object) -> Segmenter:
    torch.manual_seed(0)
    backbone = TinyTransformer(channels=(32, 32, 32, 32), depths=(1, 1, 1, 1))
    return Segmenter(backbone, HEAD(backbone.channels, 5), **options)


def image(height: int = 64, width: int = 96) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(64, 96), (33, 70)])
def test_it_is_the_segmenter_that_it_was(size: tuple[int, int]) -> None:
    plain = tiny(mean=(0.1, 0.2, 0.3), align_corners=True).eval()
    expected, before = plain(image(*size)), set(plain.state_dict())
    network = with_auxiliary_decoders(plain, decoders=2)
    assert torch.equal(network(image(*size)), expected) and not network.training
    assert set(network.state_dict()) == before | {
        f"auxiliary_decoders.{k}.{name}" for k in range(2) for name in before if name[:5] == "head."
    }
    logits, others = network.forward_auxiliary(image(*size))
    assert torch.equal(logits, expected) and [x.shape for x in others] == [expected.shape] * 2


def test_in_evaluation_decoders_see_the_maps_as_they_are() -> None:
    network = with_auxiliary_decoders(tiny(), decoders=2).eval()
    for decoder, logits in zip(
        network.auxiliary_decoders, network.forward_auxiliary(image())[1], strict=True
    ):
        assert torch.equal(logits, Segmenter(network.backbone, decoder.head).eval()(image()))


def test_in_training_each_drops_half_of_the_channels_of_every_map() -> None:
    network = with_auxiliary_decoders(tiny(), decoders=3).train()
    seen: list[list[Tensor]] = []
    for decoder in network.auxiliary_decoders:
        decoder.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network.forward_auxiliary(image())
    *perturbed, maps = seen
    gone = []
    for inputs in perturbed:
        for dropped, whole in zip(inputs, maps, strict=True):
            lost = (dropped == 0).flatten(2).all(dim=2)  # (B, C)
            torch.testing.assert_close(dropped, 2 * whole * ~lost[..., None, None])
            gone.append(lost)
    shares = [float(torch.stack(gone[4 * k : 4 * k + 4]).float().mean()) for k in range(3)]
    assert shares == pytest.approx([0.5] * 3, abs=0.1)
    assert not torch.equal(gone[0], gone[4])


def test_decoders_start_from_weights_of_their_own_and_train_behind_a_frozen_head() -> None:
    plain = tiny()
    plain.freeze("head")
    network = with_auxiliary_decoders(plain)
    starts = [d.head.classifier.weight for d in network.auxiliary_decoders]
    every = [plain.head.classifier.weight, *starts]
    assert len(starts) == 4 and all(start.requires_grad for start in starts)
    assert not any(torch.equal(a, b) for k, a in enumerate(every) for b in every[:k])
    assert not network.train().head.training and network.auxiliary_decoders[0].head.training


def test_a_compiled_network_stays_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def compiled(call: object, **options: object) -> object:
        asked.append(options)
        return call

    monkeypatch.setattr(torch, "compile", compiled)
    plain = tiny()
    plain.compile(dynamic=False)
    network = with_auxiliary_decoders(plain)
    assert asked == [{"dynamic": False}] * 2 and isinstance(network, AuxiliarySegmenter)
    assert len(network.forward_auxiliary(image())[1]) == 4


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="decoders must be at least 1, got 0"):
        with_auxiliary_decoders(tiny(), decoders=0)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
        with_auxiliary_decoders(tiny(), dropout=1.0)
    backbone = TinyTransformer(channels=(32, 32, 32, 32), depths=(1, 1, 1, 1))
    with torch.device("meta"):
        head = FCN8sHead((64, 128, 256, 512, 512, 512), 5)
    with pytest.raises(ValueError, match=r"head must be one that starts .* got FCN8sHead; choose"):
        with_auxiliary_decoders(Segmenter(backbone, head))
