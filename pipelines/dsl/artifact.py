"""What stages take and give: artifacts in the store, and inputs from outside."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from pipelines.dsl import canonical
from pipelines.dsl.errors import BuildError
from pipelines.dsl.files import (
    FileEntry,
    Files,
    cache_folder,
    download,
    hash_file,
    is_storage_error,
    write_atomic,
)

HASHED_BYTES = 64 * 2**20
"""Files of an outside input up to this size are identified by content, larger ones by size and time (or ETag)."""

RACY_NS = 2_000_000_000
"""A file changed less than this many nanoseconds ago may change again within one tick of the file system's clock."""


@dataclass(frozen=True)
class Artifact:
    """The result of a stage: a folder in the store plus small value fields. Subclass it as a frozen dataclass.

    Attributes:
        uri: folder in the store (absolute path or fsspec URI); filled in when the stage has succeeded.
        key: identity of the stage call that made it; filled in likewise.
    """

    uri: str = field(default="", kw_only=True)
    key: str = field(default="", kw_only=True)

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Make the artifact a stage body returns: its value fields only."""
        return cls(**values)

    def local(self) -> Path:
        """Return a local folder with the artifact's files: the folder in a local store, else a copy downloaded once.

        Raises:
            AlteredError: a file is missing or is not what the stage wrote.
        """
        from pipelines.dsl.store import fetch_artifact

        return fetch_artifact(self.uri)

    def value_fields(self) -> dict[str, Any]:
        """Return the declared fields without `uri` and `key`."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("uri", "key")}


@dataclass(frozen=True)
class External:
    """An input from outside the store: a file or folder, local or any fsspec URI.

    Its identity is its content, not its place: relative file names and sizes with content digests; files over 64 MiB,
    and remote files with an ETag, count by size and time stamp or ETag instead.

    Attributes:
        uri: path or URI; a relative path starts at the folder that the driver was started in.
        advice: how to mend it when nothing is there, such as where to get the file; no part of the identity.
        base: folder that a relative path starts at; the executor fills it in for workers that start elsewhere.
    """

    uri: str
    base: str = ""
    advice: str = "check the path, or the credentials"

    @property
    def place(self) -> str:
        """The URI, or the path with the folder that a relative one starts at (where that exists on this machine)."""
        if "://" in self.uri or not self.base:
            return self.uri
        bound = Path(self.base, self.uri)
        return str(bound) if bound.exists() else self.uri

    def local(self) -> Path:
        """Return a local path with the content: the path itself, or a copy of a remote file or folder, downloaded once.

        Raises:
            BuildError: there is nothing at the place, or it is empty.
        """
        files = Files(self.place)
        if files.is_local:
            self.canonical_form()
            return Path(files.root)
        content = str(self.canonical_form()["content"])
        return download(files, cache_folder("inputs") / content)

    def bound(self) -> "External":
        """Return the same input with the place that relative paths start at made explicit."""
        return replace(self, base=self.base or os.getcwd())

    def canonical_form(self) -> dict[str, str]:
        """Return the digest over relative names, sizes and contents.

        Raises:
            BuildError: there is nothing at the place, or it is empty.
        """
        files = Files(self.place)
        try:
            listing = files.listing()
        except Exception as error:
            if not is_storage_error(error):
                raise
            raise BuildError(f"the input {self.uri} cannot be read: {error}; {self.advice}") from error
        if not any(entry.size for entry in listing):
            state = "holds no data" if listing else "is missing or empty"
            raise BuildError(f"the input {self.uri} {state} (looked at {files.root}); {self.advice}")
        stamp = canonical.digest(json.dumps([[e.path, e.size, e.stamp] for e in listing]).encode())
        remembered = cache_folder("digests") / f"{canonical.digest(files.root.encode())}.json"
        if (known := _read_digest(remembered, stamp)) is not None:
            return {"content": known}
        content = canonical.digest(b"".join(_identity_lines(files, listing)))
        if not any(entry.racy(RACY_NS) for entry in listing):
            write_atomic(remembered, json.dumps({"stamp": stamp, "content": content}).encode(), durable=False)
        return {"content": content}


def _identity_lines(files: Files, listing: Iterable[FileEntry]) -> Iterator[bytes]:
    for entry in listing:
        if entry.size > HASHED_BYTES or (entry.etag and not files.is_local):
            mark = f"stamp {entry.etag or entry.stamp}"
        else:
            mark = hash_file(files, entry.path)
        yield json.dumps([entry.path, entry.size, mark]).encode() + b"\n"


def _read_digest(file: Path, stamp: str) -> str | None:
    try:
        known = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return str(known["content"]) if known.get("stamp") == stamp else None
