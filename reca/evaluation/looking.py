"""From a folder of pictures to records through a judge of our own (networks on this cluster), batch by batch.

Records are kept as they come, so a stopped run continues behind the last batch. What the judge refuses, or sees without
meaning, because its numbers are not finite, is unscored and not kept: a run that continues asks it once more.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec
from fsspec.core import url_to_fs
from fsspec.spec import AbstractFileSystem
from PIL import Image

from reca.config import ExecutionConfig
from reca.evaluation.actors import spread
from reca.evaluation.benchmark import Benchmark
from reca.evaluation.files import put
from reca.evaluation.picture_files import Pictures, read_picture
from reca.evaluation.records import BenchmarkError, Item, Record, load_records
from reca.evaluation.refusals import UNSCORED, Refusal
from reca.evaluation.tally import Tally, spaced
from reca.models.finite import MEND

A = TypeVar("A")
S = TypeVar("S")
A_contra = TypeVar("A_contra", contravariant=True)
S_co = TypeVar("S_co", covariant=True)

ENDING = ".jsonl"

UNREADABLE = "the picture cannot be read"
"""`Record.unscored` of what the judge was not shown."""


class Judge(Protocol[A_contra, S_co]):
    """Looks at pictures."""

    def see(self, asked: Sequence[A_contra], pictures: Sequence[Image.Image]) -> Sequence[S_co | Refusal]:
        """Look at pictures.

        Args:
            asked: what is asked of each.
            pictures: RGB, of any size.

        Returns:
            What is seen in each, or that the judge refuses it.
        """
        ...


@dataclass(frozen=True)
class Sample(Generic[A]):
    """One picture to look at.

    Attributes:
        item: what it belongs to.
        number: of the picture among the item's, from 0.
        url: path or fsspec URL.
    """

    item: Item[A]
    number: int
    url: str


def look(
    bench: Benchmark[A, S],
    pictures: Pictures,
    load: Callable[[str], Judge[A, S]],
    blank: S,
    work: str,
    shape: tuple[type[A], type[S]],
    execution: ExecutionConfig,
    batch_size: int,
    progress: Callable[[str], None] | None = None,
    read: Callable[[str], Image.Image] = read_picture,
    mend: str = MEND,
) -> list[Record[A, S]]:
    """Judge every picture found; missing pictures get no record.

    Args:
        bench: items and rules.
        pictures: of `find_pictures` on the same items; their URLs must be readable on every node.
        load: loads the judge onto a device (`cpu` or `cuda`); called once in each actor, so it must be picklable.
        blank: what is seen in a picture that cannot be read or is refused; its record is unscored.
        work: folder (path or fsspec URL) that keeps records of finished batches.
        shape: classes of what is asked and of what is seen.
        execution: `workers` actors of `cpus_per_worker` CPUs and `gpus_per_worker` GPUs.
        batch_size: pictures looked at together.
        progress: called with one line now and then.
        read: reads a picture, or raises BenchmarkError, which leaves it unscored; must be picklable.
        mend: what to do when the judge refuses everything, for the message.

    Returns:
        Records in the order of the items.

    Raises:
        AllRefusedError: the judge refused every picture, or what it saw means nothing in every one
            (`Benchmark.unjudged`); see `Tally` for when this is said.
    """
    records = kept_records(work, shape)
    samples = [
        Sample(item, number, pictures.found[item.key, number])
        for item in bench.items
        for number in range(len(item.pictures))
        if (item.key, number) in pictures.found
    ]
    todo = [s for s in samples if (s.item.key, s.number) not in records]
    batches = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
    kept, _, unread = _counted(bench, list(records.values()))
    tally = Tally(len(samples) - unread, "items", mend, kept)
    with closing(spread(spaced(batches, batch_size), partial(Looker, bench, load, blank, read), execution)) as results:
        for rows in results:
            keep_records([row for row in rows if _fault(bench, row) is None], work)
            records |= {(r.item, r.sample): r for r in rows}
            tally.add(*_counted(bench, rows))
            if progress:
                progress(f"{len(records):,} of {len(samples):,} pictures judged")
    tally.close()
    return [records[s.item.key, s.number] for s in samples]


def _counted(bench: Benchmark[A, S], records: Sequence[Record[A, S]]) -> tuple[int, list[str], int]:
    """How many were shown to the judge, why it judged some not, and how many were not shown."""
    unread = sum(record.unscored == UNREADABLE for record in records)
    faults = [fault for record in records if (fault := _fault(bench, record)) is not None]
    return len(records) - unread, faults, unread


def _fault(bench: Benchmark[A, S], record: Record[A, S]) -> str | None:
    """Why the judge did not judge a picture that it was shown, if so."""
    if record.unscored == UNSCORED:
        return record.why[0]
    return record.unscored if bench.unjudged(record) else None


class Looker(Generic[A, S]):
    """Reads, looks at and decides about batches.

    Args:
        bench: items and rules.
        load: loads the judge onto a device.
        blank: what is seen in a picture that cannot be read or is refused.
        read: reads a picture.
        device: `cpu` or `cuda`.
    """

    def __init__(
        self,
        bench: Benchmark[A, S],
        load: Callable[[str], Judge[A, S]],
        blank: S,
        read: Callable[[str], Image.Image],
        device: str,
    ) -> None:
        self.bench, self.judge, self.blank, self.read = bench, load(device), blank, read

    def __call__(self, batch: Sequence[Sample[A]]) -> list[Record[A, S]]:
        """One record for each picture, in order."""
        pictures: dict[int, Image.Image] = {}
        faults: dict[int, str] = {}
        for row, sample in enumerate(batch):
            try:
                pictures[row] = self.read(sample.url)
            except BenchmarkError as error:
                faults[row] = str(error)
        asked = [batch[row].item.asked for row in pictures]
        seen = iter(self.judge.see(asked, list(pictures.values())) if pictures else ())
        return [
            self._unscored(sample, faults[row], UNREADABLE) if row in faults else self._decided(sample, next(seen))
            for row, sample in enumerate(batch)
        ]

    def _decided(self, sample: Sample[A], seen: S | Refusal) -> Record[A, S]:
        if isinstance(seen, Refusal):
            return self._unscored(sample, seen.reason, UNSCORED)
        return self.bench.decide(sample.item, sample.number, seen)

    def _unscored(self, sample: Sample[A], fault: str, reason: str) -> Record[A, S]:
        item = sample.item
        place = item.key, sample.number, item.group, item.asked, self.blank
        return Record(*place, why=(fault,), unscored=reason)


def kept_records(work: str, shape: tuple[type[A], type[S]]) -> dict[tuple[str, int], Record[A, S]]:
    """Records of the finished batches in a folder, by item and sample."""
    files, root = cast("tuple[AbstractFileSystem, str]", url_to_fs(work))
    names = [path.rsplit("/", 1)[-1] for path in files.find(root)] if files.isdir(root) else []
    kept = [load_records(f"{work.rstrip('/')}/{name}", *shape) for name in sorted(names) if name.endswith(ENDING)]
    return {(record.item, record.sample): record for records in kept for record in records}


def keep_records(records: Sequence[Record[Any, Any]], work: str) -> None:
    """Keep the records of a batch, if any; a reader never sees half of them."""
    if not records:
        return
    files, root = cast("tuple[AbstractFileSystem, str]", url_to_fs(work))
    first, last = records[0], records[-1]
    text = "\n".join([first.item, str(first.sample), last.item, str(last.sample)])
    name = blake2b(text.encode(), digest_size=8).hexdigest()
    lines = [json.dumps(msgspec.to_builtins(record), ensure_ascii=False) for record in records]
    put(files, f"{root.rstrip('/')}/{name}{ENDING}", "".join(f"{line}\n" for line in lines).encode())
