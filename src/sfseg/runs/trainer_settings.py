"""Settings of Lightning's trainer: those that a run honours, and what stands for the others."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from sfseg.errors import ConfigError

HONOURED = frozenset({
    "accelerator", "strategy", "devices", "num_nodes", "precision", "plugins", "sync_batchnorm",
    "fast_dev_run", "max_steps", "min_steps", "max_epochs", "min_epochs", "max_time",
    "limit_train_batches", "limit_val_batches", "val_check_interval", "num_sanity_val_steps",
    "log_every_n_steps", "enable_progress_bar", "enable_model_summary", "profiler",
    "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm",
    "deterministic", "benchmark", "inference_mode", "detect_anomaly", "default_root_dir",
})  # fmt: skip
"""What does in a run what Lightning's users know it for; :func:`check_trainer` has the limits."""

ONE_EVALUATION = "a run ends with one evaluation; trainer.limit_val_batches shortens it"
REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "logger": ((), "logger=csv, wandb, tensorboard or none says where numbers go"),
    "callbacks": ((), "+callbacks.<name>={_target_: ...} adds one, ~callbacks.<name> removes one"),
    "barebones": ((False,), "logger=none and ~callbacks.<name> leave out what takes time"),
    "enable_checkpointing": (
        (None, True),
        "checkpoint.every_steps=null, or ~callbacks.checkpoint, leaves the one at the end alone",
    ),
    "overfit_batches": (
        (0, 0.0),
        "a data set of few images is one to overfit: data.scenes.source_train.length=4 of "
        "toyscapes, data.source_list and data.target_list of files",
    ),
    "limit_test_batches": ((None, 1.0), ONE_EVALUATION),
    "limit_predict_batches": ((None, 1.0), ONE_EVALUATION),
    "check_val_every_n_epoch": (
        (None,),
        "eval_every is the number of batches between evaluations, over all epochs",
    ),
    "reload_dataloaders_every_n_epochs": ((0,), "images are drawn without end; remove it"),
    "use_distributed_sampler": (
        (False,),
        "images are dealt to the processes without it, each one once; remove it",
    ),
    "enable_autolog_hparams": ((True,), "logger=none logs nothing"),
    "model_registry": ((None,), "a run's models are in its folder; remove it"),
}
"""Setting -> values that change nothing, and what does what a user may want of others."""


def refuse_unknown(trainer: DictConfig) -> None:
    """Refuse settings that would do nothing, or something else.

    Raises:
        ConfigError: names what does it.
    """
    for name, value in trainer.items():
        key = str(name)
        if key.startswith("_") or key in HONOURED:
            continue
        if key not in REFUSED:
            raise ConfigError(f"trainer.{key} is no setting of a run's trainer; remove it")
        harmless, way_out = REFUSED[key]
        if value not in harmless:
            raise ConfigError(f"trainer.{key}={value} is not for a run: {way_out}")


def check_trainer(cfg: DictConfig, *, steps_itself: bool) -> None:
    """Refuse settings of a training run that Lightning would refuse late or take for others.

    Args:
        cfg: of the run.
        steps_itself: whether the method steps its optimisers itself.

    Raises:
        ConfigError: names the setting and its way out.
    """
    trainer = cfg.trainer
    refuse_unknown(trainer)
    _check_steps(trainer)
    _check_epochs(trainer)
    _require_whole("eval_every", cfg.eval_every, least=1)
    _require_whole("trainer.log_every_n_steps", trainer.get("log_every_n_steps"), least=0)
    if cfg.method.get("log_every") not in (None, trainer.log_every_n_steps):
        raise ConfigError(
            f"method.log_every follows trainer.log_every_n_steps={trainer.log_every_n_steps}, got "
            f"{cfg.method.log_every}; set that"
        )
    if trainer.get("val_check_interval") != cfg.eval_every:
        raise ConfigError(
            f"trainer.val_check_interval follows eval_every={cfg.eval_every}, got "
            f"{trainer.get('val_check_interval')}; set eval_every"
        )
    if trainer.get("default_root_dir") != cfg.output_dir:
        raise ConfigError(
            "trainer.default_root_dir is the run's folder; hydra.run.dir=<folder> chooses it"
        )
    if cfg.optimized_metric is not None and trainer.get("limit_val_batches") == 0:
        raise ConfigError(
            f"trainer.limit_val_batches=0 leaves optimized_metric={cfg.optimized_metric} without "
            "a value; set optimized_metric=null too"
        )
    _check_gradients(trainer, steps_itself=steps_itself)


def check_step(trainer: DictConfig, *, steps_itself: bool) -> None:
    """Of these settings those that a single training step follows; see :func:`check_trainer`."""
    _check_steps(trainer)
    _check_gradients(trainer, steps_itself=steps_itself)


def _check_steps(trainer: DictConfig) -> None:
    steps, least = trainer.get("max_steps"), trainer.get("min_steps")
    if isinstance(steps, bool) or not isinstance(steps, int | float) or steps < 1 or steps % 1:
        raise ConfigError(
            f"trainer.max_steps must be a number of steps, at least 1, got {steps}: the learning "
            "rate follows it"
        )
    if least is not None and least > steps:
        raise ConfigError(
            f"trainer.min_steps={least} is more than trainer.max_steps={steps}, which ends the "
            "run; raise that"
        )


def _check_epochs(trainer: DictConfig) -> None:
    """An epoch is what ``limit_train_batches`` says; without it, none ends."""
    limit, adds_up = trainer.get("limit_train_batches"), trainer.get("accumulate_grad_batches", 1)
    _require_whole("trainer.accumulate_grad_batches", adds_up, least=1)
    if limit is not None and not (isinstance(limit, float) and limit == 1):
        if limit == 0:
            raise ConfigError(
                "trainer.limit_train_batches must not be 0, which trains nothing; remove it"
            )
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
            raise ConfigError(
                f"trainer.limit_train_batches must be a number of batches, got {limit}: images "
                "are drawn without end, which has no shares"
            )
        if limit % adds_up:
            raise ConfigError(
                f"trainer.limit_train_batches={limit} must be a multiple of "
                f"trainer.accumulate_grad_batches={adds_up}, or an epoch would end with a step of "
                "fewer batches"
            )
    has_epochs = isinstance(limit, int)
    for name in ("max_epochs", "min_epochs"):
        epochs = trainer.get(name)
        if epochs == 0 and name == "max_epochs":
            raise ConfigError("trainer.max_epochs must not be 0, which trains nothing; remove it")
        if epochs not in (None, -1) and not has_epochs:
            raise ConfigError(
                f"trainer.{name}={epochs} has no effect: images are drawn without end; set "
                "trainer.max_steps, or say with trainer.limit_train_batches how many batches an "
                "epoch has"
            )


def _check_gradients(trainer: DictConfig, *, steps_itself: bool) -> None:
    if trainer.get("gradient_clip_val") is None and trainer.get("gradient_clip_algorithm"):
        raise ConfigError(
            f"trainer.gradient_clip_algorithm={trainer.gradient_clip_algorithm} has no effect "
            "without trainer.gradient_clip_val; set that"
        )
    if not steps_itself:
        return
    for setting, off in (("gradient_clip_val", None), ("accumulate_grad_batches", 1)):
        if trainer.get(setting, off) != off:
            raise ConfigError(
                f"trainer.{setting} must be {'null' if off is None else off} for a method with "
                f"several optimisers, got {trainer[setting]}; remove it"
            )


def _require_whole(name: str, value: Any, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} must be a whole number, at least {least}, got {value}")
