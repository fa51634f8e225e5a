"""Pictures the detector learns from: composed scenes, the damage a generator does to them, and junk without objects.

Every choice comes from one numpy generator, so a batch is a function of its seed. Damaged scenes keep their labels,
junk has none, and between the two lies a gap on purpose: blur up to 1.6 px is still a picture, blur from 4 px is junk.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from reca.data.scenes import (
    BACKGROUND,
    CANVAS,
    CELL,
    CLASSES,
    COLORS,
    LATTICE,
    MAX_OBJECTS,
    SPRITE,
    place,
)
from reca.data.twemoji import COLORS as COLOR_VALUES
from reca.data.twemoji import sprite

SIZES = (26, SPRITE, 30)
"""Sprite sides of freely placed scenes; scenes on the lattice have `SPRITE` only."""

Picture = NDArray[np.float32]
"""float32 [64, 64, 3], RGB, 0 to 255."""


@dataclass(frozen=True)
class Placed:
    """One sprite of a training picture.

    Attributes:
        name: index of the class in `CLASSES`.
        color: index in `COLORS`.
        x: left edge in pixels.
        y: top edge in pixels.
        size: side in pixels, one of `SIZES`.
    """

    name: int
    color: int
    x: int
    y: int
    size: int


@dataclass(frozen=True)
class Pool:
    """All sprites in the sizes used.

    Attributes:
        by_size: float32 [classes, colors, side, side, 4] by side in pixels: RGB in 0 to 255, alpha in 0 to 1.
    """

    by_size: dict[int, NDArray[np.float32]]

    @classmethod
    def load(cls) -> "Pool":
        """Cut and tint every sprite once (384 sprites, about a second)."""
        return cls({s: np.stack([np.stack([sprite(n, c, s) for c in COLORS]) for n in CLASSES]) for s in SIZES})

    def compose(self, objects: list[Placed]) -> Picture:
        """Paste sprites on the plain ground, later ones on top: a new `Picture`."""
        canvas = empty()
        for item in objects:
            self.paste(canvas, self.by_size[item.size][item.name, item.color], item.x, item.y)
        return canvas

    @staticmethod
    def paste(canvas: Picture, picture: NDArray[np.float32], x: int, y: int) -> None:
        """Blend one picture into a canvas in place.

        Args:
            canvas: changed.
            picture: float32 [H, W, 4]: RGB in 0 to 255, alpha in 0 to 1; must lie inside the canvas.
            x: left edge on the canvas in pixels.
            y: top edge.
        """
        height, width = picture.shape[:2]
        window = canvas[y : y + height, x : x + width]
        window += picture[..., 3:] * (picture[..., :3] - window)


def empty() -> Picture:
    """A `Picture` of the plain ground."""
    return np.tile(np.asarray(BACKGROUND, dtype=np.float32), (CANVAS, CANVAS, 1))


def objects_on_lattice(rng: np.random.Generator) -> list[Placed]:
    """1 to 4 sprites as the world places them; in 3 of 10 scenes they share one class, as in the world."""
    spots = place(int(rng.integers(1, MAX_OBJECTS + 1)), rng)
    margin = (CELL - SPRITE) // 2
    return [
        Placed(name, int(rng.integers(len(COLORS))), x + margin, y + margin, SPRITE)
        for name, (x, y) in zip(_names(len(spots), rng), spots, strict=True)
    ]


def objects_anywhere(rng: np.random.Generator) -> list[Placed]:
    """1 to 4 sprites at free offsets, overlapping by at most 2 px, so that slightly misplaced sprites are read too."""
    wanted = int(rng.integers(1, MAX_OBJECTS + 1))
    chosen: list[Placed] = []
    for name in _names(4 * wanted, rng):
        size = SIZES[rng.integers(len(SIZES))]
        x, y = (int(v) for v in rng.integers(CANVAS - size + 1, size=2))
        apart = all(max(abs(x - o.x), abs(y - o.y)) >= (size + o.size) // 2 - 2 for o in chosen)
        if apart and len(chosen) < wanted:
            chosen.append(Placed(name, int(rng.integers(len(COLORS))), x, y, size))
    return chosen


def _names(count: int, rng: np.random.Generator) -> list[int]:
    if rng.random() < 0.3:
        return [int(rng.integers(len(CLASSES)))] * count
    return [int(v) for v in rng.integers(len(CLASSES), size=count)]


def blur(pixels: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with a standard deviation of `sigma` pixels, borders reflected.

    Args:
        pixels: float32 [B, C, H, W] of any range.
        sigma: above 0; three times it must be less than the shorter side.
    """
    radius = max(1, round(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(pixels.shape[1], 1, 1, -1)
    padded = functional.pad(pixels, (radius,) * 4, mode="reflect")
    rows = functional.conv2d(padded, kernel, groups=pixels.shape[1])
    return functional.conv2d(rows, kernel.transpose(2, 3), groups=pixels.shape[1])


def shrink(pixels: Tensor, factor: float) -> Tensor:
    """Lose resolution: area-average pictures float32 [B, 3, 64, 64] down by `factor`, bilinear up again."""
    small = functional.interpolate(pixels, size=round(CANVAS / factor), mode="bilinear", antialias=True)
    return functional.interpolate(small, size=CANVAS, mode="bilinear")


def noise(pixels: Tensor, deviation: float, rng: np.random.Generator) -> Tensor:
    """Add white noise of `deviation` to pixels of any shape, float32 in 0 to 255; what leaves that range is cut."""
    return (pixels + deviation * _normal(tuple(pixels.shape), rng)).clamp(0, 255)


def brightness(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Gain 0.8 to 1.2 and shift -20 to 20, one pair per picture, of float32 [B, 3, H, W] in 0 to 255."""
    gain, shift = rng.uniform((0.8, -20), (1.2, 20), size=(len(pixels), 2)).astype(np.float32).T
    scaled = pixels * torch.from_numpy(gain.copy())[:, None, None, None]
    return (scaled + torch.from_numpy(shift.copy())[:, None, None, None]).clamp(0, 255)


def jpeg(pixels: Tensor, quality: int) -> Tensor:
    """Pictures float32 [B, 3, H, W] in 0 to 255 through the JPEG codec, 4:2:0; whole numbers come back."""
    frames = pixels.clamp(0, 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    files = (simplejpeg.encode_jpeg(frame, quality=quality, colorsubsampling="420") for frame in frames)
    return torch.from_numpy(np.stack([simplejpeg.decode_jpeg(file) for file in files])).permute(0, 3, 1, 2).float()


def damage(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Training damage, a sixth of the batch each: none, brightness, blur, lost resolution, noise, JPEG.

    Args:
        pixels: float32 [B, 3, 64, 64] in 0 to 255; what comes back is likewise.
        rng: draws strength and noise.
    """
    groups = list(pixels.tensor_split(6))
    return torch.cat(
        [
            groups[0],
            brightness(groups[1], rng),
            blur(brightness(groups[2], rng), float(rng.uniform(0.4, 1.6))),
            shrink(groups[3], float(rng.uniform(1.3, 3.0))),
            noise(groups[4], float(rng.uniform(3, 30)), rng),
            jpeg(groups[5], int(rng.integers(20, 90))),
        ]
    )


def _white_noise(rng: np.random.Generator, pool: Pool) -> Picture:
    deviation, center = rng.uniform(20, 100), rng.uniform(60, 220, size=3)
    return (center + deviation * rng.standard_normal((CANVAS, CANVAS, 3))).clip(0, 255).astype(np.float32)


def _blobs(rng: np.random.Generator, pool: Pool) -> Picture:
    values = _normal((1, 3, CANVAS, CANVAS), rng)
    smooth = blur(values, float(rng.uniform(2.5, 8)))
    smooth = smooth / smooth.std(dim=(2, 3), keepdim=True)
    center = torch.from_numpy(rng.uniform(80, 220, size=3).astype(np.float32))[:, None, None]
    return (center + float(rng.uniform(25, 80)) * smooth[0]).clamp(0, 255).permute(1, 2, 0).numpy()


def _blend(rng: np.random.Generator, pool: Pool) -> Picture:
    share = rng.uniform(0.4, 0.6)
    first, second = (pool.compose(objects_on_lattice(rng)) for _ in range(2))
    return (share * first + (1 - share) * second).astype(np.float32)


def _shuffled(rng: np.random.Generator, pool: Pool) -> Picture:
    side = (4, 8, LATTICE)[rng.integers(3)]
    count = CANVAS // side
    scene = pool.compose(objects_on_lattice(rng) if rng.random() < 0.5 else objects_anywhere(rng))
    patches = scene.reshape(count, side, count, side, 3).swapaxes(1, 2).reshape(count * count, side, side, 3)
    shuffled = patches[rng.permutation(count * count)].reshape(count, count, side, side, 3)
    return shuffled.swapaxes(1, 2).reshape(CANVAS, CANVAS, 3)


def _flat_shapes(rng: np.random.Generator, pool: Pool) -> Picture:
    canvas = empty()
    rows, columns = np.mgrid[:CANVAS, :CANVAS]
    values = list(COLOR_VALUES.values())
    for _ in range(rng.integers(1, 6)):
        y, x = rng.integers(4, CANVAS - 4, size=2)
        height, width = rng.uniform(5, 17, size=2)
        dy, dx = np.abs(rows - y) / height, np.abs(columns - x) / width
        shape = (dy**2 + dx**2 <= 1, np.maximum(dy, dx) <= 1, dy + dx <= 1)[rng.integers(3)]
        canvas[shape] = values[rng.integers(len(values))] + rng.uniform(-25, 25, size=3)
    return canvas.clip(0, 255)


def _heavy_blur(rng: np.random.Generator, pool: Pool) -> Picture:
    scene = torch.from_numpy(pool.compose(objects_on_lattice(rng))).permute(2, 0, 1)[None]
    return blur(scene, float(rng.uniform(4, 9)))[0].permute(1, 2, 0).numpy()


def _halves(rng: np.random.Generator, pool: Pool) -> Picture:
    """Half sprites, alone or joined with a half of another class: what parallel unmasking of codes leaves behind."""
    canvas = empty()
    for item in objects_on_lattice(rng):
        sprites = pool.by_size[SPRITE]
        joined = sprites[item.name, item.color].copy()
        other = sprites[(item.name + rng.integers(1, len(CLASSES))) % len(CLASSES), rng.integers(len(COLORS))]
        rest = other * np.float32(rng.random() < 0.6)
        middle = slice(SPRITE // 2) if rng.random() < 0.5 else slice(SPRITE // 2, SPRITE)
        if rng.random() < 0.5:
            joined[middle] = rest[middle]
        else:
            joined[:, middle] = rest[:, middle]
        pool.paste(canvas, joined, item.x, item.y)
    return canvas


def _plain(rng: np.random.Generator, pool: Pool) -> Picture:
    return (
        empty() if rng.random() < 0.5 else np.tile(rng.uniform(0, 255, size=3).astype(np.float32), (CANVAS, CANVAS, 1))
    )


JUNK: dict[str, Callable[[np.random.Generator, Pool], Picture]] = {
    "noise": _white_noise,
    "blobs": _blobs,
    "blend": _blend,
    "shuffled patches": _shuffled,
    "flat shapes": _flat_shapes,
    "heavy blur": _heavy_blur,
    "half sprites": _halves,
    "plain": _plain,
}
"""Kinds of object-free pictures, by name."""


def stack(pictures: list[Picture]) -> Tensor:
    """Batch of B pictures: float32 [B, 3, 64, 64] in 0 to 255."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def _normal(shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
