"""SFDA (Liu, Zhang and Wang, CVPR 2021, arXiv:2103.16372): a generator replaces the source."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple, Unpack, cast

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Adam

from sfseg.checks import require_at_least, require_options, require_positive, require_weights
from sfseg.errors import ConfigError
from sfseg.methods.base import Method, Shared
from sfseg.modes import evaluating, held, recomputes
from sfseg.networks.adversary import SMALLEST, Generator, PatchDiscriminator
from sfseg.networks.batch_norm import own_statistics
from sfseg.networks.norm_statistics import NormStatistics, Reduction
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.teacher import Frozen
from sfseg.ops.distillation import (
    Attention,
    AttentionNorm,
    OutputScale,
    SpatialProduct,
    attention_divergence,
    dual_attention_map,
    log_attention,
    output_distance,
)
from sfseg.ops.max_square import max_square
from sfseg.ops.patches import PredictionMap, Ranked, rank, require_even
from sfseg.types import StepOutput, TrainingBatch

log = logging.getLogger(__name__)
Transform = Literal["none", "neglog1p"]
FakeStatistics = Literal["own", "running"]
PAPER_RATE = 0.1
"""Of Adam, for generator and discriminator, as printed: it saturates 95% of the fakes' pixels."""


class View(NamedTuple):
    """What a network says of images.

    logits: (B, K, H, W).
    feature: (B, C, h, w), the backbone's last map.
    """

    logits: Tensor
    feature: Tensor


