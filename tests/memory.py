"""A callback that writes down what its process holds."""

import json
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Memory(Callback):
    """Appends ``{"step": n, "resident": bytes, "files": n, "shared": n, "children": n}`` lines.

    Args:
        path: of the file.
        every: iterations between two lines.
    """

    def __init__(self, path: str, every: int) -> None:
        self.path, self.every = Path(path), every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = int(pl_module.iteration)  # type: ignore[arg-type]
        if done % self.every:
            return
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        line = {
            "step": done,
            "resident": pages * os.sysconf("SC_PAGE_SIZE"),
            "files": len(list(Path("/proc/self/fd").iterdir())),
            "shared": len(list(Path("/dev/shm").iterdir())),
            "children": len(children),
        }
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
