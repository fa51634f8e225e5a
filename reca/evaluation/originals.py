"""The pictures that editing benchmarks change: their sizes, their pixels, and where GEdit keeps them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, cast

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from reca.evaluation import gedit
from reca.evaluation.picture_files import FAULTS, decoded, read_picture
from reca.evaluation.pictures import png
from reca.evaluation.records import BenchmarkError, Item

COLUMN = "input_image_raw"
"""GEdit's records hold each picture at its own size here; `input_image` is a resized copy."""

READERS = 16
"""Headers read at once: 600 remote pictures one after another would wait for 600 answers."""


def picture_sizes(urls: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Width and height in pixels of each picture; only the headers are read.

    Raises:
        BenchmarkError: naming the first file that is missing or no picture.
    """
    unique = list(dict.fromkeys(urls))
    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(unique, pool.map(_size, unique), strict=True))


def _size(url: str) -> tuple[int, int]:
    try:
        with fsspec.open(url, "rb") as opened, Image.open(cast("Any", opened)) as picture:
            return picture.size
    except FileNotFoundError as error:
        raise BenchmarkError(f"{url}: no such source picture; give the folder that holds it") from error
    except FAULTS as error:
        raise BenchmarkError(f"{url}: unreadable source picture: {error}; get it again") from error


def as_tensor(picture: Image.Image) -> Tensor:
    """Pixels of an RGB picture, uint8 [3, H, W]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def copied(folder: str, wanted: Mapping[str, Item[gedit.Edit]]) -> Iterator[tuple[str, bytes]]:
    """Path and PNG file of each wanted source picture from a folder in GEdit's layout.

    Raises:
        BenchmarkError: naming the file that is missing or unreadable.
    """
    for path in wanted:
        yield path, png(as_tensor(read_picture(f"{folder.rstrip('/')}/{path}")))


def from_records(urls: Sequence[str], wanted: Mapping[str, Item[gedit.Edit]]) -> Iterator[tuple[str, bytes]]:
    """Path and PNG file of each wanted source picture from GEdit's parquet records, column `input_image_raw`.

    Pictures there are encoded files: bytes, or the hub's pairs of `bytes` and `path`. One row is held at a time.

    Raises:
        BenchmarkError: naming file, key and column, when a picture is missing or unreadable.
    """
    left = {(item.key, item.asked.language): path for path, item in wanted.items()}
    if not left:
        return
    for url, row in chain.from_iterable(map(_rows, urls)):
        path = left.pop((str(row["key"]), str(row["instruction_language"])), None)
        if path is None:
            continue
        value = row[COLUMN]
        data = cast("dict[str, object]", value).get("bytes") if isinstance(value, dict) else value
        where = f"{url}, key '{row['key']}', column {COLUMN}"
        if not isinstance(data, bytes) or not data:
            raise BenchmarkError(
                f"{where}: holds no picture; give a folder of source pictures: --set gedit.sources=DIR"
            )
        yield path, png(as_tensor(decoded(data, where)))
    if left:
        key, language = next(iter(left))
        raise BenchmarkError(
            f"{', '.join(urls)}: no picture for key '{key}', language '{language}' in column {COLUMN}; give all files"
        )


def _rows(url: str) -> Iterator[tuple[str, dict[str, object]]]:
    columns = ["key", "instruction_language", COLUMN]
    try:
        with fsspec.open(url, "rb") as opened:
            file = pq.ParquetFile(cast("Any", opened))
            if COLUMN not in file.schema_arrow.names:
                raise BenchmarkError(
                    f"{url}: column {COLUMN} is missing; give a folder of source pictures: --set gedit.sources=DIR"
                )
            for batch in file.iter_batches(batch_size=1, columns=columns):
                for row in cast("list[dict[str, object]]", batch.to_pylist()):
                    yield url, row
    except (OSError, pa.ArrowException) as error:
        raise BenchmarkError(f"{url}: cannot be read: {error}; get the records again") from error
