"""Edits drawn by a model: sources from folders and records, sizes, seeds, resuming, and what is refused."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import bagel_tiny
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from reca.config import ExecutionConfig, SamplingConfig
from reca.evaluation import gedit, generation
from reca.evaluation.generation import Painter, batched, draw, drawings, picture_seed
from reca.evaluation.imgedit import Edit, ImgEdit
from reca.evaluation.prompt_files import read_gedit
from reca.evaluation.records import BenchmarkError, Item
from reca.evaluation.run_config import DrawingConfig
from reca.models.bagel.model import BagelModel
from reca.models.base import Editor

CONFIG = DrawingConfig(batch_size=2, sampling=SamplingConfig(guidance=1.0, steps=2))
SIZES = ((32, 32), (48, 32), (32, 32), (32, 32), (48, 32))


class Recorder(torch.nn.Module, Editor):
    """Gives the source plus the seed, and remembers what it was asked."""

    calls: list[tuple[tuple[int, ...], list[str], list[int]]]

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def edit(
        self, pixels: Tensor, instructions: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig
    ) -> Tensor:
        self.calls.append((tuple(pixels.shape), list(instructions), list(seeds)))
        added = torch.tensor([seed % 100 for seed in seeds], dtype=torch.uint8)
        return pixels + added[:, None, None, None]


class Painting(torch.nn.Module):
    """Draws, and does not edit."""

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        raise AssertionError("not asked")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are done in this process."""

    def spread(batches: Sequence[Any], make: Callable[[str], Callable[[Any], Any]], _: object) -> Iterator[Any]:
        yield from map(make("cpu"), batches)

    monkeypatch.setattr(generation, "spread", spread)


@pytest.fixture
def edits(tmp_path: Path) -> ImgEdit:
    """Five edits of five pictures of two sizes, in `sources`."""
    (tmp_path / "sources").mkdir()
    items: list[Item[Edit]] = []
    for number, (width, height) in enumerate(SIZES):
        noise = np.random.default_rng(number).integers(0, 100, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"sources/{number}.png")
        text = ("make it blue", "a red cat")[number % 2]
        asked = Edit(text, "add", ("A", "B", "C"))
        items.append(Item(f"k{number}", "add", text, asked, (f"k{number}.png",), source=f"{number}.png"))
    return ImgEdit(tuple(items))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.usefixtures("here")
def test_each_edit_has_its_own_source_instruction_and_seed(edits: ImgEdit, tmp_path: Path) -> None:
    model, folder, sources = Recorder(), tmp_path / "made", str(tmp_path / "sources")
    report = draw(edits, lambda: model, str(folder), CONFIG, ExecutionConfig(), originals=sources)
    assert (report.pictures, report.drawn) == (5, 5)
    seeds = [picture_seed("ImgEdit-Bench", f"k{n}", 0) for n in range(5)]
    words = [item.prompt for item in edits.items]
    # Pictures of one size together, every batch of one length.
    assert model.calls == [
        ((2, 3, 32, 32), [words[0], words[2]], [seeds[0], seeds[2]]),
        ((2, 3, 32, 32), [words[3], words[3]], [seeds[3], seeds[3]]),
        ((2, 3, 32, 48), [words[1], words[4]], [seeds[1], seeds[4]]),
    ]
    for number in range(5):
        expected = pixels(tmp_path / f"sources/{number}.png") + np.uint8(seeds[number] % 100)
        assert (pixels(folder / f"k{number}.png") == expected).all()


def test_bagel_edits_alike_whatever_else_is_to_be_drawn(edits: ImgEdit, tmp_path: Path) -> None:
    everything = drawings(edits, 0, str(tmp_path / "sources"))
    single = replace(CONFIG, batch_size=1)

    def files(some: Sequence[generation.Drawing], config: DrawingConfig) -> dict[str, bytes]:
        painter = Painter(bagel_tiny.tiny_model, config, "cpu")
        return dict(row for batch in batched(some, config.batch_size) for row in painter(batch))

    whole = files(everything, single)
    assert len(set(whole.values())) == 5
    assert files(everything[::-2], single) == {d.path: whole[d.path] for d in everything[::-2]}
    decoded = {path: np.asarray(Image.open(io.BytesIO(data)), dtype=int) for path, data in whole.items()}
    assert [decoded[f"k{n}.png"].shape for n in range(5)] == [(height, width, 3) for width, height in SIZES]
    for path, data in files(everything, CONFIG).items():
        # Another batch size is another setting: it may round a value of a pixel the other way.
        assert np.abs(np.asarray(Image.open(io.BytesIO(data)), dtype=int) - decoded[path]).max() <= 1
    assert isinstance(bagel_tiny.tiny_model(), BagelModel)


@pytest.mark.usefixtures("here")
def test_only_missing_edits_are_drawn(edits: ImgEdit, tmp_path: Path) -> None:
    folder, sources = tmp_path / "made", str(tmp_path / "sources")
    draw(edits, Recorder, str(folder), CONFIG, ExecutionConfig(), originals=sources)
    kept = pixels(folder / "k4.png")
    (folder / "k4.png").unlink()
    again = Recorder()
    assert draw(edits, lambda: again, str(folder), CONFIG, ExecutionConfig(), originals=sources).drawn == 1
    assert (pixels(folder / "k4.png") == kept).all()
    assert [call[1] for call in again.calls] == [[edits.items[4].prompt] * 2]


