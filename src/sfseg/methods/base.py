"""What all methods share: network, optimiser recipe, evaluation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from operator import add
from typing import Any, TypedDict, Unpack, cast

import torch
from jaxtyping import Float
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sfseg.errors import ConfigError
from sfseg.labels import LabelSpace
from sfseg.methods.evaluation import Evaluation
from sfseg.networks.norm_of_pictures import statistics_of_pictures
from sfseg.networks.precision import Change, without_narrowing
from sfseg.ops.inference import Inference
from sfseg.ops.padding import valid_pixels
from sfseg.optim import Rule, parameter_groups
from sfseg.randomness import seed32
from sfseg.storage.lightning_state import count_first_optimizer_only
from sfseg.types import Batch, Step, StepOutput


class Shared(TypedDict):
    """Constructor arguments of every method.

    network, labels, eval_domains, inference: see :class:`Evaluation`.
    source_adapter: what has been built into the network, with weights of the source model; it is
        kept for those who build the network.
    adapter: what is built around or into the network, which must be the same when a checkpoint
        is read; None leaves it as it is.
    plan: steps, batch size and view of a run, which the trainer and the data follow; it is kept
        for those who read a run's settings.
    needs: what the data must serve, see :class:`sfseg.data.module.AdaptationData`, and
        ``source_model`` where the network must be given trained.
    lr: learning rate before the rules.
    weight_decay: weight decay before the rules.
    parameter_rules: see :func:`sfseg.optim.parameter_groups`.
    optimizer: makes the optimiser from parameter groups.
    schedule: makes the learning-rate schedule, stepped after every optimiser step.
    log_every: iterations between logged losses; 0 for none.
    seed: run seed; dropout and the like follow from it and the iteration.
    """

    network: nn.Module
    labels: LabelSpace
    eval_domains: Sequence[str]
    inference: Inference
    source_adapter: Callable[[nn.Module], nn.Module] | None
    adapter: Callable[[nn.Module], nn.Module] | None
    plan: Mapping[str, Any]
    needs: Sequence[str]
    lr: float
    weight_decay: float
    parameter_rules: Sequence[Rule]
    optimizer: Callable[..., Optimizer]
    schedule: Callable[[Optimizer], LRScheduler]
    log_every: int
    seed: int


class Method(Evaluation):
    """Base of all methods: a subclass writes ``training_step`` and little else.

    ``iteration`` is the number of the current training batch, from 1; unlike Lightning's
    ``global_step`` it does not depend on how many optimisers step. ``step`` is what is known of
    that batch, a new one for each. ``logged`` are the terms of all losses of the iteration.
    ``source_scores_of`` says what the source model's scores were measured with.
    """

    scales: Sequence[float] = (1.0,)
    """Factors of the image size at which training steps predict."""

    def __init__(self, **shared: Unpack[Shared]) -> None:
        adapter = shared["adapter"]
        super().__init__(
            network=shared["network"] if adapter is None else adapter(shared["network"]),
            labels=shared["labels"],
            eval_domains=shared["eval_domains"],
            inference=shared["inference"],
        )
        self.shared = shared
        self.iteration = 0
        self.step = Step()
        self.logged: dict[str, Tensor] = {}
        self.source_scores_of: Mapping[str, str] = {}

    @property
    def terms(self) -> Mapping[str, Tensor]:
        """The parts of the loss at hand by name."""
        return self.step.terms

    @property
    def starts_as_source_model(self) -> bool:
        """Whether the network predicts before the first step what its source model does."""
        return "source_model" in self.shared["needs"]

    def look(self, images: Batch) -> tuple[Tensor, Tensor | None]:
        """Logits (B, K, H, W) of a batch, and which of its pixels belong to pictures.

        None says that all do. Of the others nothing may be learnt, see :mod:`sfseg.ops.padding`;
        batch normalisation does not look at them.
        """
        valid = valid_pixels(images)
        with statistics_of_pictures(self.network, valid):
            return self(images["image"]), valid

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """What the optimiser is made from; a method with weights beside its network adds them."""
        return parameter_groups(
            self.network,
            self.shared["parameter_rules"],
            lr=self.shared["lr"],
            weight_decay=self.shared["weight_decay"],
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        try:
            optimizer = self.shared["optimizer"](self.optimizer_groups())
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"method.optimizer is refused: {error}; choose method/optimizer=adamw, sgd or "
                "sgd_nesterov, or remove the setting it does not know"
            ) from error
        schedule = self.shared["schedule"](optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def stepped_optimizers(self) -> list[LightningOptimizer]:
        """The optimisers of a method that steps them itself (``automatic_optimization=False``).

        Call it in ``training_step``: of their steps, the first one's alone count as the run's.
        """
        optimizers = cast(list[LightningOptimizer], self.optimizers())
        count_first_optimizer_only(optimizers)
        return optimizers

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The sum of a loss's weighted terms, in their order; keeps them in ``step``.

        A method with several losses calls it before each backward pass, with names of their own.
        """
        self.step.terms = {name: term.detach() for name, term in terms.items()}
        self.logged |= self.step.terms
        return reduce(add, terms.values())

    def output(
        self, terms: Mapping[str, Tensor], probability: Float[Tensor, "B K H W"]
    ) -> StepOutput:
        """What a step returns that trains on pseudo-labels.

        Args:
            terms: of the loss, see :meth:`total`.
            probability: of the classes of the target's images, detached; of any value in padding.
        """
        confidence, prediction = probability.max(dim=1)
        return {
            "loss": self.total(terms),
            "prediction": prediction.to(torch.uint8),
            "confidence": confidence.clamp(0, 1),
        }

    def _apply(self, fn: Change, recurse: bool = True) -> "Method":
        for child in self.children() if recurse else ():
            child._apply(fn)  # type: ignore[no-untyped-call]
        # Averages and counts beside the network stay exact where that is of half precision.
        super()._apply(without_narrowing(fn), recurse=False)  # type: ignore[no-untyped-call]
        return self

    def require_data(self, data: Any) -> None:
        """Raise a ConfigError, before anything is trained, for a DataModule that does not fit."""

    def undo_step(self) -> Callable[[], None]:
        """What takes back all that the coming step will change, should it be skipped.

        For methods that keep more than weights, optimisers and buffers, such as running means.
        """
        return _nothing

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.iteration += 1
        self.step, self.logged = Step(self.iteration), {}
        # Dropout is a function of the iteration too: a resumed run, or one that validates
        # more often, draws the same.
        torch.manual_seed(
            seed32(self.shared["seed"], self.iteration, self.global_rank, "training step")
        )

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # One call of `log` costs a third of a millisecond whether or not it reaches a logger.
        every = self.shared["log_every"]
        if every and self.iteration % every == 0:
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            parts = {f"train/{name}": term for name, term in self.logged.items()}
            self.log_dict({"train/loss": outputs["loss"], "train/lr": rate, **parts})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["iteration"] = self.iteration
        if self.source_scores:
            # Plain containers: nothing else is ever read from a checkpoint.
            checkpoint["source_scores"] = {d: asdict(s) for d, s in self.source_scores.items()}
            checkpoint["source_scores_of"] = dict(self.source_scores_of)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.iteration = int(checkpoint["iteration"])


def _nothing() -> None:
    """Where there is nothing to do."""
