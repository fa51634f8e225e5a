"""The pictures of a benchmark in a folder: which are there, which are missing, which belong to no item."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import fsspec
import msgspec
import numpy as np
from fsspec.core import url_to_fs
from fsspec.spec import AbstractFileSystem
from PIL import Image, UnidentifiedImageError

from reca.config import SamplingConfig
from reca.data.decode import MAX_PIXELS
from reca.evaluation.records import BenchmarkError, Item

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

SOURCE_ENDING = "_SRCIMG.png"
"""GEdit keeps the pictures that are edited under this ending, beside the edited ones."""

REFUSED = "refused.json"
"""Beside the pictures: why a model could not draw those that are missing, by path."""

SETTINGS = "drawing.json"
"""Beside pictures that this project drew: `DrawnWith`."""

FAULTS = (OSError, ValueError, SyntaxError)
"""What Pillow raises on broken files: the last inside a PNG."""


class DrawnWith(msgspec.Struct, frozen=True):
    """How the pictures of a folder were drawn.

    Attributes:
        benchmark: its name.
        edition: of its prompts.
        seed: of the noise.
        sampling: sampler settings.
    """

    benchmark: str
    edition: str
    seed: int
    sampling: SamplingConfig


@dataclass(frozen=True)
class Pictures:
    """Pictures of a folder against the items of a benchmark.

    Attributes:
        folder: path or URL.
        found: URL by item and sample.
        missing: expected paths, relative to the folder, that are not there.
        extra: paths of pictures that no item expects.
        refused: for missing ones that a model could not draw, the reason by path.
        drawn: how they were drawn; None where the folder does not say.
    """

    folder: str
    found: dict[tuple[str, int], str]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    refused: dict[str, str] = field(default_factory=dict[str, str])
    drawn: DrawnWith | None = None


def find_pictures(folder: str, items: Sequence[Item[Any]]) -> Pictures:
    """List a folder (path or fsspec URL) in the published layout.

    Args:
        folder: holds the pictures under the paths that the items expect.
        items: of a benchmark.

    Raises:
        BenchmarkError: when there is no such folder, or its `refused.json` cannot be read.
    """
    files, root = cast("tuple[AbstractFileSystem, str]", url_to_fs(folder))
    root = root.rstrip("/")
    if not files.isdir(root):
        raise BenchmarkError(f"{folder}: no such folder; give the folder that holds the generated pictures")
    there = {cast("str", path)[len(root) + 1 :] for path in files.find(root)}
    expected = {path: (item.key, sample) for item in items for sample, path in enumerate(item.pictures)}
    pictures = {path for path in there if path.lower().endswith(SUFFIXES) and not path.endswith(SOURCE_ENDING)}
    missing = tuple(path for path in expected if path not in there)
    refused = _reasons(files, f"{root}/{REFUSED}") if REFUSED in there else {}
    return Pictures(
        folder=folder,
        found={place: f"{folder.rstrip('/')}/{path}" for path, place in expected.items() if path in there},
        missing=missing,
        extra=tuple(sorted(pictures - set(expected))),
        refused={path: refused[path] for path in missing if path in refused},
        drawn=_drawn_with(files, f"{root}/{SETTINGS}") if SETTINGS in there else None,
    )


def _drawn_with(files: AbstractFileSystem, path: str) -> DrawnWith | None:
    try:
        return msgspec.json.decode(files.cat_file(path), type=DrawnWith)
    except msgspec.DecodeError:
        return None  # another tool's file of that name


def _reasons(files: AbstractFileSystem, path: str) -> dict[str, str]:
    try:
        return msgspec.json.decode(files.cat_file(path), type=dict[str, str])
    except msgspec.DecodeError as error:
        raise BenchmarkError(f"{path}: no reasons by path: {error}; delete it") from error


def require_sources(folder: str, items: Sequence[Item[Any]], advice: str) -> None:
    """Refuse a folder that lacks a picture which an item starts from.

    Args:
        folder: path or fsspec URL.
        items: their `source` is a path in the folder.
        advice: how to mend it.

    Raises:
        BenchmarkError: with the number of missing pictures and an example.
    """
    files, root = cast("tuple[AbstractFileSystem, str]", url_to_fs(folder))
    there = {cast("str", path)[len(root.rstrip("/")) + 1 :] for path in files.find(root)}
    wanted = {item.source for item in items if item.source}
    if missing := sorted(wanted - there):
        raise BenchmarkError(
            f"{folder}: {len(missing)} of {len(wanted)} pictures are missing, such as {missing[0]}; {advice}"
        )


def read_picture(url: str) -> Image.Image:
    """Decode a picture completely, as RGB; see `decoded`.

    Args:
        url: path or fsspec URL.

    Raises:
        BenchmarkError: naming the file, when it is missing, empty, cut or no picture.
    """
    try:
        with fsspec.open(url, "rb") as opened:
            data = cast("io.BufferedReader", opened).read()
    except Exception as error:  # errors of file systems and of their libraries have no common class
        raise BenchmarkError(f"{url}: unreadable picture: {error}; make it again") from error
    return decoded(data, url)


def read_grid(url: str, side: int) -> Image.Image:
    """A picture that holds four square samples, 2 x 2.

    Args:
        url: path or fsspec URL.
        side: of a sample, in pixels.

    Raises:
        BenchmarkError: naming the file, when it cannot be read or has another size.
    """
    picture = read_picture(url)
    if picture.size != (2 * side, 2 * side):
        raise BenchmarkError(
            f"{url}: is {picture.width} x {picture.height} pixels, a grid of 2 x 2 samples of dpgbench.cell={side} has "
            f"{2 * side} x {2 * side}; set the size of a sample, or make the picture again"
        )
    return picture


def cells_of(picture: Image.Image, side: int) -> tuple[Image.Image, ...]:
    """The four samples of a grid: top left, top right, bottom left, bottom right.

    Args:
        picture: of 2 x 2 samples.
        side: of a sample, in pixels.
    """
    corners = [(left, top) for top in (0, side) for left in (0, side)]
    return tuple(picture.crop((left, top, left + side, top + side)) for left, top in corners)


def decoded(data: bytes, where: str) -> Image.Image:
    """An encoded picture as RGB: colours under transparency as they are stored, 16 bits by their upper eight.

    Args:
        data: an encoded picture of at most `MAX_PIXELS` pixels.
        where: it is from, for the message.

    Raises:
        BenchmarkError: naming `where`, when it is empty, cut, too large or no picture.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels, more than {MAX_PIXELS}")
            if picture.mode.startswith("I;16"):
                # Pillow would cut at 255, which leaves a white picture.
                return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
            return picture.convert("RGB")
    except UnidentifiedImageError as error:
        what = "of no known format" if data else "an empty file"
        raise BenchmarkError(f"{where}: unreadable picture: {what}; make it again") from error
    except FAULTS as error:
        raise BenchmarkError(f"{where}: unreadable picture: {error}; make it again") from error
