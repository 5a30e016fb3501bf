"""Write stand-ins for the images that DATUM generates: drawn, not by a diffusion model.

python scripts/stand_in_generated.py generated/shot_0 [--shot-seed 0] [--images 600]

For tests and for runs on toyscapes, where no diffusion model is at hand. A diffusion model that is
personalised on one image of the target copies that image's look onto streets of its own, most of
them around the thing that the prompt names. These images imitate that with the generator of
toyscapes:

- Of the shot, the one training image of the city that ``data.n_shots=1 data.shot_seed=<s>`` draws,
  or ``--shot <name>``, they all have the exposure, the colour cast and, to a tenth of a turn, the
  sun's direction, which the city's own images spread; and the city's palette, haze, textures, blur
  and noise, which it shares with the shot. So their light varies less than the target's.
- Streets are new, and not laid out as in the target: focal length, camera height, horizon, width
  of the road, heights of houses, and greenery are drawn from ranges around or beyond the target's.
- Image j follows one of DATUM's ten prompts, ``a photo of sks cars``: the named thing comes three
  times as often as in the target, the other things one and a half times.
- No bonnet is seen, as in generated images.

Image j is ``im_<j>_p<j mod 10>.png``, as in DATUM's release, and follows from the settings,
``--seed`` and j alone: files that are there are kept, and a folder that was written in two goes has
the bits of one that was written in one. ``manifest.json`` says of each image its prompt and its
seed, and that it is a stand-in.
"""

import argparse
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from sfseg.data.shots import FewScenes, Shots
from sfseg.data.toyscapes.camera import photograph
from sfseg.data.toyscapes.canvas import Array, Canvas
from sfseg.data.toyscapes.scenes import Toyscapes, draw_scene
from sfseg.data.toyscapes.street import Street
from sfseg.data.toyscapes.style import SHIFTS, Style
from sfseg.errors import ConfigError
from sfseg.randomness import generator
from sfseg.storage.atomic import write_whole

log = logging.getLogger("stand_in_generated")

NOTE = "stand-in, not a diffusion model"
MANIFEST = "manifest.json"
THINGS = {
    "traffic lights": "furniture", "traffic signs": "furniture", "persons": "pedestrians",
    "riders": "two_wheelers", "cars": "traffic", "trucks": "heavy", "trains": "heavy",
    "buses": "heavy", "motorcycles": "two_wheelers", "bicycles": "two_wheelers",
}  # fmt: skip
"""DATUM's ten prompts, in their order, and the number of a style that draws more of each."""
MORE, MOST = 1.5, 3.0
"""How often things come, and the one that the prompt names, in units of the target's."""
TURN = 2 * math.pi


class Look(NamedTuple):
    """What an image of the city looks like.

    style: the city's, with the image's own exposure and warmth, and no spread of these.
    sun: direction in radians.
    """

    style: Style
    sun: float


def look_of(scenes: Toyscapes, index: int) -> Look:
    """The look of a training image of the city, its light measured against its twin without any."""
    purpose = f"toyscapes/{scenes.domain}/{scenes.split}"
    style, size = replace(scenes.style, jitter=0.0), scenes.size(index)

    def draws() -> np.random.Generator:
        return generator(scenes.seed, 0, index, purpose)

    offset = 128 * (1 - style.contrast)
    rows = size[0] - round(style.hood * size[0])
    shot = scenes.image(index)[:rows].astype(float) - offset
    twin = draw_scene(style, size, draws())[:rows, :, :3].astype(float) - offset
    seen = ((np.minimum(shot, twin) > 10) & (np.maximum(shot, twin) < 250 - offset)).all(axis=-1)
    _, green, blue = shot[seen].sum(axis=0) / twin[seen].sum(axis=0)
    own = replace(
        style,
        exposure=style.exposure + math.log2(green),
        warmth=2 - (2 - style.warmth) * blue / green,
    )
    return Look(own, Canvas(size, style, draws()).sun)


