"""Images per second delivered to a train loop: our stream against torch's DataLoader, on the same JPEG bytes and cores.

Every case delivers uint8 [64, 3, 224, 224] batches in shuffled order; the clock starts when the first batch is there,
so start-up is not counted for anyone.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
import ray
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cluster.connect import connect
from reca.config import DataConfig
from reca.data.fit import fit
from reca.data.prepare import prepare
from reca.data.stream import BatchPlan, stream_images

BATCH = 64
Decoder = Callable[[bytes, int], NDArray[np.uint8]]
"""A JPEG file and a side S in pixels to uint8 [3, S, S], RGB, both sides scaled to S."""


def write_jpegs(folder: Path, count: int, side: int) -> None:
    """Write pictures with the spectrum of photographs (amplitude falling as frequency^-1.5), quality 90, 4:2:0.

    Args:
        folder: receives `000000.jpg` and so on.
        count: number of pictures.
        side: of the square, in pixels; at 256 a file has about 20 KB.
    """
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    falloff = np.maximum(frequency, 1 / side) ** -1.5
    for i in range(count):
        noise = np.fft.rfft2(rng.normal(size=(3, side, side))) * falloff
        picture = np.fft.irfft2(noise, (side, side)).transpose(1, 2, 0)
        rgb = np.ascontiguousarray(128 + 50 * picture / picture.std()).clip(0, 255).astype(np.uint8)
        (folder / f"{i:06d}.jpg").write_bytes(simplejpeg.encode_jpeg(rgb, 90, "RGB", "420"))


class JpegFolder(Dataset[Tensor]):
    """What one would write for torch: read a file, decode, resize.

    Args:
        folder: holds JPEG files and nothing else.
        size: side S in pixels.
        decoder: from bytes to pixels.
    """

    def __init__(self, folder: Path, size: int, decoder: Decoder) -> None:
        self.files = sorted(folder.iterdir())
        self.size = size
        self.decoder = decoder

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        """Picture of one file, uint8 [3, S, S]."""
        return torch.from_numpy(self.decoder(self.files[index].read_bytes(), self.size))


def pillow(data: bytes, size: int) -> NDArray[np.uint8]:
    """Pillow decodes and resizes; a `Decoder`."""
    picture = Image.open(io.BytesIO(data)).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def simplejpeg_pillow(data: bytes, size: int) -> NDArray[np.uint8]:
    """simplejpeg decodes, Pillow resizes; a `Decoder`."""
    picture = Image.fromarray(simplejpeg.decode_jpeg(data)).resize((size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def simplejpeg_fit(data: bytes, size: int) -> NDArray[np.uint8]:
    """simplejpeg decodes, our own resize: the strongest loader we can write for torch; a `Decoder`."""
    return np.ascontiguousarray(fit(simplejpeg.decode_jpeg(data), size, "squash"))


OURS = "Ray Data stream (ours)"
PEERS: dict[str, Decoder] = {
    "DataLoader Pillow": pillow,
    "DataLoader simplejpeg": simplejpeg_pillow,
    "DataLoader simplejpeg + our fit": simplejpeg_fit,
}


@dataclass(frozen=True)
class Delivery:
    """What one run gave.

    Attributes:
        per_second: images per second after the first batch.
        per_cpu_second: images per CPU-second of all processes, start-up and first batch included.
    """

    per_second: float
    per_cpu_second: float


def deliver(
    batches: Callable[[], Iterator[Any]], images: int, size_of: Callable[[Any], int], ignore: Set[int] = frozenset()
) -> Delivery:
    """Take images from a fresh iterator and time them.

    Args:
        batches: makes the iterator.
        images: least number of images taken behind the first batch.
        size_of: images of a batch.
        ignore: ids of processes whose CPU time is not the case's own.
    """
    cpu = harness.cpu_seconds(ignore)
    found = batches()
    first = size_of(next(found))
    begin, seen = time.perf_counter(), 0
    while seen < images:
        seen += size_of(next(found))
    spent = time.perf_counter() - begin
    return Delivery(seen / spent, (first + seen) / (harness.cpu_seconds(ignore) - cpu))


def loader_case(folder: Path, size: int, decoder: Decoder, images: int, workers: int) -> Delivery:
    """Delivery by torch's DataLoader.

    Args:
        folder: holds the JPEG files.
        size: side in pixels.
        decoder: from bytes to pixels.
        images: least number of images behind the first batch; epochs follow each other.
        workers: worker processes.
    """
    loader = DataLoader(JpegFolder(folder, size, decoder), BATCH, shuffle=True, num_workers=workers, drop_last=True)

    def epochs() -> Iterator[Tensor]:
        while True:
            yield from loader

    return deliver(epochs, images, len, ignore=harness.descendants())  # Ray idles beside it


def ray_case(shards: str, rows: int, size: int, images: int) -> Delivery:
    """Delivery by our stream.

    Args:
        shards: folder of canonical shards.
        rows: pictures in it.
        size: side in pixels.
        images: least number of images behind the first batch.
    """
    plan = BatchPlan(rows, BATCH, seed=0)
    return deliver(
        lambda: stream_images(shards, plan, 0, images // BATCH + 2, size, "squash"),
        images,
        lambda batch: len(torch.from_numpy(batch.pixels)),
    )


def main() -> None:
    """Measure every case in turn, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=12_800)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=12_000, help="delivered in each run, within the first epoch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--name", default="data_delivery")
    arguments = parser.parse_args()
    where = harness.machine()
    torch.set_num_threads(1)
    connect(cpus=where.cores)
    with tempfile.TemporaryDirectory() as folder:
        files, shards = Path(folder) / "files", Path(folder) / "shards"
        files.mkdir()
        write_jpegs(files, arguments.files, arguments.side)
        prepare(str(files), shards, DataConfig(images=0), "images")
        size, images = arguments.size, arguments.images
        mean_bytes = sum(path.stat().st_size for path in files.iterdir()) // arguments.files
        runs: dict[str, Callable[[], Delivery]] = {OURS: lambda: ray_case(str(shards), arguments.files, size, images)}
        for name, decoder in PEERS.items():
            runs[name] = lambda decoder=decoder: loader_case(files, size, decoder, images, where.cores)
        per_cpu: dict[str, list[float]] = {name: [] for name in runs}

        def timed(name: str) -> float:
            delivery = runs[name]()
            per_cpu[name].append(delivery.per_cpu_second)
            return delivery.per_second

        figures = harness.interleave({name: partial(timed, name) for name in runs}, arguments.repeats, "images/s")
    ray.shutdown()
    ratios = [(OURS, name, "2" if decoder is pillow else "1") for name, decoder in PEERS.items()]
    notes = (
        f"{arguments.files} JPEG files of {arguments.side} x {arguments.side} px ({mean_bytes} bytes each), "
        f"antialiased bicubic to {size} x {size}, uint8 [{BATCH}, 3, {size}, {size}] batches in shuffled order to one "
        f"process; {images} images a run, clock from the first batch. DataLoader: {where.cores} worker processes. "
        f"Ours: canonical shards with the same bytes, {where.cores} decoding threads. `simplejpeg` resizes with "
        "Pillow; `+ our fit` with torch's uint8 kernel, as we do."
    )
    title = "Image delivery to the train loop"
    harness.write_results(arguments.name, title, figures, ratios, where, notes)
    per_cpu_second = harness.Comparison("images/CPU-s", {name: values[1:] for name, values in per_cpu.items()})
    notes += (
        " CPU time is of all processes of a case, start-up included; it hardly depends on the machine's other load."
    )
    harness.write_results(f"{arguments.name}_cpu", f"{title}, per CPU-second", per_cpu_second, ratios, where, notes)


if __name__ == "__main__":
    main()
