"""``sfseg-train``: train a method, evaluate it, write its results.

Heavy imports wait inside functions, so that ``--help`` and ``--cfg job`` answer at once.
"""

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sfseg.config.composition import build, command, overrides, plain, quoted, require_flags
from sfseg.errors import ConfigError
from sfseg.runs.folder import FINISHED, claim, finish, is_first_process, read_record, require_same
from sfseg.runs.resume import (
    CHECKPOINTS,
    check_resume,
    in_its_folder,
    last_logged,
    tidy,
    where_it_stopped,
)
from sfseg.runs.sweep import refuse_parallel_sweep

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import Logger

    from sfseg.data.module import AdaptationData
    from sfseg.methods.base import Method

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point of ``sfseg-train``."""
    sys.argv[1:] = in_its_folder(quoted(sys.argv[1:]))
    command(job, "train")


def job(cfg: DictConfig) -> float | None:
    """A run, or a step of one again."""
    from sfseg.commands.replay import run_again

    if cfg.replay is None:
        require_flags(cfg, "report")
        return train(cfg)
    run_again(cfg)
    return None


def train(cfg: DictConfig) -> float | None:
    """One run: fit, save, evaluate; returns the metric that sweeps optimise."""
    import torch
    from lightning.pytorch import seed_everything

    from sfseg.runs import source_model
    from sfseg.runs.processes import lost_processes, meet
    from sfseg.runs.protocol import protocol_of
    from sfseg.runs.quiet import quiet_lightning
    from sfseg.runs.refinement import refiner_of
    from sfseg.runs.refusals import check

    folder = Path(HydraConfig.get().runtime.output_dir)
    check_resume(cfg)
    record = read_record(folder) if cfg.resume == "auto" else None
    if cfg.seed is None:
        cfg.seed = drawn_seed() if record is None else record["seed"]
    quiet_lightning()
    refuse_parallel_sweep(cfg)
    config = plain(cfg, resolve=False)
    if record is not None and FINISHED in record:
        require_same(folder, config)
        log.info("%s is complete: nothing is left to do; its tables are there", folder)
        return cast("float | None", record[FINISHED]["metric"])
    seed_everything(cfg.seed, verbose=False)
    torch.set_float32_matmul_precision(cfg.matmul_precision)

    data = data_of(cfg)
    resolved = plain(cfg, resolve=True)
    if record is not None:
        cfg.ckpt_path = where_it_stopped(cfg, folder, config)
    source = source_model.find(cfg) if starts_from_source_model(cfg) else None
    method = build_method(cfg, data, source)
    trial = check(cfg, method, overrides())
    # Now, not in `fit`: broken data must end the run before its folder is taken.
    data.setup("fit")
    method.require_data(data)
    protocol, refiner = protocol_of(data, method.inference, trial), refiner_of(cfg, data)
    try_out(method, data, trial)
    plan = plan_of(cfg, data, trial.world_size)
    with claimed(folder, config, resolved, resume=record is not None), lost_processes(trial):
        meet(trial)
        if starts_from_source_model(cfg):
            source, is_other = source_model.shared(cfg, source, trial.strategy)
            method = rebuilt(cfg, data, source) if is_other else method
        method.protocol, method.refiner = protocol, refiner
        return run(cfg, config, method, data, source, plan)


def data_of(cfg: DictConfig) -> "AdaptationData":
    """The data of a run, not opened yet; in its settings, crops that follow the pictures are set.

    Raises:
        ConfigError: a setting that cannot work.
        DataError: files are not there that crops follow.
    """
    from sfseg.runs.crops import fit_crops
    from sfseg.runs.plan import check_added
    from sfseg.runs.source_settings import check_start, require_source

    check_added(cfg, overrides())
    check_start(cfg)
    data: AdaptationData = build(cfg.data.module)
    require_source(cfg, data)
    fit_crops(cfg, cfg.method.needs)
    return data


def try_out(method: "Method", data: "AdaptationData", trial: "Trainer") -> None:
    """Show a network what training and evaluation will, where that may fail.

    Raises:
        ConfigError: a single crop is too small, or a picture too large.
        DataError: the size of a picture cannot be read.
    """
    from sfseg.runs.memory import check_largest
    from sfseg.runs.single_images import check_single

    check_single(method, data, trial)
    check_largest(method, data, trial)


def starts_from_source_model(cfg: DictConfig) -> bool:
    """Whether the method starts from a model that has been trained on the source."""
    return "source_model" in cfg.method.needs


@contextmanager
def claimed(
    folder: Path, config: dict[str, Any], resolved: dict[str, Any], *, resume: bool
) -> Iterator[None]:
    """Keep other processes out of the run's folder, and what killed ones have left."""
    if not is_first_process():
        yield
        return
    lock = claim(folder, config, overrides(), resolved, resume=resume)
    try:
        tidy(folder)
        yield
    finally:
        lock.release()


def run(
    cfg: DictConfig,
    config: dict[str, Any],
    method: "Method",
    data: "AdaptationData",
    source: Path | None,
    plan: list[str],
) -> float | None:
    """Train and evaluate in the claimed folder; returns the metric that sweeps optimise.

    Args:
        cfg: the run's settings as they are now.
        config: as they were composed, for checkpoints: however often a run has been interrupted.
        method: to train.
        data: opened.
        source: checkpoint of the source model, if the method starts from one.
        plan: what to say of the training before it begins.
    """
    from sfseg.commands.run_report import write_at_end
    from sfseg.report.sending import close

    for line in plan:
        log.info(line)
    report_size(method)
    log.info("evaluation: %s", method.protocol)
    loggers = [build(node) for node in (cfg.logger or {}).values() if node is not None]
    try:
        metric = fit(cfg, {**config, "resume": None}, method, data, source, loggers)
    finally:
        close(loggers)
        data.close()
    if is_first_process():
        folder = Path(HydraConfig.get().runtime.output_dir)
        finish(folder, metric)
        if cfg.report:
            write_at_end(folder)
    return metric


