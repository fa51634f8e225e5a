"""Trials of a sweep as files in the store: what a killed sweep continues from, and the tables it leaves.

Layout of a sweep's folder (any fsspec URI):

    sweep.json              recipe, space and settings; written first
    trials/0000.json        one file a trial, rewritten at each of its events
    trials.csv              all trials as a table, best first
    best.json               recipe of the best trial
"""

import csv
import io
import json
import posixpath
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import fsspec
import msgspec

State = Literal["running", "done", "stopped", "failed", "broken"]
"""`done`: scored at full length. `stopped`: ended early by ASHA. `failed`: diverged, counts as the worst score.
`running`, `broken` (an error that was not the trial's fault): taken up again by the next start of the sweep."""

FINISHED: frozenset[State] = frozenset({"done", "stopped", "failed"})


class RecordError(ValueError):
    """A file of the sweep cannot be written or read; the message names it and the mend."""


@dataclass(frozen=True)
class Report:
    """What a trial reached.

    Attributes:
        updates: optimizer updates of the training.
        score: after them, 0 to 1, higher is better.
    """

    updates: int
    score: float


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Attributes:
        number: 0, 1, 2 ... in order of start.
        params: value by field.
        state: see `State`.
        reports: scores at growing length.
        seconds: wall time spent on it by the sweep that finished it.
        error: what went wrong; empty when nothing did.
    """

    number: int
    params: dict[str, float]
    state: State = "running"
    reports: tuple[Report, ...] = ()
    seconds: float = 0.0
    error: str = ""

    @property
    def score(self) -> float:
        """Last reported score; 0 when there is none."""
        return self.reports[-1].score if self.reports else 0.0


@dataclass(frozen=True)
class SweepFolder:
    """The folder of one sweep.

    Attributes:
        uri: path or fsspec URI.
    """

    uri: str

    def load(self) -> list[TrialRecord]:
        """All committed trials, by number.

        Raises:
            RecordError: a file was altered and is no record any more.
        """
        fs, root = fsspec.url_to_fs(self.uri)
        folder = posixpath.join(root, "trials")
        fs.invalidate_cache()
        names = sorted(name for name in fs.find(folder) if name.endswith(".json")) if fs.exists(folder) else []
        return [self._read(fs, name) for name in names]

    def save(self, record: TrialRecord) -> None:
        """Commit a trial, in place of what was known about it."""
        self.write(f"trials/{record.number:04d}.json", _to_json(asdict(record)))

    def write_tables(self, records: Sequence[TrialRecord]) -> str:
        """Write `trials.csv`, best first, and return its URI."""
        table = io.StringIO()
        fields = sorted({name for record in records for name in record.params})
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["trial", "state", "score", "updates", *fields, "seconds", "error"])
        for record in ranked(records):
            updates = record.reports[-1].updates if record.reports else 0
            values = [record.params.get(name, "") for name in fields]
            cells = [record.number, record.state, f"{record.score:.4f}", updates, *values]
            writer.writerow([*cells, f"{record.seconds:.1f}", record.error])
        return self.write("trials.csv", table.getvalue().encode())

    def write_json(self, name: str, value: Mapping[str, Any]) -> str:
        """Write a JSON file and return its URI."""
        return self.write(name, _to_json(value))

    def write(self, name: str, content: bytes) -> str:
        """Write a file so that a reader finds the old content or the new one, never a part; return its URI.

        Raises:
            RecordError: the folder cannot be written to.
        """
        fs, root = fsspec.url_to_fs(self.uri)
        path = posixpath.join(root, name)
        draft = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            fs.makedirs(posixpath.dirname(path), exist_ok=True)
            fs.pipe_file(draft, content)
            fs.mv(draft, path)
        except OSError as error:
            raise RecordError(
                f"cannot write {path}: {error}; check free space and permissions, or name another --store"
            ) from error
        return posixpath.join(self.uri, name)

    def _read(self, fs: fsspec.AbstractFileSystem, path: str) -> TrialRecord:
        try:
            return msgspec.json.decode(fs.cat_file(path), type=TrialRecord)
        except msgspec.DecodeError as error:
            raise RecordError(f"{path} is not a trial record ({error}); delete it and the trial runs again") from error


def ranked(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials scored at full length first, by score, then the others by score; equal ones in order of start."""
    return sorted(records, key=lambda r: (r.state != "done", -r.score, r.number))


def best_of(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The best trial that was scored at full length; None when there is none."""
    first = ranked(records)[:1]
    return first[0] if first and first[0].state == "done" else None


def _to_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
