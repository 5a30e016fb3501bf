"""Start-up of a run with a list of one million training images beside one with a hundred.

Each arm is ``sfseg-train trainer=debug`` in a process of its own: three steps and a table. The
list names the same hundred small images and masks again and again, under paths of realistic
length; the evaluation sets stay small. Peak resident memory is that of the whole run.

    python scripts/bench_start_up.py
    python scripts/bench_start_up.py --images 100000
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

FEW = 100


def write_domain(root: Path) -> None:
    """A hundred images with masks, and the list of their classes."""
    rng = np.random.default_rng(0)
    for number in range(FEW):
        name = f"train/aachen_{number // 10:06d}/aachen_{number:06d}_000019_leftImg8bit.png"
        pixels = {"images": rng.integers(256, size=(64, 128, 3)), "masks": np.eye(64, 128)}
        for part, values in pixels.items():
            path = root / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), values.astype(np.uint8))
    (root / "classes.yaml").write_text("classes: [background, line]\n")


def write_list(root: Path, count: int) -> None:
    names = sorted(p.relative_to(root).as_posix() for p in (root / "images").rglob("*.png"))
    lines = [f"{name} {name.replace('images', 'masks', 1)}\n" for name in names]
    for split, passes in (("train", count // FEW), ("val", 1)):
        with (root / f"{split}.txt").open("w") as file:
            for _ in range(passes):
                file.writelines(lines)


def run(root: Path, count: int) -> tuple[float, float]:
    """(seconds, peak MB) of a run."""
    write_list(root, count)
    command = [
        sys.executable, "-m", "sfseg.commands.train", "data=folder", f"data.root={root}",
        f"data.source_root={root}", f"data.target_root={root}", "data.source_list='{split}.txt'",
        "data.target_list='{split}.txt'", "data.source_view.crop=[64,64]", "data.batch_size=2",
        "data.num_workers=0", "data.check_samples=10", "trainer=debug", "callbacks=[progress]",
        f"hydra.run.dir={root}/runs/{count}",
    ]  # fmt: skip
    start = time.perf_counter()
    with (root / "errors.txt").open("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # wait4 has told nobody else
        if status:
            errors.seek(0)
            raise SystemExit(f"the run with {count} images failed:\n{errors.read()[-2000:]}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    count = parser.parse_args(arguments).images
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_domain(root)
        results = {number: run(root, number) for number in (FEW, count)}
    for number, (seconds, peak) in results.items():
        print(f"{number:>9,d} images: {seconds:6.1f} s, peak {peak:7.0f} MB")
    growth = results[count][1] - results[FEW][1]
    print(f"growth: {growth:.0f} MB, {results[count][0] / results[FEW][0]:.2f}x the time")
    return growth


if __name__ == "__main__":
    main()
