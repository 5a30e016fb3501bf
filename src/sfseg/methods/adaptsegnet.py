"""AdaptSegNet (Tsai et al., CVPR 2018, arXiv:1802.10349): domains alike in output space."""

from collections.abc import Sequence
from typing import Unpack, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LRScheduler

from sfseg.checks import require_options, require_positive, require_weights
from sfseg.methods.masked_consistency import MaskedConsistency, SharedMasked
from sfseg.methods.supervised import Look, of_levels
from sfseg.modes import held
from sfseg.networks.discriminator import Discriminator
from sfseg.ops.adversarial import Domain, DomainLoss, domain_loss
from sfseg.ops.padding import each_picture
from sfseg.ops.patches import prediction_map
from sfseg.types import StepOutput, TrainingBatch


class Adversarial(SharedMasked, total=False):
    """Constructor arguments of :class:`AdaptSegNet`."""

    adversarial_loss: DomainLoss
    adversarial_weight: float
    aux_adversarial_weight: float
    discriminator_lr: float


class AdaptSegNet(MaskedConsistency):
    """The segmenter learns the source's labels, and that its predictions on the target look alike.

    A discriminator tells the domains' predictions apart; the segmenter makes those on the target
    pass for the source's. Each iteration has two steps: the segmenter's, then the discriminator's.
    A network with an auxiliary head has a discriminator for either head ("multi-level").

    Args:
        adversarial_loss: see :data:`sfseg.ops.adversarial.DomainLoss`.
        adversarial_weight: lambda_adv, of the head.
        aux_adversarial_weight: of the auxiliary head, where there is one.
        discriminator_lr: of Adam, at first: it falls as the network's rate does.
        **shared: see :class:`MaskedConsistency`; masked images are the segmenter's, as in MIC.

    Raises:
        ValueError: a setting outside its range, or crops too small for a discriminator.
    """

    def __init__(
        self,
        *,
        adversarial_loss: DomainLoss = "vanilla",
        adversarial_weight: float = 0.001,
        aux_adversarial_weight: float = 0.0002,
        discriminator_lr: float = 1e-4,
        **shared: Unpack[SharedMasked],
    ) -> None:
        super().__init__(**shared)
        require_options(adversarial_loss=(adversarial_loss, DomainLoss))
        require_weights(
            adversarial_weight=adversarial_weight, aux_adversarial_weight=aux_adversarial_weight
        )
        require_positive(discriminator_lr=discriminator_lr)
        for view, setting in (("source", "data.source_view.crop"), ("target", "data.target_crop")):
            crop = shared["plan"][f"{view}_view"].crop
            Discriminator.require_fitting(crop, setting=setting)
        self.automatic_optimization = False
        self.adversarial_loss: DomainLoss = adversarial_loss
        self.adversarial_weights = (adversarial_weight, aux_adversarial_weight)
        self.discriminator_lr = discriminator_lr
        levels = 2 if self.aux_weight else 1
        self.discriminators = nn.ModuleList(
            Discriminator(self.labels.num_classes) for _ in range(levels)
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        mine = cast(dict[str, torch.optim.Optimizer], super().configure_optimizers())
        weights = self.discriminators.parameters()
        optimizers = [mine["optimizer"], Adam(weights, self.discriminator_lr, betas=(0.9, 0.99))]
        return optimizers, [self.shared["schedule"](optimizer) for optimizer in optimizers]

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """Both steps, on labelled images of the source and unlabelled ones of the target.

        The segmenter's terms are propagated as one sum: parallel processes exchange the gradient
        of each parameter once a step.
        """
        segmenter, discriminators = self.stepped_optimizers()
        source, target = self.look_at(batch["source"]), self.look_at(batch["target"])
        loss = self.total(self.segmenter_terms(batch, source, target))
        self._descend(segmenter, loss)
        seen = self.discriminator_terms(source.detached(), target.detached())
        self._descend(discriminators, self.total(seen))
        for schedule in cast(list[LRScheduler], self.lr_schedulers()):
            schedule.step()
        return {"loss": loss.detach()}

    def segmenter_terms(
        self, batch: TrainingBatch, source: Look, target: Look
    ) -> dict[str, Tensor]:
        """What the segmenter descends, weighted and by name; a method that adds to it extends it.

        Args:
            batch: of the step, with the source's labels.
            source: what the network says of its images of the source.
            target: and of the target.
        """
        terms = self.cross_entropies(source, batch["source"]["label"])
        return terms | self.fooling_terms(target) | self.masked_terms(batch)

    def fooling_terms(self, target: Look) -> dict[str, Tensor]:
        """Predictions on the target are to pass for the source's; gradients reach them alone."""
        with held(self.discriminators):
            losses = self._losses(self.verdicts(target), "source")
        return of_levels("adversarial", losses, self.adversarial_weights)

    def discriminator_terms(self, source: Look, target: Look) -> dict[str, Tensor]:
        """Each discriminator tells the domains, half the loss for either.

        Args:
            source: detached, so that gradients reach the discriminators alone.
            target: likewise.
        """
        terms: dict[str, Tensor] = {}
        looks: dict[Domain, Look] = {"source": source, "target": target}
        for domain, look in looks.items():
            losses = self._losses(self.verdicts(look), domain)
            terms |= of_levels(f"discriminator/{domain}", losses, (0.5, 0.5))
        return terms

    def verdicts(self, look: Look) -> list[Tensor]:
        """The discriminators' logits, of every level all those of pictures in one row.

        Images with padding are looked at one by one, each without it.
        """
        found = []
        for discriminator, logits in zip(self.discriminators, look.levels, strict=True):
            pictures = each_picture(self.seen(logits), look.valid)
            found.append(torch.cat([discriminator(picture).flatten() for picture in pictures]))
        return found

    def seen(self, logits: Tensor) -> Tensor:
        """What discriminators see of logits (B, K, H, W): probabilities."""
        return prediction_map(logits.float(), "probabilities")

    def _losses(self, verdicts: Sequence[Tensor], domain: Domain) -> list[Tensor]:
        """Of each level's verdicts, where they are to name a domain."""
        return [domain_loss(verdict, domain, self.adversarial_loss) for verdict in verdicts]

    def _descend(self, optimizer: LightningOptimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
