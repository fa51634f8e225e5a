"""Where artifacts live: a folder behind fsspec, in which a manifest is what makes an artifact exist.

Layout: `objects/<stage>/<key>/<attempt>/...` (unique names, never rewritten), `objects/<stage>/<key>/<attempt>.json`
(its file list), `manifests/<stage>/<key>.json` (written last), `contents/<stage>/<content key>.json` (the key that has
this content), `code/<digest>.json`, `work/<stage>/<key>/...` (checkpoints of unfinished stages), `leases/`,
`runs/<run>.json`.
"""

import contextlib
import errno
import os
import uuid
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from pipelines.dsl.errors import AlteredError, StoreError
from pipelines.dsl.files import Files, cache_folder, download, flush_folder, hash_file, is_storage_error
from pipelines.dsl.fingerprint import Fingerprint, code_digest
from pipelines.dsl.manifest import Manifest, StoredFile, seal, unseal

MEND_ALTERED = "run the same command again: the stage that made it will run again"
NEAREST = 20
"""Manifests of a stage compared at most when looking for the one that a call differs least from."""


class Store:
    """A store of artifacts. Opening it touches nothing."""

    def __init__(self, uri: str) -> None:
        """Take a folder: a path or any fsspec URI."""
        self.files = Files(uri)

    @property
    def uri(self) -> str:
        """Absolute path or URI."""
        return self.files.uri

    def manifest(self, stage: str, key: str) -> Manifest | None:
        """Return the manifest under a key, or None.

        Raises:
            AlteredError: it was altered by hand.
        """
        path = f"manifests/{stage}/{key}.json"
        with self._talking("read"):
            data = self.files.read(path)
        return None if data is None else unseal(data, self.files.join(path))

    def nearest(self, stage: str) -> list[Manifest]:
        """Return the newest readable manifests of a stage, newest first."""
        found: list[Manifest] = []
        folder = f"manifests/{stage}"
        with self._talking("read"):
            entries = sorted(self.files.listing(folder), key=lambda e: e.changed_ns, reverse=True)
        for entry in entries[:NEAREST]:
            with contextlib.suppress(AlteredError):
                found.append(unseal(self.files.read(f"{folder}/{entry.path}") or b"", entry.path))
        return sorted(found, key=lambda m: m.started, reverse=True)

    def by_content(self, stage: str, content_key: str) -> Manifest | None:
        """Return a manifest whose stage, parameters and input contents are these, under whatever key it stands."""
        data = self.files.read(f"contents/{stage}/{content_key}.json")
        if data is None:
            return None
        try:
            found = self.manifest(stage, str(msgspec.json.decode(data)["key"]))
        except (AlteredError, msgspec.DecodeError, KeyError, TypeError):
            return None
        return found if found is not None and found.content_key == content_key else None

    def commit(self, manifest: Manifest) -> None:
        """Make an artifact visible: pointer by content first, the manifest last.

        Raises:
            StoreError: the store cannot be written.
        """
        with self._talking("write"):
            pointer = msgspec.json.encode({"key": manifest.key})
            self.files.write(f"contents/{manifest.stage}/{manifest.content_key}.json", pointer)
            self.files.write(f"manifests/{manifest.stage}/{manifest.key}.json", seal(manifest))

    def problems(self, manifest: Manifest, full: bool = False) -> list[str]:
        """Return what is wrong with an artifact's files, in words; empty when all is well.

        The cheap check compares sizes and time stamps (or ETags) and reads only files whose stamp changed; `full`
        reads all.
        """
        return list(_problems(self.files, manifest.path, manifest.files, full))

    def write_code(self, fingerprint: Fingerprint) -> str:
        """Keep the definitions behind a code digest; return the digest."""
        digest = code_digest(fingerprint)
        with self._talking("write"):
            if self.files.read(f"code/{digest}.json") is None:
                self.files.write(f"code/{digest}.json", msgspec.json.encode(fingerprint, order="sorted"))
        return digest

    def read_code(self, digest: str) -> Fingerprint:
        """Return the definitions behind a code digest; none when they are gone."""
        data = self.files.read(f"code/{digest}.json")
        return {} if data is None else msgspec.json.decode(data, type=dict[str, str])

    def new_attempt(self, stage: str, key: str) -> str:
        """Return a path for an attempt's files that nobody else will ever use."""
        return f"objects/{stage}/{key}/{uuid.uuid4().hex}"

    def discard(self, path: str) -> None:
        """Delete what a failed attempt has written."""
        self.files.delete(path)
        self.files.delete(f"{path}.json")

    def probe(self) -> None:
        """Write and delete a small file.

        Raises:
            StoreError: the store cannot be written.
        """
        name = f"probe-{uuid.uuid4().hex}"
        with self._talking("write"):
            self.files.write(name, b"probe")
            self.files.delete(name)

    def write_record(self, path: str, value: object) -> None:
        """Write a JSON record.

        Raises:
            StoreError: the store cannot be written.
        """
        with self._talking("write"):
            self.files.write(path, msgspec.json.format(msgspec.json.encode(value), indent=1))

    def read_record(self, path: str) -> Any:
        """Return a JSON record, or None.

        Raises:
            AlteredError: it is no JSON.
        """
        with self._talking("read"):
            data = self.files.read(path)
        try:
            return None if data is None else msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            raise AlteredError(f"the record {self.files.join(path)} cannot be read ({error}); delete it") from error

    def manifests(self) -> Iterator[tuple[str, str]]:
        """Yield `(stage, key)` of every manifest."""
        for stage in self.files.names("manifests"):
            for name in self.files.names(f"manifests/{stage}"):
                if name.endswith(".json") and not name.startswith("."):
                    yield stage, name.removesuffix(".json")

    @contextlib.contextmanager
    def _talking(self, verb: str) -> Generator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            if not is_storage_error(error):
                raise
            raise store_error(self.uri, verb, error) from error


