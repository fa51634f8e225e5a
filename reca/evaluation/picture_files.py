"""The pictures of a benchmark in a folder: which are there, which are missing, which belong to no item."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import fsspec
from fsspec.core import url_to_fs
from fsspec.spec import AbstractFileSystem
from PIL import Image, UnidentifiedImageError

from reca.evaluation.records import BenchmarkError, Item

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Pictures:
    """Pictures of a folder against the items of a benchmark.

    Attributes:
        folder: path or URL.
        found: URL by item and sample.
        missing: expected paths, relative to the folder, that are not there.
        extra: paths of pictures that no item expects.
    """

    folder: str
    found: dict[tuple[str, int], str]
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    def require_complete(self) -> None:
        """Refuse a folder with missing or extra pictures.

        Raises:
            BenchmarkError: with their numbers and an example of each.
        """
        faults: list[str] = []
        if self.missing:
            faults.append(f"{len(self.missing)} pictures are missing, such as {self.missing[0]}")
        if self.extra:
            faults.append(f"{len(self.extra)} pictures belong to no item, such as {self.extra[0]}")
        if faults:
            total = len(self.found) + len(self.missing)
            raise BenchmarkError(f"{self.folder}: of {total} expected pictures, {'; '.join(faults)}")


def find_pictures(folder: str, items: Sequence[Item[Any]], ignore: str = "_SRCIMG.png") -> Pictures:
    """List a folder (path or fsspec URL) in the published layout.

    Args:
        folder: holds the pictures under the paths that the items expect.
        items: of a benchmark.
        ignore: ending of pictures that are no answers (GEdit keeps its sources beside them).

    Raises:
        BenchmarkError: when there is no such folder.
    """
    files, root = cast("tuple[AbstractFileSystem, str]", url_to_fs(folder))
    root = root.rstrip("/")
    if not files.isdir(root):
        raise BenchmarkError(f"{folder}: no such folder; give the folder that holds the generated pictures")
    there = {cast("str", path)[len(root) + 1 :] for path in files.find(root)}
    expected = {path: (item.key, sample) for item in items for sample, path in enumerate(item.pictures)}
    pictures = {path for path in there if path.lower().endswith(SUFFIXES) and not path.endswith(ignore)}
    return Pictures(
        folder=folder,
        found={place: f"{folder.rstrip('/')}/{path}" for path, place in expected.items() if path in there},
        missing=tuple(path for path in expected if path not in there),
        extra=tuple(sorted(pictures - set(expected))),
    )


def read_picture(url: str) -> Image.Image:
    """Decode a picture completely, as RGB.

    Raises:
        BenchmarkError: naming the file, when it is missing, cut or no picture.
    """
    try:
        with fsspec.open(url, "rb") as opened:
            data = cast("io.BufferedReader", opened).read()
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{url}: unreadable picture: {error}; draw it again") from error
    return decoded(data, url)


def decoded(data: bytes, where: str) -> Image.Image:
    """An encoded picture as RGB.

    Raises:
        BenchmarkError: naming `where` it is from, when it is cut or no picture.
    """
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except UnidentifiedImageError as error:
        raise BenchmarkError(f"{where}: unreadable picture: of no known format; draw it again") from error
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{where}: unreadable picture: {error}; draw it again") from error
