"""What a network has found in an image, kept on disk so that it is looked at once.

One file an image, named by the image's content and by what has computed it; so another image or
other weights never meet an old one, and runs and processes share them. A file appears whole or not
at all.
"""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sfseg.storage.atomic import write_whole

log = logging.getLogger(__name__)


class Embeddings:
    """A folder of embeddings, each the tensors that a network has made of one image.

    Args:
        folder: may be shared by runs; it grows and is never cleared by sfseg.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._broken = False

    def get(
        self,
        content: bytes,
        network: str,
        compute: Callable[[], tuple[Tensor, ...]],
        device: torch.device,
    ) -> tuple[Tensor, ...]:
        """The embedding of an image, computed and kept if it is not there.

        A disk that takes no more only costs the speed.

        Args:
            content: of the image; its size included.
            network: what computes it, weights and precision included.
            compute: makes it.
            device: where it is needed.
        """
        digest = hashlib.sha256(content)
        digest.update(f"\0{network}".encode())
        name = digest.hexdigest()
        path = self.folder / name[:2] / f"{name}.safetensors"
        found = _read(path, device)
        if found is None:
            found = compute()
            self._keep(path, found)
        return found

    def _keep(self, path: Path, embedding: tuple[Tensor, ...]) -> None:
        from safetensors.torch import save

        if self._broken:
            return
        named = {str(k): part.cpu().contiguous() for k, part in enumerate(embedding)}
        try:
            write_whole(path, lambda file: file.write(save(named)))
        except OSError as error:
            self._broken = True
            log.warning(
                "embeddings: %s takes no more, they are computed each time: %s", self.folder, error
            )


def _read(path: Path, device: torch.device) -> tuple[Tensor, ...] | None:
    """What is on disk; None when there is nothing, or nothing that can be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        named = load_file(path, device=str(device))
    except (OSError, SafetensorError):
        return None
    return tuple(named[str(k)] for k in range(len(named)))