class SFDA(Method):
    """A generator makes images that the source model takes for its own.

    The network learns to agree with that model on them, and on the target to be certain, of hard
    patches as of easy ones.

    Each iteration has three steps, in this order: the generator's, equation (11); the network's,
    (12) and (16); the discriminator's, (15). No running statistics see fakes, but for those of a
    new network, which see nothing else. "Source" and "target model" of the paper are one network.
    Of (15) the signs are those that its text asks for: the discriminator tells hard from easy
    patches, the network makes hard ones look easy; means over patches replace the sums.

    Networks without batch normalisation have no statistics to hold the generator to: the loss is
    left out, and the log says so.

    Args:
        fake_scale: size of the fakes relative to the crops of the target.
        fake_statistics: what the network normalises fakes with: their ``own``, which (4) makes
            resemble the source's, so that both models agree before anything is learnt; or the
            ``running`` ones, which are the target's and set both models apart.
        latent: length of the generator's noise.
        alpha: weight of the distance of outputs, (5).
        beta: weight of the distance of dual attention maps, (6).
        tau: weight of the divergence of fakes' and target's attention, (7); None: ``beta``.
        gamma: weight of the adversarial loss.
        bns_weight: of the batch-norm statistics, (4).
        bns_reduction: see :class:`NormStatistics`.
        target_weight: of the maximum square loss, (2).
        ipsm: patch-level self-supervision; without, there is no discriminator.
        patches: rows and columns of patches, K; 1 is ``ipsm=false``.
        patch_map: what the discriminator sees of them, see :func:`prediction_map`.
        dam_norm: see :func:`log_attention`; ``none`` is the paper as printed.
        dam_temp: likewise; 1 is the paper.
        dam_spatial: see :func:`dual_attention_map`.
        mae_on: see :func:`output_distance`. The paper says "prediction outputs" and that the
            distance resembles the target's loss in size, which that of logits does.
        g_mae_transform: ``neglog1p`` bounds what the generator gains by the distance of outputs:
            -log(1 + L) in place of -L.
        generator_lr: of Adam, at first: it falls as the network's rate does; ``paper`` is 0.1.
        discriminator_lr: likewise.
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
        generator_lr: float | Literal["paper"] = 1e-3,
        discriminator_lr: float | Literal["paper"] = 1e-4,
        transfer_only: bool = False,
        student: Segmenter | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        tau = beta if tau is None else tau
        require_weights(
            alpha=alpha, beta=beta, tau=tau, gamma=gamma, bns_weight=bns_weight,
            target_weight=target_weight,
        )  # fmt: skip
        require_options(
            dam_norm=(dam_norm, AttentionNorm), dam_spatial=(dam_spatial, SpatialProduct),
            mae_on=(mae_on, OutputScale), g_mae_transform=(g_mae_transform, Transform),
            fake_statistics=(fake_statistics, FakeStatistics),
            bns_reduction=(bns_reduction, Reduction), patch_map=(patch_map, PredictionMap),
        )  # fmt: skip
        require_positive(dam_temp=dam_temp, fake_scale=fake_scale)
        self.automatic_optimization = False
        self.alpha, self.beta, self.tau, self.gamma = alpha, beta, tau, gamma
        self.bns_weight, self.target_weight = bns_weight, target_weight
        self.dam_norm: AttentionNorm = dam_norm
        self.dam_temp = dam_temp
        self.dam_spatial: SpatialProduct = dam_spatial
        self.mae_on: OutputScale = mae_on
        self.g_mae_transform, self.fake_statistics = g_mae_transform, fake_statistics
        self.transfer_only = transfer_only
        self.patch_map: PredictionMap = patch_map
        self.patches = patches if ipsm and not transfer_only else 1
        self.source = Frozen(self.network)
        self.statistics = NormStatistics(self.source, bns_reduction)
        if transfer_only:
            if student is None:
                raise ConfigError(
                    "transfer_only needs a new network, got none; sfseg-train gives one with "
                    "method.transfer_only=true"
                )
            self.network = student
        if recomputes(self.network):
            # Recomputed after the forward pass, activations of fakes would be those of other modes.
            raise ConfigError("backbone.gradient_checkpointing must be false for sfda, got true")
        if bns_weight and (shortage := self.statistics.shortage()):
            log.warning("sfda: %s", shortage)
        height, width = shared["plan"]["target_view"].crop
        self._check_patches(shared["plan"]["batch_size"], (height, width))
        size = (max(1, round(height * fake_scale)), max(1, round(width * fake_scale)))
        self.generator = Generator(size, latent=latent)
        self.generator_lr = _rate("generator_lr", generator_lr)
        self.discriminator_lr = _rate("discriminator_lr", discriminator_lr)
        if self.patches > 1:
            self.discriminator = PatchDiscriminator(self.labels.num_classes, self.patches**2)

    @property
    def starts_as_source_model(self) -> bool:
        """Not a new network."""
        return super().starts_as_source_model and not self.transfer_only

    def configure_optimizers(self) -> OptimizerLRScheduler:
        mine = cast(dict[str, torch.optim.Optimizer], super().configure_optimizers())
        optimizers = [
            mine["optimizer"],
            Adam(self.generator.parameters(), self.generator_lr, betas=(0.5, 0.999)),
        ]
        if self.patches > 1:
            weights = self.discriminator.parameters()
            optimizers.append(Adam(weights, self.discriminator_lr, betas=(0.9, 0.99)))
        return optimizers, [self.shared["schedule"](optimizer) for optimizer in optimizers]

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """The three steps, on unlabelled images of the target."""
        network, generator, *discriminator = self.stepped_optimizers()
        image = batch["target"]["image"]
        if self.transfer_only:
            with torch.no_grad():
                target = self._view(self.source, image)
        else:
            # Now, not in the network's step: the generator's needs it, and nothing moves till then.
            target = self._view(self.network, image)
        loss = self.generator_loss(target.feature.detach(), len(image))
        generator.zero_grad()
        self.manual_backward(loss)
        generator.step()

        ranked = None
        if self.patches > 1:
            ranked = rank(target.logits.float(), self.patches, kind=self.patch_map)
        loss = self.network_loss(target.logits, ranked, len(image))
        network.zero_grad()
        self.manual_backward(loss)
        network.step()

        if ranked is not None:
            critique = self.discriminator_loss(ranked)
            discriminator[0].zero_grad()
            self.manual_backward(critique)
            discriminator[0].step()
        for schedule in cast(list[torch.optim.lr_scheduler.LRScheduler], self.lr_schedulers()):
            schedule.step()
        return {"loss": loss.detach()}

    def generator_loss(self, target: Tensor, images: int) -> Tensor:
        """Equation (11): gradients reach the generator alone.

        Args:
            target: features of the target's images, detached.
            images: how many fakes to make.
        """
        fake = self.generator(self.generator.noise(images))
        with self.statistics.watch() as distances:
            fixed = self._view(self.source, fake)
        with held(self.network), self._reading_fakes():
            mine = self._view(self.network, fake)
        attention = self._attention(fixed.feature)
        apart = output_distance(mine.logits, fixed.logits, of=self.mae_on)
        if self.g_mae_transform == "neglog1p":
            apart = apart.log1p()
        height, width = fixed.feature.shape[-2:]
        seen = F.adaptive_avg_pool2d(target.float(), (height, width))
        terms = {
            "generator/mae": -self.alpha * apart,
            "generator/dad_ss": -self.beta * self._dual_attention(mine, fixed, attention),
            "generator/dad_st": self.tau * attention_divergence(attention, self._attention(seen)),
        }
        if self.bns_weight and self.statistics.layers:
            terms["generator/bns"] = self.bns_weight * torch.stack(distances).sum()
        return self.total(terms)

    def network_loss(self, logits: Tensor, ranked: Ranked | None, images: int) -> Tensor:
        """Equations (12) and (16): gradients reach the network alone.

        Args:
            logits: of the target's images.
            ranked: its patches, if hard ones are to look easy.
            images: how many fakes to make.
        """
        with torch.no_grad():
            fake = self.generator(self.generator.noise(images))
            fixed = self._view(self.source, fake)
        # A new network has no statistics yet: those of fakes are all that it will have.
        with nullcontext() if self.transfer_only else self._reading_fakes():
            mine = self._view(self.network, fake)
        attention = self._attention(fixed.feature)
        terms = {
            "mae": self.alpha * output_distance(mine.logits, fixed.logits, of=self.mae_on),
            "dad_ss": self.beta * self._dual_attention(mine, fixed, attention),
        }
        if not self.transfer_only:
            terms["target"] = self.target_weight * max_square(logits, norm="sfda")
        if ranked is not None:
            with held(self.discriminator):
                verdict = self.discriminator(ranked.hard, ranked.position)
            easy = torch.zeros_like(verdict)
            terms["adversarial"] = self.gamma * F.binary_cross_entropy_with_logits(verdict, easy)
        return self.total(terms)

    def discriminator_loss(self, ranked: Ranked) -> Tensor:
        """Equation (15): gradients reach the discriminator alone."""
        verdicts = (
            self.discriminator(patches.detach(), ranked.position)
            for patches in (ranked.easy, ranked.hard)
        )
        names = ("discriminator/easy", "discriminator/hard")
        terms = {
            name: F.binary_cross_entropy_with_logits(verdict, torch.full_like(verdict, hard))
            for hard, (name, verdict) in enumerate(zip(names, verdicts, strict=True))
        }
        return self.total(terms)

    def fake_noise(self, images: int, seed: int) -> Tensor:
        """Noise (B, latent) that depends on the seed alone, for pictures."""
        random = torch.Generator().manual_seed(seed)
        return torch.randn(images, self.generator.latent, generator=random).to(self.device)

    @torch.no_grad()
    def draw_fakes(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fakes (B, 3, H, W) in [0, 1] and what source model and network predict, (B, H, W).

        The generator's and the network's batch normalisation use running statistics for it.
        """
        with evaluating(self.generator), evaluating(self.network):
            fake = self.generator(noise)
            predictions = (model(fake).argmax(dim=1) for model in (self.source, self.network))
            return fake, *predictions

    def _reading_fakes(self) -> AbstractContextManager[None]:
        """The network's mode for fakes, which no running statistics shall see."""
        if self.fake_statistics == "own":
            return own_statistics(self.network)
        return evaluating(self.network)

    def _view(self, model: nn.Module, image: Tensor) -> View:
        logits, maps = model(image, with_maps=True)
        return View(logits, maps[-1])

    def _attention(self, feature: Tensor) -> Attention:
        return log_attention(feature, norm=self.dam_norm, temperature=self.dam_temp)

    def _dual_attention(self, mine: View, fixed: View, attention: Attention) -> Tensor:
        """Mean absolute difference of dual attention maps: equation (6)."""
        of_fixed = dual_attention_map(fixed.feature, attention, product=self.dam_spatial)
        of_mine = dual_attention_map(
            mine.feature, self._attention(mine.feature), product=self.dam_spatial
        )
        return (of_fixed - of_mine).abs().mean()

    def _check_patches(self, images: int, size: tuple[int, int]) -> None:
        require_at_least(1, patches=self.patches)
        if self.patches == 1:
            return
        require_even(images)
        if min(size) // self.patches < SMALLEST:
            raise ValueError(
                f"patches must be at most {min(size) // SMALLEST} for crops of "
                f"{size[0]}x{size[1]}, which leaves {SMALLEST} pixels each, got {self.patches}"
            )


def _rate(name: str, rate: float | str) -> float:
    rate = PAPER_RATE if rate == "paper" else rate
    if isinstance(rate, str) or rate <= 0:
        raise ValueError(f"{name} must be positive or 'paper', got {rate!r}")
    return rate
