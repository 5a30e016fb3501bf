"""``sfseg-generate``: a diffusion model learns the look of a place and draws pictures of it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from sfseg.commands.generate_images import images
from sfseg.commands.generate_report import report
from sfseg.config.composition import as_typed, build, overrides, plain, subcommands
from sfseg.errors import ConfigError
from sfseg.runs.folder import claim, differences, finish, read_record
from sfseg.storage.atomic import file_in_the_way, remove_partial

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

    from sfseg.generation.crops import Crops
    from sfseg.generation.settings import Settings

log = logging.getLogger(__name__)

USAGE = """\
usage: sfseg-generate personalise|images|report [key=value ...]

  personalise  teach a diffusion model the look of a place from one picture of it, or some
  images       a set of images from prompts, by that model or any other
  report       a page on a set beside images of the target

sfseg-generate personalise --help lists the settings.
"""
FREE = (
    "steps", "keep_every", "save_every", "samples", "logger", "device", "tags", "run_name",
    "out", "images", "prior.images",
)  # fmt: skip
"""Settings that a personalisation may go on with changed: the steps it does stay the same.

Pictures are known by their content, wherever they and the folder are now.
"""
TEXTS = ("model", "out", "identifier", "prompt", "prior.prompt", "samples.prompt")
"""Settings that are text, also where they look like a number."""


def main() -> None:
    """Entry point of ``sfseg-generate``; its first argument says what to do."""
    subcommands(TASKS, USAGE)


def personalise(cfg: DictConfig) -> None:
    """Train a model on pictures of a place, and keep it every so many steps.

    Raises:
        ConfigError: a setting that cannot work, or ``out`` holds something else.
        DataError: there are no pictures, or one cannot be read.
        OutputError: ``out`` cannot be written.
    """
    import torch

    from sfseg.generation.begun import kept_models, require_ahead, require_same_pictures
    from sfseg.generation.dreambooth import DreamBooth, require_trainable
    from sfseg.generation.personalisation import Personalisation
    from sfseg.generation.pipelines import chosen_device, load_pipeline, require_libraries
    from sfseg.report.sending import close
    from sfseg.runs.quiet import quiet_lightning

    quiet_lightning()
    require_libraries()
    read_texts(cfg)
    settings, out = settings_of(cfg), Path(cfg.out)
    config = {**plain(cfg, resolve=False), "model": located(settings.model)}
    is_begun = require_own(out, config, cfg.resume)
    places = crops_of(sources(cfg.images, "images", out), cfg.resize, settings, "images")
    others = given_others(cfg, out, settings)
    if is_begun:
        require_same_pictures(out, places, others)
        kept = kept_models(out)
        if settings.steps in kept:
            log.info("%s is complete: nothing is left to do", kept[settings.steps])
            return
        require_ahead(out, settings.steps, max(kept, default=0))
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    pipeline = load_pipeline(settings.model, device=chosen_device(cfg.device))
    require_trainable(pipeline, settings)
    lock = claim(out, config, overrides(), plain(cfg, resolve=True), resume=is_begun)
    loggers: list[Logger] = []
    try:
        remove_partial(out)
        if settings.prior.weight and others is None:
            others = drawn_others(pipeline, out, settings)
        run = Personalisation(DreamBooth(pipeline, settings), places, others, out)
        loggers += [build(node) for node in (cfg.logger or {}).values() if node is not None]
        begin_logs(loggers, plain(cfg, resolve=True), run.done)
        run.run(loggers)
        finish(out, None)
    finally:
        close(loggers)
        lock.release()


def read_texts(cfg: DictConfig) -> None:
    """Put text where a setting is to be text, and the home folder where ``out`` has ``~``."""
    for key in TEXTS:
        text = as_typed(cfg, key)
        if not isinstance(OmegaConf.select(cfg, key), str):
            OmegaConf.update(cfg, key, text)
    cfg.out = str(Path(cfg.out).expanduser())


def located(model: str) -> str:
    """A model's folder, however it is named; an id of the hub as it is."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model


