"""Items of a benchmark and one record for each of their pictures: what was asked, seen, decided, and why."""

import json
from collections.abc import Iterable
from typing import Any, Generic, TextIO, TypeVar, cast

import fsspec
import msgspec

A = TypeVar("A")
S = TypeVar("S")


class BenchmarkError(ValueError):
    """Input of a benchmark that cannot be used; the message names it and the mend."""


class Item(msgspec.Struct, Generic[A], frozen=True):
    """One thing to draw or to edit.

    Attributes:
        key: unique in the benchmark; the published id where there is one.
        group: task, edit type or category, as published.
        prompt: text given to the model: a prompt or an edit instruction.
        asked: what the rules need to know.
        pictures: paths of the expected pictures in the published folder layout, one for each sample.
        source: path of the picture to edit, relative to the folder of source pictures; None when nothing is edited.
    """

    key: str
    group: str
    prompt: str
    asked: A
    pictures: tuple[str, ...]
    source: str | None = None


class Record(msgspec.Struct, Generic[A, S], frozen=True):
    """One picture of one item.

    Attributes:
        item: key of the item.
        sample: number of the picture among those of its item, from 0.
        group: group of the item.
        asked: what was asked.
        seen: what the judge saw or said, unchanged.
        scores: what was decided, by measure; empty when unscored.
        why: reasons and remarks.
        unscored: why there is no score; None when there is one.
    """

    item: str
    sample: int
    group: str
    asked: A
    seen: S
    scores: dict[str, float] = {}
    why: tuple[str, ...] = ()
    unscored: str | None = None


def save_records(records: Iterable[Record[Any, Any]], url: str) -> None:
    """Write records as JSON lines; a float that is not a number is written as `NaN`, as Python's json does.

    Args:
        records: in the order in which they are written.
        url: path or fsspec URL of the file.
    """
    with fsspec.open(url, "wt", encoding="utf-8") as opened:
        stream = cast("TextIO", opened)
        for record in records:
            stream.write(json.dumps(msgspec.to_builtins(record), ensure_ascii=False) + "\n")


def load_records(url: str, asked: type[A], seen: type[S]) -> list[Record[A, S]]:
    """Read records that `save_records` wrote.

    Args:
        url: path or fsspec URL of the file.
        asked: class of what was asked.
        seen: class of what was seen.

    Raises:
        BenchmarkError: naming file and line, when it is missing or malformed.
    """
    records: list[Record[A, S]] = []
    try:
        with fsspec.open(url, "rt", encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    records.append(msgspec.convert(json.loads(line), Record[asked, seen], str_keys=True))
                except (json.JSONDecodeError, msgspec.ValidationError) as error:
                    raise BenchmarkError(f"{url}, line {number}: not a record: {error}; score again") from error
    except OSError as error:
        raise BenchmarkError(f"{url}: no readable records: {error}") from error
    return records
