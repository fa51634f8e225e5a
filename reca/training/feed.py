"""From rows of the data streams to the work of one update: texts, collated batches and per-sample draws."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import numpy as np
from torch import Tensor

from reca.data.order import sample_seed
from reca.models.base import Batch, Draws, Example, Task, UnifiedModel
from reca.objectives import template_for
from reca.training.job import STREAM_OF


class Row(Protocol):
    """One encoded sample: key, caption (question + newline + answer for instructions), and the tensors of `encode`."""

    @property
    def key(self) -> str:
        """Unique key of the sample."""
        ...

    @property
    def caption(self) -> str | None:
        """Caption, question and answer, or None."""
        ...

    @property
    def tensors(self) -> Mapping[str, np.ndarray]:
        """Tensors of `encode` without the batch axis."""
        ...


@dataclass(frozen=True)
class Slice:
    """One worker's rows of one stream in one update, with their global positions."""

    positions: Sequence[int]
    rows: Sequence[Row]


class Feed(Protocol):
    """Rows of this worker, update by update: `feed(start, stop)` yields one slice per stream for updates
    start..stop-1."""

    def __call__(self, start: int, stop: int) -> Iterator[Mapping[str, Slice]]:
        """Yield the slices of updates start..stop-1."""
        ...


@dataclass(frozen=True)
class Part:
    """One task's work in one update on one worker.

    Attributes:
        keys: sample keys, in batch order.
        seeds: seed of each sample's draws.
        batch: collated tensors.
        draws: the random choices made from the seeds, and those shared by the whole global batch.
    """

    keys: list[str]
    seeds: list[int]
    batch: Batch
    draws: Draws


def split(slices: Mapping[str, Slice], rows: int) -> list[Mapping[str, Slice]]:
    """Micro-batches of at most `rows` rows of each stream, in order; one of all rows when `rows` is 0."""
    if rows == 0:
        return [slices]
    longest = max(len(part.rows) for part in slices.values())
    return [
        {name: Slice(part.positions[at : at + rows], part.rows[at : at + rows]) for name, part in slices.items()}
        for at in range(0, longest, rows)
    ]


def prepare(
    model: UnifiedModel, tasks: Sequence[Task], slices: Mapping[str, Slice], update: int, seed: int
) -> dict[Task, Part]:
    """Collate and draw for every task of one update, or of a micro-batch of it. Draws depend on (seed, update,
    position, task), and shared ones on (seed, update, task), never on the worker or the micro-batch.

    Args:
        model: collates and draws.
        tasks: which.
        slices: this worker's rows by stream.
        update: number of the update, from 0.
        seed: seed of the run.

    Raises:
        ValueError: naming the row, when it has no caption and a task needs one, or its text does not fit.
    """
    parts: dict[Task, Part] = {}
    for task in tasks:
        rows = slices[STREAM_OF[task]]
        examples = [
            Example(row.key, _text(task, row, update, position, seed), row.tensors)
            for position, row in zip(rows.positions, rows.rows, strict=True)
        ]
        seeds = [sample_seed(seed, update, position, task) for position in rows.positions]
        batch = model.collate(task, examples)
        shared = model.draw_shared(task, sample_seed(seed, update, 0, f"{task} shared"))
        parts[task] = Part([row.key for row in rows.rows], seeds, batch, {**model.draw(task, batch, seeds), **shared})
    return parts


def fingerprint(slices: Mapping[str, Slice]) -> int:
    """Sum of 32-bit digests over (stream, position, key). Sums of all workers add up to the same number for any
    worker count.

    Exact in float64 up to 2^21 samples per update.
    """
    total = 0
    for name, rows in slices.items():
        for position, row in zip(rows.positions, rows.rows, strict=True):
            digest = blake2b(f"{name} {position} {row.key}".encode(), digest_size=4).digest()
            total += int.from_bytes(digest, "little")
    return total


def _text(task: Task, row: Row, update: int, position: int, seed: int) -> str:
    if task == "reconstruction":
        return template_for(sample_seed(seed, update, position, "template"))
    if row.caption is None:
        raise ValueError(
            f"{row.key}: {task} needs a caption and this row has none; set its weight to 0 or add captions"
        )
    return row.caption


def to_device(values: Mapping[str, Tensor], device: str) -> Mapping[str, Tensor]:
    """Tensors, of any shape and type, on the device of the model; the same mapping where that is the CPU, on which they
    are made.
    """
    if device == "cpu":
        return values
    return {name: value.to(device, non_blocking=True) for name, value in values.items()}
