"""Committed trials: what is read back, ranked, and refused."""

import csv
from pathlib import Path

import pytest

from tuning.records import RecordError, Report, SweepFolder, TrialRecord, best_of, ranked

DONE = TrialRecord(0, {"a": 1.0}, "done", (Report(10, 0.1), Report(30, 0.4)), 12.5)
BETTER = TrialRecord(1, {"a": 2.0}, "done", (Report(10, 0.2), Report(30, 0.6)), 9.0)
STOPPED = TrialRecord(2, {"a": 3.0}, "stopped", (Report(10, 0.9),), 1.0)
CUT_OFF = TrialRecord(3, {"a": 4.0})


def test_round_trip_and_overwrite(tmp_path: Path) -> None:
    folder = SweepFolder(str(tmp_path / "sweep"))
    assert folder.load() == []
    for record in (STOPPED, DONE, CUT_OFF):
        folder.save(record)
    assert folder.load() == [DONE, STOPPED, CUT_OFF]
    folder.save(TrialRecord(3, {"a": 4.0}, "failed", (Report(30, 0.0),), 1.0, "NaN"))
    assert folder.load()[-1].state == "failed"
    assert not list(tmp_path.rglob("*.tmp"))


def test_any_fsspec_place() -> None:
    folder = SweepFolder("memory://sweeps/one")
    folder.save(DONE)
    assert folder.load() == [DONE]
    assert folder.write_tables([DONE]) == "memory://sweeps/one/trials.csv"


def test_a_trial_that_was_stopped_early_is_never_the_best() -> None:
    assert ranked([STOPPED, DONE, CUT_OFF, BETTER]) == [BETTER, DONE, STOPPED, CUT_OFF]
    assert best_of([STOPPED, DONE, BETTER]) == BETTER
    assert best_of([STOPPED, CUT_OFF]) is None
    assert best_of([]) is None


def test_table(tmp_path: Path) -> None:
    uri = SweepFolder(str(tmp_path)).write_tables([DONE, BETTER])
    rows = list(csv.DictReader(Path(uri).read_text().splitlines()))
    assert [(row["trial"], row["score"], row["updates"], row["a"]) for row in rows] == [
        ("1", "0.6000", "30", "2.0"),
        ("0", "0.4000", "30", "1.0"),
    ]


def test_altered_record_is_named(tmp_path: Path) -> None:
    folder = SweepFolder(str(tmp_path))
    folder.save(DONE)
    (tmp_path / "trials/0000.json").write_text('{"number": "x"}')
    with pytest.raises(RecordError, match=r"0000\.json is not a trial record .*delete it"):
        folder.load()


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=r"cannot write .*name another --store"):
        SweepFolder(str(tmp_path / "file")).save(DONE)
