"""``sfseg-eval``: the tables of a checkpoint, on its own data or others."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from sfseg.config.composition import build, command, overrides, plain, require_flags
from sfseg.errors import ConfigError
from sfseg.runs.folder import claim, is_first_process

if TYPE_CHECKING:
    from sfseg.runs.checkpoints import Restored

log = logging.getLogger(__name__)

ALONE, WITH_SOURCE = ["source_model"], ["source_model", "source_eval"]
"""What an evaluation asks of the data: a model is there, and is not theirs to serve."""


def main() -> None:
    """Entry point of ``sfseg-eval``."""
    command(evaluate, "eval")


def evaluate(cfg: DictConfig) -> None:
    """Evaluate and write results into a run folder of its own."""
    import torch
    from lightning.pytorch import Trainer

    from sfseg.methods.evaluation import Evaluation
    from sfseg.runs.checkpoints import restore
    from sfseg.runs.protocol import protocol_of
    from sfseg.runs.quiet import quiet_lightning
    from sfseg.runs.refusals import built_callbacks
    from sfseg.runs.trainer_settings import refuse_unknown

    quiet_lightning()
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    refuse_unknown(cfg.trainer)
    restored = restore(cfg.ckpt_path)
    settings = data_config(cfg, restored)
    served = needs(cfg, restored, settings)
    data = build(settings.module, needs=served, checks={"samples": 20})
    if data.labels.classes != restored.labels.classes:
        raise ConfigError(
            f"the checkpoint knows the {restored.labels.num_classes} classes of "
            f"{restored.labels.name}, the data {data.labels.num_classes} of {data.labels.name}; "
            f"choose data of the same classes, or say data.classes={restored.labels.name} where "
            "the masks hold these"
        )
    data.setup("validate")
    inference = build(cfg.evaluation)
    trainer: Trainer = build(cfg.trainer, logger=False, callbacks=built_callbacks(cfg))
    protocol = protocol_of(data, inference, trainer)
    say_precision(cfg, restored)
    folder = Path(HydraConfig.get().runtime.output_dir)
    if is_first_process():
        claim(
            folder,
            plain(cfg, resolve=False),
            overrides(),
            {
                "data": plain(settings, resolve=True),
                "evaluation": plain(cfg.evaluation, resolve=True),
            },
        ).release()
    module = Evaluation(
        network=restored.network,
        labels=restored.labels,
        eval_domains=data.eval_domains,
        inference=inference,
    )
    module.protocol = protocol
    if restored.selection:
        module.protocol += f", {restored.selection}"
    log.info("evaluation: %s", module.protocol)
    trainer.validate(module, datamodule=data, verbose=False)
    if is_first_process():
        log.info("results: %s", folder)


def say_precision(cfg: DictConfig, restored: "Restored") -> None:
    """Log where the run was evaluated in another precision: its numbers differ a little."""
    own = OmegaConf.select(restored.config, "trainer.precision")
    if own not in (None, cfg.trainer.precision):
        log.info(
            "precision: %s, in the run %s; trainer.precision=%s gives the run's own numbers",
            cfg.trainer.precision, own, own,
        )  # fmt: skip


def data_config(cfg: DictConfig, restored: "Restored") -> DictConfig:
    """The data of the command line: a whole group, or changes to the run's own."""
    stored = restored.config
    if "module" in cfg.data:
        stored.data = cfg.data
    else:
        _use_own_cache(cfg, stored)
        for key in cfg.data:
            if key not in stored.data:
                raise ConfigError(
                    f"data.{key} is no setting of the checkpoint's data; it has "
                    f"{sorted(str(k) for k in stored.data)}, or choose another group: data=<name>"
                )
        for key, value in cfg.data.items():
            before, old = plain(stored.data.module, resolve=True), stored.data[key]
            if key == "eval_sets" and stored.data[key] is not None:
                # Its names are free: more sets may join those of the run.
                OmegaConf.set_struct(stored.data[key], False)
            stored.data = OmegaConf.merge(stored.data, {key: value})
            if stored.data[key] != old and plain(stored.data.module, resolve=True) == before:
                raise ConfigError(
                    f"data.{key}={value} would change nothing: the checkpoint's data do not refer "
                    "to it; remove it, or choose a whole group: data=<name>"
                )
    stored.output_dir = cfg.output_dir
    data: DictConfig = stored.data
    return data


def _use_own_cache(cfg: DictConfig, stored: DictConfig) -> None:
    """A record may be a stranger's: it does not decide where decoded images are written."""
    own = {
        "_target_": "sfseg.data.cache.CacheSettings",
        "kind": "${data.cache}",
        "folder": "${data.cache_dir}",
    }
    with open_dict(stored.data):
        stored.data.cache_dir = cfg.cache_dir
        # Older runs kept none.
        stored.data.module.cache = own if "cache" in stored.data else None


def needs(cfg: DictConfig, restored: "Restored", data: DictConfig) -> list[str]:
    """What the data must serve: what is judged by always, the source if asked for.

    Nothing is trained, so that no training set need be there. If nothing is said, the source is
    evaluated where the run has trained on it and its files are here.
    """
    from sfseg.data.opening import missing_folder

    if cfg.with_source is not None:
        require_flags(cfg, "with_source")
        return WITH_SOURCE if cfg.with_source else ALONE
    reader = data.module.scenes.get("source_eval")
    if "source" not in restored.config.method.needs or reader is None:
        return ALONE
    if (folder := missing_folder(build(reader))) is not None:
        log.warning(
            "the source is left out: folder %s does not exist; with_source=true demands it", folder
        )
        return ALONE
    return WITH_SOURCE


if __name__ == "__main__":
    main()
