"""Small file work the data rooms share: manifests, digests, and local copies of remote folders."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import fsspec
import numpy as np
from fsspec.core import url_to_fs
from fsspec.spec import AbstractFileSystem
from numpy.typing import NDArray

MANIFEST = "manifest.json"


class DatasetError(ValueError):
    """A data set folder that is missing, cut or altered; the message names the file and the mend."""


@dataclass(frozen=True)
class FileRecord:
    """One file of a data set.

    Attributes:
        file: name inside the folder.
        rows: rows it holds.
        bytes: size.
        digest: blake2b-128 of its content, hex.
    """

    file: str
    rows: int
    bytes: int
    digest: str


@dataclass(frozen=True)
class Manifest:
    """What a data set folder holds. Written last, so a folder without it is unfinished.

    Attributes:
        format: kind and version, such as `reca-images/1`.
        rows: rows in all shards together.
        shards: the shards, in order.
        extra: further files (index, quarantine).
        about: figures and schema of the writer, JSON-able.
    """

    format: str
    rows: int
    shards: tuple[FileRecord, ...]
    extra: tuple[FileRecord, ...]
    about: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """blake2b-128 over the digests of all files: equal for equal content."""
        text = "\n".join(f"{f.file} {f.digest}" for f in (*self.shards, *self.extra))
        return blake2b(f"{self.format}\n{text}".encode(), digest_size=16).hexdigest()

    @property
    def starts(self) -> NDArray[np.int64]:
        """Number of the first row of each shard, and of all rows: int64 [shards + 1]."""
        return np.cumsum([0, *(shard.rows for shard in self.shards)], dtype=np.int64)

    def write(self, folder: Path) -> None:
        """Write `manifest.json`."""
        (folder / MANIFEST).write_text(json.dumps({**asdict(self), "digest": self.digest}, indent=1) + "\n")


def record(path: Path, rows: int) -> FileRecord:
    """Describe a finished file.

    Args:
        path: of the file; its content is read for the digest.
        rows: rows it holds.
    """
    state = blake2b(digest_size=16)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            state.update(chunk)
    return FileRecord(path.name, rows, path.stat().st_size, state.hexdigest())


def read_manifest(uri: str, kind: str) -> Manifest:
    """Read the manifest of a data set folder.

    Args:
        uri: folder, local or any fsspec URI.
        kind: format expected.

    Raises:
        DatasetError: no manifest, of another format, or altered by hand.
    """
    where = f"{uri.rstrip('/')}/{MANIFEST}"
    mend = "run the stage that makes it again"
    try:
        with fsspec.open(where, "rb") as stream:
            raw = cast("dict[str, Any]", json.loads(cast("Any", stream).read()))
        shards = tuple(FileRecord(**item) for item in raw["shards"])
        extra = tuple(FileRecord(**item) for item in raw["extra"])
        manifest = Manifest(raw["format"], raw["rows"], shards, extra, raw["about"])
    except FileNotFoundError as error:
        raise DatasetError(f"{uri} is no finished data set: {MANIFEST} is missing; {mend}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{where} cannot be read ({error!r}): altered or cut; {mend}") from error
    if manifest.format != kind:
        raise DatasetError(
            f"{where} says format {manifest.format!r}, wanted {kind!r}; give the folder of the right stage"
        )
    if manifest.digest != raw.get("digest") or manifest.rows != sum(shard.rows for shard in shards):
        raise DatasetError(f"{where} was altered: its digest or row count does not agree with its files; {mend}")
    return manifest


def filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """File system and path of a URI. Listings are always fresh: an object store's remembered ones would hide what
    another process has written meanwhile, such as a train worker's checkpoint."""
    fs, path = url_to_fs(uri, use_listings_cache=False)
    return fs, str(path)


def is_local(fs: AbstractFileSystem) -> bool:
    """Tell whether paths of this file system can be opened by the operating system."""
    protocol = fs.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def local_files(uri: str, manifest: Manifest, files: Sequence[FileRecord]) -> Path:
    """Folder on this machine that holds the given files of a data set.

    A local folder is used in place. Files of a remote one are fetched once per machine into `$RECA_CACHE` (default:
    `reca-data` in the temporary folder), under the manifest's digest; several processes may do so at once.

    Args:
        uri: folder of the data set, local or any fsspec URI.
        manifest: of the data set.
        files: those of its files that are needed.

    Raises:
        DatasetError: a file is missing, or its size (after a fetch, its digest) is not the manifest's.
    """
    fs, path = filesystem(uri)
    if is_local(fs):
        for file in files:
            _check_size(Path(path) / file.file, file)
        return Path(path)
    root = os.environ.get("RECA_CACHE") or f"{tempfile.gettempdir()}/reca-data"
    folder = Path(root) / manifest.digest
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        if not (folder / file.file).exists():
            _fetch(fs, f"{path.rstrip('/')}/{file.file}", folder / file.file, file)
    return folder


def locate(starts: NDArray[np.int64], rows: Sequence[int] | NDArray[np.int64], where: str) -> list[tuple[int, int]]:
    """Shard, and row inside it, of rows of a data set.

    Args:
        starts: `Manifest.starts`, int64 [shards + 1].
        rows: row numbers in the whole set [B].
        where: the set, for the message.

    Raises:
        IndexError: a row is outside the set.
    """
    wanted = np.asarray(rows, dtype=np.int64)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= starts[-1]):
        raise IndexError(f"{where}: rows {wanted.min()}..{wanted.max()} are not inside 0..{starts[-1] - 1}")
    shards = np.searchsorted(starts, wanted, side="right") - 1
    return list(zip(shards.tolist(), (wanted - starts[shards]).tolist(), strict=True))


def _fetch(fs: AbstractFileSystem, source: str, target: Path, expected: FileRecord) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    os.close(handle)
    partial = Path(name)
    try:
        with fs.open(source, "rb") as reader, partial.open("wb") as writer:
            shutil.copyfileobj(cast("Any", reader), writer, 1 << 20)
        _check_size(partial, expected)
        if record(partial, expected.rows).digest != expected.digest:
            raise DatasetError(f"{source}: content is not what the manifest says; run the stage that makes it again")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _check_size(path: Path, expected: FileRecord) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path} is missing though its manifest names it; run the stage that makes it again"
        ) from error
    if size != expected.bytes:
        raise DatasetError(
            f"{path} has {size} bytes, its manifest says {expected.bytes}: cut or altered; "
            "run the stage that makes it again"
        )
