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
from fsspec.core import url_to_fs
from fsspec.spec import AbstractFileSystem

from reca.evaluation.records import A, BenchmarkError, Item

T = TypeVar("T")

PARQUET = ".parquet"

PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip"}
"""First bytes of packed files, which people give as they download them."""


def read_text(url: str, source: str) -> str:
    """A whole text file.

    Args:
        url: path or fsspec URL.
        source: where to get the right file.

    Raises:
        BenchmarkError: when it is missing, cannot be read, is packed, no UTF-8, or empty.
    """
    with _opened(url, source) as stream:
        data = stream.read()
    if packed := [kind for mark, kind in PACKED.items() if data.startswith(mark)]:
        raise BenchmarkError(f"{url}: is packed by {packed[0]}; unpack it and give the file that was inside")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BenchmarkError(f"{url}: byte {error.start} is no UTF-8; save it as UTF-8, or get {source}") from error
    if not text.strip():
        raise BenchmarkError(f"{url}: is empty; get {source}")
    return text


def read_csv(url: str, columns: Sequence[str], source: str) -> list[dict[str, str]]:
    """Rows of a CSV file: cells by column.

    Args:
        url: path or fsspec URL.
        columns: those that must be there, with a cell in every row.
        source: where to get the right file.

    Raises:
        BenchmarkError: when it cannot be read, lacks one of the columns, or a row a cell of them.
    """
    reader = csv.DictReader(io.StringIO(read_text(url, source), newline=""))
    try:
        found = reader.fieldnames or []
        rows: list[dict[str, str | None]] = list(reader)
    except csv.Error as error:
        raise BenchmarkError(f"{url}, line {reader.line_num}: no CSV: {error}; get {source}") from error
    _require(url, columns, found, source)
    for number, row in enumerate(rows, start=1):
        if lacking := [column for column in columns if row[column] is None]:
            raise BenchmarkError(f"{url}, row {number}: nothing in column {', '.join(lacking)}; get {source}")
    return cast("list[dict[str, str]]", rows)


def read_records(url: str, kind: type[T], source: str) -> list[tuple[str, T]]:
    """Rows of a parquet, CSV, JSON-lines or JSON file, by its suffix; the last for any other.

    Args:
        url: path or fsspec URL.
        kind: msgspec class of a row; columns that it does not know are left out.
        source: where to get the right file.

    Returns:
        Each row with its place: the file and a line, or a row counted from 1 without the heading.

    Raises:
        BenchmarkError: naming file, place and field, when it cannot be read so.
    """
    suffix = url.rsplit(".", 1)[-1].lower()
    if suffix == "jsonl":
        return read_lines(url, kind, source)
    fields = msgspec.structs.fields(cast("Any", kind))
    needed = [field.encode_name for field in fields if field.required]
    if suffix == "parquet":
        rows = _parquet(url, needed, [field.encode_name for field in fields], source)
    elif suffix == "csv":
        rows = read_csv(url, needed, source)
    else:
        rows = decode(read_text(url, source), list[Any], url, source)
    places = [f"{url}, row {number}" for number in range(1, len(rows) + 1)]
    return [(place, _convert(row, kind, place, source)) for place, row in zip(places, rows, strict=True)]


def read_lines(url: str, kind: type[T], source: str) -> list[tuple[str, T]]:
    """The entries of a file of JSON lines, each with its place: the file and a line, counted from 1.

    Args:
        url: path or fsspec URL.
        kind: class of an entry.
        source: where to get the right file.

    Raises:
        BenchmarkError: naming line and field, when it cannot be read so.
    """
    # Not splitlines: that also splits at line separators inside a text.
    lines = enumerate(read_text(url, source).split("\n"), start=1)
    placed = [(f"{url}, line {number}", line) for number, line in lines if line.strip()]
    return [(place, decode(line, kind, place, source)) for place, line in placed]


