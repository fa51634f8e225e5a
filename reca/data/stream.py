"""Streams of training batches, per rank and per update, through Ray Data.

Global batch u (optimizer update u, from 0) is the samples at global positions [u*B, (u+1)*B) of the keyed order; rank
r of W takes the r-th contiguous slice of B/W. So the batches depend on neither shards nor workers, and any update can
be started from at once.

Ray Data turns update numbers into rows in tasks (random access into the shards) and streams them in order. One task
makes many updates, so that the cost of a task is spread thin. Decoding of raw pictures happens in threads beside the
consumer: shipping 20 KB of JPEG through the object store costs an eighth of shipping 150 KB of pixels.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from reca.data.encoded import FORMAT as ENCODED
from reca.data.encoded import EncodedRow, TensorSpec, open_encoded
from reca.data.files import DatasetError, read_manifest
from reca.data.order import SampleOrder
from reca.data.pipeline import quiet, tables
from reca.data.prefetch import prefetched
from reca.data.shards import FORMAT as IMAGES
from reca.data.shards import open_images

if TYPE_CHECKING:
    from reca.data.fit import Fit

WINDOW_UPDATES = 1 << 13
"""Updates handed to Ray Data at a time."""

TASK_UPDATES = 32
TASK_BYTES = 16 << 20
"""One task makes at most this many updates, and about this many bytes of them."""

TASK_CPUS = 0.1
"""Logical CPUs of a task: it copies memory, at more than 10,000 rows a second, so several streams share one free
CPU."""

T = TypeVar("T")


@dataclass(frozen=True)
class BatchPlan:
    """Which samples every update uses.

    Attributes:
        n: samples in the set, at least 1.
        batch_size: samples per update, summed over all ranks.
        seed: seed of the order.
        stream: name of the stream; two sets with one seed are ordered independently when their names differ.
        rank: this worker.
        world: number of workers; must divide `batch_size`.

    Raises:
        ValueError: naming the field that does not fit.
    """

    n: int
    batch_size: int
    seed: int
    stream: str = ""
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(
                f"BatchPlan: the data set of stream {self.stream!r} has {self.n} samples; at least 1 is needed"
            )
        if self.batch_size < 1 or self.batch_size % self.world:
            raise ValueError(
                f"BatchPlan: batch_size {self.batch_size} cannot be shared evenly by {self.world} workers; "
                "use a multiple"
            )
        if not 0 <= self.rank < self.world:
            raise ValueError(f"BatchPlan: rank {self.rank} is not inside 0..{self.world - 1}")

    @property
    def local_size(self) -> int:
        """Samples per update of this rank."""
        return self.batch_size // self.world

    def positions(self, update: int) -> NDArray[np.int64]:
        """Global positions of this rank's samples, int64 [local_size]."""
        first = update * self.batch_size + self.rank * self.local_size
        return np.arange(first, first + self.local_size, dtype=np.int64)

    def indices(self, update: int) -> NDArray[np.int64]:
        """Row numbers in the set of this rank's samples, int64 [local_size]."""
        return SampleOrder(self.n, self.seed, self.stream).samples(self.positions(update))


@dataclass(frozen=True)
class StreamBatch:
    """This rank's encoded samples of one update.

    Attributes:
        update: optimizer update, from 0.
        positions: global positions, int64 [B/W].
        indices: row numbers in the data set, int64 [B/W].
        rows: the samples; their tensors are read-only.
    """

    update: int
    positions: NDArray[np.int64]
    indices: NDArray[np.int64]
    rows: list[EncodedRow]


@dataclass(frozen=True)
class ImageBatch:
    """This rank's pictures of one update.

    Attributes:
        update: optimizer update, from 0.
        positions: global positions, int64 [B/W].
        indices: row numbers in the data set, int64 [B/W].
        keys: keys of the samples.
        captions: captions of the samples.
        pixels: uint8 [B/W, 3, S, S], RGB.
    """

    update: int
    positions: NDArray[np.int64]
    indices: NDArray[np.int64]
    keys: list[str]
    captions: list[str | None]
    pixels: NDArray[np.uint8]


