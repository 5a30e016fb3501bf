"""What a run's configuration says of its model, in words that a reader of a card understands."""

from importlib import import_module
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sfseg.sharing.card import Facts

QUALIFIERS = ("domain", "city", "condition", "shift", "split")
"""Settings of a set that say which part of a data set it is."""
OWN = "own images"


def facts_of(config: DictConfig, name: str) -> Facts:
    """The facts of a card.

    Args:
        config: a run's.
        name: title of the card.
    """
    needs = [str(need) for need in _value(config, "method.needs") or []]
    sees_source = bool({"source", "source_model"} & set(needs))
    sees_target = bool({"target", "target_labels"} & set(needs))
    eval_sets = _value(config, "data.eval_sets")
    if eval_sets:
        sets = {key: _set(config, f"data.eval_sets.{key}.scenes") for key in eval_sets}
    else:
        sets = {side: _set(config, f"data.scenes.{side}_eval") for side in ("target", "source")}
    return Facts(
        name=name,
        method=_method(_value(config, "method._target_")),
        is_source_free="source_model" in needs and "source" not in needs,
        backbone=str(_value(config, "backbone.network.name")),
        backbone_terms=_terms(config),
        head=str(_value(config, "backbone.head._target_")).rpartition(".")[2],
        source=_set(config, "data.scenes.source_train") if sees_source else "",
        target=_target(config) if sees_target else "",
        sets={key: text for key, text in sets.items() if text},
        training=_training(config),
    )


def _value(config: DictConfig, key: str) -> Any:
    """A setting as plain containers; None where it is not there or cannot be resolved."""
    found = OmegaConf.select(config, key, throw_on_missing=False, throw_on_resolution_failure=False)
    return OmegaConf.to_container(found, resolve=False) if OmegaConf.is_config(found) else found


def _method(target: Any) -> tuple[str, str]:
    """Its name, and the first line of its file, which cites the paper."""
    module, _, name = str(target).rpartition(".")
    if not module.startswith("sfseg.methods."):
        return name, f"Of `{module}`, which is no part of sfseg."
    text = import_module(module).__doc__ or ""
    return module.rpartition(".")[2], text.strip().partition("\n")[0]


def _set(config: DictConfig, key: str) -> str:
    """A set of images, such as ``cityscapes (val)``; empty where there is none."""
    target = _value(config, f"{key}._target_")
    if target is None:
        return ""
    name = str(target).rpartition(".")[2].lower()
    if name == "folder":
        return OWN
    parts = [_value(config, f"{key}.{part}") for part in QUALIFIERS]
    said = ", ".join(str(part) for part in parts if part is not None)
    return f"{name} ({said})" if said else name


def _target(config: DictConfig) -> str:
    """The images of the target that were seen, where these are not all of a data set."""
    if _value(config, "data.generated"):
        return "generated images"
    own = OWN if _value(config, "data.target_folders") else ""
    text = own or _set(config, "data.scenes.target_train")
    shots = _value(config, "data.n_shots") or len(_value(config, "data.shots") or [])
    return f"{text}, {shots} of its images" if shots else text


def _terms(config: DictConfig) -> str:
    """Where the backbone's first weights come from, and under which licence, if that is known."""
    name = str(_value(config, "backbone.network.name"))
    if _value(config, "backbone.checkpoint"):
        return f"a file of a whole model around {name}, whose licence sfseg does not know"
    if not (_value(config, "backbone.pretrained") or _value(config, "backbone.weights")):
        return f"random weights of {name}"
    if name.startswith("mit_"):
        return f"{name}, which NVIDIA licences for non-commercial use"
    from timm.models import get_pretrained_cfg

    found = get_pretrained_cfg(name, allow_unregistered=True)
    licence = getattr(found, "license", None)
    if _value(config, "backbone.weights"):
        return f"a file of weights of {name}, whose licence sfseg does not know"
    return f"timm's {name} (licence: {licence or 'not known to timm'})"


def _training(config: DictConfig) -> dict[str, str]:
    """Numbers of the training by their names."""
    from sfseg.data.geometry import EvalView

    size = _value(config, "data.eval_size")
    values = {
        "Evaluation sees": str(EvalView(size=size)),
        "Steps": _value(config, "trainer.max_steps"),
        "Images a step": _value(config, "method.plan.batch_size"),
        "Learning rate": _value(config, "method.lr"),
        "Seed": _value(config, "seed"),
        "Precision": _value(config, "trainer.precision"),
    }
    return {name: str(value) for name, value in values.items() if value is not None}
