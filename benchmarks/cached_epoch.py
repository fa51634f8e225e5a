"""An epoch with cached codes and understanding features against an epoch that encodes each batch again.

Encoding again starts from decoded pixels in memory, which flatters it: a real loop would also read and decode the
files.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import harness
import numpy as np
import torch
from numpy.typing import NDArray
from training_inputs import BATCH, CONFIG, ROWS, build_inputs, load_model, pixels_of

from reca.data.encoded import EncodedRow
from reca.data.sets import instruction_row, unlabeled_row
from reca.data.stream import BatchPlan
from reca.models.base import UnifiedModel
from reca.training.feed import Feed, Slice
from reca.training.group import Group
from reca.training.loop import run_updates
from reca.training.sources import EncodedFeed
from reca.training.state import TrainingState

EPOCH = ROWS // BATCH


@dataclass(frozen=True)
class EncodingFeed:
    """Rows in the same order as the cached feed, encoded anew in every update.

    Attributes:
        model: encodes.
        pixels: uint8 [ROWS, 3, 64, 64] by stream.
        captions: one for each row, by stream.
    """

    model: UnifiedModel
    pixels: Mapping[str, NDArray[np.uint8]]
    captions: Mapping[str, list[str | None]]

    def __call__(self, start: int, stop: int) -> Iterator[Mapping[str, Slice]]:
        """Yield the slices of updates start..stop-1."""
        for update in range(start, stop):
            yield {name: self._slice(name, update) for name in self.pixels}

    def _slice(self, name: str, update: int) -> Slice:
        plan = BatchPlan(ROWS, BATCH, CONFIG.seed, name)
        indices = plan.indices(update)
        with torch.no_grad():
            encoded = self.model.encode(torch.from_numpy(self.pixels[name][indices]))
        arrays = {key: value.numpy() for key, value in encoded.items()}
        rows = [
            EncodedRow(f"{i:09d}", self.captions[name][i], {key: value[j] for key, value in arrays.items()})
            for j, i in enumerate(indices.tolist())
        ]
        return Slice(plan.positions(update).tolist(), rows)


def epoch(state: TrainingState, feed: Feed) -> float:
    """Seconds of one epoch, after two updates that are not counted.

    Args:
        state: fresh model and optimizer.
        feed: rows of all its updates.
    """
    config = replace(CONFIG, updates=EPOCH + 2)
    marks: list[float] = []
    run_updates(state, config, feed, Group(), lambda _: marks.append(time.perf_counter()), lambda _: None, lambda _: "")
    return marks[-1] - marks[1]


def main() -> None:
    """Measure an epoch both ways in turn, and write the table."""
    torch.set_num_threads(1)
    where = harness.machine()
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        build_inputs(folder)
        rows = {
            "images": [unlabeled_row(i, 0) for i in range(ROWS)],
            "instructions": [instruction_row(i, 0) for i in range(ROWS)],
        }
        pixels = {key: np.stack([pixels_of(row) for row in found]) for key, found in rows.items()}
        captions = {key: [row.caption for row in found] for key, found in rows.items()}
        streams = {key: str(folder / key) for key in rows}

        def cached() -> float:
            return epoch(TrainingState.fresh(load_model(folder), CONFIG), EncodedFeed(streams, CONFIG, Group()))

        def encoding() -> float:
            state = TrainingState.fresh(load_model(folder), CONFIG)
            return epoch(state, EncodingFeed(state.model, pixels, captions))

        comparison = harness.interleave({"encode every step": encoding, "cached": cached}, 5, "s/epoch")
    harness.write_results(
        "cached_epoch",
        "An epoch with cached codes and features against re-encoding",
        comparison,
        [("encode every step", "cached", "above 1")],
        where,
        f"Tiny Show-o (random weights), one process, one torch thread, {ROWS} pictures and {ROWS} questions, batch "
        f"{BATCH} + {BATCH}, "
        f"{CONFIG.precision} autocast in training, float32 in encoding. Re-encoding starts from decoded pixels in "
        "memory.",
    )


if __name__ == "__main__":
    main()
