"""Decoders that see perturbed features, to tell how sure a network is of them (URMA)."""

from typing import Any, cast

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sfseg.networks.heads.multi_head import ExtendedSegmenter, drawn_anew
from sfseg.networks.segmenter import Segmenter


class AuxiliaryDecoder(nn.Module):
    """A decoder behind a dropout of whole channels of every map.

    Args:
        head: maps to logits.
        dropout: probability that a channel is dropped in training.
    """

    def __init__(self, head: nn.Module, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.head = head

    def forward(self, maps: list[Tensor]) -> Float[Tensor, "B K h w"]:
        """Logits of any smaller size than the image's."""
        logits: Tensor = self.head([self.dropout(features) for features in maps])
        return logits


class AuxiliarySegmenter(ExtendedSegmenter):
    """A segmenter whose maps are also seen by auxiliary decoders (Sivaprasad and Fleuret, 2021).

    Called with an image alone, as in evaluation, it is the segmenter it was made from.

    Args:
        network: gives its parts, which both then share.
        decoders: how many are added: heads like its own, whose weights are drawn anew.
        dropout: probability that a channel is dropped before each of them.

    Raises:
        ValueError: no decoder, a probability outside [0, 1), or the own head starts from
            pretrained layers.
    """

    auxiliary_decoders: nn.ModuleList

    def __init__(self, network: Segmenter, *, decoders: int, dropout: float) -> None:
        if decoders < 1:
            raise ValueError(f"decoders must be at least 1, got {decoders}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        drawn = nn.ModuleList(
            AuxiliaryDecoder(drawn_anew(network.head).requires_grad_(), dropout)
            for _ in range(decoders)
        )
        super().__init__(network, auxiliary_decoders=drawn)

    def forward(
        self, image: Shaped[Tensor, "B 3 H W"], *, auxiliary: bool = False, **options: Any
    ) -> Any:
        """Logits of the own head, or with ``auxiliary`` as :meth:`forward_auxiliary`."""
        if not auxiliary:
            return super().forward(image, **options)
        maps = self.features(image)
        others = [self.enlarge(decoder(maps), image) for decoder in self.auxiliary_decoders]
        return self.enlarge(self.head(maps), image), others

    def forward_auxiliary(
        self, image: Shaped[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B K H W"], list[Float[Tensor, "B K H W"]]]:
        """Logits of the own head and of each auxiliary decoder, at the size of the image."""
        # Called, not `forward`ed, so that hooks and a compiled network are not passed by.
        return cast(tuple[Tensor, list[Tensor]], self(image, auxiliary=True))


def with_auxiliary_decoders(
    network: Segmenter, *, decoders: int = 4, dropout: float = 0.5
) -> AuxiliarySegmenter:
    """The segmenter with auxiliary decoders; see :class:`AuxiliarySegmenter`.

    Tensors of the decoders are named ``auxiliary_decoders.<number>.*``, all others keep their
    names.
    """
    return AuxiliarySegmenter(network, decoders=decoders, dropout=dropout)