def parquet_files(place: str) -> list[str]:
    """A parquet file itself, or the URLs of those in a folder and below (how data sets are published), by name."""
    if place.lower().endswith(PARQUET):
        return [place]
    files, root = cast("tuple[AbstractFileSystem, str]", url_to_fs(place))
    root = root.rstrip("/")
    below = sorted(cast("str", path)[len(root) + 1 :] for path in files.find(root))
    return [f"{place.rstrip('/')}/{path}" for path in below if path.lower().endswith(PARQUET)]


def _parquet(url: str, needed: Sequence[str], wanted: Sequence[str], source: str) -> list[dict[str, Any]]:
    with _opened(url, source) as stream:
        # By columns: published files hold their pictures too.
        file = pq.ParquetFile(stream)
        found = file.schema_arrow.names
        _require(url, needed, found, source)
        return file.read(columns=[column for column in wanted if column in found]).to_pylist()


def _require(url: str, columns: Sequence[str], found: Sequence[str], source: str) -> None:
    if lacking := [column for column in columns if column not in found]:
        raise BenchmarkError(
            f"{url}: column {', '.join(lacking)} is missing; found {', '.join(found) or 'none'}; get {source}"
        )


def read_entries(url: str, kind: type[T], source: str) -> dict[str, T]:
    """A JSON object of entries by key; JSON itself lets a key stand twice and keeps the last.

    Args:
        url: path or fsspec URL.
        kind: class of an entry.
        source: where to get the right file.

    Raises:
        BenchmarkError: naming key and field, when it cannot be read so or a key stands twice.
    """

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        unique([key for key, _ in pairs], [f"{url}: key '{key}'" for key, _ in pairs])
        return dict(pairs)

    try:
        parsed: object = json.loads(read_text(url, source), object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise BenchmarkError(f"{url}: not JSON: {error}; get {source}") from error
    entries = _convert(parsed, dict[str, Any], url, source)
    return {key: _convert(value, kind, f"{url}, key '{key}'", source) for key, value in entries.items()}


def decode(text: str, kind: type[T], where: str, source: str) -> T:
    """Typed JSON.

    Args:
        text: JSON.
        kind: class of what it holds.
        where: it is from, for the message.
        source: where to get the right file.

    Raises:
        BenchmarkError: naming the place and the field, when it holds something else.
    """
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
        # fsspec says so of every answer of a web server, and gives the true one as the cause.
        why = f" ({error.__cause__})" if error.__cause__ else ""
        raise BenchmarkError(f"{url}: no such file{why}; get {source} and give its path or URL") from error
    except IsADirectoryError as error:
        raise BenchmarkError(f"{url}: is a folder; give the file: {source}") from error
    except Exception as error:  # errors of file systems, of their libraries and of pyarrow have no common class
        raise BenchmarkError(f"{url}: cannot be read: {' '.join(str(error).split())}; get {source}") from error


def some(where: str, items: Sequence[Item[A]], source: str) -> tuple[Item[A], ...]:
    """The items, of which there must be one, each with a text.

    Args:
        where: they are from, for the message.
        items: read from there.
        source: where to get the right file.

    Raises:
        BenchmarkError: there is none, or the text of one is empty.
    """
    if not items:
        raise BenchmarkError(f"{where}: holds no item; get {source}")
    if silent := [item.key for item in items if not item.prompt.strip()]:
        raise BenchmarkError(f"{where}: the text of item '{silent[0]}' is empty; get {source}")
    return tuple(items)


def unique(values: Iterable[object], places: Sequence[str]) -> None:
    """Refuse a value that stands twice.

    Args:
        values: hashable.
        places: of each, for the message.

    Raises:
        BenchmarkError: naming both places.
    """
    first: dict[object, str] = {}
    for value, place in zip(values, places, strict=True):
        if value in first:
            raise BenchmarkError(f"{place} repeats {first[value]}; every one must stand once")
        first[value] = place
