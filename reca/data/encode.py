"""Run the frozen encoders over canonical shards, once: the `encode` stage.

Tasks read, decode and fit; a pool of actors holds the model. One Ray Data row is one batch with fixed bounds, so the
result is the same bytes however many tasks and actors share the work.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from torch import Tensor

from reca.config import ExecutionConfig
from reca.data.encoded import EncodedWriter, compact
from reca.data.files import DatasetError
from reca.data.fit import fitted
from reca.data.pipeline import quiet, require_cpu, tables
from reca.data.shards import ImageDataset, open_images
from reca.models.base import Geometry

BATCH = 64
"""Pictures per forward pass. Part of the result: bits of a matrix product may depend on the batch size."""

WINDOW_BATCHES = 1 << 16
_COLUMNS = {
    "start": pa.int64(),
    "keys": pa.list_(pa.string()),
    "captions": pa.list_(pa.string()),
    "data": pa.large_binary(),
}
_SCHEMA = pa.schema(list(_COLUMNS.items()))


class ImageEncoder(Protocol):
    """The part of `reca.models.base.UnifiedModel` that is needed here; a torch module."""

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """What the frozen encoders make of pictures.

        Args:
            pixels: uint8 [B, 3, S, S], RGB.

        Returns:
            Tensors by name, batch axis first.
        """
        ...


@dataclass(frozen=True)
class EncodeReport:
    """What was written.

    Attributes:
        rows: encoded pictures.
        row_bytes: bytes of tensors of one row.
        tensors: data type and shape by tensor name.
        digest: digest of the whole set.
    """

    rows: int
    row_bytes: int
    tensors: dict[str, str]
    digest: str


def encode(
    images: str,
    output: Path,
    load: Callable[[], ImageEncoder],
    geometry: Geometry,
    execution: ExecutionConfig | None = None,
    progress: Callable[[str], None] | None = None,
    batch: int = BATCH,
) -> EncodeReport:
    """Encode canonical shards into encoded shards. Ray must be initialized.

    A cluster with too few CPUs for the actors and one task is a RuntimeError, a picture that cannot be decoded any more
    a DatasetError.

    Args:
        images: folder of canonical shards (path or fsspec URI).
        output: local folder to write into; made when missing.
        load: loads the model on the CPU; called once in each actor, so it must be picklable, such as
            `functools.partial(family_class(family).load, folder)`.
        geometry: what the model wants its pictures fitted to.
        execution: `workers` actors of `cpus_per_worker` CPUs and `gpus_per_worker` GPUs; `data_tasks` decoding tasks.
        progress: called with one line now and then.
        batch: pictures per forward pass.

    Returns:
        What was written; rows have the order of the canonical shards.

    Raises:
        DatasetError: the shards are unfinished or altered, or an encoded value is not finite (naming its image).
    """
    quiet()
    execution = execution or ExecutionConfig()
    require_cpu(execution.workers * execution.cpus_per_worker + 1, "encoding")
    dataset = ImageDataset(images)
    output.mkdir(parents=True, exist_ok=True)
    reader = _Reader(images, dataset.manifest.digest, geometry, batch)
    batches = -(-len(dataset) // batch)
    with EncodedWriter(output) as writer:
        for first in range(0, batches, WINDOW_BATCHES):
            count = min(WINDOW_BATCHES, batches - first)
            for table in tables(_pipeline(reader, load, execution, first, count)):
                _write(table, writer)
                if progress:
                    progress(f"{writer.added:,} of {len(dataset):,} images encoded")
        manifest = writer.close({"images": dataset.manifest.digest})
    if manifest.rows != len(dataset):
        raise DatasetError(f"{images}: {len(dataset)} images in, {manifest.rows} encoded: rows were lost")
    tensors = {name: f"{spec['dtype']} {spec['shape']}" for name, spec in manifest.about["tensors"].items()}
    return EncodeReport(manifest.rows, writer.row_bytes, tensors, manifest.digest)


@dataclass(frozen=True)
class _Reader:
    """What the tasks need to read, decode and fit a batch."""

    images: str
    digest: str
    geometry: Geometry
    batch: int


def _read_batches(numbers: pa.Table, first: int, reader: _Reader) -> Iterator[pa.Table]:
    dataset = open_images(reader.images, reader.digest)
    size = reader.geometry.size
    for number in numbers.column("id").to_pylist():
        start = (first + number) * reader.batch
        rows = dataset.take(range(start, min(start + reader.batch, len(dataset))))
        pixels = np.empty((len(rows), 3, size, size), np.uint8)
        for i, row in enumerate(rows):
            pixels[i] = fitted(row.image, row.key, size, reader.geometry.fit)
        yield _table(start, [row.key for row in rows], [row.caption for row in rows], save_tensors({"pixels": pixels}))


def _pipeline(
    reader: _Reader, load: Callable[[], ImageEncoder], execution: ExecutionConfig, first: int, count: int
) -> Dataset:
    numbers = ray.data.range(count, override_num_blocks=min(count, 1024))
    read: Callable[..., Iterator[pa.Table]] = _read_batches
    loaded = numbers.map_batches(
        read,
        fn_kwargs={"first": first, "reader": reader},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
        concurrency=min(execution.data_tasks, count),
    )
    return loaded.map_batches(
        _Encoder,
        fn_constructor_args=(load,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=execution.workers),
        num_cpus=execution.cpus_per_worker,
        num_gpus=execution.gpus_per_worker,
    )


class _Encoder:
    def __init__(self, load: Callable[[], ImageEncoder]) -> None:
        import torch

        torch.set_num_threads(1)  # the bits of a sum may depend on the number of threads
        torch.use_deterministic_algorithms(True, warn_only=True)
        self._device = "cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu"
        self._model = cast("Any", load()).to(self._device).eval()

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        import torch

        from reca.models.finite import MEND, NonFiniteOutputError

        for row in block.to_pylist():
            pixels = torch.from_numpy(load_tensors(row["data"])["pixels"]).to(self._device)
            try:
                with torch.inference_mode():
                    encoded = self._model.encode(pixels)
            except NonFiniteOutputError as error:
                first, fault = next(iter(error.faults.items()))
                raise DatasetError(
                    f"image {row['keys'][first]!r}: {fault}; so {len(error.faults)} of the {len(row['keys'])} images "
                    f"of its batch; {MEND}"
                ) from error
            tensors: dict[str, Any] = {}
            for name, values in encoded.items():
                values = values.float() if values.is_floating_point() else values
                tensors[name] = np.ascontiguousarray(compact(row["keys"][0], name, values.cpu().numpy()))
            yield _table(row["start"], row["keys"], row["captions"], save_tensors(tensors))


def _table(start: int, keys: list[str], captions: list[str | None], data: bytes) -> pa.Table:
    return pa.table({"start": [start], "keys": [keys], "captions": [captions], "data": [data]}, schema=_SCHEMA)


def _write(table: pa.Table, writer: EncodedWriter) -> None:
    for row in table.to_pylist():
        if row["start"] != writer.added:
            raise DatasetError(f"batch at row {row['start']} came where row {writer.added} was due: order was lost")
        writer.add(row["keys"], row["captions"], load_tensors(row["data"]))
