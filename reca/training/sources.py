"""The rows of a run: its encoded data sets in keyed order, through Ray Data or straight from memory maps."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from reca.config import TrainingConfig
from reca.data.encoded import FORMAT, EncodedDataset
from reca.data.files import read_manifest
from reca.data.stream import BatchPlan, stream_batches
from reca.training.feed import Slice
from reca.training.group import Group


@dataclass(frozen=True)
class EncodedFeed:
    """Feed over encoded data sets. Both ways of reading yield the same rows.

    Attributes:
        streams: URI of each data set by name; the name also keys its order, so two sets are ordered independently.
        config: batch size and seed of the order.
        group: rank and size decide the slice.
        read_ahead: Ray Data reads ahead in tasks; off, the worker reads the memory maps itself.
    """

    streams: Mapping[str, str]
    config: TrainingConfig
    group: Group
    read_ahead: bool = False

    def __call__(self, start: int, stop: int) -> Iterator[Mapping[str, Slice]]:
        """Yield the slices of updates start..stop-1."""
        found = {name: self._slices(name, uri, start, stop) for name, uri in self.streams.items()}
        for _ in range(start, stop):
            yield {name: next(slices) for name, slices in found.items()}

    def _slices(self, name: str, uri: str, start: int, stop: int) -> Iterator[Slice]:
        rows, config = read_manifest(uri, FORMAT).rows, self.config
        plan = BatchPlan(rows, config.batch_size, config.seed, name, self.group.rank, self.group.world)
        if self.read_ahead:
            for batch in stream_batches(uri, plan, start, stop):
                yield Slice(batch.positions.tolist(), batch.rows)
            return
        data = EncodedDataset(uri)
        for update in range(start, stop):
            yield Slice(plan.positions(update).tolist(), data.take(plan.indices(update)))