@pytest.mark.usefixtures("here")
def test_what_cannot_be_edited_is_refused_before_drawing(edits: ImgEdit, tmp_path: Path) -> None:
    folder, sources = str(tmp_path / "made"), tmp_path / "sources"
    with pytest.raises(BenchmarkError, match="ImgEdit-Bench edits pictures; give the folder that holds them"):
        draw(edits, Recorder, folder, CONFIG, ExecutionConfig())
    with pytest.raises(BenchmarkError, match="Painting edits no pictures; take a family that does"):
        draw(edits, Painting, folder, CONFIG, ExecutionConfig(), originals=str(sources))
    model = Recorder()
    (sources / "3.png").write_text("no picture")
    with pytest.raises(BenchmarkError, match=r"3\.png: unreadable source picture"):
        draw(edits, lambda: model, folder, CONFIG, ExecutionConfig(), originals=str(sources))
    (sources / "3.png").unlink()
    with pytest.raises(BenchmarkError, match=r"3\.png: no such source picture; give the folder"):
        draw(edits, lambda: model, folder, CONFIG, ExecutionConfig(), originals=str(sources))
    assert model.calls == []


def records(path: Path, pair: bool, raw: object = None) -> str:
    """Parquet records of two keys in both languages; pictures as bytes, or as the hub's pairs."""
    rows: list[dict[str, Any]] = []
    for number, (key, kind) in enumerate((("k1", "ps_human"), ("k2", "color_alter"))):
        for language in gedit.LANGUAGES:
            buffer = io.BytesIO()
            Image.new("RGB", (6, 4), (number, len(language), 9)).save(buffer, format="PNG")
            data: Any = buffer.getvalue() if raw is None else raw
            rows.append(
                {
                    "key": key,
                    "task_type": kind,
                    "instruction": f"{language} {key}",
                    "instruction_language": language,
                    "Intersection_exist": True,
                    "input_image": b"a resized copy",
                    "input_image_raw": {"bytes": data, "path": "x.png"} if pair else data,
                }
            )
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("pair", [False, True])
def test_gedit_keeps_the_pictures_of_its_records_beside_the_edited_ones(tmp_path: Path, pair: bool) -> None:
    url, folder = records(tmp_path / "rows.parquet", pair), tmp_path / "made"
    bench, model = read_gedit([url], "cn"), Recorder()
    draw(bench, lambda: model, str(folder), CONFIG, ExecutionConfig(), originals=url)
    source = folder / "fullset/ps_human/cn/k1_SRCIMG.png"
    assert (pixels(source) == np.array([0, 2, 9])).all()
    seed = picture_seed("GEdit-Bench", "k1", 0)
    assert (pixels(folder / "fullset/ps_human/cn/k1.png") == pixels(source) + np.uint8(seed % 100)).all()
    assert model.calls[0][1] == ["cn k1", "cn k2"]
    # A folder in that layout does as well, and what is there is not read again.
    other = tmp_path / "other"
    draw(bench, Recorder, str(other), CONFIG, ExecutionConfig(), originals=str(folder))
    names = sorted(path.relative_to(folder) for path in folder.rglob("*.png"))
    assert len(names) == 4
    assert all((other / name).read_bytes() == (folder / name).read_bytes() for name in names)
    (other / names[0]).unlink()
    again = draw(bench, Recorder, str(other), CONFIG, ExecutionConfig(), originals="nowhere")
    assert again.drawn == 1


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("raw", "message"),
    [(b"", "key 'k1', column input_image_raw: holds no picture"), (b"x", "key 'k1', .*: of no known format")],
)
def test_records_without_pictures_are_named(tmp_path: Path, raw: bytes, message: str) -> None:
    url = records(tmp_path / "rows.parquet", True, raw)
    with pytest.raises(BenchmarkError, match=message):
        draw(read_gedit([url], "en"), Recorder, str(tmp_path / "made"), CONFIG, ExecutionConfig(), originals=url)


@pytest.mark.usefixtures("here")
def test_records_without_the_column_or_the_key_are_named(tmp_path: Path) -> None:
    url = records(tmp_path / "rows.parquet", False)
    bench = read_gedit([url], "en")
    table = pq.read_table(url)
    pq.write_table(table.drop_columns(["input_image_raw"]), tmp_path / "none.parquet")
    pq.write_table(table.slice(0, 2), tmp_path / "half.parquet")
    for name, message in (
        ("none", "column input_image_raw is missing; give a folder of source pictures: --set gedit.sources=DIR"),
        ("half", "no picture for key 'k2', language 'en' in column input_image_raw"),
    ):
        place = str(tmp_path / f"{name}.parquet")
        with pytest.raises(BenchmarkError, match=message):
            draw(bench, Recorder, str(tmp_path / name), CONFIG, ExecutionConfig(), originals=place)
