"""DATUM from end to end on toyscapes, on a CPU: one photograph, a model, images, a segmenter.

    python scripts/datum_on_toyscapes.py runs/datum
    python scripts/datum_on_toyscapes.py runs/datum --model <folder> --size 64 128

1. ``photograph/``: the one training image of the city that ``data.shot_seed`` draws
2. ``model/``: a tiny model of the shape of Stable Diffusion, unless ``--model`` names one
3. ``personalised/``: ``sfseg-generate personalise`` on the photograph
4. ``images/``: ``sfseg-generate images``, and ``report.html`` on them beside the photograph
5. ``segmenter/``: ``sfseg-train method=datum`` on them, judged on the city; it ends with the table

Every step goes on where it was stopped, and what is there is not made again. The tiny model knows
no streets, or with ``--train`` has seen a few drawn ones, so its images are not what DATUM's are:
the table shows that the steps fit together, and nothing of the method.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import tiny_diffusion

from sfseg.data.shots import FewScenes, Shots
from sfseg.data.toyscapes.scenes import Toyscapes
from sfseg.report.drawing import write_png

LENGTH = 600
"""Training images of the city in ``conf/data/toyscapes.yaml``."""


def photograph(folder: Path, shot_seed: int) -> Path:
    """The image that ``data.n_shots=1 data.shot_seed=<seed>`` draws, as a file."""
    few = Shots(number=1, seed=shot_seed).of(Toyscapes("city", "train", length=LENGTH))
    assert isinstance(few, FewScenes), "of drawn scenes"
    path = folder / f"shot_{shot_seed}.png"
    write_png(path, few.image(0))
    return path


def run(title: str, *words: str) -> None:
    """Call a command; the script ends with its exit code where it fails."""
    print(f"\n== {title}\n{' '.join(words)}", flush=True)
    start = time.monotonic()
    program, *rest = words
    module = {"sfseg-generate": "generate", "sfseg-train": "train"}[program]
    done = subprocess.run([sys.executable, "-m", f"sfseg.commands.{module}", *rest], check=False)
    if done.returncode:
        sys.exit(done.returncode)
    print(f"   {time.monotonic() - start:.0f} s", flush=True)


def main(words: Sequence[str] | None = None) -> None:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="a folder or an id; without it, a tiny model is written")
    parser.add_argument(
        "--train", action="store_true", help="the tiny model on drawn streets first"
    )
    parser.add_argument("--shot-seed", type=int, default=0)
    parser.add_argument("--personalise-steps", type=int, default=200)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 128), help="height and width")
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--train-steps", type=int, default=300)
    given = parser.parse_args(words)
    folder, start = given.folder, time.monotonic()
    photo = photograph(folder / "photograph", given.shot_seed)
    model = given.model or str(folder / "model")
    if given.model is None and not Path(model).exists():
        tiny_diffusion.main([model, *(["--train"] if given.train else [])])
    steps, (height, width) = given.personalise_steps, given.size
    run(
        "personalise", "sfseg-generate", "personalise", f"images={photo}", f"model={model}",
        f"out={folder}/personalised", f"steps={steps}", f"keep_every={steps}", "resize=null",
        f"crop={min(height, width)}", "logger=csv",
    )  # fmt: skip
    run(
        "generate", "sfseg-generate", "images", f"model={folder}/personalised/step_{steps:06d}",
        f"out={folder}/images", f"n_images={given.images}", f"height={height}", f"width={width}",
        f"steps={given.sampling_steps}", "batch_size=8",
    )  # fmt: skip
    run(
        "report", "sfseg-generate", "report", f"images={folder}/images", f"target={photo.parent}",
        f"out={folder}/report.html", "distances=false",
    )  # fmt: skip
    run(
        "adapt", "sfseg-train", "method=datum", "data=toyscapes",
        f"data.generated={folder}/images", f"data.target_crop=[{height},{width}]",
        "data.n_shots=1", f"data.shot_seed={given.shot_seed}",
        f"trainer.max_steps={given.train_steps}", "logger=csv", "resume=auto",
        f"hydra.run.dir={folder}/segmenter",
    )  # fmt: skip
    print(f"\n{folder}: {time.monotonic() - start:.0f} s in all")


if __name__ == "__main__":
    main()
