"""What callbacks read of a method, without a network."""

from types import SimpleNamespace
from typing import Any

import torch

from sfseg.labels import LabelSpace
from sfseg.ops.inference import Inference
from sfseg.types import Step


class FakeMethod(SimpleNamespace):
    """Has all that :class:`sfseg.callbacks.base.Trained` names; begins steps by hand."""

    def __init__(self, labels: LabelSpace, **more: Any) -> None:
        super().__init__(
            labels=labels, scores={}, source_scores={}, eval_domains=("target",), protocol="",
            stage="val", step=Step(), iteration=0, shared={"needs": ["target"]},
            inference=Inference(), scales=(1.0,), starts_as_source_model=True,
            undo_step=lambda: lambda: None, device=torch.device("cpu"), **more,
        )  # fmt: skip

    def begin_step(self, *, is_skipped: bool = False) -> None:
        self.iteration += 1
        self.step = Step(self.iteration, is_skipped=is_skipped)
