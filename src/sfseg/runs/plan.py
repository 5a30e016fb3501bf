"""Settings of the data that do not reach what a run does with them."""

import re
from collections.abc import Iterator, Sequence

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sfseg.config.composition import CONF
from sfseg.config.misspelt import elsewhere
from sfseg.errors import ConfigError

ENDS = {
    "steps": "trainer.max_steps",
    "batch_size": "data.module.batch_size",
    "target_view": "data.module.views.target",
    "colour": "data.module.colour",
}
"""Part of a method's plan -> the setting that decides in the end."""
SHORT = "target_crop"
"""Setting of the data that the crop of every target view follows."""
ANOTHER = "another value"


def check_plan(cfg: DictConfig, typed: Sequence[str]) -> None:
    """Refuse settings of the command line that the adaptation does not follow.

    Data may have crops, batches and steps of their own for adaptation (``data.adaptation``), and
    so may a method (``method.plan``): the source model's are then others.

    Args:
        cfg: of the run.
        typed: settings of the command line.

    Raises:
        ConfigError: names the setting that it follows.
    """
    given = [word.lstrip("+").partition("=") for word in typed if not word.startswith("~")]
    keys = [key for key, _, _ in given if "." in key]  # others choose groups
    for key, _, value in given:
        path = key.split(".")
        if path[0] != "data" or len(path) < 2:
            continue
        end = _end(cfg, path[1:])
        if end is None or _leads(cfg, key, end):
            continue
        places = list(_candidates(path[1:]))
        others = [k for k in keys if any(f"{place}.".startswith(f"{k}.") for place in places)]
        if any(_leads(cfg, other, end) for other in others):
            continue
        follows = next((place for place in places if _leads(cfg, place, end)), None)
        switched_off = f"method.plan.{path[1]}"
        if follows is None and OmegaConf.select(cfg, switched_off, default=ANOTHER) is None:
            raise ConfigError(
                f"{key}={value} has no effect: the run follows {switched_off}=null; set that, or "
                "remove the setting"
            )
        if follows is None:
            continue
        is_of_source = _adapts(cfg) and path[1] in ("steps", "batch_size", "source_view")
        does = "is for the source model alone" if is_of_source else "has no effect"
        raise ConfigError(
            f"{key}={value} {does}: the {'adaptation' if _adapts(cfg) else 'run'} follows "
            f"{follows}={_value(cfg, follows)}; set that{', or both' if is_of_source else ''}"
        )


def check_added(cfg: DictConfig, typed: Sequence[str]) -> None:
    """Refuse settings that a command line adds to the data and that nothing there refers to.

    Args:
        cfg: of the command.
        typed: settings of the command line.

    Raises:
        ConfigError: names the setting.
    """
    for word in typed:
        key, _, value = word.lstrip("+").partition("=")
        name = key.removeprefix("data.")
        if not word.startswith("+") or name == key or "." in name:
            continue
        # Also `${.name}`, beside it, and inside of resolvers.
        if not re.search(rf"\{{(?:data)?\.+{re.escape(name)}\b", OmegaConf.to_yaml(cfg)):
            places = " and ".join(elsewhere(str(CONF), key))
            way_out = f"it is a setting of {places}" if places else "remove it"
            raise ConfigError(f"{key}={value} has no effect: nothing refers to it; {way_out}")


def _adapts(cfg: DictConfig) -> bool:
    return "source_model" in cfg.method.needs


def _end(cfg: DictConfig, path: Sequence[str]) -> str | None:
    """Where a setting of the data should lead to; None where there is no such place."""
    if path[0] == "adaptation":
        return _end(cfg, path[1:]) if _adapts(cfg) and len(path) > 1 else None
    if path[0] == SHORT:
        return f"{ENDS['target_view']}.crop"
    # A crop of the source is the target's too where nothing else is said and no source is shown.
    is_shown = "source" in cfg.method.needs
    name = "target_view" if path[0] == "source_view" and _adapts(cfg) and not is_shown else path[0]
    return ".".join([ENDS[name], *path[1:]]) if name in ENDS else None


def _candidates(path: Sequence[str]) -> Iterator[str]:
    if path[0] == SHORT:
        path = ["target_view", "crop"]
    name, *rest = path[1:] if path[0] == "adaptation" else path
    name = "target_view" if name == "source_view" else name
    for place in ("data.adaptation", "method.plan", "data"):
        yield ".".join([place, name, *rest])
    if name == "target_view" and rest == ["crop"]:
        yield f"data.{SHORT}"
    yield ".".join([ENDS[name], *rest])


def _leads(cfg: DictConfig, key: str, end: str) -> bool:
    """Whether another value of a setting is another value where it should lead to."""
    if OmegaConf.select(cfg, key, default=ANOTHER) == ANOTHER:
        return False
    changed = cfg.copy()
    OmegaConf.update(changed, key, ANOTHER, merge=False, force_add=True)
    try:
        return bool(_value(changed, end) != _value(cfg, end))
    except OmegaConfBaseException:
        # What it refers to was below: it follows.
        return True


def _value(cfg: DictConfig, key: str) -> object:
    value = OmegaConf.select(cfg, key, default=None)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