def store_error(uri: str, verb: str, error: Exception) -> StoreError:
    """Put a file system error into words with the mend."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"the disk is full at the store {uri} ({error}); free space there or give another place with --store"
        )
    return StoreError(
        f"cannot {verb} the store {uri}: {error}; check the place and its permissions, or give --store URI"
    )


def record_files(files: Files, path: str) -> tuple[StoredFile, ...]:
    """Digest an attempt's files, flush them when they are local, and write its file list."""
    stored: list[StoredFile] = []
    for entry in files.listing(path):
        stored.append(StoredFile(entry.path, entry.size, hash_file(files, f"{path}/{entry.path}"), entry.quick_stamp))
        if files.is_local:
            _flush(Path(files.join(f"{path}/{entry.path}")))
    files.write(f"{path}.json", msgspec.json.encode(stored))
    return tuple(stored)


def fetch_artifact(uri: str) -> Path:
    """Return a local folder with an artifact's files, checked: see
    [`Artifact.local`][pipelines.dsl.artifact.Artifact.local].

    Raises:
        AlteredError: a file is missing or altered.
        StoreError: the artifact does not lie in a store.
    """
    root, mark, path = uri.rpartition("/objects/")
    if not mark:
        raise StoreError(
            f"{uri or 'an artifact without a place'} is not in a store; only artifacts of finished stages are"
        )
    files, path = Files(root), f"objects/{path}"
    listed = files.read(f"{path}.json")
    if listed is None:
        raise AlteredError(f"the file list {files.join(path)}.json is missing; {MEND_ALTERED}")
    stored = msgspec.json.decode(listed, type=tuple[StoredFile, ...])
    if files.is_local:
        _raise_first(_problems(files, path, stored, full=False))
        return Path(files.join(path))
    local = download(Files(files.join(path)), cache_folder("artifacts") / path.rsplit("/", 1)[-1])
    if uri not in _downloads:
        _raise_first(_problems(Files(str(local)), "", stored, full=True))
        _downloads.add(uri)
    return local


_downloads: set[str] = set()
"""Artifacts whose downloaded copy this process has read and compared."""


def _raise_first(problems: Iterable[str]) -> None:
    for problem in problems:
        raise AlteredError(f"{problem}; {MEND_ALTERED}")


def _problems(files: Files, path: str, stored: tuple[StoredFile, ...], full: bool) -> Iterator[str]:
    present = {entry.path: entry for entry in files.listing(path)}
    for file in stored:
        where = f"{path}/{file.path}" if path else file.path
        entry = present.get(file.path)
        if entry is None:
            yield f"{files.join(where)} is missing"
        elif entry.size != file.size:
            yield f"{files.join(where)} was altered ({entry.size} bytes, not {file.size})"
        elif (full or entry.quick_stamp != file.stamp) and hash_file(files, where) != file.digest:
            yield f"{files.join(where)} was altered (same size, other content)"


def _flush(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    flush_folder(file.parent)
