from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from reca.training.checkpoints import read_history
from reca.training.progress import EventLog, progress_line, write_curve
from reca.training.state import UpdateRecord


def record(update: int) -> UpdateRecord:
    losses = {"reconstruction": 2.0, "image_to_text": 0.5}
    return UpdateRecord(update, 2.5, losses, 1e-3, 0.7, 64, "00000000abcd", 0.25, 0.005, 0.4)


def test_one_calm_line() -> None:
    line = progress_line([record(118), record(119)], 1000)
    assert line == "update 120/1000 · 4.0 updates/s · 256 images/s · waiting 2 % · recon 2 i2t 0.5 · ETA 3:40"


def test_event_files_hold_every_update_once(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.add([record(0), record(1)])
    log.add([record(1), record(2)])  # workers were replaced and repeated update 1
    log.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("loss/reconstruction")] == [0, 1, 2]
    assert events.Scalars("speed/images_per_second")[0].value == 256.0


def test_the_curve_reads_back(tmp_path: Path) -> None:
    write_curve(tmp_path / "metrics.jsonl", [record(0), record(1)])
    assert read_history(tmp_path / "metrics.jsonl") == [record(0), record(1)]
