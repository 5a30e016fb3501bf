"""Several heads on one backbone, as in Generalize then Adapt (Kundu et al., ICCV 2021)."""

import copy
from collections.abc import Sequence
from typing import Any, cast

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sfseg.networks.segmenter import Segmenter


class ExtendedSegmenter(Segmenter):
    """A segmenter with the parts of another one, and further ones that look at the same maps.

    Args:
        network: gives its parts, which both then share.
        **further: lists of parts, by the names of their tensors.
    """

    def __init__(self, network: Segmenter, **further: nn.ModuleList) -> None:
        super().__init__(
            network.backbone,
            network.head,
            aux_head=network.aux_head,
            aux_level=network.aux_level,
            align_corners=network.align_corners,
            batch_norm=network.batch_norm,
        )
        self.mean, self.std = network.mean, network.std
        self._frozen |= network._frozen
        for name, parts in further.items():
            self.add_module(name, parts)
        self.train(network.training)
        if network._compiled_call_impl is not None:
            self.compile(dynamic=False)


class LeaveOneOutSegmenter(ExtendedSegmenter):
    """A segmenter with further heads that look at the same maps.

    Heads are counted with the leave-one-out heads first and the segmenter's own, the global head,
    last. Called with an image alone it is the segmenter it was made from.

    Args:
        network: gives its parts, which both then share.
        heads: how many heads there are beside its own; their weights are drawn anew.

    Raises:
        ValueError: there is no further head, or the own one starts from pretrained layers.
    """

    leave_one_out: nn.ModuleList

    def __init__(self, network: Segmenter, *, heads: int) -> None:
        if heads < 1:
            raise ValueError(f"heads must be at least 1, beside the global one, got {heads}")
        drawn = nn.ModuleList(drawn_anew(network.head) for _ in range(heads))
        super().__init__(network, leave_one_out=drawn)

    @property
    def num_heads(self) -> int:
        """With the global one."""
        return len(self.leave_one_out) + 1

    def forward(
        self,
        image: Shaped[Tensor, "B 3 H W"],
        *,
        heads: Sequence[int] | None = None,
        **options: Any,
    ) -> Any:
        """Logits of the global head, or with ``heads`` what :meth:`forward_heads` returns."""
        if heads is None:
            return super().forward(image, **options)
        maps = self.features(image)
        every = (*self.leave_one_out, self.head)
        return [self.enlarge(every[index](maps), image) for index in heads]

    def forward_heads(
        self, image: Shaped[Tensor, "B 3 H W"], *, heads: Sequence[int] | None = None
    ) -> list[Float[Tensor, "B K H W"]]:
        """Logits of heads at the size of the image, from one pass through the backbone.

        Args:
            image: as in :meth:`forward`.
            heads: their numbers; None means all, the global one last.
        """
        chosen = range(self.num_heads) if heads is None else heads
        # Called, not `forward`ed, so that hooks and a compiled network are not passed by.
        return cast(list[Tensor], self(image, heads=tuple(chosen)))


def with_leave_one_out(network: Segmenter, *, heads: int = 5) -> LeaveOneOutSegmenter:
    """The segmenter with leave-one-out heads beside its own; see :class:`LeaveOneOutSegmenter`.

    The paper leaves out one of five groups of styles. Tensors of the further heads are named
    ``leave_one_out.<number>.*``, all others keep their names.
    """
    return LeaveOneOutSegmenter(network, heads=heads)


def drawn_anew(head: nn.Module) -> nn.Module:
    """A copy of a head with other random weights.

    Raises:
        ValueError: the head starts from pretrained layers.
    """
    if hasattr(head, "load_classifier"):
        raise ValueError(
            "head must be one that starts from random weights, which can be drawn anew, got "
            f"{type(head).__name__}; choose another with backbone/head"
        )
    fresh = copy.deepcopy(head)
    # Inner modules first: a head may then correct what its layers do by default.
    for module in reversed(list(fresh.modules())):
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    return fresh
