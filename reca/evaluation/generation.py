"""Pictures of a benchmark drawn by a model, sharded over Ray actors, in the benchmark's published folder layout.

A picture's noise is keyed by (benchmark, item, sample) and nothing else, and every batch has the same size, the last
one filled up: a subset, a restart or another number of workers gives the same pictures. Pictures that are there are not
drawn again. Those that the model refuses, because its numbers are not finite, stay missing, with the reason in
`refused.json`; the next call tries them once more. Edits read the picture that they change; those drawn together have
sources of one size.
"""

import json
import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from typing import Any, Protocol, cast

import msgspec
import torch
from fsspec.core import url_to_fs
from fsspec.spec import AbstractFileSystem
from torch import Tensor

from reca.config import ExecutionConfig, SamplingConfig
from reca.evaluation.actors import spread
from reca.evaluation.benchmark import Benchmark
from reca.evaluation.dpgbench import DPGBench
from reca.evaluation.files import put
from reca.evaluation.gedit import GEdit
from reca.evaluation.geneval import Prompt
from reca.evaluation.originals import as_tensor, copied, from_records, picture_sizes
from reca.evaluation.picture_files import REFUSED, SETTINGS, find_pictures, read_picture
from reca.evaluation.pictures import png
from reca.evaluation.records import BenchmarkError
from reca.evaluation.refusals import tried
from reca.evaluation.run_config import GRID_CELLS, DrawingConfig
from reca.evaluation.tables import parquet_files
from reca.evaluation.tally import Tally, spaced
from reca.models.base import Editor
from reca.models.finite import MEND

PROMPT_FILE = "metadata.jsonl"
"""GenEval's official scripts read each prompt's record from this file beside its samples."""


class Draws(Protocol):
    """The part of `reca.models.base.UnifiedModel` that is needed here; a torch module."""

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        """Draw one picture for each prompt.

        Args:
            prompts: B texts.
            seeds: of the noise, one for each.
            sampling: sampler settings.

        Returns:
            uint8 [B, 3, S, S], RGB.
        """
        ...


@dataclass(frozen=True)
class Drawing:
    """One picture to draw.

    Attributes:
        path: in the benchmark's layout.
        prompt: text given to the model, or the instruction.
        seeds: 63 bits for each sample in the file: one, or those of a 2 x 2 grid in reading order.
        source: path or URL of the picture that is edited; None draws from text alone.
    """

    path: str
    prompt: str
    seeds: tuple[int, ...]
    source: str | None = None


@dataclass(frozen=True)
class DrawReport:
    """What was done.

    Attributes:
        pictures: pictures in the folder.
        drawn: how many of them were drawn by this call.
        refused: how many are missing, because the model refused them.
    """

    pictures: int
    drawn: int
    refused: int


def picture_seed(benchmark: str, item: str, sample: int, seed: int = 0) -> int:
    """Seed of one picture's noise: a function of these four, never of the batch or the worker.

    Args:
        benchmark: its published name.
        item: key of the item.
        sample: number of the sample among the item's, from 0; those of a grid count one by one.
        seed: of the run.

    Returns:
        63 bits.
    """
    text = json.dumps([benchmark, item, sample, seed]).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") >> 1


def drawings(benchmark: Benchmark[Any, Any], seed: int, originals: str = "") -> list[Drawing]:
    """Every picture of a benchmark.

    Args:
        benchmark: items in the published order.
        seed: of the run; see `picture_seed`.
        originals: path or URL of the folder with the pictures that are edited.

    Raises:
        BenchmarkError: when its items edit pictures and no folder of those is given.
    """
    if not originals and any(item.source is not None for item in benchmark.items):
        raise BenchmarkError(f"{benchmark.name} edits pictures; give the folder that holds them")
    grid = isinstance(benchmark, DPGBench) and benchmark.grid
    cells = GRID_CELLS if grid else 1
    return [
        Drawing(
            path,
            item.prompt,
            tuple(picture_seed(benchmark.name, item.key, sample * cells + cell, seed) for cell in range(cells)),
            None if item.source is None else f"{originals.rstrip('/')}/{item.source}",
        )
        for item in benchmark.items
        for sample, path in enumerate(item.pictures)
    ]


