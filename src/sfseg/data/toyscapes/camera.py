"""From the flat paint of a Toyscapes scene to a photograph: texture, light, lens, sensor."""

import math
from functools import lru_cache

import cv2
import numpy as np

from sfseg.data.toyscapes.canvas import Array, Canvas
from sfseg.randomness import generator

FINE, BRICK, LEAVES, CLOUDS, ASPHALT, PAVING, GRASS = range(7)
# Texture and its strength for each class, in the order of the class ids.
TEXTURES = (
    (ASPHALT, 0.06), (PAVING, 0.1), (BRICK, 0.08), (BRICK, 0.16), (FINE, 0.06), (FINE, 0.03),
    (FINE, 0.03), (FINE, 0.02), (LEAVES, 0.22), (GRASS, 0.16), (CLOUDS, 0.05), (FINE, 0.05),
    (FINE, 0.05), (FINE, 0.02), (FINE, 0.03), (FINE, 0.02), (FINE, 0.02), (FINE, 0.04),
    (FINE, 0.04),
)  # fmt: skip
_KIND, _GAIN = np.zeros(256, np.uint8), np.zeros(256, np.float32)
_KIND[: len(TEXTURES)], _GAIN[: len(TEXTURES)] = zip(*TEXTURES, strict=True)
_TILE = 256
_PIXELS_PER_METRE = 16


def photograph(canvas: Canvas, rng: np.random.Generator) -> Array:
    """The image that the style's camera takes of the canvas, (H, W, 3) uint8."""
    style, size = canvas.style, (canvas.height, canvas.width)
    light = _surface(canvas, rng)
    if style.vignette:
        light *= _vignette(size, style.vignette)
    image = cv2.cvtColor(canvas.pixels, cv2.COLOR_RGBA2RGB)
    image = cv2.multiply(image.astype(np.float32), cv2.merge([light, light, light]))
    image = cv2.transform(image, _colour_matrix(canvas))
    if style.blur > 0:
        image = cv2.GaussianBlur(image, (0, 0), style.blur * canvas.height / 128)
    grain = _window(_grain(size), size, rng)
    noisy = cv2.addWeighted(image, 1.0, grain, style.noise, 0.0, dtype=cv2.CV_8U)
    return np.asarray(noisy, np.uint8)


