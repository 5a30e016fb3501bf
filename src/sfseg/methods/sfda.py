"""SFDA (Liu, Zhang and Wang, CVPR 2021, arXiv:2103.16372): a generator replaces the source."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Unpack, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import LRScheduler

from sfseg.checks import require_options, require_positive, require_weights
from sfseg.errors import ConfigError
from sfseg.methods.base import Method, Shared
from sfseg.modes import held, recomputed
from sfseg.networks.adversary import Generator, PatchDiscriminator, Rate, learning_rate
from sfseg.networks.batch_norm import FakeStatistics, passing_by
from sfseg.networks.norm_of_pictures import statistics_of_pictures
from sfseg.networks.norm_statistics import NormStatistics, Reduction
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.teacher import Frozen
from sfseg.ops.data_free import Agreement, Transform, View, verdict_loss
from sfseg.ops.distillation import AttentionNorm, OutputScale, SpatialProduct
from sfseg.ops.max_square import max_square
from sfseg.ops.padding import each_picture, of_pictures, shared_part, valid_pixels
from sfseg.ops.patches import PredictionMap, Ranked, rank
from sfseg.types import StepOutput, TrainingBatch

log = logging.getLogger(__name__)


class SFDA(Method):
    """A generator makes images that the source model takes for its own.

    The network learns to agree with that model on them, and on the target to be certain, of hard
    patches as of easy ones. Each iteration has three steps: the generator's, equation (11), the
    network's, (12) and (16), and the discriminator's, (15). No running statistics see fakes, but
    for those of a new network, which see nothing else. "Source" and "target model" of the paper are
    one network.

    Args:
        fake_scale: size of the fakes relative to the crops of the target.
        fake_statistics: what the network normalises fakes with, see :data:`FakeStatistics`.
        latent: length of the generator's noise.
        alpha, beta, tau: weights of equations (5) to (7), see :class:`Agreement`; likewise
            ``mae_on``, ``dam_norm``, ``dam_temp``, ``dam_spatial`` and ``g_mae_transform``.
        gamma: weight of the adversarial loss.
        bns_weight: of the batch-norm statistics, (4); left out, as the log says, without any.
        bns_reduction: see :class:`NormStatistics`.
        target_weight: of the maximum square loss, (2).
        ipsm: patch-level self-supervision; without, there is no discriminator.
        patches: rows and columns of patches, K; 1 is ``ipsm=false``.
        patch_map: what the discriminator sees of them, see :func:`prediction_map`.
        generator_lr, discriminator_lr: of Adam, at first: they fall as the network's rate does;
            ``paper`` is 0.1.
        transfer_only: train a ``student`` from fakes alone, nothing on the target (Table 4).
        student: the new network for that; the target's features are then the source model's.
        **shared: see :class:`Shared`.

    Raises:
        ValueError: a setting outside its range, an odd batch or patches too small for IPSM.
        ConfigError: there is no new network to transfer to; the network recomputes activations.
    """

    source: Frozen

    def __init__(  # noqa: PLR0913 - the switches of the paper
        self,
        *,
        fake_scale: float = 0.5,
        fake_statistics: FakeStatistics = "own",
        latent: int = 256,
        alpha: float = 1.0,
        beta: float = 0.5,
        tau: float | None = None,
        gamma: float = 0.01,
        bns_weight: float = 1.0,
        bns_reduction: Reduction = "mean_per_channel",
        target_weight: float = 1.0,
        ipsm: bool = True,
        patches: int = 4,
        patch_map: PredictionMap = "probabilities",
        dam_norm: AttentionNorm = "l2",
        dam_temp: float = 0.1,
        dam_spatial: SpatialProduct = "danet",
        mae_on: OutputScale = "logits",
        g_mae_transform: Transform = "none",
        generator_lr: Rate = 1e-3,
        discriminator_lr: Rate = 1e-4,
        transfer_only: bool = False,
        student: Segmenter | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        require_weights(gamma=gamma, bns_weight=bns_weight, target_weight=target_weight)
        require_options(
            fake_statistics=(fake_statistics, FakeStatistics),
            bns_reduction=(bns_reduction, Reduction), patch_map=(patch_map, PredictionMap),
        )  # fmt: skip
        require_positive(fake_scale=fake_scale)
        crop, images = shared["plan"]["target_view"].crop, shared["plan"]["batch_size"]
        self.patches = patches if ipsm and not transfer_only else 1
        PatchDiscriminator.require_fitting(self.patches, images=images, size=crop)
        self.automatic_optimization = False
        self.gamma, self.bns_weight, self.target_weight = gamma, bns_weight, target_weight
        self.fake_statistics, self.transfer_only = fake_statistics, transfer_only
        self.patch_map: PredictionMap = patch_map
        self.generator_lr = learning_rate("generator_lr", generator_lr)
        self.discriminator_lr = learning_rate("discriminator_lr", discriminator_lr)
        self.agreement = Agreement(
            alpha=alpha, beta=beta, tau=tau, mae_on=mae_on, dam_norm=dam_norm, dam_temp=dam_temp,
            dam_spatial=dam_spatial, g_mae_transform=g_mae_transform,
        )  # fmt: skip
        self.source = Frozen(self.network)
        self.statistics = NormStatistics(self.source, bns_reduction)
        if transfer_only:
            if student is None:
                raise ConfigError(
                    "transfer_only needs a new network, got none; sfseg-train gives one with "
                    "method.transfer_only=true"
                )
            self.network = student
        if recomputed(self.network):
            # Recomputed after the forward pass, activations of fakes would be those of other modes.
            raise ConfigError("backbone.gradient_checkpointing must be false for sfda, got true")
        if bns_weight and (shortage := self.statistics.shortage()):
            log.warning("sfda: %s", shortage)
        size = [max(1, round(side * fake_scale)) for side in crop]
        self.generator = Generator(size, latent=latent)
        if self.patches > 1:
            self.discriminator = PatchDiscriminator(self.labels.num_classes, self.patches**2)

    @property
    def starts_as_source_model(self) -> bool:
        """Not a new network."""
        return super().starts_as_source_model and not self.transfer_only

    def configure_optimizers(self) -> OptimizerLRScheduler:
        mine = cast(dict[str, torch.optim.Optimizer], super().configure_optimizers())
        weights = self.generator.parameters()
        optimizers = [mine["optimizer"], Adam(weights, self.generator_lr, betas=(0.5, 0.999))]
        if self.patches > 1:
            weights = self.discriminator.parameters()
            optimizers.append(Adam(weights, self.discriminator_lr, betas=(0.9, 0.99)))
        return optimizers, [self.shared["schedule"](optimizer) for optimizer in optimizers]

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """The three steps, on unlabelled images of the target."""
        network, generator, *discriminator = self.stepped_optimizers()
        image, valid = batch["target"]["image"], valid_pixels(batch["target"])
        mine = cast(Segmenter, self.network)
        # Now, not in the network's step: the generator's needs it, and nothing moves till then.
        with torch.set_grad_enabled(not self.transfer_only), statistics_of_pictures(mine, valid):
            target = View.of(self.source if self.transfer_only else mine, image)
        seen, cells = target.feature.detach(), mine.cells_of_pictures(valid, target.feature)
        self._descend(generator, self.generator_loss(each_picture(seen, cells), len(image)))
        shown = shared_part(target.logits.float(), valid)
        ranked = rank(shown, self.patches, kind=self.patch_map) if self.patches > 1 else None
        loss = self.network_loss(of_pictures(target.logits, valid), ranked, len(image))
        self._descend(network, loss)
        if ranked is not None:
            self._descend(discriminator[0], self.discriminator_loss(ranked))
        for schedule in cast(list[LRScheduler], self.lr_schedulers()):
            schedule.step()
        return {"loss": loss.detach()}

    def generator_loss(self, target: Sequence[Tensor], images: int) -> Tensor:
        """Equation (11), of features of the target; gradients reach the generator alone."""
        fake = self.generator(self.generator.noise(images))
        with self.statistics.watch() as distances:
            fixed = View.of(self.source, fake)
        with held(self.network), passing_by(self.network, self.fake_statistics):
            mine = View.of(self.network, fake)
        terms = self.agreement.sought_by_generator(mine, fixed, target)
        if self.bns_weight and self.statistics.layers:
            terms["generator/bns"] = self.bns_weight * torch.stack(distances).sum()
        return self.total(terms)

    def network_loss(self, logits: Tensor, ranked: Ranked | None, images: int) -> Tensor:
        """Equations (12) and (16), of the target's logits; gradients reach the network alone."""
        with torch.no_grad():
            fake = self.generator(self.generator.noise(images))
            fixed = View.of(self.source, fake)
        # A new network has no statistics yet: those of fakes are all that it will have.
        passing = passing_by(self.network, self.fake_statistics)
        with nullcontext() if self.transfer_only else passing:
            mine = View.of(self.network, fake)
        terms = self.agreement.sought_by_network(mine, fixed)
        if not self.transfer_only:
            terms["target"] = self.target_weight * max_square(logits, norm="sfda")
        if ranked is not None:
            with held(self.discriminator):
                verdict = self.discriminator(ranked.hard, ranked.position)
            terms["adversarial"] = self.gamma * verdict_loss(verdict, hard=False)
        return self.total(terms)

    def discriminator_loss(self, ranked: Ranked) -> Tensor:
        """Equation (15): gradients reach the discriminator alone."""
        terms = {}
        for name, part in (("easy", ranked.easy), ("hard", ranked.hard)):
            verdict = self.discriminator(part.detach(), ranked.position)
            terms[f"discriminator/{name}"] = verdict_loss(verdict, hard=name == "hard")
        return self.total(terms)

    def fake_noise(self, images: int, seed: int) -> Tensor:
        """Noise (B, latent) that depends on the seed alone, for pictures."""
        return self.generator.noise(images, random=torch.Generator().manual_seed(seed))

    def draw_fakes(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fakes (B, 3, H, W) in [0, 1] and the classes that source model and network see there."""
        return self.generator.shown_to(self.source, self.network, noise=noise)

    def _descend(self, optimizer: LightningOptimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