def draw(
    benchmark: Benchmark[Any, Any],
    load: Callable[[], Draws | Editor],
    folder: str,
    config: DrawingConfig,
    execution: ExecutionConfig,
    progress: Callable[[str], None] | None = None,
    originals: str = "",
) -> DrawReport:
    """Draw what is not there yet. Ray must be initialized unless nothing is missing.

    Args:
        benchmark: what to draw.
        load: loads the model on the CPU; called once in each actor, so it must be picklable.
        folder: path or fsspec URL; made when missing.
        config: noise seed, sampler settings and batch size.
        execution: `workers` actors of `cpus_per_worker` CPUs and `gpus_per_worker` GPUs.
        progress: called with one line now and then.
        originals: where the benchmark edits: folder of the source pictures, or GEdit's parquet records that hold them.
            GEdit's are copied beside the edited ones, as its official script wants them.

    Raises:
        BenchmarkError: when the folder holds pictures that were drawn with other settings, a batch cannot hold whole
            grids, the model edits no pictures, a source picture is missing or unreadable (before any is drawn), or the
            model refused all pictures (which is said early, see `Tally`).
    """
    files, root = cast("tuple[AbstractFileSystem, str]", url_to_fs(folder))
    files.makedirs(root, exist_ok=True)
    claim(files, root, benchmark, config)
    for path, content in side_files(benchmark):
        put(files, posixpath.join(root, path), content)
    if isinstance(benchmark, GEdit):
        originals = keep_sources(files, root, folder, benchmark, originals)
    missing = set(find_pictures(folder, benchmark.items).missing)
    everything = drawings(benchmark, config.seed, originals)
    todo = [item for item in everything if item.path in missing]
    tally, refused = Tally(len(everything), "pictures", MEND, len(everything) - len(todo)), dict[str, str]()
    batches = batched(todo, config.batch_size)
    batches = spaced(batches, len(batches[0])) if batches else []
    with closing(spread(batches, partial(Painter, load, config), execution)) as results:
        for pictures in results:
            for path, content in pictures:
                if isinstance(content, str):
                    refused[path] = content
                else:
                    put(files, posixpath.join(root, path), content)
            tally.add(len(pictures), [content for _, content in pictures if isinstance(content, str)])
            if progress:
                ending = f", {len(refused):,} refused" if refused else ""
                progress(f"{tally.sound:,} of {len(everything):,} pictures drawn{ending}")
    tally.close()
    note = posixpath.join(root, REFUSED)
    if refused or files.exists(note):
        put(files, note, msgspec.json.encode(refused))
    return DrawReport(tally.sound, len(todo) - len(refused), len(refused))


def batched(todo: Sequence[Drawing], size: int) -> list[list[Drawing]]:
    """Batches of at most `size` samples, in order; those of one batch have sources of one size.

    Raises:
        BenchmarkError: when `size` does not hold whole grids, or a source picture is missing or unreadable.
    """
    sizes = picture_sizes([d.source for d in todo if d.source is not None])
    alike: dict[object, list[Drawing]] = {}
    for drawing in todo:
        alike.setdefault((len(drawing.seeds), sizes.get(drawing.source or "")), []).append(drawing)
    batches: list[list[Drawing]] = []
    for group in alike.values():
        samples = len(group[0].seeds)
        if size % samples:
            raise BenchmarkError(
                f"drawing.batch_size {size} does not hold whole grids of {samples} samples; take a multiple of it"
            )
        step = size // samples
        batches += [group[start : start + step] for start in range(0, len(group), step)]
    return batches


