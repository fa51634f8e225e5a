"""Pictures of a benchmark drawn by a model, sharded over Ray actors, in the benchmark's published folder layout.

A picture's noise is keyed by (benchmark, item, sample) and nothing else, and every batch has the same size, the last
one filled up: a subset, a restart or another number of workers gives the same pictures. Pictures that are there are not
drawn again.
"""

import io
import json
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from typing import Any, Protocol, cast

import msgspec
import torch
from fsspec.core import url_to_fs
from fsspec.spec import AbstractFileSystem
from PIL import Image
from torch import Tensor

from reca.config import ExecutionConfig, SamplingConfig
from reca.evaluation.actors import spread
from reca.evaluation.benchmark import Benchmark
from reca.evaluation.files import put
from reca.evaluation.geneval import Prompt
from reca.evaluation.picture_files import find_pictures
from reca.evaluation.records import BenchmarkError
from reca.evaluation.run_config import DrawingConfig

SETTINGS = "drawing.json"
"""What a folder of pictures was drawn with; a folder is continued only with the same."""

PROMPT_FILE = "metadata.jsonl"
"""GenEval's official scripts read each prompt's record from this file beside its samples."""


class Draws(Protocol):
    """The part of `reca.models.base.UnifiedModel` that is needed here; a torch module."""

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        """One picture per prompt: uint8 [B, 3, S, S]."""
        ...


@dataclass(frozen=True)
class Drawing:
    """One picture to draw.

    Attributes:
        path: in the benchmark's layout.
        prompt: text given to the model.
        seed: 63 bits.
    """

    path: str
    prompt: str
    seed: int


@dataclass(frozen=True)
class DrawReport:
    """What was done.

    Attributes:
        pictures: pictures in the folder.
        drawn: how many of them were drawn by this call.
    """

    pictures: int
    drawn: int


def picture_seed(benchmark: str, item: str, sample: int, seed: int = 0) -> int:
    """Seed (63 bits) of one picture's noise: a function of these four, never of the batch or the worker."""
    text = json.dumps([benchmark, item, sample, seed]).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") >> 1


def drawings(benchmark: Benchmark[Any, Any], seed: int) -> list[Drawing]:
    """Every picture of a benchmark.

    Raises:
        BenchmarkError: when its items edit a picture: there is nothing to draw from text alone.
    """
    if any(item.source is not None for item in benchmark.items):
        raise BenchmarkError(f"{benchmark.name} edits pictures; make them elsewhere and score them with --images")
    return [
        Drawing(path, item.prompt, picture_seed(benchmark.name, item.key, sample, seed))
        for item in benchmark.items
        for sample, path in enumerate(item.pictures)
    ]


def draw(
    benchmark: Benchmark[Any, Any],
    load: Callable[[], Draws],
    folder: str,
    config: DrawingConfig,
    execution: ExecutionConfig,
    progress: Callable[[str], None] | None = None,
) -> DrawReport:
    """Draw what is not there yet. Ray must be initialized unless nothing is missing.

    Args:
        benchmark: what to draw.
        load: loads the model on the CPU; called once in each actor, so it must be picklable.
        folder: path or fsspec URL; made when missing.
        config: noise seed, sampler settings and batch size.
        execution: `workers` actors of `cpus_per_worker` CPUs and `gpus_per_worker` GPUs.
        progress: called with one line now and then.

    Raises:
        BenchmarkError: when the folder holds pictures that were drawn with other settings.
    """
    files, root = cast("tuple[AbstractFileSystem, str]", url_to_fs(folder))
    files.makedirs(root, exist_ok=True)
    claim(files, root, benchmark, config)
    for path, content in side_files(benchmark):
        put(files, posixpath.join(root, path), content)
    missing = set(find_pictures(folder, benchmark.items).missing)
    everything = drawings(benchmark, config.seed)
    todo = [item for item in everything if item.path in missing]
    done = len(everything) - len(todo)
    batches = [todo[start : start + config.batch_size] for start in range(0, len(todo), config.batch_size)]
    for pictures in spread(batches, partial(Painter, load, config), execution):
        for path, content in pictures:
            put(files, posixpath.join(root, path), content)
        done += len(pictures)
        if progress:
            progress(f"{done:,} of {len(everything):,} pictures drawn")
    return DrawReport(len(everything), len(todo))


class Painter:
    """Draws batches.

    Args:
        load: loads the model on the CPU.
        config: sampler settings and batch size.
        device: `cpu` or `cuda`.
    """

    def __init__(self, load: Callable[[], Draws], config: DrawingConfig, device: str) -> None:
        self.config = config
        self.model = cast("Any", load()).to(device).eval()

    def __call__(self, batch: Sequence[Drawing]) -> list[tuple[str, bytes]]:
        """Path and PNG file of each picture. A short batch is filled up with its last drawing: the bits of a matrix
        product may depend on the batch size.
        """
        filled = [*batch, *[batch[-1]] * (self.config.batch_size - len(batch))]
        with torch.inference_mode():
            pixels = self.model.generate([d.prompt for d in filled], [d.seed for d in filled], self.config.sampling)
        return [(d.path, png_file(picture)) for d, picture in zip(batch, pixels.cpu(), strict=False)]


def png_file(picture: Tensor) -> bytes:
    """uint8 [3, H, W] to a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(buffer, format="PNG")
    return buffer.getvalue()


def side_files(benchmark: Benchmark[Any, Any]) -> Iterator[tuple[str, bytes]]:
    """Path and content of what the official scripts want beside the pictures: GenEval's prompt records."""
    for item in benchmark.items:
        if isinstance(item.asked, Prompt):
            yield posixpath.join(item.key, PROMPT_FILE), msgspec.json.encode(item.asked) + b"\n"


def claim(files: AbstractFileSystem, root: str, benchmark: Benchmark[Any, Any], config: DrawingConfig) -> None:
    """Write down what the folder is drawn with, or compare with what stands there."""
    wanted = {"benchmark": benchmark.name, "edition": benchmark.edition, **asdict(config)}
    path = posixpath.join(root, SETTINGS)
    if not files.exists(path):
        put(files, path, json.dumps(wanted, indent=1).encode())
        return
    found = json.loads(files.cat_file(path))
    if odd := [name for name in wanted if found.get(name) != json.loads(json.dumps(wanted[name]))]:
        raise BenchmarkError(
            f"{path}: the pictures there were drawn with {odd[0]}={found.get(odd[0])}, not {wanted[odd[0]]}; "
            "draw into another folder"
        )
