"""Checkpoints of a run in its work folder: complete by manifest, never overwritten by a run that was replaced.

Layout of the work folder (any fsspec URI):

    lease.json                          the attempt that may write now
    attempts/ATTEMPT/u00000100/         state.safetensors, history.jsonl, and last of all manifest.json

Every start of a driver is an attempt with a folder of its own. Workers of a killed driver live on for a second or
two; the lease keeps them from writing, and what they might still finish lies in their own folder and is complete or
ignored.
"""

import errno
import json
import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, cast

import msgspec
from fsspec import AbstractFileSystem
from safetensors.torch import load_file, save_file
from torch import Tensor

from reca.data.files import filesystem
from reca.training.job import StorageError, TrainingError
from reca.training.sharding import gathered
from reca.training.state import TrainingState, UpdateRecord

MANIFEST = "manifest.json"
KEEP = 2
"""Checkpoints kept per attempt: the newest, and one more in case a kill or a bad disk spoils it."""


class LeaseLostError(TrainingError):
    """A newer attempt has taken over the work folder."""


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and blake2b digest of one file of a checkpoint."""

    bytes: int
    digest: str


@dataclass(frozen=True)
class Manifest:
    """What makes a checkpoint complete.

    Attributes:
        update: updates done.
        job: `job_digest` of the run.
        workers: train workers that wrote it.
        threads: torch threads per worker.
        final: whether it also holds the published model in `model/`.
        files: every other file by relative name.
    """

    update: int
    job: str
    workers: int
    threads: int
    final: bool
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class WorkFolder:
    """The work folder of one run, seen from one attempt.

    Attributes:
        uri: folder, path or fsspec URI.
        attempt: name of the attempt; unique per start of a driver.
        job: `job_digest`.
    """

    uri: str
    attempt: str
    job: str

    @property
    def fs(self) -> AbstractFileSystem:
        """File system of `uri`."""
        return filesystem(self.uri)[0]

    @property
    def root(self) -> str:
        """Path of the work folder inside `fs`."""
        return filesystem(self.uri)[1].rstrip("/")

    @property
    def attempts(self) -> str:
        """Folder of all attempts inside `fs`; Ray Train's storage path."""
        return f"{self.root}/attempts"

    def take_lease(self) -> None:
        """Make this attempt the only one that may write checkpoints."""
        self.fs.makedirs(self.attempts, exist_ok=True)
        self.fs.pipe_file(f"{self.root}/lease.json", json.dumps({"attempt": self.attempt}).encode())

    def check_lease(self) -> None:
        """Make sure that no other attempt has the lease.

        Raises:
            LeaseLostError: when one has.
        """
        holder = json.loads(self.fs.cat_file(f"{self.root}/lease.json"))["attempt"]
        if holder != self.attempt:
            raise LeaseLostError(f"{self.uri}: attempt {holder} has taken over; attempt {self.attempt} stops writing")

    def write_json(self, name: str, value: object) -> str:
        """Write a small file beside the checkpoints; returns its path."""
        self.fs.pipe_file(f"{self.root}/{name}", json.dumps(value, indent=1).encode())
        return f"{self.root}/{name}"

    def upload(self, local: Path, name: str) -> str:
        """Copy a checkpoint folder to `attempts/ATTEMPT/name`, manifest last; returns that path.

        Raises:
            LeaseLostError: when a newer attempt writes here.
        """
        self.check_lease()
        fs, target = self.fs, f"{self.attempts}/{self.attempt}/{name}"
        if fs.exists(target):
            fs.rm(target, recursive=True)
        names = sorted(str(path.relative_to(local)) for path in local.rglob("*") if path.is_file())
        for file in [*(name for name in names if name != MANIFEST), MANIFEST]:
            fs.makedirs(f"{target}/{file}".rpartition("/")[0], exist_ok=True)
            fs.put_file(str(local / file), f"{target}/{file}")
        return target

    def candidates(self) -> list[tuple[str, Manifest]]:
        """Complete checkpoints of this job by size, of all attempts, newest update first."""
        found: list[tuple[str, Manifest]] = []
        for path in self.fs.glob(f"{self.attempts}/*/*/{MANIFEST}"):
            folder = str(path).rpartition("/")[0]
            manifest = _read_manifest(self.fs, str(path))
            if manifest is not None and manifest.job == self.job and self._sizes_hold(folder, manifest):
                found.append((folder, manifest))
        return sorted(found, key=lambda entry: (entry[1].update, entry[1].final), reverse=True)

    def fetch(self, folder: str, manifest: Manifest, into: Path) -> bool:
        """Copy a checkpoint.

        Args:
            folder: the checkpoint inside `fs`.
            manifest: its manifest.
            into: local folder; made where it is missing.

        Returns:
            False when a digest does not hold; `into` is then not to be used.
        """
        for name, entry in manifest.files.items():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            self.fs.get_file(f"{folder}/{name}", str(into / name))
            if _digest(into / name) != entry.digest:
                return False
        return True

    def forget_other_attempts(self, kept: str | None) -> None:
        """Remove folders of earlier attempts, save the one that holds the checkpoint `kept`."""
        if not self.fs.exists(self.attempts):
            return
        for folder in self.fs.ls(self.attempts, detail=False):
            name = str(folder).rstrip("/").rpartition("/")[2]
            if name != self.attempt and not (kept and kept.startswith(f"{self.attempts}/{name}/")):
                self.fs.rm(str(folder), recursive=True)

    def _sizes_hold(self, folder: str, manifest: Manifest) -> bool:
        found = cast(dict[str, dict[str, Any]], self.fs.find(folder, detail=True))
        held = {path.removeprefix(f"{folder}/"): info["size"] for path, info in found.items()}
        return all(held.get(name) == entry.bytes for name, entry in manifest.files.items())


