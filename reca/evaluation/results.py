"""Results of the built-in world's benchmarks, MiniGenEval and MiniEdit: a file of totals and one of records."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from reca.config import SamplingConfig
from reca.evaluation.geneval import Detection
from reca.evaluation.records import BenchmarkError, Record

CORRECT = "correct"
"""Score of a record that is right or wrong: 1 or 0."""

Seen = tuple[Detection, ...]
"""What the scorer saw in a picture, best first."""


def correctness(record: Record[Any, Any]) -> float:
    """1 or 0; what is unscored is wrong."""
    return record.scores.get(CORRECT, 0.0)


class Result(msgspec.Struct, frozen=True):
    """Scores of one model; everything but the settings can be recomputed from the records.

    Attributes:
        benchmark: name and edition.
        objects_per_picture: mean number of detected objects, over the pictures that were judged.
        scorer: digest of the scorer's weights.
        seed: seed of the noise; a picture's own follows from it and the record's item.
        sampling: sampler settings.
        records: one for each picture.
    """

    benchmark: str
    objects_per_picture: float
    scorer: str
    seed: int
    sampling: SamplingConfig
    records: tuple[Record[Any, Seen], ...]


R = TypeVar("R", bound=Result)


def save_result(result: Result, folder: Path, name: str) -> None:
    """Write totals (`NAME.json`) and records (`NAME.jsonl`).

    Args:
        result: its records go into a file of their own.
        folder: made when missing.
        name: of both files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    totals = msgspec.structs.replace(result, records=())
    (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(totals), indent=1))
    (folder / f"{name}.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(result.records))


def load_result(folder: Path, name: str, kind: type[R], asked: type[Any]) -> R:
    """Read what `save_result` wrote.

    Args:
        folder: its folder.
        name: its name.
        kind: class of the totals.
        asked: class of what the records ask.

    Raises:
        BenchmarkError: naming the folder, when a file is missing or malformed.
    """
    try:
        totals = msgspec.json.decode((folder / f"{name}.json").read_bytes(), type=kind)
        records = msgspec.json.Decoder(Record[asked, Seen]).decode_lines((folder / f"{name}.jsonl").read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise BenchmarkError(f"no readable {name} result in {folder}: {error}; evaluate again") from error
    return msgspec.structs.replace(totals, records=tuple(records))


def require_alike(before: Result, after: Result, settings: Sequence[str]) -> None:
    """Refuse to compare results of other settings, or of other pictures.

    Args:
        before: one side.
        after: the other.
        settings: names of the fields that must be equal; the records' items and what they ask must be in any case.

    Raises:
        BenchmarkError: naming what differs.
    """
    for name in settings:
        pair = getattr(before, name), getattr(after, name)
        if pair[0] != pair[1]:
            raise BenchmarkError(f"results differ in {name}: {pair[0]} and {pair[1]}; score both models alike")
    sides = [[(record.item, record.asked) for record in side.records] for side in (before, after)]
    if sides[0] != sides[1]:
        raise BenchmarkError(
            f"results of {before.benchmark} hold other items; score both models with one configuration"
        )
