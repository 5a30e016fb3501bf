"""An iteration of AdaptSegNet beside a bare loop of the same passes.

Ours is what `sfseg-train` runs: the method of ``conf/method/adaptsegnet.yaml`` in Lightning's
trainer, with the guard against losses that are not finite. The bare loop is written out below: the
segmenter forward twice, the discriminator three times, backward of each loss, two optimisers'
steps, and nothing else. Both train copies of the same networks on the same batches of noise, in
one process on one thread, in turn; the numbers are CPU time of an iteration, the median of all.
The goal is a ratio of at most 1.05.

    python scripts/bench_adversarial.py
    python scripts/bench_adversarial.py --steps 5 --batch 4
"""

import argparse
from copy import deepcopy
from statistics import median

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from in_turn import InTurn
from lightning.pytorch import Trainer
from torch import Tensor

from sfseg.callbacks.finite import FiniteGuard
from sfseg.config.composition import CONF, build
from sfseg.data.geometry import Geometry
from sfseg.labels import CITYSCAPES
from sfseg.methods.adaptsegnet import AdaptSegNet
from sfseg.runs.preparation import network_of
from sfseg.runs.quiet import quiet_lightning
from sfseg.types import IGNORE, Batch

SETTINGS = ["method=adaptsegnet", "backbone=tiny", "trainer=cpu", "output_dir=.", "run_name=bench"]


def built(size: tuple[int, int]) -> AdaptSegNet:
    crop = f"data.source_view.crop=[{size[0]},{size[1]}]"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*SETTINGS, crop])
    method: AdaptSegNet = build(cfg.method)(
        network=network_of(cfg, CITYSCAPES, None),
        labels=CITYSCAPES,
        eval_domains=("target",),
        inference=build(cfg.evaluation),
    )
    return method


def noise(images: int, size: tuple[int, int], seed: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randint(256, (images, 3, *size), generator=random, dtype=torch.uint8),
        "label": torch.randint(
            CITYSCAPES.num_classes, (images, *size), generator=random, dtype=torch.uint8
        ),
        "index": torch.arange(images),
        "geometry": torch.tensor([Geometry.whole(size)] * images),
    }


class Bare:
    """The loop, with networks and settings of a method before its first step."""

    def __init__(self, method: AdaptSegNet) -> None:
        self.segmenter = deepcopy(method.network).train()
        self.judge = deepcopy(method.discriminators[0]).train()
        self.weight = method.adversarial_weights[0]
        self.optimizer = torch.optim.AdamW(self.segmenter.parameters(), lr=method.shared["lr"])
        self.judges = torch.optim.Adam(
            self.judge.parameters(), lr=method.discriminator_lr, betas=(0.9, 0.99)
        )

    def step(self, source: Batch, target: Batch) -> None:
        self.judge.requires_grad_(False)
        self.optimizer.zero_grad()
        on_source = self.segmenter(source["image"])
        label = source["label"].long()
        F.cross_entropy(on_source, label, ignore_index=IGNORE).backward()
        on_target = self.segmenter(target["image"])
        fooled = self.judge(on_target.softmax(dim=1))
        (self.weight * against(fooled, 0.0)).backward()
        self.optimizer.step()
        self.judge.requires_grad_(True)
        self.judges.zero_grad()
        for logits, domain in ((on_source, 0.0), (on_target, 1.0)):
            verdict = self.judge(logits.detach().softmax(dim=1))
            (against(verdict, domain) / 2).backward()
        self.judges.step()


def against(verdict: Tensor, domain: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(verdict, torch.full_like(verdict, domain))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=2, default=[128, 256], help="height and width")
    parser.add_argument("--batch", type=int, default=8, help="images of each domain")
    parser.add_argument("--steps", type=int, default=20, help="timed iterations of either")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    quiet_lightning()
    size = (options.size[0], options.size[1])
    method = built(size)
    turns = InTurn(Bare(method))
    batches = [
        {
            "source": noise(options.batch, size, 2 * k),
            "target": noise(options.batch, size, 2 * k + 1),
        }
        for k in range(2)
    ]
    # The first iteration also makes the optimisers' state and the libraries' kernels.
    steps = options.steps + 1
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[FiniteGuard(), turns],
        limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(
        method,
        torch.utils.data.DataLoader(
            [batches[k % 2] for k in range(steps)], batch_size=None, collate_fn=dict
        ),
    )
    ours, theirs = (median(times[1:]) for times in (turns.ours, turns.theirs))
    print(f"{size[1]}x{size[0]}, {options.batch} images of each domain, float32, one thread")
    print(f"{'':12s}{'CPU ms an iteration':>20s}")
    print(f"{'bare loop':12s}{1e3 * theirs:20.1f}")
    print(f"{'adaptsegnet':12s}{1e3 * ours:20.1f}")
    print(f"{'ratio':12s}{ours / theirs:20.3f}")


if __name__ == "__main__":
    main()
