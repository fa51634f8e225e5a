"""Peak memory of prepare, encode and one streamed epoch, with 1x and 8x the images: it must not grow with the data set.

Each figure is one fresh process with its own Ray; memory is the anonymous (private) memory of the process and all its
descendants, sampled every 50 ms. Shared pages (object store, page cache) are not in it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import harness
import torch
from data_delivery import write_jpegs
from torch import Tensor, nn

from cluster.connect import connect
from reca.config import DataConfig, ExecutionConfig
from reca.data.encode import encode
from reca.data.encoded import EncodedDataset
from reca.data.prepare import prepare
from reca.data.stream import BatchPlan, stream_batches
from reca.models.base import Geometry

STAGES = ("prepare", "encode", "stream")


class PatchEncoder(nn.Module):
    """Stands in for a model: 256 patch colours as features, 4 KB a picture with its codes."""

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """Patch colours of pictures.

        Args:
            pixels: uint8 [B, 3, S, S].

        Returns:
            Codes int64 [B, 256], 0 to 255, and features float32 [B, 256, 6]: RGB in 0 to 255, then in 0 to 1.
        """
        patches = nn.functional.adaptive_avg_pool2d(pixels.float(), 16).flatten(2).transpose(1, 2)
        return {"codes": patches.mean(-1).long(), "features": torch.cat([patches, patches / 255], dim=-1)}


def link_copies(files: Path, target: Path, copies: int) -> None:
    """Make a folder of `copies` times the files, as hard links: the same bytes, other names.

    Args:
        files: folder of files.
        target: must not exist; on the same file system.
        copies: how many names each file gets.
    """
    target.mkdir()
    for copy in range(copies):
        for path in files.iterdir():
            os.link(path, target / f"{copy}-{path.name}")


def run_stages(source: str, work: Path) -> None:
    """The child's work; prints `stage MiB` for each of `STAGES`.

    Args:
        source: folder of pictures.
        work: folder that receives shards and encoded shards.
    """
    connect(cpus=2)
    shards, encoded = work / "shards", work / "encoded"

    def stream() -> None:
        rows = EncodedDataset(str(encoded)).manifest.rows
        for _ in stream_batches(str(encoded), BatchPlan(rows, 64, 0), 0, rows // 64):
            pass

    stages: dict[str, Callable[[], object]] = {
        "prepare": lambda: prepare(source, shards, DataConfig(images=0), "images"),
        "encode": lambda: encode(
            str(shards), encoded, PatchEncoder, Geometry(64, "squash"), ExecutionConfig(workers=1)
        ),
        "stream": stream,
    }
    for name, work_of in stages.items():
        with _Peak() as peak:
            work_of()
        print(f"{name} {peak.mib:.1f}", flush=True)


class _Peak:
    mib = 0.0

    def __enter__(self) -> "_Peak":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.mib = max(self.mib, private_mib(os.getpid()))
            time.sleep(0.05)


def private_mib(root: int) -> float:
    """Anonymous memory in MiB of a process and its descendants."""
    fields = {
        pid: dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        for pid, text in harness.processes("status").items()
    }
    members = harness.family(root, {pid: int(values["PPid"]) for pid, values in fields.items()})
    # Processes that ended and wait to be collected have no RssAnon.
    return sum(int(fields[pid].get("RssAnon", "0 kB").split()[0]) for pid in members if pid in fields) / 1024


def measure(source: Path) -> dict[str, float]:
    """Peak memory in MiB of every stage on a folder of pictures, all in one fresh process.

    Raises:
        CalledProcessError: that process failed.
    """
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, __file__, "--child", str(source), work]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    lines = [line.split() for line in done.stdout.splitlines() if line.split()[0] in STAGES]
    return {name: float(value) for name, value in lines}


def by_stage(source: Path) -> dict[str, Callable[[], float]]:
    """One case a stage; the first measures all of them anew, the others read its figures. Run them in order."""
    figures: dict[str, float] = {}

    def figure(stage: str) -> float:
        if stage == STAGES[0]:
            figures.update(measure(source))
        return figures[stage]

    return {stage: partial(figure, stage) for stage in STAGES}


def main() -> None:
    """Run the stages at both sizes in fresh processes, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=2, metavar=("SOURCE", "WORK"))
    parser.add_argument("--files", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.child:
        run_stages(arguments.child[0], Path(arguments.child[1]))
        return
    where = harness.machine()
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "files"
        files.mkdir()
        write_jpegs(files, arguments.files, 256)
        cases: dict[str, Callable[[], float]] = {}
        for copies in (1, 8):
            source = Path(folder) / f"x{copies}"
            link_copies(files, source, copies)
            cases |= {f"{stage} {copies}x": case for stage, case in by_stage(source).items()}
        figures = harness.interleave(cases, arguments.repeats, "MiB")
    ratios = [(f"{stage} 8x", f"{stage} 1x", "at most 1.1") for stage in STAGES]
    notes = (
        f"1x is {arguments.files} JPEG pictures of 256 x 256 px, 8x the same under eight names. Peak anonymous memory "
        "of the driver and every Ray process together, sampled every 50 ms, over one stage in a fresh Ray of 2 CPUs."
    )
    harness.write_results("peak_memory", "Peak memory against data set size", figures, ratios, where, notes)


if __name__ == "__main__":
    main()
