"""Pictures of a benchmark: seeds, layout, whole batches, resuming, and the same pictures however work is split."""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import bagel_tiny
import msgspec
import numpy as np
import pytest
import ray
import torch
from PIL import Image
from torch import Tensor

from reca.config import ExecutionConfig, SamplingConfig
from reca.evaluation import generation
from reca.evaluation.actors import spread
from reca.evaluation.gedit import Edit as GEditAsked
from reca.evaluation.gedit import GEdit
from reca.evaluation.generation import Painter, batched, draw, drawings, picture_seed
from reca.evaluation.geneval import Prompt, Requirement
from reca.evaluation.imgedit import Edit, ImgEdit
from reca.evaluation.picture_files import cells_of
from reca.evaluation.prompt_files import read_dpgbench, read_geneval
from reca.evaluation.records import BenchmarkError, Item
from reca.evaluation.run_config import DrawingConfig
from reca.models.bagel.model import BagelModel
from reca.models.showo.model import ShowoModel

ROOT = Path(__file__).resolve().parents[2]
CONFIG = DrawingConfig(batch_size=4, sampling=SamplingConfig(guidance=1.0, steps=3))
WORDS = ("a red cat", "two blue cars", "a cat", "a red car", "a blue cat")


class Recorder(torch.nn.Module):
    """Draws flat pictures out of seeds and remembers what it was asked."""

    calls: list[tuple[list[str], list[int]]]

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        self.calls.append((list(prompts), list(seeds)))
        return torch.tensor([seed % 256 for seed in seeds], dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)


def benchmark(folder: Path, samples: int = 2, words: Sequence[str] = WORDS) -> Any:
    path = folder / "prompts.jsonl"
    prompts = [Prompt("single_object", text, (Requirement("cat", 1),)) for text in words]
    path.write_bytes(msgspec.json.Encoder().encode_lines(prompts))
    return read_geneval(str(path), samples)


