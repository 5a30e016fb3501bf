"""CPSL (Li et al., CVPR 2022, arXiv:2203.15202) without a source: only the head trains."""

import logging
from collections.abc import Iterable
from typing import Any, Literal, Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfseg.checks import (
    require_options,
    require_positive,
    require_shares,
    require_weights,
    require_whole,
)
from sfseg.methods.base import Method, Shared
from sfseg.networks.heads.head import Head, require_head, require_trained_features
from sfseg.networks.norm_of_pictures import statistics_of_pictures
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.teacher import Frozen, Teacher
from sfseg.ops.inference import most_likely
from sfseg.ops.losses import cross_entropy
from sfseg.ops.masking import strong_view
from sfseg.ops.padding import of_pictures, valid_pixels
from sfseg.ops.pixels import at_positions, enqueue, random_positions
from sfseg.ops.processes import in_step, of_each_process, sum_of_processes
from sfseg.ops.prototypes import class_sums, cosine_scores, prototype_consistency, rectified_label
from sfseg.ops.sinkhorn import self_labelling
from sfseg.ops.symmetric import symmetric_cross_entropy
from sfseg.types import IGNORE, Batch, StepOutput, TrainingBatch

log = logging.getLogger(__name__)
LabelLoss = Literal["cross_entropy", "symmetric"]


