"""What a checkpoint must say about itself to be used without its run folder."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from sfseg import __version__
from sfseg.storage.manifest import KEY


class Provenance(Callback):
    """Adds configuration, label space and version to every checkpoint, as plain containers.

    Args:
        config: the configuration with interpolations unresolved, so that a root given by the
            environment is looked up again where the checkpoint is used.
        labels: :meth:`sfseg.labels.LabelSpace.to_dict`.
        source_model: path and digest of the checkpoint that the run has started from, if any.
    """

    def __init__(
        self,
        config: dict[str, Any],
        labels: dict[str, Any],
        source_model: dict[str, str] | None = None,
    ) -> None:
        self.content: dict[str, Any] = {
            "version": __version__, "config": config, "labels": labels
        }  # fmt: skip
        if source_model is not None:
            self.content["source_model"] = source_model

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[KEY] = self.content
