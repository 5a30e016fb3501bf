"""Write stand-ins for what CLOUDS takes from foundation models: drawn, of many cities.

python scripts/stand_in_clouds.py stand_ins [--images 600] [--cities 20]

For tests and for runs on toyscapes, where neither a diffusion model nor CLIP is at hand. Both know
far more looks than one source shows, and that is what is imitated, with the generator of toyscapes:

- ``generated/im_<j>_p<j mod 100>.png``, without labels, stand for a diffusion model's images:
  image j is a street of one of ``--cities`` cities, as far from the game as ``mild``, ``default``
  and ``severe``, in turn.
- ``wide/images`` and ``wide/masks`` stand for what CLIP has been trained on: labelled streets of as
  many other cities. A ``tiny`` that is trained on them is the stand-in for CLIP's backbone; it has
  seen labels, which CLIP has not.

The cities have style seeds from 100 and from 200: none is one of those that ``toyscapes_to_styles``
judges by, nor is any scene. Files that are there are kept.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from stand_in_generated import write_image

from sfseg.data.toyscapes.canvas import Array
from sfseg.data.toyscapes.scenes import draw_scene
from sfseg.data.toyscapes.style import SHIFTS, city_style
from sfseg.randomness import generator

PROMPTS = 100
GENERATED, WIDE = 100, 200
"""First style seed of each kind."""


def street(number: int, first: int, cities: int, size: tuple[int, int]) -> Array:
    """Street ``number`` of a kind, (H, W, 4): RGB and class id."""
    shift = list(SHIFTS)[number // cities % len(SHIFTS)]
    style = city_style(shift, first + number % cities)
    return draw_scene(style, size, generator(first, 0, number, "toyscapes/stand-in of clouds"))


def main(words: Sequence[str] | None = None) -> None:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=600, help="of each kind")
    parser.add_argument("--cities", type=int, default=20, help="of each kind")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 256), help="height and width")
    given = parser.parse_args(words)
    if given.images < 1 or not 1 <= given.cities <= WIDE - GENERATED:
        parser.error(
            f"--images must be at least 1 and --cities from 1 to {WIDE - GENERATED}, got "
            f"{given.images} and {given.cities}"
        )
    size = (given.size[0], given.size[1])
    generated, wide = given.folder / "generated", given.folder / "wide"
    for folder in (generated, wide / "images", wide / "masks"):
        folder.mkdir(parents=True, exist_ok=True)
    for j in range(given.images):
        path = generated / f"im_{j}_p{j % PROMPTS}.png"
        if not path.exists():
            scene = street(j, GENERATED, given.cities, size)
            write_image(path, scene[..., :3])
        image, mask = (wide / kind / f"{j:06d}.png" for kind in ("images", "masks"))
        if not (image.exists() and mask.exists()):
            scene = street(j, WIDE, given.cities, size)
            write_image(image, scene[..., :3])
            write_image(mask, scene[..., 3])


if __name__ == "__main__":
    main()