def write_checkpoint(folder: Path, state: TrainingState, job: str, workers: int, threads: int, final: bool) -> None:
    """Write a checkpoint. In a sharded run every other worker must call `lend_parts` meanwhile.

    Args:
        folder: an empty local folder.
        state: what is written.
        job: `job_digest` of the run.
        workers: train workers of the run.
        threads: torch threads of each.
        final: also write `model/` and, where an average is kept, `ema.safetensors`, ready to publish.
    """
    _write_tensors(folder, state, final)
    lines = [json.dumps(asdict(record)) for record in state.history]
    (folder / "history.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if final:
        with gathered(state.losses, keep=True) if state.sharded else nullcontext():
            state.model.save(folder / "model")
    files = {
        str(path.relative_to(folder)): FileEntry(path.stat().st_size, _digest(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = Manifest(state.update, job, workers, threads, final, files)
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))


def lend_parts(state: TrainingState, final: bool) -> None:
    """What other workers do while one is in `write_checkpoint`: in a sharded run it needs their parts."""
    if not state.sharded:
        return
    for _ in state.whole_tensors():
        pass
    if final:
        with gathered(state.losses, keep=False):
            pass


def _write_tensors(folder: Path, state: TrainingState, final: bool) -> None:
    tensors = state.tensors()
    save_file(tensors, folder / "state.safetensors")
    averages = {name.removeprefix("ema/"): value for name, value in tensors.items() if name.startswith("ema/")}
    if final and averages:
        save_file(averages, folder / "ema.safetensors")


def write_failure(error: OSError, uri: str) -> StorageError | None:
    """What to tell about a write that would fail again: no space, no permission, read-only. None for passing faults."""
    lasting = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
    if error.errno not in lasting:
        return None
    return StorageError(
        f"a checkpoint could not be written to {uri}: {error}. Free space there or make the folder writable, then "
        "run the same command again; training continues from the last checkpoint that is whole"
    )


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], list[UpdateRecord]]:
    """Tensors, on the CPU, as `TrainingState.tensors` gave them, and history of a checkpoint in a local folder."""
    return load_file(folder / "state.safetensors"), read_history(folder / "history.jsonl")


def read_history(path: Path) -> list[UpdateRecord]:
    """Records of a loss curve, one JSON line each."""
    return [msgspec.json.decode(line, type=UpdateRecord) for line in path.read_bytes().splitlines()]


def resume(state: TrainingState, work: WorkFolder, update: int | None = None) -> bool:
    """Continue from the newest checkpoint (or the newest of one update) whose digests hold.

    Args:
        state: changed in place.
        work: the run's work folder.
        update: updates done in the wanted checkpoint; None for any.

    Returns:
        False when there is none; the state is then untouched.

    Raises:
        TrainingError: when `update` is given and no intact checkpoint of it is found.
    """
    for folder, manifest in work.candidates():
        if update in (None, manifest.update) and _restore(state, work, folder, manifest):
            return True
    if update is not None:
        raise TrainingError(
            f"{work.uri}: the checkpoint of update {update} was there a moment ago; run the same command again"
        )
    return False


def _restore(state: TrainingState, work: WorkFolder, folder: str, manifest: Manifest) -> bool:
    local = Path(tempfile.mkdtemp(prefix="reca-resume-"))
    try:
        if not work.fetch(folder, manifest, local):
            return False
        tensors, history = read_checkpoint(local)
        state.restore(tensors, manifest.update, history)
        return True
    finally:
        shutil.rmtree(local, ignore_errors=True)


def _read_manifest(fs: AbstractFileSystem, path: str) -> Manifest | None:
    try:
        return msgspec.json.decode(fs.cat_file(path), type=Manifest)
    except (msgspec.DecodeError, FileNotFoundError):
        return None  # half written, or removed by rotation between listing and reading


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "blake2b").hexdigest()[:32]
