"""A method with all that a checkpoint can forget: two optimisers, a teacher and a discriminator."""

from copy import deepcopy
from typing import Any, Unpack

import torch
from torch import nn
from torch.nn import functional

from sfseg.methods.base import Method, Shared
from sfseg.ops.losses import cross_entropy
from sfseg.optim import warmup_decay
from sfseg.types import StepOutput, TrainingBatch


class Adversarial(Method):
    """The source's labels, the teacher's on the target, and a discriminator between both."""

    def __init__(self, **shared: Unpack[Shared]) -> None:
        super().__init__(**shared)
        self.automatic_optimization = False
        self.teacher = deepcopy(self.network).requires_grad_(False)
        classes = self.labels.num_classes
        self.discriminator = nn.Sequential(
            nn.Conv2d(classes, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2),
            nn.Conv2d(8, 1, 1),
        )  # fmt: skip

    def configure_optimizers(self) -> Any:
        optimizers = [
            torch.optim.AdamW(self.network.parameters(), lr=1e-3),
            torch.optim.SGD(self.discriminator.parameters(), lr=1e-2, momentum=0.9),
        ]
        return optimizers, [warmup_decay(o, steps=8) for o in optimizers]

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        generator, critic = self.stepped_optimizers()
        source, target = batch["source"], batch["target"]
        logits = self(target["image"])
        with torch.no_grad():
            label = self.teacher(target["image"]).argmax(1).to(torch.uint8)
        fooled = self.discriminator(logits.softmax(1))
        loss = (
            cross_entropy(self(source["image"]), source["label"])
            + cross_entropy(logits, label)
            + 0.1 * functional.softplus(-fooled).mean()
        )
        generator.zero_grad()
        self.manual_backward(loss)
        generator.step()
        with torch.no_grad():
            real, fake = self(source["image"]).softmax(1), logits.softmax(1)
        critic_loss = (
            functional.softplus(-self.discriminator(real)).mean()
            + functional.softplus(self.discriminator(fake)).mean()
        )
        critic.zero_grad()
        self.manual_backward(critic_loss)
        critic.step()
        for schedule in self.lr_schedulers():
            schedule.step()
        with torch.no_grad():
            for mine, theirs in zip(
                self.teacher.parameters(), self.network.parameters(), strict=True
            ):
                mine.lerp_(theirs, 0.1)
        return {"loss": loss.detach()}
