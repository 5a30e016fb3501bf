"""What methods share that train on labels of the source: heads, and their cross-entropy."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Unpack, cast

from torch import Tensor

from sfseg.checks import require_options, require_weights
from sfseg.methods.base import Method, Shared
from sfseg.methods.two_resolutions import seen_in_training, with_detail
from sfseg.networks.adapters.two_resolutions import Detail
from sfseg.networks.norm_of_pictures import statistics_of_pictures
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.losses import Normalize, cross_entropy
from sfseg.ops.padding import of_pictures, valid_pixels
from sfseg.types import Batch


class Look(NamedTuple):
    """What a network says of the images of a domain.

    levels: logits (B, K, H, W) of the head and, where there is one, of the auxiliary head.
    valid: (B, H, W), their pixels that belong to pictures; None: all do.
    detail: of a window, where the network is one of two resolutions.
    """

    levels: tuple[Tensor, ...]
    valid: Tensor | None
    detail: Detail | None = None

    def detached(self) -> "Look":
        """The same logits of whole images, through which no gradient passes."""
        return Look(tuple(logits.detach() for logits in self.levels), self.valid)


class SharedSupervised(Shared, total=False):
    """Constructor arguments of :class:`Supervised`."""

    normalize: Normalize
    aux_weight: float


class Supervised(Method):
    """Base of methods that learn from labels, with one head or two.

    Args:
        normalize: see :func:`sfseg.ops.losses.cross_entropy`.
        aux_weight: weight of the same loss on the network's auxiliary head; 0.1 in AdaptSegNet.
        **shared: see :class:`Shared`.

    Raises:
        ValueError: an unknown way to normalise, or a weight that does not go with the network.
    """

    def __init__(
        self,
        *,
        normalize: Normalize = "valid",
        aux_weight: float = 0.0,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        require_options(normalize=(normalize, Normalize))
        require_weights(aux_weight=aux_weight)
        if bool(aux_weight) != (getattr(self.network, "aux_head", None) is not None):
            raise ValueError(
                f"aux_weight must be positive where the network has an auxiliary head and 0 where "
                f"it has none, got {aux_weight}; set method.aux_weight or backbone.aux"
            )
        self.aux_weight = aux_weight
        self.normalize: Normalize = normalize

    def look_at(self, images: Batch) -> Look:
        """Logits of every head, of images of one domain: in a forward pass of their own.

        Batch normalisation then takes the statistics of one domain alone.
        """
        network, valid = cast(Segmenter, self.network), valid_pixels(images)
        if not self.aux_weight:
            logits, _, detail = seen_in_training(network, images["image"], valid)
            return Look((logits,), valid, detail)
        with statistics_of_pictures(network, valid):
            return Look(network.forward_levels(images["image"]), valid)

    def cross_entropies(self, look: Look, label: Tensor) -> dict[str, Tensor]:
        """Weighted terms of a loss on labels (B, H, W): ``cross_entropy`` and ``auxiliary``."""
        main, *aux = look.levels
        loss = with_detail(self._cross_entropy, main, look.detail, label, look.valid)
        terms = {"cross_entropy": loss}
        if aux:
            auxiliary = self._cross_entropy(aux[0], label, look.valid)
            terms["auxiliary"] = self.aux_weight * auxiliary
        return terms

    def _cross_entropy(self, logits: Tensor, label: Tensor, valid: Tensor | None) -> Tensor:
        if self.normalize == "all":  # padding has no label, but would count among them
            logits, label = of_pictures(logits, valid), of_pictures(label, valid)
        return cross_entropy(logits, label, normalize=self.normalize)


def of_levels(name: str, losses: Iterable[Tensor], weights: Sequence[float]) -> dict[str, Tensor]:
    """Weighted terms of a loss on the head and, where there is one, on the auxiliary head."""
    names = (name, f"auxiliary_{name}")
    parts = zip(names, losses, weights, strict=False)
    return {name: weight * loss for name, loss, weight in parts}
