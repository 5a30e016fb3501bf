"""``sfseg-generate images``: a set of images from prompts, for DATUM and CLOUDS."""

import logging
import os
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from sfseg.config.composition import as_typed, require_flags
from sfseg.config.information import tell
from sfseg.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from sfseg.generation.sampling import Sampling

log = logging.getLogger(__name__)

PACKAGES = ("accelerate", "safetensors")
"""Whose versions the manifest names beside those that every record has."""
DECISIVE = (
    "weights_sha256", "height", "width", "steps", "guidance", "scheduler", "dtype",
    "safety_checker",
)  # fmt: skip
"""What images of one folder have in common; the rest changes no more than their rounding."""


def images(cfg: DictConfig) -> None:
    """Make the images of a set that are not there yet.

    Raises:
        ConfigError: a setting that cannot work, or the folder holds another set.
        DataError: nothing but black images.
        OutputError: the disk is full.
    """
    from sfseg.generation.image_set import require_own
    from sfseg.generation.plan import Plan, shard_of
    from sfseg.generation.sampling import Sampling

    require_flags(cfg, "safety_checker", "print_prompts")
    prompts = chosen_prompts(cfg)
    if cfg.print_prompts:
        tell("".join(f"{prompt}\n" for prompt in prompts))
        return
    shard = shard_of(cfg.shard, os.environ)
    plan = Plan(prompts, cfg.n_images, seed=cfg.seed, batch_size=cfg.batch_size, shard=shard)
    sampling = Sampling(cfg.height, cfg.width, cfg.steps, cfg.guidance)
    if not any(plan.batches()):
        log.warning(
            "shard=%d/%d has nothing to do: shares are of whole batches, and %d images in batches "
            "of batch_size=%d are fewer than shares", *shard, plan.n_images, plan.batch_size,
        )  # fmt: skip
        return
    require_own(folder_of(cfg))
    generate(cfg, plan, sampling)


def folder_of(cfg: DictConfig) -> Path:
    """Where the set is."""
    return Path(as_typed(cfg, "out")).expanduser()


def chosen_prompts(cfg: DictConfig) -> list[str]:
    """The prompts that the settings name, and that fit what the model was personalised with.

    Raises:
        ConfigError: no such prompts, or the model knows the target by another word.
    """
    from sfseg.generation.model_card import personalised
    from sfseg.generation.prompts import prompts_of

    source, identifier = as_typed(cfg, "prompts"), as_typed(cfg, "identifier")
    template = None if cfg.template is None else as_typed(cfg, "template")
    classes = as_typed(cfg, "classes")
    if source == "datum" and not OmegaConf.is_missing(cfg, "model"):
        trained = personalised(as_typed(cfg, "model"))
        if trained.get("identifier", identifier) != identifier:
            raise ConfigError(
                f"identifier={identifier} is not what model={cfg.model} was personalised with; set "
                f"identifier={trained['identifier']}"
            )
        if classes == "none" and template is None and "prompt" in trained:
            return [str(trained["prompt"])]
    return prompts_of(source, classes=classes, template=template, identifier=identifier)


def generate(cfg: DictConfig, plan: Any, sampling: "Sampling") -> None:
    """Load the model and make this process's share of the images."""
    import torch

    from sfseg.generation.image_set import ImageSet
    from sfseg.generation.making import make_images
    from sfseg.generation.pipelines import chosen_device, load_pipeline
    from sfseg.generation.sampling import fingerprint, longer_than_read, use_scheduler
    from sfseg.runs.memory import is_out_of_memory

    torch.set_float32_matmul_precision(cfg.matmul_precision)
    device = chosen_device(device_of(cfg.device, os.environ))
    dtype = dtype_of(cfg.dtype, device)
    pipeline = load_pipeline(as_typed(cfg, "model"), dtype=dtype, safety_checker=cfg.safety_checker)
    sampling.require_fitting(pipeline)
    scheduler = use_scheduler(pipeline, cfg.scheduler)
    if cut := longer_than_read(pipeline, plan.prompts):
        log.warning(
            "prompts of more tokens than the model reads, which cuts them: %d, such as: %s",
            len(cut), shorten(cut[0], 80, placeholder="..."),
        )  # fmt: skip
    record = record_of(cfg, sampling) | {
        "weights_sha256": fingerprint(pipeline),
        "scheduler": scheduler,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device.type,
    }
    size = (sampling.height, sampling.width)
    images = ImageSet(folder_of(cfg), plan, record, DECISIVE, size)
    log.info("images of %s, licence: %s", record["model"], record["licence"])
    try:
        made = make_images(pipeline.to(device), sampling, images)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            f"batch_size={cfg.batch_size} images of {cfg.height}x{cfg.width} are too large for the "
            "memory; set a smaller batch_size, dtype=float16, or another size. Those that were "
            "made are kept"
        ) from error
    log.info("%d images made in %s", made, images.folder)


def record_of(cfg: DictConfig, sampling: "Sampling") -> dict[str, Any]:
    """What the manifest says of how images were made, as far as no model is needed for it."""
    from dataclasses import asdict

    from sfseg.generation.model_card import licence_of
    from sfseg.runs.folder import versions

    model = as_typed(cfg, "model")
    return {
        "generator": "sfseg-generate images",
        "model": model,
        "licence": licence_of(model),
        **asdict(sampling),
        "safety_checker": cfg.safety_checker,
        "batch_size": cfg.batch_size,
        "versions": versions(PACKAGES),
    }


def dtype_of(setting: str, device: "torch.device") -> "torch.dtype":
    """The type of the weights; ``auto`` is half precision where it is fast.

    Raises:
        ConfigError: no such type.
    """
    import torch

    kinds = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
    automatic = torch.float32 if device.type == "cpu" else torch.float16
    if setting not in {"auto", *kinds}:
        raise ConfigError(f"dtype must be auto, {', '.join(kinds)}, got {setting}")
    return kinds.get(setting, automatic)


def device_of(setting: str, environment: Any) -> str:
    """The device to ask for: of several processes on a machine, each takes a GPU of its own."""
    import torch

    local = environment.get("LOCAL_RANK")
    if setting == "auto" and local is not None and torch.cuda.is_available():
        return f"cuda:{int(local) % torch.cuda.device_count()}"
    return setting
