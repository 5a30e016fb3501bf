"""Modules that have moved: configurations that were written before still say their old names.

To be removed with release 0.4; see CHANGELOG.md.
"""

from collections.abc import Mapping
from typing import Any

MOVED: Mapping[str, str] = {
    f"sfseg.{old}": f"sfseg.{new}"
    for old, new in (
        ("data.toyscapes", "data.toyscapes.scenes"),
        ("labels", "data.classes_file"),
        ("loggers", "report.loggers"),
        ("networks.adapters", "networks.adapters.choices"),
        ("networks.auxiliary_decoders", "networks.heads.auxiliary_decoders"),
        ("networks.deeplab", "networks.heads.deeplab"),
        ("networks.fcn", "networks.heads.fcn"),
        ("networks.heads", "networks.heads.daformer"),
        ("networks.mit", "networks.backbones.mit"),
        ("networks.multi_head", "networks.heads.multi_head"),
        ("networks.prompt_adapter", "networks.adapters.prompt_adapter"),
        ("networks.pyramid", "networks.backbones.pyramid"),
        ("networks.segformer_head", "networks.heads.segformer"),
        ("networks.segnet", "networks.heads.segnet"),
        ("networks.tiny", "networks.backbones.tiny"),
        ("networks.upernet", "networks.heads.upernet"),
        ("networks.visual_prompts", "networks.adapters.visual_prompts"),
        ("sweep", "runs.sweep"),
    )
}
"""Old module -> new one, of all whose objects a configuration may name."""


def today(target: str) -> str:
    """The dotted name that an object has now."""
    module, _, name = target.rpartition(".")
    return f"{MOVED[module]}.{name}" if module in MOVED else target


def with_todays_names(config: Any) -> Any:
    """Plain containers in which every ``_target_`` has the name that it has now."""
    if isinstance(config, dict):
        return {
            key: today(value)
            if key == "_target_" and isinstance(value, str)
            else with_todays_names(value)
            for key, value in config.items()
        }
    return [with_todays_names(part) for part in config] if isinstance(config, list) else config
