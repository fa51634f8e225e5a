"""What a person and TensorBoard see of a run: one calm line, event files, and the loss curve."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from reca.training.state import UpdateRecord

SHORT = {"reconstruction": "recon", "image_to_text": "i2t", "text_to_image": "t2i"}


def progress_line(recent: Sequence[UpdateRecord], updates: int) -> str:
    """One line over the latest records (at least one), such as
    `update 120/1000 · 3.1 updates/s · 198 images/s · waiting 2 % · recon 2.13 i2t 0.41 · ETA 4:42`."""
    seconds = max(sum(record.seconds for record in recent), 1e-9)
    done = recent[-1].update + 1
    rate = len(recent) / seconds
    images = sum(record.samples for record in recent) / seconds
    waiting = 100 * sum(record.wait_seconds for record in recent) / seconds
    terms = " ".join(
        f"{SHORT.get(task, task)} {sum(record.losses[task] for record in recent) / len(recent):.3g}"
        for task in recent[-1].losses
    )
    left = int((updates - done) / rate)
    hours, minutes = left // 3600, left // 60 % 60
    eta = f"{hours}:{minutes:02d}:{left % 60:02d}" if hours else f"{minutes}:{left % 60:02d}"
    speed = f"{rate:.1f} updates/s · {images:.0f} images/s · waiting {waiting:.0f} %"
    return f"update {done}/{updates} · {speed} · {terms} · ETA {eta}"


class EventLog:
    """TensorBoard event files of a run. Updates that come a second time, after workers were replaced, are written
    once."""

    def __init__(self, folder: Path) -> None:
        """Write below `folder`."""
        self._writer = SummaryWriter(str(folder))
        self._next = 0

    def add(self, records: Sequence[UpdateRecord]) -> None:
        """Append records in order."""
        for record in records:
            if record.update < self._next:
                continue
            self._next = record.update + 1
            scalars = {f"loss/{task}": value for task, value in record.losses.items()} | {
                "loss/joint": record.loss,
                "optimizer/learning_rate": record.learning_rate,
                "optimizer/grad_norm": record.grad_norm,
                "speed/images_per_second": record.samples / max(record.seconds, 1e-9),
                "speed/share_waiting_for_data": record.wait_seconds / max(record.seconds, 1e-9),
            }
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, record.update)

    def close(self) -> None:
        """Flush and close the event files."""
        self._writer.close()


def write_curve(path: Path, history: Sequence[UpdateRecord]) -> None:
    """Write the loss curve, one JSON line per update."""
    path.write_text("".join(f"{json.dumps(asdict(record))}\n" for record in history), encoding="utf-8")
