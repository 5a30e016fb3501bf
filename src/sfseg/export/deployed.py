"""What an exported file computes: pixels in, logits or labels out."""

import copy
from typing import Literal

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor, nn

Outputs = Literal["logits", "labels"]
"""Logits (B, K, H, W), or class ids (B, H, W) as bytes."""
Input = Literal["uint8", "float32"]
"""Pixels of RGB: 0 to 255, or 0 to 1."""

LEAST_SIDE = 32
"""Pixels along a side of an image, from which every network's maps are larger than its windows."""


class Deployed(nn.Module):
    """A segmenter without its training: one function of plain pixels.

    Logits are always there, since what is written is compared by them; a file of labels leaves
    them out.

    Args:
        network: images (B, 3, H, W) to logits of the same size; normalises by itself.
        outputs: see :data:`Outputs`.
        confidence: beside labels, the probability of the class in 0..255, as ``sfseg-predict``
            writes it.
        input: see :data:`Input`.

    Raises:
        ValueError: a confidence of logits.
    """

    def __init__(
        self,
        network: nn.Module,
        outputs: Outputs,
        *,
        confidence: bool = False,
        input: Input = "uint8",  # noqa: A002 - the setting's name
    ) -> None:
        super().__init__()
        if confidence and outputs != "labels":
            raise ValueError(
                f"confidence must be false where outputs is {outputs}, got true; set outputs=labels"
            )
        self.network = network
        self.input = input
        self.names = ["logits", *(["labels"] if outputs == "labels" else [])]
        self.names += ["confidence"] if confidence else []

    @property
    def published(self) -> list[str]:
        """Names of what the file hands out."""
        return self.names[1:] or self.names

    def published_alone(self) -> "Deployed":
        """The same network, which hands out no more than the file."""
        alone = copy.copy(self)
        alone.names = self.published
        return alone

    def taken(self, image: UInt8[Tensor, "B 3 H W"]) -> Shaped[Tensor, "B 3 H W"]:
        """Pixels in 0..255 as the file takes them."""
        return image.float() / 255 if self.input == "float32" else image

    def forward(self, image: Shaped[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        """What is called :attr:`names`, in this order."""
        # Not called: a compiled network cannot be exported.
        logits: Tensor = self.network.forward(image)
        made = {"logits": logits}
        if "labels" in self.names:
            made["labels"] = logits.argmax(dim=1).to(torch.uint8)
        if "confidence" in self.names:
            # The largest of the softmax: ten times faster than all of it in ONNX Runtime.
            above = logits - logits.amax(dim=1, keepdim=True)
            probability = above.exp().sum(dim=1).reciprocal()
            made["confidence"] = (probability * 255).round().to(torch.uint8)
        return tuple(made[name] for name in self.names)