def _window(bank: Array, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """A random cut-out of a larger image: cheaper than drawing one anew."""
    row, column = (int(rng.integers(extent // 2)) for extent in size)
    return bank[row : row + size[0], column : column + size[1]]


def _surface(canvas: Canvas, rng: np.random.Generator) -> Array:
    """Brightness of the surfaces (H, W) around 1: their texture, and shadows on the ground."""
    style, label = canvas.style, canvas.pixels[..., 3]
    upright, tiles = _textures((canvas.height, canvas.width), style.irregularity)
    kinds = cv2.LUT(label, _KIND)
    texture = np.zeros(label.shape, np.float32)
    for kind, bank in enumerate(upright):
        np.copyto(texture, _window(bank, label.shape, rng), where=kinds == kind)
    top = int(canvas.horizon)
    for kind, plane in zip((ASPHALT, PAVING, GRASS), _laid_out(canvas, tiles, top), strict=True):
        np.copyto(texture[top:], plane, where=kinds[top:] == kind)
    texture *= cv2.LUT(label, _GAIN * np.float32(style.texture))
    texture += 1
    np.multiply(texture, canvas.shadow * np.float32(1 / 255), out=texture, where=kinds >= ASPHALT)
    return texture


def _laid_out(canvas: Canvas, tiles: Array, top: int) -> list[Array]:
    """The ground's tiles in perspective from row ``top`` on, one plane for each kind."""
    scale = _PIXELS_PER_METRE * canvas.eye
    to_ground = np.array([
        [scale, 0, -scale * canvas.centre],
        [0, 0, scale * canvas.focal],
        [0, 1, top - canvas.horizon],
    ])  # fmt: skip
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    rows = canvas.height - top
    ground = cv2.warpPerspective(
        tiles, to_ground, (canvas.width, rows), flags=flags, borderMode=cv2.BORDER_WRAP
    )
    # Far tiles are smaller than a pixel: let them fade instead of flicker.
    fade = np.clip(np.arange(rows, dtype=np.float32) / (0.2 * canvas.height), 0, 1)[:, None]
    return [plane * fade for plane in cv2.split(ground)]


def _colour_matrix(canvas: Canvas) -> Array:
    """Exposure, white balance, saturation and contrast as one (3, 4) affine map of RGB."""
    style = canvas.style
    stops = style.exposure + style.jitter * canvas.between(-1.5, 1.5)
    warm = style.warmth + 0.2 * style.jitter * canvas.between(-1, 1)
    balance = np.diag([1 + (warm + style.magenta) / 2, 1 - style.magenta / 2, 1 - warm / 2])
    grey = np.tile([0.299, 0.587, 0.114], (3, 1))
    linear = balance @ (style.saturation * np.eye(3) + (1 - style.saturation) * grey)
    offset = np.full((3, 1), 128 * (1 - style.contrast))
    return np.hstack([style.contrast * 2**stops * linear, offset]).astype(np.float32)


@lru_cache(maxsize=8)
def _vignette(size: tuple[int, int], loss: float) -> Array:
    y, x = np.linspace(-1, 1, size[0])[:, None], np.linspace(-1, 1, size[1])
    return (1 - loss * (x * x + y * y) / 2).astype(np.float32)


@lru_cache(maxsize=4)
def _grain(size: tuple[int, int]) -> Array:
    """Sensor noise of unit deviation, most of it shared by the colours."""
    rng = generator(0, 0, 0, "toyscapes/grain")
    extent = (size[0] * 3 // 2, size[1] * 3 // 2)
    shared = rng.standard_normal((*extent, 1), np.float32)
    grain = 0.8 * shared + 0.6 * rng.standard_normal((*extent, 3), np.float32)
    return np.asarray(grain, np.float32)


@lru_cache(maxsize=8)
def _textures(size: tuple[int, int], irregularity: float) -> tuple[list[Array], Array]:
    """Upright textures, each half as large again as the image, and ground tiles (T, T, 3)."""
    rng = generator(0, 0, 0, "toyscapes/textures")
    unit = size[0] / 128
    y, x = np.mgrid[0 : size[0] * 3 // 2, 0 : size[1] * 3 // 2] / unit
    upright = (
        ((x // 2 + y // 2) % 2, 1.0),
        ((y % 6 < 1) | ((x + 6 * (y // 6 % 2)) % 12 < 1), 2.5),
        (np.sin(x * 1.1 + np.sin(y * 0.5)) * np.sin(y * 1.2), 1.6),
        (np.sin(x / 14) * np.sin(y / 5), 8.0),
    )
    y, x = np.mgrid[0:_TILE, 0:_TILE] / _PIXELS_PER_METRE
    ground = (
        (np.sin(x * np.pi) * np.sin(y * np.pi), 5.0),
        ((x % 1 < 0.15) | (y % 1 < 0.15), 4.0),
        (np.sin(x * 4 * np.pi) + np.sin(y * np.pi), 3.0),
    )
    planes = [_mixed(rng, regular, patch * unit, irregularity) for regular, patch in upright]
    tiles = [_mixed(rng, regular, patch, irregularity) for regular, patch in ground]
    return planes, np.dstack(tiles)


def _mixed(rng: np.random.Generator, regular: Array, patch: float, irregularity: float) -> Array:
    """A regular pattern and random patches of that size, blended to unit variance."""
    noise: Array = np.asarray(rng.standard_normal(regular.shape), np.float32)
    # Blurred across its borders, because the ground repeats it as tiles.
    margin = math.ceil(4 * patch)
    noise = cv2.GaussianBlur(np.pad(noise, margin, mode="wrap"), (0, 0), patch)
    noise = noise[margin:-margin, margin:-margin]
    tidy, wild = ((part - part.mean()) / part.std() for part in (regular.astype(float), noise))
    mixed: Array = (1 - irregularity) * tidy + irregularity * wild
    return np.asarray(np.clip(mixed / mixed.std(), -2.5, 2.5), np.float32)
