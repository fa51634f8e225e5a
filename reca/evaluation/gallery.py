"""A few judged pictures as small files, for reports: evenly spaced over the items, the first picture of each."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from reca.evaluation.benchmark import Benchmark
from reca.evaluation.picture_files import Pictures, read_picture
from reca.evaluation.records import BenchmarkError, Record

SHOWN = 12
SIDE = 192
"""Longest side of a shown picture in pixels."""

GALLERY = "gallery.json"


class Shown(msgspec.Struct, frozen=True):
    """One picture of a gallery.

    Attributes:
        item: key of its item.
        prompt: text it was drawn from.
        score: headline measure; None when unscored.
        why: reasons of the verdict.
        jpeg: the picture, made smaller.
    """

    item: str
    prompt: str
    score: float | None
    why: tuple[str, ...]
    jpeg: bytes


def save_gallery(
    bench: Benchmark[Any, Any], records: Sequence[Record[Any, Any]], pictures: Pictures, folder: Path
) -> None:
    """Write `gallery.json`; pictures that are missing or cannot be read are passed over.

    The items are chosen before that, so that two sides of one benchmark show the same ones.

    Args:
        bench: the items, of which at most `SHOWN` are chosen.
        records: of any of their pictures.
        pictures: of `find_pictures` on the same items.
        folder: must exist.
    """
    first = {record.item: record for record in records if record.sample == 0}
    items = bench.items
    spaced = [items[number * len(items) // SHOWN] for number in range(SHOWN)] if len(items) > SHOWN else items
    rows: list[Shown] = []
    for item in (item for item in spaced if item.key in first):
        try:
            picture = read_picture(pictures.found[item.key, 0])
        except BenchmarkError:
            continue
        record = first[item.key]
        rows.append(Shown(item.key, item.prompt, record.scores.get(bench.headline), record.why, _jpeg(picture)))
    (folder / GALLERY).write_bytes(msgspec.json.encode(rows))


def load_gallery(folder: Path) -> list[Shown]:
    """Read what `save_gallery` wrote; empty where there is none."""
    path = folder / GALLERY
    return msgspec.json.decode(path.read_bytes(), type=list[Shown]) if path.exists() else []


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.thumbnail((SIDE, SIDE))
    picture.save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()