class BatchStream(Generic[T]):
    """Iterator of batches that knows how long its consumer waited.

    Args:
        batches: what is iterated over.

    Attributes:
        waited_s: seconds spent inside `next` so far, the first batch included.
        first_s: seconds the first batch took.
    """

    def __init__(self, batches: Iterator[T]) -> None:
        self.waited_s = 0.0
        self.first_s = 0.0
        self._batches = batches
        self._started = False

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        begin = time.perf_counter()
        batch = next(self._batches)
        spent = time.perf_counter() - begin
        self.waited_s += spent
        if not self._started:
            self.first_s, self._started = spent, True
        return batch


def stream_batches(dataset_uri: str, plan: BatchPlan, start_update: int, stop_update: int) -> BatchStream[StreamBatch]:
    """Stream this rank's encoded samples of updates start_update .. stop_update - 1, in order.

    Args:
        dataset_uri: folder of encoded shards (path or fsspec URI).
        plan: which samples; `plan.n` must be the set's rows.
        start_update: first update, reached in O(1).
        stop_update: one past the last update.

    Raises:
        DatasetError: the folder is unfinished or altered, or has not `plan.n` rows.
        StreamStalled: (while iterating) nothing arrived for minutes, with the cluster's free CPUs.
    """
    manifest = read_manifest(dataset_uri, ENCODED)
    _check_rows(dataset_uri, manifest.rows, plan)
    dataset = open_encoded(dataset_uri, manifest.digest)
    body = partial(_encoded_updates, uri=dataset_uri, digest=manifest.digest, plan=plan)
    size = dataset.row_bytes * plan.local_size
    found = prefetched(_updates(body, start_update, stop_update, size), depth=2)
    return BatchStream(_as_encoded(found, plan, dataset.specs))


def stream_images(
    shards_uri: str,
    plan: BatchPlan,
    start_update: int,
    stop_update: int,
    size: int,
    fit_mode: "Fit",
) -> BatchStream[ImageBatch]:
    """Stream this rank's pictures of updates start_update .. stop_update - 1, in order, decoded and fitted.

    They are decoded by as many threads of this process as it may use cores.

    Args:
        shards_uri: folder of canonical shards (path or fsspec URI).
        plan: which samples; `plan.n` must be the set's rows.
        start_update: first update, reached in O(1).
        stop_update: one past the last update.
        size: side S in pixels.
        fit_mode: `squash` or `crop`.

    Raises:
        DatasetError: the folder is unfinished or altered, or has not `plan.n` rows, or (while iterating) a picture that
            was fine when the shards were made cannot be decoded.
        StreamStalled: (while iterating) nothing arrived for minutes, with the cluster's free CPUs.
    """
    manifest = read_manifest(shards_uri, IMAGES)
    _check_rows(shards_uri, manifest.rows, plan)
    body = partial(_image_updates, uri=shards_uri, digest=manifest.digest, plan=plan)
    row_bytes = sum(shard.bytes for shard in manifest.shards) // manifest.rows
    found = prefetched(_updates(body, start_update, stop_update, row_bytes * plan.local_size), depth=2)
    return BatchStream(_as_images(found, plan, size, fit_mode, len(os.sched_getaffinity(0))))


def _check_rows(uri: str, rows: int, plan: BatchPlan) -> None:
    if rows != plan.n:
        raise DatasetError(f"{uri} has {rows} rows, the batch plan of stream {plan.stream!r} was made for {plan.n}")


