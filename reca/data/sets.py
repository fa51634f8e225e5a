"""The built-in data sets: rows of pictures drawn from seeded scenes.

Labels are thrown away where the protocol says so: a row of the unlabeled set is picture bytes and nothing else. Each
row is a function of (set, seed, index), so any range can be made on any worker.
"""

from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO

import numpy as np
from PIL import Image

from reca.config import BUILT_IN
from reca.data.scenes import Scene, question, render, sample_scene, sparse_caption


@dataclass(frozen=True)
class Row:
    """One row of a source.

    Attributes:
        key: unique and sortable within its set.
        image: encoded picture (PNG for the built-in sets).
        caption: None for unlabeled pictures; a caption; or question + newline + answer for instruction rows.
        source: where the picture comes from.
    """

    key: str
    image: bytes
    caption: str | None
    source: str


def generator(stream: str, seed: int, index: int) -> np.random.Generator:
    """Random generator of one row, independent across the three.

    Args:
        stream: what the numbers are for.
        seed: of the set.
        index: row number.
    """
    digest = blake2b(f"{stream}/{seed}/{index}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def scene_at(stream: str, seed: int, index: int) -> Scene:
    """Scene of one row.

    Args:
        stream: name of the set; in use are `pictures` (unlabeled and captioned), `instructions` and `held-out`
            (evaluation).
        seed: of the set.
        index: row number.
    """
    return sample_scene(generator(f"scene/{stream}", seed, index))


def unlabeled_row(index: int, seed: int) -> Row:
    """Row of the unlabeled set that RecA trains on: the picture only."""
    return Row(f"{index:09d}", _png(scene_at("pictures", seed, index)), None, BUILT_IN)


def captioned_row(index: int, seed: int) -> Row:
    """The same picture as `unlabeled_row`, with the sparse caption that the caption-trained control sees."""
    scene = scene_at("pictures", seed, index)
    caption = sparse_caption(scene, generator("caption", seed, index))
    return Row(f"{index:09d}", _png(scene), caption, BUILT_IN)


def instruction_row(index: int, seed: int) -> Row:
    """A picture with one question and its answer, for the image-to-text term."""
    scene = scene_at("instructions", seed, index)
    asked, answer = question(scene, generator("question", seed, index))
    return Row(f"{index:09d}", _png(scene), f"{asked}\n{answer}", BUILT_IN)


def _png(scene: Scene) -> bytes:
    buffer = BytesIO()
    Image.fromarray(render(scene)).save(buffer, format="PNG")
    return buffer.getvalue()
