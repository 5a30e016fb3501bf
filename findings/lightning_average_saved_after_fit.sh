#!/usr/bin/env bash
# lightning 2.6.6 with EMAWeightAveraging: a checkpoint saved after fit has lost the trained weights.
#
# Expected: its checkpoints hold the average as state_dict and the weights that train as
#   current_model_state, also those of trainer.save_checkpoint() after trainer.fit(), so that 8 steps
#   and 8 more from that checkpoint are 16 steps.
# Seen: on_train_end copies the average over the weights before the caller can save. Both entries of
#   a checkpoint saved afterwards are the average; training goes on from it, and 8 + 8 steps end
#   elsewhere than 16. A checkpoint that a callback saves during fit holds both, and 8 + 8 are 16.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 lightning==2.6.6 numpy==2.4.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import logging

import lightning
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
print("torch", torch.__version__, "lightning", lightning.__version__)


class Line(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, index):
        return (self.weight * batch - 1).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    """Saves within fit, after the eighth step."""

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.global_step == 8:
            trainer.save_checkpoint("within.ckpt")


def run(steps: int, start: str | None = None) -> tuple[Trainer, float, float]:
    """The trainer, the weight that trains after its last step, and its average."""
    seen = {}

    class See(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            seen["weight"] = float(module.weight.detach())

    trainer = Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[EMAWeightAveraging(decay=0.9), See(), SaveAt()],
    )
    module = Line()
    data = torch.utils.data.DataLoader(torch.ones(16, 1), batch_size=1)
    trainer.fit(module, data, ckpt_path=start, weights_only=True)
    return trainer, seen["weight"], float(module.weight.detach())


trainer, trained, averaged = run(8)
trainer.save_checkpoint("after.ckpt")
print(f"8 steps: weight {trained:.6f}, average {averaged:.6f}")
for name in ("within", "after"):
    kept = torch.load(f"{name}.ckpt", weights_only=True)
    pair = [float(kept[key]["weight"]) for key in ("current_model_state", "state_dict")]
    print(f"{name}.ckpt holds weight {pair[0]:.6f}, average {pair[1]:.6f}")
    assert abs(pair[1] - averaged) < 1e-6
    assert abs(pair[0] - (trained if name == "within" else averaged)) < 1e-6
_, whole, _ = run(16)
_, from_within, _ = run(16, "within.ckpt")
_, from_after, _ = run(16, "after.ckpt")
print(f"16 steps {whole:.6f}; 8 + 8 from within fit {from_within:.6f}, from after it {from_after:.6f}")
assert abs(from_within - whole) < 1e-6
assert abs(from_after - whole) > 1e-3
PY
