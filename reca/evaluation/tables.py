"""Typed rows of text and parquet files, by path or any fsspec URL; errors say where to get the right file."""

import csv
import io
import json
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import fsspec
import msgspec
import pyarrow.parquet as pq

from reca.evaluation.records import BenchmarkError

T = TypeVar("T")


def read_text(url: str, source: str) -> str:
    """A whole text file as UTF-8. Raises BenchmarkError when it cannot be read."""
    with _opened(url, source) as stream:
        return stream.read().decode("utf-8-sig")


def read_csv(url: str, columns: Sequence[str], source: str) -> list[dict[str, str]]:
    """Rows of a CSV file. Raises BenchmarkError when it lacks one of the columns."""
    reader = csv.DictReader(io.StringIO(read_text(url, source), newline=""))
    found = reader.fieldnames or []
    if lacking := [column for column in columns if column not in found]:
        raise BenchmarkError(
            f"{url}: column {', '.join(lacking)} is missing; found {', '.join(found) or 'none'}; get {source}"
        )
    rows: list[dict[str, str | None]] = list(reader)
    for number, row in enumerate(rows):
        if lacking := [column for column in columns if row[column] is None]:
            raise BenchmarkError(f"{url}, row {number}: nothing in column {', '.join(lacking)}; get {source}")
    return cast("list[dict[str, str]]", rows)


def read_records(url: str, kind: type[T], source: str) -> list[T]:
    """Rows of a parquet, CSV, JSON-lines or JSON file, by its suffix; the last for any other.

    Raises:
        BenchmarkError: naming file, place and field, when it cannot be read so.
    """
    suffix = url.rsplit(".", 1)[-1].lower()
    fields = [field.encode_name for field in msgspec.structs.fields(cast("Any", kind))]
    if suffix == "parquet":
        return _convert(_parquet(url, fields, source), list[kind], url, source)
    if suffix == "csv":
        return _convert(read_csv(url, fields, source), list[kind], url, source)
    text = read_text(url, source)
    if suffix == "jsonl":
        # Not splitlines: that also splits at line separators inside a text.
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        return [decode(line, kind, f"{url}, line {number}", source) for number, line in lines]
    return decode(text, list[kind], url, source)


def _parquet(url: str, columns: Sequence[str], source: str) -> list[dict[str, Any]]:
    with _opened(url, source) as stream:
        # By columns: published files hold their pictures too.
        file = pq.ParquetFile(stream)
        if lacking := [column for column in columns if column not in file.schema_arrow.names]:
            raise BenchmarkError(f"{url}: column {', '.join(lacking)} is missing; get {source}")
        return file.read(columns=list(columns)).to_pylist()


def read_entries(url: str, kind: type[T], source: str) -> dict[str, T]:
    """A JSON object of entries by key; JSON itself lets a key stand twice and keeps the last."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        unique(url, [key for key, _ in pairs], [f"key '{key}'" for key, _ in pairs])
        return dict(pairs)

    try:
        parsed = json.loads(read_text(url, source), object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise BenchmarkError(f"{url}: not JSON: {error}; get {source}") from error
    return _convert(parsed, dict[str, kind], url, source)


def decode(text: str, kind: type[T], where: str, source: str) -> T:
    """Typed JSON. Raises BenchmarkError naming the place and the field."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise BenchmarkError(f"{where}: {error}; get {source}") from error


def _convert(value: object, kind: type[T], where: str, source: str) -> T:
    try:
        # Not strict: a CSV file holds only texts.
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BenchmarkError(f"{where}: {error}; get {source}") from error


@contextmanager
def _opened(url: str, source: str) -> Generator[io.BufferedReader]:
    try:
        with fsspec.open(url, "rb") as opened:
            yield cast("io.BufferedReader", opened)
    except BenchmarkError:
        raise
    except FileNotFoundError as error:
        raise BenchmarkError(f"{url}: no such file; get {source} and give its path or URL") from error
    except (OSError, ImportError, ValueError) as error:
        # pyarrow's error for what is no parquet file is a ValueError.
        raise BenchmarkError(f"{url}: cannot be read: {error}; get {source}") from error


def some(where: str, items: Sequence[T], source: str) -> tuple[T, ...]:
    """The items, of which there must be one. Raises BenchmarkError when there is none."""
    if not items:
        raise BenchmarkError(f"{where}: holds no item; get {source}")
    return tuple(items)


def unique(where: str, values: Iterable[object], names: Sequence[str]) -> None:
    """Refuse a value that stands twice. Raises BenchmarkError with the names of both."""
    first: dict[object, str] = {}
    for value, name in zip(values, names, strict=True):
        if value in first:
            raise BenchmarkError(f"{where}: {name} repeats {first[value]}; every one must stand once")
        first[value] = name
