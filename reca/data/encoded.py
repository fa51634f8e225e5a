"""Encoded shards: what the frozen encoders made of each picture, in memory-mapped Arrow files.

Columns: `key` string, `caption` string or null, and one fixed-size-binary column per tensor of `UnifiedModel.encode`;
its data type and shape stand in the manifest and in the schema's metadata. Floating-point tensors are kept as float16,
int64 as int32. Rows have the order of the canonical shards.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reca.data.files import DatasetError, FileRecord, Manifest, local_files, locate, read_manifest, record

FORMAT = "reca-encoded/1"
MAX_SHARD_ROWS = 1024
MAX_SHARD_BYTES = 64 << 20
"""A shard has at most this many bytes of tensors, so that the writer's memory is flat at any size of features."""

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of `UnifiedModel.encode` as it is kept.

    Attributes:
        dtype: numpy's name, such as `float16`.
        shape: of one row, without the batch axis.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes of one row."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class EncodedRow:
    """One encoded picture.

    Attributes:
        key: the sample's key in the canonical shards.
        caption: None for unlabeled pictures; a caption; or question + newline + answer.
        tensors: read-only arrays of `UnifiedModel.encode`, without the batch axis.
    """

    key: str
    caption: str | None
    tensors: Tensors


def compact(key: str, name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Storage form of a batch of tensors: floats as float16, int64 as int32, all else unchanged.

    Args:
        key: key of the first row, for the message.
        name: tensor name, for the message.
        values: [B, ...] of any data type.

    Returns:
        float16, int32, or `values` itself; same shape.

    Raises:
        DatasetError: a value is not finite, or too large for its storage form.
    """
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            small = values.astype(np.float16)
        if not np.isfinite(small).all():
            raise DatasetError(
                f"tensor {name!r} of the batch that begins at key {key!r} has values that are not finite in float16 "
                f"(largest {np.abs(values).max()}): check the encoder's checkpoint"
            )
        return small
    if values.dtype == np.int64:
        small = values.astype(np.int32)
        if not (small == values).all():
            raise DatasetError(f"tensor {name!r} of the batch that begins at key {key!r} does not fit in int32")
        return small
    return values


class EncodedWriter:
    """Writes encoded shards from batches, in the order given; equal batches give byte-identical files.

    Args:
        folder: folder to write into; must exist.

    Attributes:
        added: rows added so far.
    """

    def __init__(self, folder: Path) -> None:
        self.added = 0
        self._folder = folder
        self._specs: dict[str, TensorSpec] = {}
        self._shards: list[FileRecord] = []
        self._keys: list[str] = []
        self._captions: list[str | None] = []
        self._tensors: dict[str, list[NDArray[Any]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tensors.clear()

    def add(self, keys: Sequence[str], captions: Sequence[str | None], tensors: Mapping[str, NDArray[Any]]) -> None:
        """Append a batch.

        Args:
            keys: key of each row; at least one.
            captions: of each row.
            tensors: [B, ...] by name, as `compact` gives them.

        Raises:
            DatasetError: a tensor's name, data type or shape is not that of the first batch.
        """
        specs = {name: TensorSpec(str(v.dtype), tuple(v.shape[1:])) for name, v in sorted(tensors.items())}
        self._specs = self._specs or specs
        if specs != self._specs or any(len(values) != len(keys) for values in tensors.values()):
            raise DatasetError(f"batch at key {keys[0]!r} has tensors {specs}, the first batch had {self._specs}")
        self.added += len(keys)
        limit = self._shard_rows()
        at = 0
        while at < len(keys):
            take = min(len(keys) - at, limit - len(self._keys))
            self._keys += keys[at : at + take]
            self._captions += captions[at : at + take]
            for name, values in tensors.items():
                self._tensors.setdefault(name, []).append(values[at : at + take])
            at += take
            if len(self._keys) == limit:
                self._flush()

    def close(self, about: Mapping[str, Any]) -> Manifest:
        """Write the last shard and the manifest; `about` is kept in it, beside the tensors' data types and shapes."""
        self._flush()
        tensors = {name: {"dtype": spec.dtype, "shape": list(spec.shape)} for name, spec in self._specs.items()}
        manifest = Manifest(FORMAT, self.added, tuple(self._shards), (), {**about, "tensors": tensors})
        manifest.write(self._folder)
        return manifest

    @property
    def row_bytes(self) -> int:
        """Bytes of tensors of one row; 0 before the first batch."""
        return sum(spec.bytes for spec in self._specs.values())

    def _shard_rows(self) -> int:
        return max(1, min(MAX_SHARD_ROWS, MAX_SHARD_BYTES // max(1, self.row_bytes)))

    def _flush(self) -> None:
        if not self._keys:
            return
        fields = [pa.field("key", pa.string(), nullable=False), pa.field("caption", pa.string())]
        columns = [pa.array(self._keys, pa.string()), pa.array(self._captions, pa.string())]
        for name, spec in self._specs.items():
            kind = pa.binary(spec.bytes)
            data = np.ascontiguousarray(np.concatenate(self._tensors[name]))
            columns.append(pa.Array.from_buffers(kind, len(self._keys), [None, pa.py_buffer(data)]))
            about = {"dtype": spec.dtype, "shape": json.dumps(spec.shape)}
            fields.append(pa.field(f"tensor:{name}", kind, nullable=False, metadata=about))
        path = self._folder / f"part-{len(self._shards):05d}.arrow"
        schema = pa.schema(fields)
        with pa.ipc.new_file(str(path), schema) as target:
            target.write_batch(pa.record_batch(columns, schema=schema))
        self._shards.append(record(path, len(self._keys)))
        self._keys, self._captions, self._tensors = [], [], {}


class EncodedDataset:
    """Random access to encoded shards through memory maps; nothing is read until it is asked for.

    Args:
        uri: folder of the shards. A remote one is fetched once per machine.

    Raises:
        DatasetError: the folder is unfinished or altered.
    """

    def __init__(self, uri: str) -> None:
        self.manifest = read_manifest(uri, FORMAT)
        self._folder = local_files(uri, self.manifest, self.manifest.shards)
        raw = self.manifest.about["tensors"]
        self.specs = {name: TensorSpec(spec["dtype"], tuple(spec["shape"])) for name, spec in raw.items()}
        self._starts = self.manifest.starts
        self._open: dict[int, tuple[pa.Array, pa.Array, Tensors]] = {}

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def row_bytes(self) -> int:
        """Bytes of tensors of one row."""
        return sum(spec.bytes for spec in self.specs.values())

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> list[EncodedRow]:
        """Rows at any indices, in the order asked for.

        Args:
            indices: row numbers [B], 0 <= i < len(self).

        Returns:
            One row for each index; its tensors are views into the memory map.

        Raises:
            IndexError: an index is outside the set.
        """
        rows: list[EncodedRow] = []
        for shard, at in locate(self._starts, indices, str(self._folder)):
            keys, captions, tensors = self._shard(shard)
            key, caption = keys[at].as_py(), captions[at].as_py()
            rows.append(EncodedRow(key, caption, {name: values[at] for name, values in tensors.items()}))
        return rows

    def take_batch(self, indices: Sequence[int] | NDArray[np.int64]) -> tuple[list[str], list[str | None], Tensors]:
        """Rows at any indices, in the order asked for.

        Args:
            indices: row numbers [B], 0 <= i < len(self); at least one.

        Returns:
            Keys, captions, and tensors [B, ...] by name, which are copies.

        Raises:
            IndexError: an index is outside the set.
        """
        rows = self.take(indices)
        tensors = {name: np.stack([row.tensors[name] for row in rows]) for name in self.specs}
        return [row.key for row in rows], [row.caption for row in rows], tensors

    def _shard(self, shard: int) -> tuple[pa.Array, pa.Array, Tensors]:
        if shard not in self._open:
            source = pa.memory_map(str(self._folder / self.manifest.shards[shard].file))
            batch = pa.ipc.open_file(source).get_batch(0)
            tensors = {name: _view(batch, name, spec) for name, spec in self.specs.items()}
            self._open[shard] = (batch.column(0), batch.column(1), tensors)
        return self._open[shard]


@lru_cache(maxsize=4)
def open_encoded(uri: str, digest: str) -> EncodedDataset:
    """Open a data set once per process.

    Args:
        uri: folder of the shards.
        digest: of its manifest, so that a rewritten folder is opened afresh.

    Raises:
        DatasetError: the folder is unfinished or altered, or has another digest by now.
    """
    dataset = EncodedDataset(uri)
    if dataset.manifest.digest != digest:
        raise DatasetError(f"{uri} changed while it was in use; run the same command again")
    return dataset


def _view(batch: pa.RecordBatch, name: str, spec: TensorSpec) -> NDArray[Any]:
    column = batch.column(batch.schema.get_field_index(f"tensor:{name}"))
    return np.frombuffer(column.buffers()[1], dtype=spec.dtype).reshape(batch.num_rows, *spec.shape)
