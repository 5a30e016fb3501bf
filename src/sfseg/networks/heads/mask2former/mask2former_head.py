"""Mask2Former's head (Cheng et al., CVPR 2022, arXiv:2112.01527), as CLOUDS has it."""

import logging
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfseg.networks.heads.mask2former.criterion import MaskCriterion
from sfseg.networks.heads.mask2former.mask_decoder import (
    ClassHead,
    LinearClasses,
    MaskDecoder,
    Prediction,
)
from sfseg.networks.heads.mask2former.pixel_decoder import PixelDecoder
from sfseg.networks.layers import require_positive, resize

log = logging.getLogger(__name__)
_EPS = 1e-6


class Mask2FormerHead(nn.Module):
    """Queries, each with a class and a mask; together they score the pixels.

    Methods that train on pixels get logits; those that train on masks ask for ``predictions``,
    whose loss is ``criterion``. Numbers by default are those of CLOUDS.

    The score of a class at a pixel is the sum over queries of the class's probability times the
    mask's, which is not normalised. Its logit here is the logarithm of its share of all classes'
    scores: the same class is the most likely, and a softmax gives the shares back.

    Args:
        in_channels: width of each feature map, finest first.
        num_classes: K.
        channels: width of all layers.
        queries: their number; fewer than there are classes are told of in the log.
        encoder_layers: of the pixel decoder.
        decoder_layers: of the transformer decoder.
        heads: of attention.
        encoder_hidden: width inside of MLPs of the pixel decoder.
        decoder_hidden: the same, of the transformer decoder.
        class_head: what scores queries; by default one linear layer.
        criterion: loss of the predictions.
        enlarge: factor by which masks are enlarged before pixels are scored; 4 is the image's own
            size, as in the release; 1 scores cells and enlarges the logits, with a sixteenth of the
            memory.

    Raises:
        ValueError: a number that does not do.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 256,
        queries: int = 100,
        encoder_layers: int = 6,
        decoder_layers: int = 9,
        heads: int = 8,
        encoder_hidden: int = 1024,
        decoder_hidden: int = 2048,
        class_head: ClassHead = LinearClasses,
        criterion: MaskCriterion | None = None,
        enlarge: int = 4,
    ) -> None:
        super().__init__()
        require_positive(enlarge=[enlarge])
        self.num_classes = num_classes
        self.criterion = MaskCriterion() if criterion is None else criterion
        self.enlarge = enlarge
        self.pixel_decoder = PixelDecoder(
            in_channels, channels=channels, layers=encoder_layers, heads=heads,
            hidden=encoder_hidden,
        )  # fmt: skip
        self.mask_decoder = MaskDecoder(
            num_classes, channels=channels, queries=queries, layers=decoder_layers, heads=heads,
            hidden=decoder_hidden, class_head=class_head,
        )  # fmt: skip
        if queries < num_classes:
            log.warning(
                "of an image that shows more than %d of the %d classes, not all are learnt, since "
                "there are no more queries; set backbone.mask2former.queries",
                queries, num_classes,
            )  # fmt: skip

    def predictions(self, maps: Sequence[Tensor]) -> list[Prediction]:
        """What the queries say before the first layer and after each; the last one counts.

        Args:
            maps: of the backbone, (B, C, H / stride, W / stride), finest first.
        """
        predictions: list[Prediction] = self.mask_decoder(*self.pixel_decoder(maps))
        return predictions

    def score(self, prediction: Prediction) -> Float[Tensor, "B K y x"]:
        """Logits, see the class; ``enlarge`` times as large as the masks, in single precision."""
        with torch.autocast(prediction.masks.device.type, enabled=False):
            masks = prediction.masks.float()
            height, width = masks.shape[-2:]
            masks = resize(masks, (height * self.enlarge, width * self.enlarge)).sigmoid()
            classes = prediction.classes.float().softmax(dim=-1)[..., :-1]
            score = torch.einsum("bqk,bqhw->bkhw", classes, masks)
            return (score / (score.sum(dim=1, keepdim=True) + _EPS) + _EPS).log()

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "B K y x"]:
        """Logits of pixels, see the class."""
        return self.score(self.predictions(maps)[-1])