def showo() -> ShowoModel:
    return ShowoModel.load(ROOT / "checkpoints/tiny_showo")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are done in this process."""

    def spread(batches: Sequence[Any], make: Callable[[str], Callable[[Any], Any]], _: object) -> Iterator[Any]:
        work = make("cpu")
        yield from map(work, batches)

    monkeypatch.setattr(generation, "spread", spread)


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {str(p.relative_to(folder)): np.asarray(Image.open(p)) for p in sorted(folder.rglob("*.png"))}


def test_seeds_depend_on_benchmark_item_sample_and_seed_only() -> None:
    names = [(b, i, s, k) for b in ("a", "b") for i in ("0", "1") for s in (0, 1) for k in (0, 7)]
    seeds = [picture_seed(*name) for name in names]
    assert len(set(seeds)) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert picture_seed("GenEval", "00000", 0) == picture_seed("GenEval", "00000", 0, 0) == 6754529517044815369


@pytest.mark.usefixtures("here")
def test_pictures_lie_in_the_published_layout(tmp_path: Path) -> None:
    bench, folder = benchmark(tmp_path), tmp_path / "pictures"
    lines: list[str] = []
    report = draw(bench, Recorder, str(folder), CONFIG, ExecutionConfig(), lines.append)
    assert (report.pictures, report.drawn) == (10, 10)
    assert lines[-1] == "10 of 10 pictures drawn"
    assert list(pixels(folder))[:3] == ["00000/samples/0000.png", "00000/samples/0001.png", "00001/samples/0000.png"]
    original = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    beside = [json.loads(path.read_text()) for path in sorted(folder.glob("*/metadata.jsonl"))]
    assert beside == original
    for drawing in drawings(bench, CONFIG.seed):
        assert (np.asarray(Image.open(folder / drawing.path)) == drawing.seeds[0] % 256).all()


@pytest.mark.usefixtures("here")
def test_only_what_is_missing_is_drawn_in_batches_of_one_size(tmp_path: Path) -> None:
    bench, folder, model = benchmark(tmp_path), tmp_path / "pictures", Recorder()
    draw(bench, lambda: model, str(folder), CONFIG, ExecutionConfig())
    before = pixels(folder)
    assert [len(prompts) for prompts, _ in model.calls] == [4, 4, 4]
    (folder / "00003/samples/0001.png").unlink()
    (folder / "00003/samples/0000.png.part").write_bytes(b"half a picture")
    again = Recorder()
    report = draw(bench, lambda: again, str(folder), CONFIG, ExecutionConfig())
    assert report.drawn == 1
    assert again.calls == [([WORDS[3]] * 4, [picture_seed("GenEval", "00003", 1)] * 4)]
    after = pixels(folder)
    assert all((after[name] == before[name]).all() for name in before)


@pytest.mark.usefixtures("here")
def test_a_folder_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    bench, folder = benchmark(tmp_path), str(tmp_path / "pictures")
    draw(bench, Recorder, folder, CONFIG, ExecutionConfig())
    with pytest.raises(BenchmarkError, match=r"drawn with seed=0, not 1; draw into another folder"):
        draw(bench, Recorder, folder, replace(CONFIG, seed=1), ExecutionConfig())
    with pytest.raises(BenchmarkError, match="drawn with sampling="):
        draw(bench, Recorder, folder, replace(CONFIG, sampling=SamplingConfig(steps=9)), ExecutionConfig())


@pytest.mark.usefixtures("here")
def test_grids_hold_the_samples_that_single_files_hold(tmp_path: Path) -> None:
    heading = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    end = "entity,whole,entity - whole (cat),is there a cat ?"
    rows = [f"{item},a red cat,,1,0,{end}" for item in "abc"]
    (tmp_path / "dpg.csv").write_text("\n".join([f"{heading}question_natural_language", *rows]) + "\n")
    config = replace(CONFIG, batch_size=8)
    for name, grid in (("single", False), ("grid", True)):
        bench = read_dpgbench(str(tmp_path / "dpg.csv"), grid=grid)
        assert draw(bench, Recorder, str(tmp_path / name), config, ExecutionConfig()).drawn == (3 if grid else 12)
    single, grids = pixels(tmp_path / "single"), pixels(tmp_path / "grid")
    assert list(grids) == ["a.png", "b.png", "c.png"]
    for item in "abc":
        assert grids[f"{item}.png"].shape == (8, 8, 3)
        cells = cells_of(Image.fromarray(grids[f"{item}.png"]), 4)
        for sample, cell in enumerate(cells):
            assert (np.asarray(cell) == single[f"{item}_{sample}.png"]).all()
    with pytest.raises(BenchmarkError, match="batch_size 6 does not hold whole grids of 4 samples"):
        batched(drawings(read_dpgbench(str(tmp_path / "dpg.csv"), grid=True), 0), 6)


def test_show_o_draws_the_same_pictures_in_any_company(tmp_path: Path) -> None:
    everything = drawings(benchmark(tmp_path, samples=3), seed=0)
    whole = Painter(showo, CONFIG, "cpu")
    together = dict(row for start in range(0, 15, 4) for row in whole(everything[start : start + 4]))
    subset = everything[1::3][::-1]
    assert dict(row for start in range(0, 5, 2) for row in whole(subset[start : start + 2])) == {
        drawing.path: together[drawing.path] for drawing in subset
    }
    single = Painter(showo, replace(CONFIG, batch_size=1), "cpu")
    for drawing in everything:
        ((path, picture),) = single([drawing])
        before, after = (np.asarray(Image.open(io.BytesIO(data)), dtype=int) for data in (together[path], picture))
        # Another batch size is another setting: it may round a value of a pixel the other way.
        assert np.abs(before - after).max() <= 1


def refusing(_: str) -> Callable[[int], int]:
    def work(batch: int) -> int:
        raise BenchmarkError(f"batch {batch} cannot be done; mend it")

    return work


def unloadable(device: str) -> Callable[[int], int]:
    raise BenchmarkError(f"no weights for {device}; get them")


def dying(marker: Path, _: str) -> Callable[[int], int]:
    def work(batch: int) -> int:
        if batch == 2 and not marker.exists():
            marker.touch()
            os._exit(1)
        return 10 * batch

    return work


def edits(folder: Path) -> tuple[ImgEdit, GEdit]:
    """The same five edits of pictures of two sizes as either benchmark has them, with the pictures in `folder`."""
    asked = [("make it blue", "a red cat")[number % 2] for number in range(5)]
    for number in range(len(asked)):
        noise = np.random.default_rng(number).integers(0, 256, (32, 32 + 16 * (number % 2), 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    imgedit = [
        Item(f"i{n}", "add", text, Edit(text, "add", ("A", "B", "C")), (f"i{n}.png",), f"{n}.png")
        for n, text in enumerate(asked)
    ]
    gedit = [
        Item(f"g{n}", "ps_human", text, GEditAsked(text, "ps_human", "en", True), (f"g{n}.png",), f"{n}.png")
        for n, text in enumerate(asked)
    ]
    return ImgEdit(tuple(imgedit)), GEdit(tuple(gedit), "en")


@pytest.mark.ray
def test_two_workers_draw_the_pictures_of_one_and_a_lost_one_is_replaced(tmp_path: Path, short_tmp: Path) -> None:
    bench, folder = benchmark(tmp_path), tmp_path / "pictures"
    (tmp_path / "sources").mkdir()
    sources, single = str(tmp_path / "sources"), replace(CONFIG, batch_size=1)
    editing = edits(tmp_path / "sources")
    bagel_tiny.tiny_model().save(tmp_path / "bagel")
    load_editor = partial(BagelModel.load, tmp_path / "bagel")
    load = partial(ShowoModel.load, ROOT / "checkpoints/tiny_showo")
    execution = ExecutionConfig(workers=2, cpus_per_worker=0.5)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=str(short_tmp))
    try:
        draw(bench, load, str(folder), CONFIG, execution)
        for edited in editing:
            place = str(tmp_path / edited.name)
            assert draw(edited, load_editor, place, single, execution, originals=sources).drawn == 5
        assert sorted(spread([1, 2, 3, 4], partial(dying, tmp_path / "died"), execution)) == [10, 20, 30, 40]
        with pytest.raises(BenchmarkError, match=r"^batch 7 cannot be done; mend it$"):
            list(spread([7], refusing, execution))
        with pytest.raises(BenchmarkError, match=r"^no weights for cpu; get them$"):
            list(spread([7], unloadable, execution))
    finally:
        ray.shutdown()
    assert (tmp_path / "died").exists()
    everything, alone = drawings(bench, CONFIG.seed), Painter(load, CONFIG, "cpu")
    expected = dict(row for start in (0, 3, 7) for row in alone(everything[start : start + 4]))
    assert {drawing.path: (folder / drawing.path).read_bytes() for drawing in everything} == expected
    assert len(set(expected.values())) == 10
    alone = Painter(load_editor, single, "cpu")
    for edited in editing:
        expected = dict(row for drawing in drawings(edited, single.seed, sources) for row in alone([drawing]))
        assert {path: (tmp_path / edited.name / path).read_bytes() for path in expected} == expected
        assert len(set(expected.values())) == 5
