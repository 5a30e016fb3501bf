"""The losses of SFDA (Liu et al., CVPR 2021) on images that a generator has made.

Terms are those of the paper's equations with their weights, by the names that runs log.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sfseg.checks import require_options, require_positive, require_weights
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

Transform = Literal["none", "neglog1p"]


class View(NamedTuple):
    """What a network says of images.

    logits: at the size of the images.
    feature: the backbone's last map.
    """

    logits: Float[Tensor, "B K H W"]
    feature: Float[Tensor, "B C h w"]

    @classmethod
    def of(cls, network: Callable[..., tuple[Tensor, list[Tensor]]], image: Tensor) -> "View":
        """One forward pass of a :class:`sfseg.networks.segmenter.Segmenter` or a copy of it."""
        logits, maps = network(image, with_maps=True)
        return cls(logits, maps[-1])


@dataclass(frozen=True)
class Agreement:
    """How far two models are apart on fakes, and fakes from the target: equations (5) to (7).

    Args:
        alpha: weight of the distance of outputs, (5).
        beta: weight of the distance of dual attention maps, (6).
        tau: weight of the divergence of fakes' and target's attention, (7); None: ``beta``.
        mae_on: see :func:`output_distance`. The paper says "prediction outputs" and that the
            distance resembles the target's loss in size, which that of logits does.
        dam_norm: see :func:`log_attention`; ``none`` is the paper as printed.
        dam_temp: likewise; 1 is the paper.
        dam_spatial: see :func:`dual_attention_map`.
        g_mae_transform: ``neglog1p`` bounds what the generator gains by the distance of outputs:
            -log(1 + L) in place of -L.

    Raises:
        ValueError: a negative weight, an unknown option, a temperature that is not positive.
    """

    alpha: float = 1.0
    beta: float = 0.5
    tau: float | None = None
    mae_on: OutputScale = "logits"
    dam_norm: AttentionNorm = "l2"
    dam_temp: float = 0.1
    dam_spatial: SpatialProduct = "danet"
    g_mae_transform: Transform = "none"

    def __post_init__(self) -> None:
        require_weights(alpha=self.alpha, beta=self.beta, tau=self._tau)
        require_options(
            mae_on=(self.mae_on, OutputScale),
            dam_norm=(self.dam_norm, AttentionNorm),
            dam_spatial=(self.dam_spatial, SpatialProduct),
            g_mae_transform=(self.g_mae_transform, Transform),
        )
        require_positive(dam_temp=self.dam_temp)

    def sought_by_generator(
        self, mine: View, fixed: View, target: Sequence[Float[Tensor, "b C y x"]]
    ) -> dict[str, Tensor]:
        """Terms of equation (11): models that disagree on fakes, fakes that resemble the target.

        Args:
            mine: what the network says of fakes.
            fixed: what the source model says of them.
            target: features of the target's images, B of them in all, detached: one tensor for
                images of one size, of any size.
        """
        attention = self._attention(fixed.feature)
        apart = output_distance(mine.logits, fixed.logits, of=self.mae_on)
        if self.g_mae_transform == "neglog1p":
            apart = apart.log1p()
        size = (fixed.feature.shape[-2], fixed.feature.shape[-1])
        pooled = [F.adaptive_avg_pool2d(own.float(), size) for own in target]
        seen = self._attention(torch.cat(pooled))
        return {
            "generator/mae": -self.alpha * apart,
            "generator/dad_ss": -self.beta * self._dual_attention(mine, fixed, attention),
            "generator/dad_st": self._tau * attention_divergence(attention, seen),
        }

    def sought_by_network(self, mine: View, fixed: View) -> dict[str, Tensor]:
        """Terms of equation (12): the network agrees with the source model on fakes.

        Args:
            mine: what the network says of fakes.
            fixed: what the source model says of them, detached.
        """
        attention = self._attention(fixed.feature)
        return {
            "mae": self.alpha * output_distance(mine.logits, fixed.logits, of=self.mae_on),
            "dad_ss": self.beta * self._dual_attention(mine, fixed, attention),
        }

    @property
    def _tau(self) -> float:
        return self.beta if self.tau is None else self.tau

    def _attention(self, feature: Float[Tensor, "B C h w"]) -> Attention:
        return log_attention(feature, norm=self.dam_norm, temperature=self.dam_temp)

    def _dual_attention(self, mine: View, fixed: View, attention: Attention) -> Float[Tensor, ""]:
        """Mean absolute difference of dual attention maps: equation (6)."""
        of_fixed = dual_attention_map(fixed.feature, attention, product=self.dam_spatial)
        of_mine = dual_attention_map(
            mine.feature, self._attention(mine.feature), product=self.dam_spatial
        )
        return (of_fixed - of_mine).abs().mean()


def verdict_loss(verdict: Float[Tensor, " P"], *, hard: bool) -> Float[Tensor, ""]:
    """Mean over patches of -ln D where they are to pass for hard, -ln (1 - D) for easy.

    The parts of equation (15), with D the discriminator's probability of a patch to be hard. Signs
    are those that the paper's text asks for: the discriminator tells hard from easy patches, the
    network makes hard ones look easy; means over patches replace the sums.

    Args:
        verdict: logits of D.
        hard: what the patches are to pass for.
    """
    return F.binary_cross_entropy_with_logits(verdict, verdict.new_full(verdict.shape, float(hard)))
