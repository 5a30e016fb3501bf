"""What older runs have written of themselves, under today's names."""

from typing import Any

from sfseg.networks.segmenter import IMAGENET_MEAN, IMAGENET_STD


def updated(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of an older run under today's names."""
    module = config["data"]["module"]
    if "eval_size" in module:
        module["eval_view"] = {
            "_target_": "sfseg.data.geometry.EvalView",
            "size": module.pop("eval_size"),
        }
    if "check_samples" in module:
        config["data"] |= {"on_error": "raise", "max_skipped": 10}
        module["checks"] = {
            "_target_": "sfseg.data.check.Checks",
            "samples": module.pop("check_samples"),
            "on_error": "${data.on_error}",
            "max_skipped": "${data.max_skipped}",
        }
    network = config["backbone"]["network"]
    if network.get("_target_") == "sfseg.networks.build.build_segmenter" and "mean" not in network:
        # What every backbone was shown before each had a mean of its own.
        network |= {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
    plan = {"steps": None, "batch_size": 1, "target_view": config["data"].get("target_view")}
    config["method"].setdefault("plan", plan)
    return config
