"""Where pictures come from: the built-in twemoji scenes, or any folder of images behind fsspec.

A source lists itself lazily as small blocks (a few columns that say what to load) and loads any block on any worker.
Keys come out unique and increasing, so nothing has to be sorted or held in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol, cast

import pyarrow as pa
from fsspec.spec import AbstractFileSystem

from reca.config import BUILT_IN, DataConfig
from reca.data.files import filesystem
from reca.data.sets import Row, captioned_row, instruction_row, unlabeled_row

Kind = Literal["images", "captions", "instructions"]
"""`images`: pictures only (RecA). `captions`: the same pictures with captions. `instructions`: pictures with question
and answer."""

BLOCK_ROWS = 128
"""Rows of one listing block, which is one task: about 0.1 s of decoding, well above a task's 5-10 ms."""

IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "ppm", "pgm", "jp2"}
)


class SourceError(ValueError):
    """A source that is missing or holds no picture; the message names it and the mend."""


@dataclass(frozen=True)
class Fault:
    """A row that could not be loaded.

    Attributes:
        key: key of the row.
        source: where it would have come from.
        reason: what the quarantine counts by.
        detail: the particulars.
    """

    key: str
    source: str
    reason: str
    detail: str


class Source(Protocol):
    """A set of pictures that can be listed and loaded block by block."""

    def blocks(self) -> Iterator[pa.Table]:
        """List the rows lazily, in key order.

        Yields:
            Tables of at most `BLOCK_ROWS` rows, with the columns that `load` needs.

        Raises:
            SourceError: nothing to list.
        """
        ...

    def load(self, block: pa.Table) -> Iterator[Row | Fault]:
        """Load the rows of one block, one at a time.

        Args:
            block: a table of `blocks`.
        """
        ...


def open_source(uri: str, data: DataConfig, kind: Kind) -> Source:
    """Choose a source.

    Args:
        uri: `twemoji`, or a folder (path or any fsspec URI).
        data: number of rows and seed.
        kind: what the rows hold.
    """
    count = data.instructions if kind == "instructions" else data.images
    return TwemojiSource(count, data.seed, kind) if uri == BUILT_IN else FolderSource(uri, count, kind)


@dataclass(frozen=True)
class TwemojiSource:
    """Scenes composed from twemoji sprites; every row is a function of (kind, seed, index).

    Attributes:
        count: number of rows, at least 1.
        seed: seed of the composer.
        kind: what the rows hold.
    """

    count: int
    seed: int
    kind: Kind

    def blocks(self) -> Iterator[pa.Table]:
        """List row numbers: int64 column `index`.

        Raises:
            SourceError: `count` is below 1.
        """
        if self.count < 1:
            raise SourceError(f"source twemoji was asked for {self.count} rows ({self.kind}); ask for at least 1")
        for start in range(0, self.count, BLOCK_ROWS):
            yield pa.table({"index": pa.array(range(start, min(start + BLOCK_ROWS, self.count)), pa.int64())})

    def load(self, block: pa.Table) -> Iterator[Row | Fault]:
        """Compose the rows of one block."""
        make = {"images": unlabeled_row, "captions": captioned_row, "instructions": instruction_row}[self.kind]
        return (make(index, self.seed) for index in block.column("index").to_pylist())


