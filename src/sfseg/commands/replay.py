"""``sfseg-train replay=<file>``: a step that was not finite, once more."""

from omegaconf import DictConfig

from sfseg.config.composition import as_typed, overrides
from sfseg.errors import ConfigError


def run_again(cfg: DictConfig) -> None:
    """Run a kept step again and show what is not finite in it, see :mod:`sfseg.runs.replay`.

    Raises:
        ConfigError: see there; or a run is to be continued at the same time.
    """
    from sfseg.runs.quiet import quiet_lightning
    from sfseg.runs.replay import replay
    from sfseg.runs.replay_report import show

    for name in ("ckpt_path", "resume"):
        if cfg[name] is not None:
            raise ConfigError(
                f"replay={cfg.replay} runs one step, which is in that file, and continues nothing, "
                f"got {name}={cfg[name]} too; remove one of them"
            )
    quiet_lightning()
    show(replay(as_typed(cfg, "replay"), overrides()))
