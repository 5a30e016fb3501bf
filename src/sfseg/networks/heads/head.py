"""What a head is: feature maps to logits, by way of features of pixels."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.networks.segmenter import Segmenter


class Head(nn.Module, ABC):
    """Turns the maps of a backbone into logits, in two steps that can be taken one by one.

    The first makes features of pixels, the second scores them. Losses that compare pixels with each
    other compare these features; whoever calls a head takes both steps.

    A head of one's own derives from this class and has two members: the method ``features``, and
    ``classifier``, a convolution with one output for each class. Where that is not the whole second
    step, as where several are summed, it also says so in :meth:`classify` and
    :meth:`scoring_layers`.

    A :class:`sfseg.networks.segmenter.Segmenter` takes any module for its head that turns maps into
    logits; methods that need features refuse what does not show them by :func:`require_head`.
    """

    num_classes: int
    classifier: nn.Conv2d

    @abstractmethod
    def features(self, maps: Sequence[Tensor]) -> Float[Tensor, "B C h w"]:
        """All that the second step learns of pixels by the head's own layers, after dropout.

        Args:
            maps: of the backbone, (B, C, H / stride, W / stride), finest first.
        """

    def classify(
        self, features: Float[Tensor, "B C h w"], maps: Sequence[Tensor]
    ) -> Float[Tensor, "B K y x"]:
        """Logits of the head's own size.

        Args:
            features: of the first step.
            maps: that they were made from, for heads that also score finer ones of them.
        """
        logits: Tensor = self.classifier(features)
        return logits

    def scoring_layers(self) -> list[nn.Conv2d]:
        """The convolutions that are shown the features; none of their weights makes any."""
        return [self.classifier]

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "B K y x"]:
        """Logits of the head's own size."""
        return self.classify(self.features(maps), maps)


def require_head(head: nn.Module, method: str) -> Head:
    """The head, where it shows the features of pixels.

    Raises:
        ConfigError: names the method, and what the head must have.
    """
    if isinstance(head, Head):
        layers = head.scoring_layers()
        if all(isinstance(c, nn.Conv2d) and c.out_channels == head.num_classes for c in layers):
            return head
    raise ConfigError(
        f"the head must be a {Head.__module__}.Head for {method}, which compares features of "
        "pixels, with two members: the method features(maps), and classifier, a Conv2d with one "
        f"output for each class; got {type(head).__name__}; choose another, such as "
        "backbone/head=daformer, or derive one's own from Head"
    )


def require_trained_features(network: Segmenter, method: str) -> None:
    """Refuse a network in which not the head alone makes features.

    Raises:
        ConfigError: names the method, and says what to set.
    """
    if any(parameter.requires_grad for parameter in network.backbone.parameters()):
        raise ConfigError(
            f"the backbone must be frozen for {method}, which trains the head alone, but it "
            "trains; set method.adapter._target_=sfseg.networks.adapters.choices.heads_only"
        )
    head = require_head(network.head, method)
    scoring = {parameter for layer in head.scoring_layers() for parameter in layer.parameters()}
    if not any(p.requires_grad and p not in scoring for p in head.parameters()):
        raise ConfigError(
            f"the head must have layers before its classifier for {method}, whose features they "
            f"make, got {type(head).__name__}; choose another with backbone/head, such as daformer"
        )