def _updates(body: Callable[..., Iterator[pa.Table]], start: int, stop: int, update_bytes: int) -> Iterator[pa.Table]:
    """Tables with one row per update, in order."""
    quiet()
    per_task = max(1, min(TASK_UPDATES, TASK_BYTES // max(1, update_bytes)))
    for first in range(start, stop, WINDOW_UPDATES):
        count = min(WINDOW_UPDATES, stop - first)
        numbers = ray.data.range(count, override_num_blocks=-(-count // per_task))
        made = numbers.map_batches(
            body,
            fn_kwargs={"first": first},
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=TASK_CPUS,
            concurrency=1,
        )
        yield from tables(made, look_ahead_bytes=16 * TASK_BYTES)


def _encoded_updates(numbers: pa.Table, first: int, uri: str, digest: str, plan: BatchPlan) -> Iterator[pa.Table]:
    dataset = open_encoded(uri, digest)
    for number in numbers.column("id").to_pylist():
        keys, captions, tensors = dataset.take_batch(plan.indices(first + number))
        columns: dict[str, Any] = {"update": [first + number], "keys": [keys]}
        columns["captions"] = pa.array([captions], pa.list_(pa.string()))
        for name, values in tensors.items():
            columns[f"tensor:{name}"] = pa.array([values.tobytes()], pa.large_binary())
        yield pa.table(columns)


def _image_updates(numbers: pa.Table, first: int, uri: str, digest: str, plan: BatchPlan) -> Iterator[pa.Table]:
    dataset = open_images(uri, digest)
    for number in numbers.column("id").to_pylist():
        rows = dataset.take(plan.indices(first + number))
        columns: dict[str, Any] = {"update": [first + number], "keys": [[row.key for row in rows]]}
        columns["captions"] = pa.array([[row.caption for row in rows]], pa.list_(pa.string()))
        columns["images"] = pa.array([[row.image for row in rows]], pa.large_list(pa.large_binary()))
        yield pa.table(columns)


def _as_encoded(found: Iterator[pa.Table], plan: BatchPlan, specs: dict[str, TensorSpec]) -> Iterator[StreamBatch]:
    for table in found:
        for i, update in enumerate(table.column("update").to_pylist()):
            keys, captions = table.column("keys")[i].as_py(), table.column("captions")[i].as_py()
            tensors = {
                name: np.frombuffer(table.column(f"tensor:{name}")[i].as_buffer(), spec.dtype).reshape(-1, *spec.shape)
                for name, spec in specs.items()
            }
            rows = [
                EncodedRow(key, caption, {name: values[j] for name, values in tensors.items()})
                for j, (key, caption) in enumerate(zip(keys, captions, strict=True))
            ]
            yield StreamBatch(update, plan.positions(update), plan.indices(update), rows)


def _as_images(
    found: Iterator[pa.Table], plan: BatchPlan, size: int, fit_mode: "Fit", threads: int
) -> Iterator[ImageBatch]:
    """Decode in threads (both libjpeg-turbo and torch let go of the interpreter lock), a few updates ahead."""
    waiting: deque[tuple[ImageBatch, list[Future[None]]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        for table in found:
            for i, update in enumerate(table.column("update").to_pylist()):
                keys, captions = table.column("keys")[i].as_py(), table.column("captions")[i].as_py()
                pixels = np.empty((len(keys), 3, size, size), np.uint8)
                images = table.column("images")[i].as_py()
                work = partial(_decode_into, pixels, images, keys, size, fit_mode)
                spans = [range(first, len(keys), threads) for first in range(min(threads, len(keys)))]
                batch = ImageBatch(update, plan.positions(update), plan.indices(update), keys, captions, pixels)
                waiting.append((batch, [pool.submit(work, span) for span in spans]))
                if len(waiting) > 2:
                    yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())


def _decode_into(
    pixels: NDArray[np.uint8], images: list[bytes], keys: list[str], size: int, fit_mode: "Fit", span: Sequence[int]
) -> None:
    from reca.data.fit import fitted  # torch: tasks that only copy rows must not load it

    for i in span:
        pixels[i] = fitted(images[i], keys[i], size, fit_mode)


def _finished(batch: ImageBatch, work: list[Future[None]]) -> ImageBatch:
    for part in work:
        part.result()
    return batch
