"""Pseudo-labels by two processes against one, on two cores.

Both arms label the same pictures from PNG files, by the class-balanced rule, in two passes: files
are read and decoded, the network predicts, labels are written. Each process has one thread and
reads its pictures itself. Arms take turns; the number is wall time of the slowest process from the
moment that all are there to the last label, the minimum of the repeats: what processes need to
start is left out. The labels of both arms must be equal to the byte. The goal is a ratio of at
most 0.6 at 200 pictures.

    python scripts/bench_labelling.py
    python scripts/bench_labelling.py --backbone mit_b2 --size 512 1024
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir

from sfseg.config.composition import CONF, build
from sfseg.data.module import AdaptationData
from sfseg.labels import CITYSCAPES
from sfseg.methods.evaluation import Evaluation
from sfseg.methods.first_labels import select_labels
from sfseg.methods.labelling import Selection
from sfseg.pseudo.identity import Identity
from sfseg.runs.preparation import network_of

ARMS = (1, 2)


def draw(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Pictures of smooth blobs with noise, as large as a photograph's files."""
    for split, number in (("train", count), ("val", 1)):
        place = folder / "target" / "images" / split
        place.mkdir(parents=True)
        for k in range(number):
            random = np.random.default_rng(k)
            coarse = random.integers(256, size=(8, 16, 3), dtype=np.uint8)
            smooth = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC).astype(np.int16)
            noisy = smooth + random.integers(-8, 9, size=smooth.shape)
            cv2.imwrite(str(place / f"{k:04d}.png"), noisy.clip(0, 255).astype(np.uint8))


def label(rank: int, processes: int, options: argparse.Namespace) -> None:
    """One process of an arm; the first prints the seconds of the slowest."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    meeting, store = (Path(options.folder) / f"{name}-{options.turn}" for name in ("meet", "store"))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [
            "method=minent", "data=folder", f"data.root={options.folder}",
            "data.classes=cityscapes", "data.num_workers=0", f"backbone={options.backbone}",
            "backbone.pretrained=false", f"output_dir={options.folder}", "data.check_samples=1",
        ])  # fmt: skip
    torch.manual_seed(0)
    model = Evaluation(
        network=network_of(cfg, CITYSCAPES, None), labels=CITYSCAPES, eval_domains=("target",),
        inference=build(cfg.evaluation),
    )  # fmt: skip
    data: AdaptationData = build(cfg.data.module)
    data.setup("fit")
    data.trainer = SimpleNamespace(global_rank=rank, world_size=processes)  # type: ignore[assignment]
    images = data.target_images()
    identity = Identity(images.names, images.sizes, CITYSCAPES.classes, "random")
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes
    )
    dist.barrier()
    begin = time.perf_counter()
    select_labels(
        model, data.labelling_dataloader, store, identity, Selection("cbst", portion=0.5),
        device=torch.device("cpu"), context=contextlib.nullcontext(),
    )  # fmt: skip
    dist.barrier()
    if rank == 0:
        print(time.perf_counter() - begin)
    dist.destroy_process_group()


def seconds(processes: int, turn: int, given: list[str], folder: str) -> float:
    """Wall time of an arm."""
    command = [
        sys.executable, __file__, *given, "--folder", folder, "--processes", str(processes),
        "--turn", str(turn),
    ]  # fmt: skip
    runs = [
        subprocess.Popen([*command, "--rank", str(rank)], stdout=subprocess.PIPE, text=True)
        for rank in range(processes)
    ]
    said = [run.communicate()[0] for run in runs]
    assert not any(run.returncode for run in runs), f"an arm of {processes} processes has failed"
    return float(said[0].splitlines()[-1])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"))
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=2)
    for name, kind in (("rank", int), ("processes", int), ("turn", int), ("folder", str)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rank is not None:
        label(options.rank, options.processes, options)
        return

    given = list(sys.argv[1:] if arguments is None else arguments)
    best = dict.fromkeys(ARMS, float("inf"))
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), options.images, tuple(options.size))
        for turn in range(0, 2 * options.repeats, 2):
            for processes in ARMS:
                number = turn + processes
                best[processes] = min(best[processes], seconds(processes, number, given, folder))
        stores = [path.read_bytes() for path in Path(folder).glob("store-*/labels.u8")]
        assert len(stores) == 2 * options.repeats
        assert len(set(stores)) == 1, "arms label differently"
    height, width = options.size
    print(f"{options.images} images of {width}x{height}, {options.backbone}, one thread a process")
    for processes, found in best.items():
        print(f"{processes} process{'es' * (processes > 1):5s}{found:10.2f} s")
    print(f"ratio {best[2] / best[1]:.2f}, labels byte-equal")


if __name__ == "__main__":
    main()
