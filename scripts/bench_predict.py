"""How much ``sfseg.load`` and ``sfseg-predict`` cost beside what PyTorch alone would need.

Cold start: a process that loads a checkpoint and predicts one photograph, over one that imports
torch, reads the same network as a pickled module and calls it on a tensor of that size. Folder: all
of a folder of photographs read, predicted and written, over the network's forward passes of tensors
of the same size. Both arms are measured in turn, the fastest of some repetitions counts.

    python scripts/bench_predict.py
    python scripts/bench_predict.py --backbone mit_b2 --photos 20
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

COLD = (
    "import sfseg; model = sfseg.load('last.ckpt', device='cpu', precision='32-true'); "
    "model.predict('photos/0.jpg')"
)
BARE = (
    "import torch\nnetwork = torch.load('network.pt', weights_only=False)\n"
    "with torch.inference_mode(): network(torch.zeros(1, 3, {height}, {width}, dtype=torch.uint8))"
)


def write_photos(folder: Path, count: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for k in range(count):
        coarse = rng.integers(256, size=(size[0] // 16, size[1] // 16, 3)).astype(np.uint8)
        assert cv2.imwrite(str(folder / f"{k}.jpg"), cv2.resize(coarse, size[::-1]))


def write_checkpoint(folder: Path, backbone: str) -> None:
    """A run's checkpoint with random weights, and its network as a pickled module."""
    import torch
    from hydra import compose, initialize_config_dir

    from sfseg.config.composition import CONF, build, plain
    from sfseg.labels import CITYSCAPES
    from sfseg.storage.manifest import KEY

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=[f"backbone={backbone}", "method=source_only"])
    network = build(config.backbone.network, num_classes=CITYSCAPES.num_classes).eval()
    record = {"config": plain(config, resolve=False), "labels": CITYSCAPES.to_dict()}
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": weights, KEY: record}, folder / "last.ckpt")
    torch.save(network, folder / "network.pt")


def seconds(program: str, folder: Path) -> float:
    """Of a process that runs a program in a folder."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True)
    return time.perf_counter() - start


def cold_start(folder: Path, size: tuple[int, int], repeats: int) -> tuple[float, float]:
    """Seconds of ours and of torch alone."""
    bare = BARE.format(height=size[0], width=size[1])
    times = [(seconds(COLD, folder), seconds(bare, folder)) for _ in range(repeats)]
    return min(ours for ours, _ in times), min(theirs for _, theirs in times)


def folder_of_photos(folder: Path, size: tuple[int, int], repeats: int) -> tuple[float, float]:
    """Seconds of all photographs, and of the forward passes alone."""
    import torch

    import sfseg
    from sfseg.commands.predict import reader
    from sfseg.data.inputs import find_inputs
    from sfseg.prediction.batches import Batches
    from sfseg.report.predictions import Predictions

    model = sfseg.load(folder / "last.ckpt", device="auto")
    inputs = find_inputs([str(folder / "photos")])
    image = torch.zeros(1, 3, *size, dtype=torch.uint8, device=model.device)
    times = []
    for _ in range(repeats):
        written = Predictions(folder / "out", ("labels", "colours", "overlays"), model.labels)
        start = time.perf_counter()
        for _ in Batches(reader(model), model.predictor, written).run(inputs):
            pass
        ours = time.perf_counter() - start
        start = time.perf_counter()
        for _ in inputs:
            model.predictor.forward(image)
        times.append((ours, time.perf_counter() - start))
    return min(ours for ours, _ in times), min(theirs for _, theirs in times)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--photos", type=int, default=12)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args(arguments)
    size = (given.height, given.width)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "photos", given.photos, size)
        write_checkpoint(folder, given.backbone)
        found = {
            "cold start over torch": cold_start(folder, size, given.repeats),
            "folder over forward passes": folder_of_photos(folder, size, given.repeats),
        }
    ratios = {}
    for arm, (ours, theirs) in found.items():
        ratios[arm] = ours / theirs
        print(f"{arm}: {ours:.2f} s / {theirs:.2f} s = {ratios[arm]:.2f}")
    return ratios


if __name__ == "__main__":
    main()
