"""Canonical image shards: parquet files with encoded pictures, a table of contents, and a manifest.

Columns: `key` string (unique, increasing), `image` binary (PNG, JPEG, ... as they came), `width` and `height` int32
(pixels after the EXIF turn), `digest` string (blake2b-128 of the image bytes, hex), `caption` string or null, `source`
string.

Pictures are stored plain and uncompressed, so each lies in one piece inside its shard. `index.arrow` (Arrow IPC,
memory-mapped) says where: that makes an ordinary parquet file randomly addressable, by `pread` locally and by one
ranged GET remotely.
"""

import mmap
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reca.data.files import (
    DatasetError,
    FileRecord,
    Manifest,
    filesystem,
    is_local,
    local_files,
    locate,
    read_manifest,
    record,
)
from reca.data.sets import Row

FORMAT = "reca-images/1"
INDEX = "index.arrow"
QUARANTINE = "quarantine.parquet"

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("source", pa.string(), nullable=False),
    ]
)
INDEX_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
    ]
)
_NAMES = INDEX_SCHEMA.names

MAX_SHARD_BYTES = 256 << 20
"""A shard is closed at this many image bytes even when it has fewer rows than asked for, to keep the writer's memory
flat."""


class ShardWriter:
    """Writes canonical shards from tables, in the order given; equal rows give byte-identical files.

    Args:
        folder: folder to write into; must exist.
        rows_per_shard: rows of a full shard.

    Attributes:
        rows: rows in the shards that are finished.
    """

    def __init__(self, folder: Path, rows_per_shard: int) -> None:
        self.rows = 0
        self._folder = folder
        self._rows_per_shard = rows_per_shard
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        self._shards: list[FileRecord] = []
        self._last_key: str | None = None
        self._closed = False
        self._index = pa.ipc.new_file(str(folder / INDEX), INDEX_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_index()

    def add(self, table: pa.Table) -> None:
        """Append rows.

        Args:
            table: with the columns of `SCHEMA`; further ones are left out.

        Raises:
            DatasetError: keys are not strictly increasing (so a key came twice, or the source is not sorted).
        """
        table = table.select(SCHEMA.names).cast(SCHEMA)
        self._check_keys(table.column("key").to_pylist())
        sizes = pc.call_function("binary_length", [table.column("image")]).to_pylist()
        start = 0
        for i, size in enumerate(sizes):
            self._pending_rows += 1
            self._pending_bytes += size
            if self._pending_rows == self._rows_per_shard or self._pending_bytes >= MAX_SHARD_BYTES:
                self._pending.append(table.slice(start, i + 1 - start))
                start = i + 1
                self._flush()
        if start < table.num_rows:
            self._pending.append(table.slice(start))

    def close(self, extra: Sequence[FileRecord], about: Mapping[str, object]) -> Manifest:
        """Write the last shard and the manifest.

        Args:
            extra: further files in the folder that belong to the set.
            about: figures to keep in the manifest.
        """
        self._flush()
        self._close_index()
        files = (record(self._folder / INDEX, self.rows), *extra)
        manifest = Manifest(FORMAT, self.rows, tuple(self._shards), files, about)
        manifest.write(self._folder)
        return manifest

    def _close_index(self) -> None:
        if not self._closed:
            self._index.close()
            self._closed = True

    def _check_keys(self, keys: list[str]) -> None:
        for key in keys:
            if self._last_key is not None and key <= self._last_key:
                what = "came twice" if key == self._last_key else f"came after {self._last_key!r}"
                raise DatasetError(f"key {key!r} {what}; a source must give unique keys in increasing order")
            self._last_key = key

    def _flush(self) -> None:
        if self._pending_rows == 0:
            return
        table = pa.concat_tables(self._pending).combine_chunks()
        path = self._folder / f"part-{len(self._shards):05d}.parquet"
        pq.write_table(table, path, compression="NONE", use_dictionary=False, write_statistics=False)
        self._index.write_batch(_contents(path, table))
        self._shards.append(record(path, table.num_rows))
        self.rows += table.num_rows
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0


def _contents(path: Path, table: pa.Table) -> pa.RecordBatch:
    """Table of contents of one shard (one record batch): where each picture's bytes begin, found in the file itself."""
    offsets: list[int] = []
    lengths: list[int] = []
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
        at = 0
        for image in table.column("image").to_pylist():
            at = _find(view, image, at, path)
            offsets.append(at)
            lengths.append(len(image))
            at += len(image)
    # Built anew from values: slices of the input would carry their offsets and bitmaps into the file.
    texts = {name: table.column(name).to_pylist() for name in ("key", "caption", "source")}
    return pa.RecordBatch.from_pydict({**texts, "offset": offsets, "length": lengths}, schema=INDEX_SCHEMA)


def _find(view: mmap.mmap, image: bytes, start: int, path: Path) -> int:
    # PLAIN encoding (parquet format, Encodings.md): 4 bytes of length, then the bytes.
    head = len(image).to_bytes(4, "little") + image[:32]
    at = view.find(head, start)
    while at >= 0:
        if view[at + 4 : at + 4 + len(image)] == image:
            return at + 4
        at = view.find(head, at + 1)
    raise DatasetError(
        f"{path}: a picture of {len(image)} bytes is not stored in one piece; this pyarrow is not supported"
    )


class ImageDataset:
    """Random access to canonical shards, local or remote.

    Args:
        uri: folder of the shards.

    Raises:
        DatasetError: the folder is unfinished or altered.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.manifest = read_manifest(uri, FORMAT)
        self._fs, self._path = filesystem(self.uri)
        self._local = is_local(self._fs)
        wanted = [file for file in self.manifest.extra if file.file == INDEX]
        folder = local_files(self.uri, self.manifest, wanted)
        if self._local:
            local_files(self.uri, self.manifest, self.manifest.shards)
        self._index = pa.ipc.open_file(pa.memory_map(str(folder / INDEX)))
        self._starts = self.manifest.starts
        self._contents: dict[int, pa.RecordBatch] = {}
        self._open: dict[int, int] = {}

    def __len__(self) -> int:
        return self.manifest.rows

    def __del__(self) -> None:
        for handle in getattr(self, "_open", {}).values():
            os.close(handle)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> list[Row]:
        """Rows at any indices, in the order asked for.

        Args:
            indices: row numbers [B], 0 <= i < len(self).

        Raises:
            IndexError: an index is outside the set.
        """
        places = locate(self._starts, indices, self.uri)
        entries = [self._entry(shard, at) for shard, at in places]
        shards = [shard for shard, _ in places]
        images = self._read(shards, [entry["offset"] for entry in entries], [entry["length"] for entry in entries])
        return [Row(e["key"], image, e["caption"], e["source"]) for e, image in zip(entries, images, strict=True)]

    def _entry(self, shard: int, at: int) -> dict[str, Any]:
        # Shard by shard: pyarrow's take over the whole table costs 0.6 ms a row at a million rows.
        if shard not in self._contents:
            self._contents[shard] = self._index.get_batch(shard)
        return {name: column[at].as_py() for name, column in zip(_NAMES, self._contents[shard].columns, strict=True)}

    def _read(self, shards: list[int], offsets: list[int], lengths: list[int]) -> list[bytes]:
        if self._local:
            spans = zip(shards, offsets, lengths, strict=True)
            return [os.pread(self._handle(shard), length, offset) for shard, offset, length in spans]
        paths = [f"{self._path}/{self.manifest.shards[shard].file}" for shard in shards]
        ends = [offset + length for offset, length in zip(offsets, lengths, strict=True)]
        return list(self._fs.cat_ranges(paths, offsets, ends, on_error="raise"))

    def _handle(self, shard: int) -> int:
        if shard not in self._open:
            self._open[shard] = os.open(f"{self._path}/{self.manifest.shards[shard].file}", os.O_RDONLY)
        return self._open[shard]


@lru_cache(maxsize=4)
def open_images(uri: str, digest: str) -> ImageDataset:
    """Open a data set once per process.

    Args:
        uri: folder of the shards.
        digest: of its manifest, so that a rewritten folder is opened afresh.

    Raises:
        DatasetError: the folder is unfinished or altered, or has another digest by now.
    """
    dataset = ImageDataset(uri)
    if dataset.manifest.digest != digest:
        raise DatasetError(f"{uri} changed while it was in use; run the same command again")
    return dataset