def fit(
    cfg: DictConfig,
    config: dict[str, Any],
    method: "Method",
    data: "AdaptationData",
    source: Path | None,
    loggers: "list[Logger]",
) -> float | None:
    """Train and evaluate what has been checked; returns the metric that sweeps optimise."""
    from sfseg.callbacks.continued import Continued
    from sfseg.callbacks.provenance import Provenance
    from sfseg.callbacks.selection import selection_of
    from sfseg.report.loggers import MetricsCsv
    from sfseg.runs.preparation import NO_MODEL, described, prepare
    from sfseg.runs.refusals import built_callbacks, built_trainer
    from sfseg.storage.checkpoint_files import CheckpointFiles
    from sfseg.storage.manifest import LAST

    folder = Path(HydraConfig.get().runtime.output_dir)
    model = described(source)
    content = Provenance(config, data.labels.to_dict(), model)
    callbacks = built_callbacks(cfg)
    continued = [] if cfg.ckpt_path is None else [Continued()]
    trainer = built_trainer(
        cfg,
        method,
        [content, *continued, *callbacks],
        logger=loggers or False,
        plugins=[CheckpointFiles()],
    )
    log_config(loggers, cfg, method)
    if cfg.resume == "auto":
        for logger in loggers:
            if isinstance(logger, MetricsCsv):
                logger.resume_from(last_logged(cfg))
    prepare(
        cfg, source, model=NO_MODEL if model is None else model["digest"], trainer=trainer,
        method=method, data=data, folder=folder,
    )  # fmt: skip
    trainer.fit(method, datamodule=data, ckpt_path=cfg.ckpt_path, weights_only=True)
    if not cfg.trainer.get("fast_dev_run"):
        trainer.save_checkpoint(folder / CHECKPOINTS / LAST)
    if (selection := selection_of(callbacks)) is not None:
        selection.conclude(trainer, method, data)
    trainer.validate(method, datamodule=data, verbose=False)
    if is_first_process():
        log.info("run folder: %s", folder)
    return logged_metric(trainer, cfg.optimized_metric)


def build_method(cfg: DictConfig, data: "AdaptationData", source: Path | None = None) -> "Method":
    """The method around its network, for the task of the data.

    Args:
        cfg: of the run.
        data: the task.
        source: checkpoint with the weights of a source model, for methods that start from one.

    Raises:
        ConfigError: the method refuses a setting, or the source model is another network.
    """
    from sfseg.runs.method import built_method
    from sfseg.runs.preparation import network_of

    return built_method(
        cfg,
        data.labels,
        network=network_of(cfg, data.labels, source),
        eval_domains=data.eval_domains,
        inference=build(cfg.evaluation),
    )


def rebuilt(cfg: DictConfig, data: "AdaptationData", source: Path) -> "Method":
    """The method as if its source model, trained just now or by others, had been there before."""
    from lightning.pytorch import seed_everything

    seed_everything(cfg.seed, verbose=False)
    return build_method(cfg, data, source)


def drawn_seed() -> int:
    """A seed for ``seed=null``, the same on all ranks; ``run.json`` records it."""
    if is_first_process():
        os.environ["SFSEG_SEED"] = str(secrets.randbelow(1 << 31))
    return int(os.environ["SFSEG_SEED"])


def plan_of(cfg: DictConfig, data: "AdaptationData", processes: int) -> list[str]:
    """What is trained on, for how long: much of it follows the data where nothing is set.

    Raises:
        ConfigError: some process would have no images of one domain.
    """
    plan = []
    steps, adds_up = int(cfg.trainer.max_steps), cfg.trainer.get("accumulate_grad_batches", 1)
    for domain in data.domains:
        images = len(data.scenes[f"{domain}_train"])
        of_step = adds_up * data.training.batch_images(
            domain, data.scenes, batch_size=data.batch_size, processes=processes
        )
        plan.append(
            f"training: {steps:,} steps of {of_step:.5g} images of the {domain}, "
            f"{steps * of_step / images:.3g} passes over its {images:,}; {data.views[domain]}"
        )
    return plan


def report_size(method: "Method") -> None:
    """Log how many parameters the network has and how many of them train."""
    from sfseg.optim import count_parameters

    total, trainable = count_parameters(method.network.parameters())
    log.info("parameters: %s, of which trainable: %s", f"{total:,}", f"{trainable:,}")


def log_config(loggers: "list[Logger]", cfg: DictConfig, method: "Method") -> None:
    """Send the resolved configuration and the parameter counts to every logger."""
    from sfseg.optim import count_parameters

    total, trainable = count_parameters(method.network.parameters())
    values = plain(cfg, resolve=True)
    for logger in loggers:
        logger.log_hyperparams({**values, "parameters": total, "trainable": trainable})


def logged_metric(trainer: "Trainer", name: str | None) -> float | None:
    """The value a sweep optimises.

    Raises:
        ConfigError: the run has logged no such metric; lists those it has.
    """
    if name is None:
        return None
    logged = sorted(trainer.callback_metrics)
    if name not in logged:
        raise ConfigError(f"optimized_metric={name!r} was not logged; choose one of {logged}")
    return float(trainer.callback_metrics[name])


if __name__ == "__main__":
    main()
