"""Two passes of SAM over drawn streets: each image embedded anew, or its embedding kept on disk.

    python scripts/bench_sam.py                                # a ViT-B of random weights
    python scripts/bench_sam.py --model facebook/sam-vit-huge --device cuda

The labels are the streets' own. What is kept has been embedded once before, which is timed by
itself: what a first run pays. The last line says how much faster both passes are together.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sfseg.data.toyscapes.scenes import Toyscapes
from sfseg.methods.refinement import Refiner
from sfseg.networks.sam import SegmentAnything
from sfseg.networks.weights.sam_files import IMAGENET, SamFiles
from sfseg.pseudo.embeddings import Embeddings

PASSES = 2


def random_sam() -> SegmentAnything:
    """A SAM of ViT-B's size that has learnt nothing."""
    from transformers import SamConfig, SamModel

    torch.manual_seed(0)
    return SegmentAnything(SamFiles(SamModel(SamConfig()), "sam", *IMAGENET, "random"))


def seconds(refiner: Refiner, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, Any]:
    """Of one pass over all images, and what it has made."""
    started = time.perf_counter()
    made = [refiner.refine(images[k : k + 1], labels[k : k + 1], [k]) for k in range(len(images))]
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started, torch.cat(made)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="random", help="a folder, owner/name, or random")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(768, 768), help="height and width")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(words)
    model = random_sam() if given.model == "random" else SegmentAnything.load(given.model)
    size = (given.size[0], given.size[1])
    scenes = Toyscapes("city", "train", length=given.images, size=size)
    pairs = [(scenes.image(k), scenes.label(k)) for k in range(given.images)]
    images, labels = (
        torch.stack([torch.tensor(p) for p in part]) for part in zip(*pairs, strict=True)
    )
    images, labels = images.permute(0, 3, 1, 2).to(given.device), labels.to(given.device)

    with tempfile.TemporaryDirectory() as folder:
        anew, kept = Refiner(model), Refiner(model, embeddings=Embeddings(Path(folder)))
        seconds(anew, images[:1], labels[:1])  # what is slow once
        first, made = seconds(kept, images, labels)
        runs = {
            name: [seconds(refiner, images, labels) for _ in range(PASSES)]
            for name, refiner in (("anew", anew), ("kept", kept))
        }
        room = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
    same = all(torch.equal(made, other) for some in runs.values() for _, other in some)
    tally = kept.taken()
    print(
        f"{given.images} images of {size[1]}x{size[0]}, {given.model}, {given.device}, "
        f"{torch.get_num_threads()} threads: {tally.kept // (1 + PASSES) / given.images:.1f} "
        f"components an image, {room / given.images / 2**20:.1f} MiB kept of each"
    )
    total = {name: sum(time for time, _ in some) for name, some in runs.items()}
    print(f"first pass, which keeps: {first / given.images:.2f} s an image")
    for name, time_ in total.items():
        print(f"{name}: {time_ / given.images / PASSES:.2f} s an image and pass")
    equality = "equal" if same else "DIFFERENT"
    print(f"ratio {total['anew'] / total['kept']:.1f} over {PASSES} passes, labels {equality}")


if __name__ == "__main__":
    main()
