"""Files of torch.export (``.pt2``): a graph and its weights, for programs that have torch."""

import inspect
import io
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.export import ExportedProgram

from sfseg.export.deployed import Deployed
from sfseg.export.tracing import quiet, traced
from sfseg.storage.atomic import write_whole

SETTINGS = inspect.signature(ExportedProgram.module).parameters
METADATA = "sfseg.json"
"""What the file says of itself, among the extra files that ``torch.export.load`` hands out."""
UNGUARDED = {"check_guards": False} if "check_guards" in SETTINGS else {}
"""Torch records what holds of the example, such as that there are two images, as a condition of all
others. Files are compared at other sizes and batches instead.
"""


class TorchFile:
    """A graph as a file.

    Args:
        program: of all that the model computes.
        model: what it was traced from.
        metadata: what the file says of itself.
    """

    def __init__(
        self, program: ExportedProgram, model: Deployed, metadata: Mapping[str, str]
    ) -> None:
        self.model = model
        self.metadata = dict(metadata)
        self._keep(program, model.names)

    def _keep(self, program: ExportedProgram, names: list[str]) -> None:
        file = io.BytesIO()
        with quiet():
            torch.export.save(program, file, extra_files={METADATA: json.dumps(self.metadata)})
            # What was written is read again: that is what will be run.
            file.seek(0)
            self._module = torch.export.load(file).module(**UNGUARDED)
        self.content, self.names = file.getvalue(), names

    def __call__(self, image: Shaped[Tensor, "B 3 H W"]) -> dict[str, Tensor]:
        """What the file hands out, by its names."""
        with torch.inference_mode():
            return dict(zip(self.names, self._module(image), strict=True))

    def publish(self) -> None:
        """Leave out what is not handed out, by tracing the network once more."""
        published = self.model.published_alone()
        self._keep(traced(published), published.names)

    def write(self, path: Path) -> int:
        """Write the file; returns its bytes."""
        write_whole(path, lambda opened: opened.write(self.content))
        return len(self.content)