def draw(look: Look, size: tuple[int, int], number: int, seed: int) -> Array:
    """Stand-in ``number`` (H, W, 3) uint8 RGB."""
    rng = generator(seed, 0, number, "toyscapes/stand-in")
    style, named = look.style, list(THINGS.values())[number % len(THINGS)]
    things = {key: MOST if key == named else MORE for key in set(THINGS.values())}
    street = {
        "focal": style.focal * rng.uniform(0.9, 1.5),
        "camera_height": style.camera_height * rng.uniform(0.75, 1.25),
        "horizon": float(np.clip(style.horizon + rng.uniform(-0.08, 0.08), 0.3, 0.55)),
        "road_scale": style.road_scale * rng.uniform(0.75, 1.25),
        "building_height": style.building_height * rng.uniform(0.6, 1.4),
        "greenery": rng.uniform(0.1, 0.7),
    }
    more = {key: getattr(style, key) * factor for key, factor in sorted(things.items())}
    canvas = Canvas(size, replace(style, hood=0.0, **street, **more), rng)
    canvas.sun = look.sun + rng.uniform(-0.1, 0.1) * TURN
    Street(canvas).paint()
    return photograph(canvas, rng)


def file_name(number: int) -> str:
    """As in DATUM's release: the image's number, and its prompt's."""
    return f"im_{number}_p{number % len(THINGS)}.png"


def write_manifest(folder: Path, settings: dict[str, Any], images: int) -> None:
    """Say what the folder holds, unless it holds something else.

    Raises:
        ConfigError: it holds stand-ins of other settings.
    """
    path = folder / MANIFEST
    if path.exists():
        kept = json.loads(path.read_text())
        others = [key for key in settings if kept.get(key) != settings[key]]
        if others:
            raise ConfigError(
                f"{folder} holds images of other settings: {others[0]}="
                f"{kept.get(others[0])!r}, not {settings[others[0]]!r}; choose another folder"
            )
        images = max(images, len(kept["images"]))
    prompts = list(THINGS)
    listed = [
        {"file": file_name(j), "prompt": f"a photo of sks {prompts[j % len(prompts)]}",
         "seed": [settings["seed"], j]} for j in range(images)
    ]  # fmt: skip
    text = json.dumps({**settings, "images": listed}, indent=1)
    write_whole(path, lambda file: file.write(text.encode()))


def write_image(path: Path, image: Array) -> None:
    """A PNG of (H, W, 3) RGB or of (H, W) ids, whole or not at all.

    Hundreds of them need not survive a crash of the machine.
    """
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    fine, data = cv2.imencode(".png", stored)
    assert fine, "PNG takes every image"
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data.tobytes())
    partial.replace(path)


def main(words: Sequence[str] | None = None) -> None:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=600, help="as many as the city has to train")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 256), help="height and width")
    parser.add_argument("--seed", type=int, default=0, help="of the images")
    parser.add_argument("--shot-seed", type=int, default=0, help="draws the shot")
    parser.add_argument("--shot", help="its name, in place of a draw")
    parser.add_argument("--length", type=int, default=600, help="training images of the city")
    parser.add_argument("--shift", choices=list(SHIFTS), default="default")
    parser.add_argument("--style-seed", type=int, default=0)
    parser.add_argument("--scene-seed", type=int, default=0)
    given = parser.parse_args(words)
    if given.images < 1:
        parser.error(f"--images must be at least 1, got {given.images}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    height, width = given.size
    scenes = Toyscapes(
        "city", "train", length=given.length, size=(height, width), seed=given.scene_seed,
        shift=given.shift, style_seed=given.style_seed,
    )  # fmt: skip
    drawn = given.shot is None
    shots = Shots(number=1, seed=given.shot_seed) if drawn else Shots(names=[given.shot])
    few = shots.of(scenes)
    assert isinstance(few, FewScenes), "of drawn scenes"
    settings = {
        "generator": NOTE, "shot": few.name(0), "size": [height, width], "seed": given.seed,
        "shift": given.shift, "style_seed": given.style_seed, "scene_seed": given.scene_seed,
    }  # fmt: skip
    write_manifest(given.folder, settings, given.images)
    look = look_of(scenes, few.chosen[0])
    paths = [given.folder / file_name(j) for j in range(given.images)]
    missing = [j for j, path in enumerate(paths) if not path.exists()]
    log.info(
        "%s: %d images of %dx%d (width x height) in the look of %s, %d of them are there",
        NOTE, given.images, width, height, few.name(0), given.images - len(missing),
    )  # fmt: skip
    for j in missing:
        write_image(paths[j], draw(look, (height, width), j, given.seed))


if __name__ == "__main__":
    main()