def settings_of(cfg: DictConfig) -> "Settings":
    """What is asked for, checked.

    Raises:
        ConfigError: names the setting that cannot be.
    """
    from sfseg.generation.settings import Lora, Prior, Samples, Settings

    if cfg.adapter not in (None, "lora"):
        raise ConfigError(f"adapter must be null or lora, got {cfg.adapter}")
    if cfg.resume not in ("auto", None):
        raise ConfigError(f"resume must be auto or null, got {cfg.resume}")
    parts = plain(cfg, resolve=True)
    apart = {"lora", "prior", "samples", "model"}
    own = {field.name for field in fields(Settings)} - apart
    return Settings(
        **{name: parts[name] for name in own},
        model=cfg.model,
        lora=Lora(**parts["lora"]) if cfg.adapter == "lora" else None,
        prior=Prior(**{key: value for key, value in parts["prior"].items() if key != "images"}),
        samples=Samples(**parts["samples"]),
    )


def require_own(out: Path, config: Mapping[str, Any], resume: str | None) -> bool:
    """Whether the folder holds this run, which then goes on.

    Raises:
        ConfigError: it is no folder, or holds something else or a run of other settings.
    """
    if (file := file_in_the_way(out)) is not None:
        raise ConfigError(
            f"out={out}: {file} is a file; choose a folder that is new, or that holds this run"
        )
    if read_record(out) is None:
        strange = list(out.glob("[!.]*"))
        if strange:
            raise ConfigError(
                f"out={out} is not empty: it has {strange[0].name}; choose another folder"
            )
        return False
    if resume is None:
        raise ConfigError(f"out={out} holds a run; choose another folder, or set resume=auto")
    if differ := differences(out, config, FREE):
        raise ConfigError(
            f"out={out} holds a run of other settings\n"
            + "\n".join(differ[:5])
            + "\nrepeat its command to go on with it, or choose another folder"
        )
    return True


def sources(value: Any, setting: str, out: Path) -> list[Path]:
    """Pictures that a setting names: one or several folders, files or patterns.

    Raises:
        ConfigError: ``out`` is inside one of the folders, whose pictures would then be of both.
        DataError: there are none.
    """
    from sfseg.data.inputs import find_inputs

    listed = value if OmegaConf.is_list(value) else [value]
    named = [Path(str(each)).expanduser() for each in listed]
    for path in named:
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise ConfigError(
                f"out={out} is inside {setting}={path}, whose pictures are learnt, sub-folders' "
                "too; choose a folder elsewhere"
            )
    return [path for path, _ in find_inputs([str(path) for path in named], own=[out])]


def crops_of(
    paths: Sequence[Path], resize: int | None, settings: "Settings", setting: str
) -> "Crops":
    """Pictures of a setting, to be cut.

    Raises:
        ConfigError: one is smaller than a crop.
        DataError: one cannot be read, or is black.
    """
    from sfseg.generation.crops import Crops
    from sfseg.generation.settings import require_whole

    if resize is not None:
        require_whole("resize", resize)
    return Crops(
        paths,
        resize=resize, crop=settings.crop, seed=settings.seed, setting=setting,
    )  # fmt: skip


def given_others(cfg: DictConfig, out: Path, settings: "Settings") -> "Crops | None":
    """Pictures of prior preservation that a setting names; None where there are none to be."""
    given = cfg.prior.images
    if not settings.prior.weight or given is None:
        return None
    return crops_of(sources(given, "prior.images", out), settings.crop, settings, "prior.images")


def drawn_others(pipeline: Any, out: Path, settings: "Settings") -> "Crops":
    """Pictures of prior preservation that the model draws first."""
    from sfseg.generation.samples import draw_others

    drawn = draw_others(pipeline, settings, out / "others")
    return crops_of(drawn, settings.crop, settings, "prior.images")


def begin_logs(loggers: "Sequence[Logger]", config: dict[str, Any], done: int) -> None:
    """Send the configuration, and forget losses of steps that will be done again."""
    from sfseg.report.loggers import MetricsCsv

    for logger in loggers:
        logger.log_hyperparams(config)
        if isinstance(logger, MetricsCsv):
            logger.resume_from(done - 1)


TASKS: dict[str, Callable[[DictConfig], None]] = {
    "personalise": personalise,
    "images": images,
    "report": report,
}

if __name__ == "__main__":
    main()
