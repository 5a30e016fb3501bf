"""The dynamic teacher of DT-ST (Zhao et al., CVPR 2023) as a part of methods."""

from collections.abc import Callable
from typing import Any, NamedTuple, Unpack, cast

import torch
from torch import Tensor

from sfseg.errors import ConfigError
from sfseg.methods.base import Method, Shared
from sfseg.modes import evaluating
from sfseg.ops.label_free import neighbourhood_densities
from sfseg.ops.processes import of_each_process

SCORED_PIXELS = 100
"""Of each image; like the next three a value of DT-ST's published code."""
FIRST_QUERY, QUERY_EVERY, LAST_QUERY = 9, 3, 30
"""Iterations since the teacher has moved at which the student is compared with its past."""


class Remembered(NamedTuple):
    """Images that the student has been scored on.

    image: (B, 3, H, W) uint8.
    position: (B, n) of the scored pixels, counted row by row.
    score: (B,) at that time.
    """

    image: Tensor
    position: Tensor
    score: Tensor


class DynamicTeacherMethod(Method):
    """A method whose teacher can wait until its student has improved, judged without labels.

    Each step the student is scored on its images. Where it is better now on most of the images
    since the teacher last moved, or after 30 iterations, the teacher moves. The images are kept in
    checkpoints and taken back with a skipped step.

    Args:
        dynamic_teacher: whether the method does so at all.
        **shared: see :class:`Shared`.
    """

    def __init__(self, *, dynamic_teacher: bool, **shared: Unpack[Shared]) -> None:
        super().__init__(**shared)
        self.dynamic_teacher = dynamic_teacher
        self.remembered: list[Remembered] = []
        self._scored: Remembered | None = None

    def score_student(self, image: Tensor, valid: Tensor | None = None) -> None:
        """Score the student on images (B, 3, H, W), at pixels that are drawn now.

        Args:
            image: of the target.
            valid: which pixels belong to pictures, see :meth:`Method.look`.
        """
        pixels = image[0, 0].numel()
        order = torch.rand(len(image), pixels, device=image.device)
        if valid is not None:
            order.masked_fill_(~valid.flatten(1), -1.0)
            pixels = int(valid.flatten(1).sum(dim=1).min())
        position = order.topk(min(SCORED_PIXELS, pixels), dim=1).indices
        self._scored = Remembered(image, position, self._score(image, position))

    def has_improved(self) -> bool:
        """Whether the teacher shall move after the step; forgets the images if so."""
        assert self._scored is not None, "score_student in the step"
        self.remembered.append(self._scored)
        waited = len(self.remembered)
        if waited < FIRST_QUERY or (waited - FIRST_QUERY) % QUERY_EVERY:
            return False
        with self.trainer.precision_plugin.forward_context():
            now = [self._score(kept.image, kept.position) for kept in self.remembered]
        before = [kept.score.to(self.device) for kept in self.remembered]
        better = (torch.cat(now) > torch.cat(before)).float().mean()
        better = cast(Tensor, self.trainer.strategy.reduce(better, reduce_op="mean"))
        if better <= 0.5 and waited < LAST_QUERY:
            return False
        self.remembered = []
        return True

    def undo_step(self) -> Callable[[], None]:
        before = list(self.remembered)

        def undo() -> None:
            self.remembered = before

        return undo

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.dynamic_teacher:
            checkpoint["remembered"] = [
                [[own.cpu() for own in of_each_process(part)] for part in kept]
                for kept in self.remembered
            ]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if not self.dynamic_teacher:
            return
        if "remembered" not in checkpoint:
            raise ConfigError(
                "the checkpoint is of a run without method.dynamic_teacher=true, which cannot go "
                "on with it; continue it with the setting it had, or start anew"
            )
        self.remembered = [
            Remembered(*(part[self.global_rank % len(part)] for part in kept))
            for kept in checkpoint["remembered"]
        ]

    @torch.no_grad()
    def _score(self, image: Tensor, position: Tensor) -> Tensor:
        """Soft neighbourhood density (B,) of the student, in evaluation mode as in DT-ST."""
        with evaluating(self.network):
            logits: Tensor = self(image.to(self.device))
        probability = logits.float().softmax(dim=1)
        return neighbourhood_densities(probability, position.to(self.device))
