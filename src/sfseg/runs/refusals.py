"""What training would refuse later, refused before it begins; and callbacks in their order."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from sfseg.callbacks.order import ordered
from sfseg.callbacks.selection import selection_of
from sfseg.config.composition import build
from sfseg.errors import ConfigError
from sfseg.optim import pairs_of
from sfseg.runs.checkpoints import check_resumable, read_checkpoint
from sfseg.runs.objective import check_objective
from sfseg.runs.plan import check_plan
from sfseg.runs.preparation import label_selection_of, strategy_of
from sfseg.runs.records import record_of
from sfseg.runs.refinement import check_refinement
from sfseg.runs.source_settings import check_source
from sfseg.runs.trainer_settings import check_trainer
from sfseg.storage.manifest import KEY

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer
    from torch.optim import Optimizer

    from sfseg.methods.base import Method

log = logging.getLogger(__name__)


def check(cfg: DictConfig, method: "Method", typed: Sequence[str] = ()) -> "Trainer":
    """Refuse now what training would refuse later, or take for something else.

    Args:
        cfg: of the run.
        method: to be trained.
        typed: settings of the command line.

    Returns:
        A trainer like the run's, which has neither loggers nor callbacks.

    Raises:
        ConfigError: the network, the checkpoint to continue, the optimiser, a metric's name, the
            share of pseudo-labels to leave out, what refines them, the callbacks, the trainer, a
            setting that would reach nothing, or the target's style for a model that must not see
            the target.
    """
    check_network(method)
    check_trainer(cfg, steps_itself=not method.automatic_optimization)
    check_plan(cfg, typed)
    check_source(cfg)
    if cfg.ckpt_path is not None:
        warn_if_done(check_resumable(cfg.ckpt_path, method), cfg.trainer.max_steps)
    label_selection_of(cfg)
    check_refinement(cfg, method, typed)
    # Built once to see that they can be; Lightning asks for the optimiser when training starts.
    optimizers = [optimizer for optimizer, _ in pairs_of(method.configure_optimizers())]
    check_digits(cfg, optimizers)
    if cfg.ckpt_path is not None:
        check_optimizers(cfg, optimizers)
    callbacks = built_callbacks(cfg)
    check_objective(cfg.optimized_metric, method, callbacks)
    if (selection := selection_of(callbacks)) is not None:
        selection.require(method)
    return built_trainer(cfg, method, [])


def built_trainer(
    cfg: DictConfig,
    method: "Method",
    callbacks: "list[Callback]",
    *,
    logger: Any = False,
    plugins: Sequence[Any] = (),
) -> "Trainer":
    """The trainer of a run.

    Raises:
        ConfigError: Lightning refuses a setting.
    """
    from lightning.pytorch.callbacks import Checkpoint

    own = [build(node) for node in cfg.trainer.get("plugins") or []]
    trainer: Trainer = build(
        cfg.trainer,
        **strategy_of(cfg, method),
        logger=logger,
        callbacks=callbacks,
        # Without one of ours, Lightning would add its own.
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        plugins=[*own, *plugins],
    )
    devices = trainer.strategy.root_device.type
    if cfg.trainer.get("sync_batchnorm") and trainer.world_size > 1 and devices == "cpu":
        raise ConfigError("trainer.sync_batchnorm=true needs GPUs, got cpu; set it to false")
    return trainer


def check_network(method: "Method") -> None:
    """Refuse a network that the method cannot train.

    Raises:
        ConfigError: it is one of two resolutions, for a method without labels of the source.
    """
    from sfseg.methods.supervised import Supervised
    from sfseg.networks.adapters.two_resolutions import TwoResolutions

    if isinstance(method.network, TwoResolutions) and not isinstance(method, Supervised):
        raise ConfigError(
            f"method.adapter must not be two_resolutions for {type(method).__name__}, which looks "
            "at whole images alone; set method/adapter=null, or choose a method that learns the "
            "source's labels"
        )


def check_digits(cfg: DictConfig, optimizers: "Sequence[Optimizer]") -> None:
    """Refuse a term that keeps a division finite and would be 0 in half precision.

    Raises:
        ConfigError: the ``eps`` of an Adam in ``16-true``, whose first step would divide by 0.
    """
    smallest = 2.0**-24
    of_each = [float(o.defaults.get("eps") or 1.0) for o in optimizers]
    lost = [eps for eps in of_each if eps < smallest]
    if cfg.trainer.get("precision") in ("16-true", "float16") and lost:
        # Of further optimisers, which the method makes itself, nothing can be set.
        has_setting = lost == of_each[:1]
        raise ConfigError(
            f"trainer.precision=16-true makes the optimiser's eps={lost[0]} 0, and steps NaN; "
            f"{'set +method.optimizer.eps=1e-4, or ' if has_setting else ''}"
            "take trainer.precision=16-mixed or bf16-mixed"
        )


def check_optimizers(cfg: DictConfig, optimizers: "Sequence[Optimizer]") -> None:
    """Refuse optimisers that cannot go on from those of the checkpoint.

    Raises:
        ConfigError: they are of another kind, or have other groups of parameters.
    """
    content = read_checkpoint(cfg.ckpt_path)
    with record_of(f"ckpt_path={cfg.ckpt_path}"):
        before = content[KEY]["config"]["method"].get("optimizer", {}).get("_target_")
        kept = [
            [len(group["params"]) for group in state["param_groups"]]
            for state in content["optimizer_states"]
        ]
    now = cfg.method.get("optimizer", {}).get("_target_")
    if before is not None and before != now:
        raise ConfigError(
            f"ckpt_path={cfg.ckpt_path} was trained with {before}, whose state {now} cannot go on "
            "from; choose the same method/optimizer, or start from its weights with "
            "source_checkpoint or backbone.checkpoint"
        )
    mine = [[len(group["params"]) for group in o.param_groups] for o in optimizers]
    if kept != mine:
        raise ConfigError(
            f"ckpt_path={cfg.ckpt_path} has optimisers with groups of {kept} parameters, this run "
            f"of {mine}: groups are parameters of equal learning rate and weight decay; keep apart "
            "what was apart in method.lr, method.weight_decay and method.parameter_rules"
        )


def warn_if_done(steps: int, max_steps: int) -> None:
    """Say so when a resumed run has nothing left to train."""
    if steps >= max_steps:
        log.warning(
            "the checkpoint is at step %d and trainer.max_steps=%d: nothing is left to train; "
            "raise trainer.max_steps to go on",
            steps,
            max_steps,
        )


def built_callbacks(cfg: DictConfig) -> "list[Callback]":
    """Those of the configuration in the order that they need; null takes one out.

    Raises:
        ConfigError: one needs another that is not there.
    """
    nodes = cfg.callbacks.items()
    return ordered({str(name): build(node) for name, node in nodes if node is not None})
