"""The record that makes an artifact visible: what it is, what it came from, what it cost."""

from typing import Any

import msgspec

from pipelines.dsl import canonical
from pipelines.dsl.errors import AlteredError


class StoredFile(msgspec.Struct, frozen=True):
    """A file of an artifact: path below its folder, bytes, blake2b-160 digest, and the time stamp or ETag it had."""

    path: str
    size: int
    digest: str
    stamp: str


class InputRecord(msgspec.Struct, frozen=True):
    """An artifact that a stage took: the parameter, the stage's display name, its key, and the digest of its
    content."""

    parameter: str
    name: str
    key: str
    content: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact's manifest.

    Attributes:
        stage: name of the stage function.
        name: display name in the graph that made it.
        key: identity, 40 hexadecimal digits.
        content_key: identity with the contents of the inputs in place of their keys.
        identity: the declared parameters, readable.
        inputs: the artifacts it took.
        path: folder below the store.
        files: its files.
        fields: its value fields.
        content: digest over files and fields.
        code: digest of the code fingerprint (`code/<digest>.json` holds the definitions).
        environment: versions, platform, processor, commit. Recorded, never keyed.
        started: ISO 8601 with UTC offset.
        wall_s: seconds.
        core_s: CPU core-seconds.
        core_source: `cpu time` or `reserved cores x wall`.
        gpu_s: GPU device-seconds reserved.
        attempts: attempts it took.
        host: where it ran.
        note: how else it came to stand under this key (adopted, code accepted), else empty.
        digest: digest of all the other fields.
    """

    stage: str
    name: str
    key: str
    content_key: str
    identity: dict[str, Any]
    inputs: tuple[InputRecord, ...]
    path: str
    files: tuple[StoredFile, ...]
    fields: dict[str, Any]
    content: str
    code: str
    environment: dict[str, Any]
    started: str
    wall_s: float
    core_s: float
    core_source: str
    gpu_s: float
    attempts: int
    host: str
    note: str = ""
    digest: str = ""


def content_of(files: tuple[StoredFile, ...], fields: dict[str, Any], where: str) -> str:
    """Return the digest of an artifact's content.

    Raises:
        CanonicalError: a value field has no canonical form (NaN, an object).
    """
    return canonical.key_of({"files": [(f.path, f.digest) for f in files], "fields": fields}, where)


def seal(manifest: Manifest) -> bytes:
    """Return a manifest's JSON text with its own digest filled in."""
    return msgspec.json.format(
        msgspec.json.encode(msgspec.structs.replace(manifest, digest=_digest(manifest))), indent=1
    )


def unseal(data: bytes, where: str) -> Manifest:
    """Read a manifest.

    Raises:
        AlteredError: it is not what was written.
    """
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise AlteredError(f"the manifest {where} cannot be read ({error})") from error
    if manifest.digest != _digest(manifest):
        raise AlteredError(f"the manifest {where} was altered by hand (its own digest does not fit)")
    return manifest


def _digest(manifest: Manifest) -> str:
    return canonical.digest(msgspec.json.encode(msgspec.structs.replace(manifest, digest=""), order="sorted"))
