"""Predictions of a video that change less from frame to frame."""

import torch
from jaxtyping import Float
from torch import Tensor


class Smoothing:
    """Exponential mean of the class probabilities over time.

    Each frame's probability p becomes ``strength * mean + (1 - strength) * p``, where the mean is
    that of the frames before it. Where something moves, its classes trail behind it.

    Args:
        strength: in [0, 1); 0 leaves every frame as it is.

    Raises:
        ValueError: another strength.
    """

    def __init__(self, strength: float) -> None:
        if not isinstance(strength, int | float) or not 0 <= strength < 1:
            raise ValueError(
                f"smoothing must be in [0, 1), got {strength}; 0 leaves frames as they are, and "
                "with 1 the first would stay for ever"
            )
        self.strength = strength
        self._means: list[Tensor] = []
        self._part = 0

    def begin_image(self) -> None:
        """The next scores are of another frame, of its first tile if it is seen in tiles."""
        self._part = 0

    def __call__(self, scores: Float[Tensor, "B K h w"]) -> Float[Tensor, "B K h w"]:
        """Logarithms of the smoothed probabilities, of which ``softmax`` makes these again.

        Scores of another size than those before them begin anew.
        """
        probability = scores.float().softmax(dim=1)
        known = self._means[self._part] if self._part < len(self._means) else None
        if known is not None and known.shape == probability.shape:
            probability = self.strength * known + (1 - self.strength) * probability
        self._means[self._part : self._part + 1] = [probability]
        self._part += 1
        return probability.clamp_min(torch.finfo(torch.float32).tiny).log()