class Painter:
    """Draws batches of `batched`.

    Args:
        load: loads the model on the CPU.
        config: sampler settings and batch size.
        device: `cpu` or `cuda`.
    """

    def __init__(self, load: Callable[[], Draws | Editor], config: DrawingConfig, device: str) -> None:
        self.config = config
        self.model = cast("Any", load()).to(device).eval()

    def __call__(self, batch: Sequence[Drawing]) -> list[tuple[str, bytes | str]]:
        """Path and PNG file of each picture, or why the model refused it (a grid: any of its samples). A short batch is
        filled up with its last drawing: the bits of a matrix product may depend on the batch size.

        Raises:
            BenchmarkError: an edit is asked of a model that edits no pictures, or its source cannot be read.
        """
        samples = len(batch[0].seeds)
        filled = [*batch, *[batch[-1]] * (self.config.batch_size // samples - len(batch))]
        prompts = [d.prompt for d in filled for _ in d.seeds]
        seeds = [seed for d in filled for seed in d.seeds]
        with torch.inference_mode():
            pixels, faults = tried(lambda: self._drawn(filled, prompts, seeds))
        pictures = pixels.cpu() if samples == 1 else grids(pixels.cpu())
        refused = {row // samples: fault for row, fault in faults.items()}
        return [
            (drawing.path, refused.get(number) or png(picture, optimize=False))
            for number, (drawing, picture) in enumerate(zip(batch, pictures, strict=False))
        ]

    def _drawn(self, filled: Sequence[Drawing], prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        if filled[0].source is None:
            return self.model.generate(prompts, seeds, self.config.sampling)
        if not isinstance(self.model, Editor):
            raise BenchmarkError(f"{type(self.model).__name__} edits no pictures; take a family that does, or --images")
        read = {source: as_tensor(read_picture(source)) for source in {d.source for d in filled} if source}
        pixels = torch.stack([read[d.source] for d in filled if d.source])
        return self.model.edit(pixels, prompts, seeds, self.config.sampling)


def grids(pixels: Tensor) -> Tensor:
    """uint8 [4 B, 3, S, S] to 2 x 2 grids [B, 3, 2 S, 2 S], samples in reading order (DPG-Bench, ELLA's layout)."""
    tiles = pixels.unflatten(0, (-1, 2, 2))
    return tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def side_files(benchmark: Benchmark[Any, Any]) -> Iterator[tuple[str, bytes]]:
    """Path and content of what the official scripts want beside the pictures: GenEval's prompt records."""
    for item in benchmark.items:
        if isinstance(item.asked, Prompt):
            yield posixpath.join(item.key, PROMPT_FILE), msgspec.json.encode(item.asked) + b"\n"


def keep_sources(files: AbstractFileSystem, root: str, folder: str, benchmark: GEdit, originals: str) -> str:
    """Put the source pictures that are not there yet beside the edited ones.

    Args:
        files: file system of the folder of edited pictures.
        root: path of that folder on it.
        folder: the same folder as path or URL.
        benchmark: whose sources.
        originals: folder of the sources, or GEdit's parquet records that hold them; not looked at when none is missing.

    Returns:
        `folder`, which then holds all sources.

    Raises:
        BenchmarkError: naming the first source picture that is missing or unreadable.
    """
    missing = {item.source: item for item in benchmark.items if item.source}
    missing = {path: item for path, item in missing.items() if not files.exists(posixpath.join(root, path))}
    records = parquet_files(originals) if missing else []
    for path, content in from_records(records, missing) if records else copied(originals, missing):
        put(files, posixpath.join(root, path), content)
    return folder


def claim(files: AbstractFileSystem, root: str, benchmark: Benchmark[Any, Any], config: DrawingConfig) -> None:
    """Write down what the folder is drawn with, or compare with what stands there.

    Args:
        files: file system of the folder of pictures.
        root: path of the folder on it.
        benchmark: its name and edition.
        config: noise seed, sampler settings and batch size.

    Raises:
        BenchmarkError: the pictures there were drawn with other settings.
    """
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
