"""What a head's classifier looks at: features of pixels, for losses that compare them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.networks.segmenter import Segmenter


def classifier_of(head: nn.Module) -> nn.Conv2d:
    """The convolution that turns a head's features into logits.

    It is the one named ``classifier`` or, where there is none, the first with one output for
    each class. A head that sums several, as DeepLab-v2's, shows all of them the same features.

    Raises:
        ConfigError: the head has none.
    """
    named = getattr(head, "classifier", None)
    for module in (named, *head.modules()):
        if isinstance(module, nn.Conv2d) and module.out_channels == head.num_classes:
            return module
    raise ConfigError(
        f"the head must end in a Conv2d with {head.num_classes} outputs, one for each class, got "
        f"{type(head).__name__}; choose another with backbone/head, or name it `classifier`"
    )


@contextmanager
def classifier_input(head: nn.Module) -> Iterator[list[Tensor]]:
    """While it lasts, lists the features (B, C, h, w) of every pass through the head.

    A network that has been compiled must be run by ``forward``: its compiled code passes hooks by
    that come later.
    """
    seen: list[Tensor] = []
    hook = classifier_of(head).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()


def classify(
    head: nn.Module, maps: Sequence[Tensor]
) -> tuple[Float[Tensor, "B K h w"], Float[Tensor, "B C y x"]]:
    """Logits of a head, of its own size, and the features that they are made from."""
    with classifier_input(head) as seen:
        logits: Tensor = head(maps)
    return logits, seen[-1]


def without_padding(
    features: Float[Tensor, "B C h w"], image: Shaped[Tensor, "B 3 H W"], network: Segmenter
) -> Float[Tensor, "B C y x"]:
    """Features of the image alone: not of what the segmenter pads it with, bottom and right."""
    multiple = cast(int, network.backbone.stride_multiple)
    rows, columns = (
        -(-cells * side // (side + -side % multiple))
        for cells, side in zip(features.shape[-2:], image.shape[-2:], strict=True)
    )
    return features[..., :rows, :columns]