class CPSL(Method):
    """Class prototypes rectify the source model's labels, and pixels are assigned to them evenly.

    The first stage of class-balanced pixel-level self-labelling, as the rows of Uni-UVPT's tables
    have it: the backbone is frozen and exactly one head trains. Features are what the head's
    classifier gets, so that they move with the head. Prototypes start as the target's class means
    under the source model, taken in one pass before the first step, which also gives the classes'
    shares; without a data module, or for a class that is never predicted, as the classifier's
    weights. They are K * C parameters beside the network, which do not count as the head's.

    A label is argmax of softmax(cosine / temperature) times the source model's probability, with
    prototypes and features of moving averages. That probability is computed for the crop by a
    frozen copy of the head, since pseudo-labels are kept as class ids: these say only where there
    is a label. The strong view of the consistency has other colours, but the same pixels.

    Of the paper are left out what needs a source (its cross-entropy and CutMix), stages 2 and 3
    (distillation into self-supervised weights), and of its code the second self-labelling, by the
    average's logits, and the contrastive loss of weight 1e-3. There a queue is used once it is
    full, here from the first step on; there its features meet prototypes whose length varies.

    Args:
        label_loss: ``cross_entropy``, or ``symmetric``: 0.1 of it and 1 of its reverse.
        consistency_weight: of the divergence of weak and strong view over prototypes.
        labelling_weight: of the self-labelling; 0 leaves prototypes as they start.
        pixels: of each image that are assigned to prototypes.
        queue: features of earlier iterations that are assigned with them; 65,536 in the paper.
        temperature: of all softmaxes over cosines.
        epsilon: see :func:`sfseg.ops.sinkhorn.sinkhorn`; likewise ``iterations``.
        iterations: of Sinkhorn's algorithm.
        momentum: of the moving averages of head and prototypes; 0.999 in the paper.
        prototype_lr_factor: of the prototypes' learning rate; as the head's in the code.
        colour: strength of :func:`sfseg.ops.masking.strong_view`.
        **shared: see :class:`Shared`.

    Raises:
        ConfigError: the backbone trains, or the head has nothing before its classifier.
        ValueError: an unknown loss, or a number out of its range.
    """

    queue: Tensor
    queued: Tensor
    averages: Tensor
    share: Tensor
    has_started: Tensor

    def __init__(
        self,
        *,
        label_loss: LabelLoss = "cross_entropy",
        consistency_weight: float = 5.0,
        labelling_weight: float = 0.1,
        pixels: int = 256,
        queue: int = 8192,
        temperature: float = 0.08,
        epsilon: float = 0.05,
        iterations: int = 3,
        momentum: float = 0.99,
        prototype_lr_factor: float = 1.0,
        colour: float = 0.5,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        require_options(label_loss=(label_loss, LabelLoss))
        require_weights(consistency_weight=consistency_weight, labelling_weight=labelling_weight)
        require_whole(0, queue=queue)
        require_whole(1, pixels=pixels, iterations=iterations)
        require_positive(
            temperature=temperature, epsilon=epsilon, prototype_lr_factor=prototype_lr_factor
        )
        require_shares(momentum=momentum, colour=colour)
        network = cast(Segmenter, self.network)
        head = require_head(network.head, "cpsl")
        require_trained_features(network, "cpsl")
        if network.aux_head is not None:
            network.freeze("aux_head")
        self.label_loss, self.pixels, self.colour = label_loss, pixels, colour
        self.consistency_weight, self.labelling_weight = consistency_weight, labelling_weight
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.momentum, self.prototype_lr_factor = momentum, prototype_lr_factor
        self.source, self.teacher = Frozen(network.head), Teacher(network.head)
        weights = [layer.weight.detach().sum(dim=(2, 3)) for layer in head.scoring_layers()]
        directions = F.normalize(torch.stack(weights).sum(dim=0), dim=1)  # (K, C)
        self.prototypes = nn.Parameter(directions, requires_grad=bool(labelling_weight))
        self.register_buffer("averages", directions.clone())
        self.register_buffer("share", torch.full_like(directions[:, 0], 1 / len(directions)))
        self.register_buffer("has_started", torch.tensor(False))
        self.register_buffer("queue", directions.new_zeros(queue, directions.shape[1]))
        self.register_buffer("queued", torch.tensor(0))
        self._fresh: Tensor | None = None

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """Prototypes get a group of their own, without weight decay: their length is no matter."""
        if not self.labelling_weight:
            return super().optimizer_groups()
        rate = self.shared["lr"] * self.prototype_lr_factor
        own = {"params": [self.prototypes], "lr": rate, "weight_decay": 0.0}
        return [*super().optimizer_groups(), own]

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on images of the target and their pseudo-labels."""
        network, target = cast(Segmenter, self.network), batch["target"]
        head, image = cast(Head, network.head), target["image"].float() / 255
        valid = valid_pixels(target)
        with torch.no_grad():
            maps = network.features(image)
            average = cast(Head, self.teacher.network)
            goal = cosine_scores(average.features(self.teacher.fitting(maps)), self.averages)
            soft = network.enlarge(self.source.network(maps), image)
            scores = network.enlarge(goal, image)
            label = rectified_label(scores, soft, temperature=self.temperature)
            label.masked_fill_(target["pseudo_label"] == IGNORE, IGNORE)
        with statistics_of_pictures(network, valid):
            features = head.features(maps)
            logits = network.enlarge(head.classify(features, maps), image).float()
        cells = network.cells_of_pictures(valid, features)
        learn = cross_entropy if self.label_loss == "cross_entropy" else symmetric_cross_entropy
        terms = {"labels": learn(logits, label)}
        if self.consistency_weight:
            with torch.no_grad():
                maps = network.features(strong_view(image, strength=self.colour, valid=valid))
            with statistics_of_pictures(network, valid):
                strong = cosine_scores(head.features(maps), self.averages)
            views = (of_pictures(network.without_padding(v, image), cells) for v in (strong, goal))
            distance = prototype_consistency(*views, temperature=self.temperature)
            terms["consistency"] = self.consistency_weight * distance
        if self.labelling_weight:
            own = self._self_labelling(network.without_padding(features, image), cells)
            terms["self_labelling"] = self.labelling_weight * own
        return self.output(terms, logits.detach().float().softmax(dim=1))

    def on_train_start(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        batches = getattr(data, "labelling_dataloader", None)
        if self.has_started or batches is None:
            return
        means, counts = self._class_means(batches())
        seen = (counts > 0)[:, None]
        with torch.no_grad():
            self.prototypes.copy_(torch.where(seen, means, self.prototypes))
            self.averages.copy_(self.prototypes)
            self.share.copy_(counts / counts.sum())
        self.has_started.fill_(True)
        log.info("prototypes: of %d classes that the source model predicts", int(seen.sum()))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.step.is_skipped:
            return
        if self._fresh is not None:
            enqueue(self.queue, self.queued, torch.cat(of_each_process(self._fresh)))
        if self.iteration % self.trainer.accumulate_grad_batches == 0:
            self.teacher.follow(cast(Segmenter, self.network).head, self.momentum)
            self.averages.lerp_(self.prototypes.detach(), 1 - self.momentum)

    @torch.no_grad()
    def _class_means(self, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """Directions (K, C) of the classes' mean features on all processes, and their pixels."""
        network, head = cast(Segmenter, self.network), cast(Head, self.source.network)
        total, count = torch.zeros_like(self.averages), torch.zeros_like(self.share).long()
        with self.trainer.precision_plugin.forward_context():
            for batch in filter(None, in_step(batches, self.device)):
                image = batch["image"].to(self.device)
                maps = network.features(image)
                features = head.features(maps)
                logits = head.classify(features, maps)
                label = most_likely(F.interpolate(logits, features.shape[-2:], mode="bilinear"))
                parts = (network.without_padding(part, image) for part in (features, label))
                sums, counts = class_sums(*parts, num_classes=len(self.share))
                total += sums
                count += counts
        return F.normalize(sum_of_processes(total), dim=1), sum_of_processes(count)

    def _self_labelling(self, features: Tensor, cells: Tensor | None) -> Tensor:
        """Cross-entropy of drawn pixels against what Sinkhorn's algorithm assigns to them."""
        places = random_positions(features, count=self.pixels, valid=cells)
        drawn = F.normalize(at_positions(features, places).float(), dim=2)  # (B, n, C)
        self._fresh = drawn.detach().flatten(0, 1)
        return self_labelling(
            drawn, self.prototypes, self.queue[: int(self.queued)], self.share,
            temperature=self.temperature, epsilon=self.epsilon, iterations=self.iterations,
        )  # fmt: skip