@dataclass(frozen=True)
class FolderSource:
    """A folder of image files, searched recursively; hidden files and folders are passed over.

    A file `name.txt` beside `name.jpg` holds its caption (or question, newline, answer). The key of a row is the
    file's path relative to the folder. Other kinds of files are not rows.

    Attributes:
        uri: path or any fsspec URI.
        limit: number of pictures taken, in key order; 0 takes all.
        kind: `images` leaves caption files alone; the other two quarantine pictures without one.
    """

    uri: str
    limit: int
    kind: Kind

    def blocks(self) -> Iterator[pa.Table]:
        """List image files lazily, one folder in memory at a time.

        Yields:
            Tables with the string columns `key`, `path`, and `caption`: path of the caption file, or null.

        Raises:
            SourceError: there is no such folder, or no image in it.
        """
        fs, root = filesystem(self.uri)
        root = root.rstrip("/")
        if not fs.exists(root):
            raise SourceError(f"source {self.uri} does not exist; give an existing folder of images, or `twemoji`")
        if not fs.isdir(root):
            raise SourceError(f"source {self.uri} is a file; give the folder that holds it")
        others: list[str] = []
        found = _walk(fs, root, others)
        if self.limit:
            found = islice(found, self.limit)
        empty = True
        while chunk := list(islice(found, BLOCK_ROWS)):
            empty = False
            keys = [path[len(root) + 1 :] for path, _ in chunk]
            captions = [caption for _, caption in chunk]
            columns = {"key": keys, "path": [path for path, _ in chunk]}
            yield pa.table({**columns, "caption": pa.array(captions, pa.string())})
        if empty:
            seen = f"it holds only other files, such as {others[0]}" if others else "it is empty"
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            raise SourceError(f"source {self.uri} has no image: {seen}; add files that end in {kinds}")

    def load(self, block: pa.Table) -> Iterator[Row | Fault]:
        """Read the files of one block; from an object store all at once, since there waiting is what costs."""
        fs, _ = filesystem(self.uri)
        captions = block.column("caption").to_pylist()
        paths = block.column("path").to_pylist()
        wanted = [] if self.kind == "images" else [caption for caption in captions if caption is not None]
        images, texts = _read(fs, paths), dict(zip(wanted, _read(fs, wanted), strict=True))
        for key, image, caption in zip(block.column("key").to_pylist(), images, captions, strict=True):
            yield self._row(key, image, None if self.kind == "images" else caption, texts)

    def _row(self, key: str, image: bytes | Exception, caption: str | None, texts: dict[str, Any]) -> Row | Fault:
        if isinstance(image, Exception):
            return Fault(key, self.uri, "unreadable", f"{type(image).__name__}: {image}")
        if self.kind == "images":
            return Row(key, image, None, self.uri)
        if caption is None:
            return Fault(key, self.uri, "no caption", "no .txt file of the same name beside it")
        raw = texts[caption]
        if isinstance(raw, Exception):
            return Fault(key, self.uri, "unreadable", f"{caption}: {type(raw).__name__}: {raw}")
        try:
            text = raw.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            return Fault(key, self.uri, "bad caption", f"{caption} is not UTF-8: {error}")
        if self.kind == "instructions" and len(text.splitlines()) < 2:
            return Fault(key, self.uri, "bad caption", f"{caption} needs a question, a newline and an answer")
        return Row(key, image, text, self.uri)


def _read(fs: AbstractFileSystem, paths: list[str]) -> Iterator[Any]:
    """Content of files in order; an exception in place of a file that cannot be read."""
    if fs.async_impl:
        found = cast("dict[str, Any]", fs.cat(paths, on_error="return")) if paths else {}
        yield from (found[path] for path in paths)
        return
    for path in paths:
        try:
            yield fs.cat_file(path)
        except OSError as error:
            yield error


def _walk(fs: AbstractFileSystem, folder: str, others: list[str]) -> Iterator[tuple[str, str | None]]:
    """Image files below a folder and their caption files, sorted by path; the first other file goes to `others`."""
    listed = cast("list[dict[str, Any]]", fs.ls(folder, detail=True))
    entries = [(str(entry["name"]).rstrip("/"), entry["type"] == "directory") for entry in listed]
    entries = [(name, is_folder) for name, is_folder in entries if not _hidden(name) and name != folder]
    files = {name for name, is_folder in entries if not is_folder}
    # A folder sorts as its name with a slash: then whole paths come out in increasing order.
    for name, is_folder in sorted(entries, key=lambda entry: entry[0] + "/" * entry[1]):
        if is_folder:
            yield from _walk(fs, name, others)
            continue
        stem, _, suffix = name.rpartition(".")
        if suffix.lower() in IMAGE_SUFFIXES:
            caption = f"{stem}.txt"
            yield name, caption if caption in files else None
        elif not others:
            others.append(name)


def _hidden(name: str) -> bool:
    return name.rsplit("/", 1)[-1].startswith((".", "_SUCCESS"))
